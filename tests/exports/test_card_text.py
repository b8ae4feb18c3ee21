"""No name, path or figure makes markup of a card: it is seen there as the text that it is."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.campaigns import some_of
from zojax.exports.card import Exported, hf_card, journal_card, peft_card
from zojax.journal.file import read_journal
from zojax.runs import run_dir
from zojax.text import code, markdown, plain

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<!--",
    "a\n\n# heading",
    "a\n---\n",
    "a\n```\n\n<b>",
    "[link](http://x)",
    "![image](http://x)",
    "<http://x>",
    "a|b|c",
    "`code`",
    "``",
    "a`<b>`",
    "*a* _b_ **c** ~~d~~",
    "\\",
    "a\\",
    "&lt;b&gt;",
    "1. a",
    "- a",
    "> a",
    "'; rm -rf ~ #",
    '"""\nimport os',
    "\x1b[31mred\u202e",
    "\ud800",
    "\u2028<b>",
    "../../$(a)`b`",
]
WRITERS = {"hf": hf_card, "peft": peft_card, "journal": journal_card}
PAGE = MarkdownIt("commonmark").enable(["table", "strikethrough"])
OURS = {
    *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "fence"),
    *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close"),
    *("tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close"),
    *("text", "code_inline", "softbreak", "text_special"),
}


def tokens(page: str) -> list[Token]:
    outer = PAGE.parse(page)
    return [*outer, *(inner for token in outer for inner in token.children or ())]


def shape(page: str) -> list[str]:
    """What a page is made of, without its words."""
    outer = [token for token in PAGE.parse(page) if token.type != "inline"]
    return [f"{token.type} {token.info}" for token in outer]


def body(page: str) -> str:
    return page.split("\n---\n", 1)[1] if page.startswith("---\n") else page


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", some_of(HOSTILE, 25))
def test_a_card_has_the_same_parts_whatever_the_names(name, form, folded_run):
    def card(name: str) -> str:
        config = run_dir.read_config(folded_run)
        for part, field in ((config.model, "path"), (config.data, "path")):
            object.__setattr__(part, field, name)  # past its validation
        journal = read_journal(folded_run / run_dir.JOURNAL)
        for field in ("zojax", "base_hash"):
            object.__setattr__(journal.header, field, name)
        figures = {"best_step": name, name: name, "dev_accuracy": {name: 0.5}}
        exported = Exported(config, journal, 6, figures, {name: name})
        return body(WRITERS[form](exported, Path(name)))

    page = card(name)
    page.encode()
    assert shape(page) == shape(card("name"))
    assert {token.type for token in tokens(page)} <= OURS
    seen = [token.content for token in tokens(page) if token.type == "inline"]
    [row] = [text for text in seen if text.startswith("zojax ")]
    [cell] = PAGE.parseInline(row)
    told = "".join(child.content for child in cell.children or ())
    assert told.startswith(f"zojax {plain(name)}, jax ")


@pytest.mark.parametrize("name", some_of(HOSTILE, 25))
def test_a_name_in_a_line_is_text(name):
    for write, kinds in ((markdown, {"text", "text_special"}), (code, {"code_inline"})):
        [inline] = PAGE.parseInline(f"a {write(name)}")
        children = inline.children or []
        assert {child.type for child in children if child.content.strip()} <= kinds | {"text"}
        assert "".join(child.content for child in children).rstrip() == f"a {plain(name)}".rstrip()


def test_long_names_take_no_time():
    assert markdown("a" * 1_000_000 + "!").endswith("\\!")
    assert len(markdown("_" * 100_000)) == 200_000
