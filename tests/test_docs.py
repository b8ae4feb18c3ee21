"""Documents: each link leads somewhere, and each page is in the site's list, without its tools."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SITE = runpy.run_path(str(ROOT / "scripts" / "site" / "pages.py"))
GUIDES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*SITE["PAGES"], *GUIDES]
FENCED = re.compile(r"^( *)(`{3,})[^`]*?^\1\2`* *$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")


def prose(document: str) -> str:
    """A document without its blocks of code."""
    return FENCED.sub("", (ROOT / document).read_text())


def anchors(document: str) -> Iterator[str]:
    """Names of a document's headings, as GitHub and the site make them."""
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        seen[name] = seen.get(name, -1) + 1
        yield f"{name}-{seen[name]}" if seen[name] else name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_their_anchors_lead_somewhere(document):
    text = CODE.sub("``", prose(document))
    dead = [
        f"{link}{anchor}"
        for link, anchor in SITE["LINK"].findall(text)
        for target in [SITE["resolve"](document, link)]
        if not (ROOT / target).is_file() or (anchor and anchor[1:] not in anchors(target))
    ]
    own = re.findall(r"\]\(#([^)\s]+)\)", text)
    assert dead + [name for name in own if name not in anchors(document)] == []


def entries(nav: Any) -> Iterator[str]:
    """Pages of a list of the site, whatever they are called and under whatever headings."""
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []:
        yield from entries(item)


def test_every_page_is_in_the_sites_list_once_and_every_entry_is_a_page():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [*SITE["PAGES"].values(), *(guide.removeprefix("docs/") for guide in GUIDES)]
    assert sorted(entries(config["nav"])) == sorted(pages)


def test_public_names_have_a_page():
    assert "Config" in SITE["public_names"](SITE["API"]["api/config.md"])
    assert {f"docs/{page}" for page in SITE["API"]} == {g for g in GUIDES if "docs/api/" in g}
