"""A hook of mkdocs: pages of the site that are files outside ``docs/``, and links to such files.

README is the front page; what else a page links to has a page that shows it. So a link that is
right in the repository is right on the site, too.
"""

import ast
import logging
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deploy.md",
}
"""Files of the repository that are pages under another name."""
API = {
    "api/zojax.md": "zojax/__init__.py",
    "api/config.md": "zojax/config/__init__.py",
    "api/demo.md": "zojax/demo/__init__.py",
}
"""Pages of public names, and the files that list them."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
"""A link to a file, relative to the one that it is in, and the anchor there."""
_IN_A_ROW = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
"""Code with a pipe that GitHub wants escaped in a table; Python's Markdown shows the escape."""
_LOG = logging.getLogger("mkdocs.hooks.pages")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".slurm": "bash"}


def on_config(config: Any) -> Any:
    """Names anchors as GitHub does, so that they are right in both places."""
    from pymdownx.slugs import slugify  # pyright: ignore[reportMissingImports]

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside ``docs/``, and those that show a file."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    sources = [_source(file.src_uri) for file in files.documentation_pages()]
    for target in sorted({target for source in sources for target in _outside(source)}):
        files.append(File.generated(config, _page(target), content=_shown(target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Makes links lead where they lead in the repository."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown
    markdown = _IN_A_ROW.sub(lambda code: code[0].replace("\\|", "|"), markdown)
    return _with_links(markdown, _source(here), lambda target: _relative(_page(target), here))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Warns of public names that a page of the API lacks, which ends a strict build."""
    of = API.get(page.file.src_uri)
    if of is not None:
        module = of.removesuffix("/__init__.py").replace("/", ".")
        for name in public_names(of):
            is_module = f"zojax/{name}/__init__.py" in API.values()  # which has a page of its own
            if not is_module and f'id="{module}.{name}"' not in html:
                _LOG.warning("%s: has no %s of %s", page.file.src_uri, name, module)
    return html


def public_names(source: str) -> list[str]:
    """What ``__all__`` of a file holds, but for the version; nothing where it has none."""
    for node in ast.parse((ROOT / source).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("_")]
    return []


def targets(source: str) -> Iterator[str]:
    """Files of the repository that one of its pages links to."""
    for match in LINK.finditer((ROOT / source).read_text()):
        yield resolve(source, match[1])


def resolve(source: str, link: str) -> str:
    """The path in the repository of a link in a file of it; of a directory, its README."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def _outside(source: str) -> Iterator[str]:
    """What a page links to that is no page by itself."""
    for target in targets(source):
        if not target.startswith("docs/") and target not in PAGES and (ROOT / target).is_file():
            yield target


def _source(page: str) -> str:
    """The file of the repository that a page is made of."""
    of_pages = {page: source for source, page in PAGES.items()}
    return of_pages.get(page, f"docs/{page}")


def _page(target: str) -> str:
    """The page, or the picture, that a file of the repository is on the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return PAGES.get(target, f"source/{target}.md")


def _relative(page: str, here: str) -> str:
    return posixpath.relpath(page, posixpath.dirname(here) or ".")


def _with_links(markdown: str, source: str, to: Callable[[str], str]) -> str:
    def mended(match: re.Match[str]) -> str:
        target = resolve(source, match[1])
        return to(target) + (match[2] or "") if (ROOT / target).is_file() else match[0]

    return LINK.sub(mended, markdown)


def _shown(target: str) -> str:
    language = _LANGUAGES.get(os.path.splitext(target)[1], "text")
    return f"# {target}\n\n````{language}\n{(ROOT / target).read_text().rstrip()}\n````\n"
