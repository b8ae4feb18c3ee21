"""What is printed: text of others is text on every console, and lost output ends a command well."""

import ast
import errno
import io
import json
import sys

import pytest
from rich.table import Table
from rich.text import Text

from tests.campaigns import some_of
from zojax import cli
from zojax.commands import configs
from zojax.errors import BAD_INPUT, BROKEN_PIPE
from zojax.journal.file import read_journal
from zojax.printing import OutputLost, check_output, make_console, say, to_json

HOSTILE = {
    "[/x]": "[/x]",
    "[link=https://x]y[/link]": "[link=https://x]y[/link]",
    "[red]": "[red]",
    ":warning:": ":warning:",
    "\x1b[31m": "\\x1b[31m",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x9b2J": "\\x9b2J",
    "a\rb": "a\\rb",
    "\u202egnp.exe": "\\u202egnp.exe",
    "half\ud800": "half\\ud800",
    "\udcff": "\\udcff",
    "a\u2028b": "a\\u2028b",
}
"""A name that a file may give to something, and what is seen of it."""


def table(name: str) -> Table:
    made = Table("column", box=None)
    made.add_row(name)
    return made


def titled(name: str) -> Table:
    made = Table(name, title=name, box=None)
    made.add_row("cell")
    return made


WAYS = {"a line": str, "a cell": table, "a heading": titled}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", some_of([*HOSTILE], 12))
def test_a_name_is_seen_and_does_nothing(name, way):
    file = io.StringIO()
    console = make_console(file=file, width=100, force_terminal=True, color_system=None)
    console.print(WAYS[way](name))
    assert HOSTILE[name] in file.getvalue()
    assert all(character.isprintable() or character == "\n" for character in file.getvalue())


@pytest.mark.parametrize("name", some_of([*HOSTILE], 4))
def test_a_text_of_several_lines_keeps_them_and_nothing_else_acts(name):
    file = io.StringIO()
    make_console(file=file, width=100).print(Text.assemble("one\ntwo ", (name, "bold")))
    assert file.getvalue().startswith("one\ntwo ")
    visible = file.getvalue().replace("\n", "")
    assert visible.isprintable()


@pytest.mark.parametrize("name", some_of([*HOSTILE], 4))
def test_what_is_going_on_is_told_without_markup(name):
    file = io.StringIO()
    console = make_console(file=file, width=100, force_terminal=True, color_system=None)
    with console.status(f"reading {name}"):
        pass
    assert f"reading {HOSTILE[name]}" in file.getvalue()


def test_nothing_is_printed_by_another_way(root):
    files = [path for path in (root / "zojax").rglob("*.py") if path.name != "printing.py"]
    assert len(files) > 100
    others = [
        f"{path}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "Console")
    ]
    assert others == []


def test_json_is_json_for_every_parser():
    told = to_json({"\udcff": ["\ud800", float("nan"), (float("-inf"), 0.5)], "n": None})
    assert told.isascii()
    assert json.loads(told) == {"\\udcff": ["\\ud800", None, [None, 0.5]], "n": None}
    json.loads(told)["\\udcff"][0].encode()  # no half of a character


# --- Output that is lost


class Broken(io.StringIO):
    """A stream that takes some characters, and then fails."""

    def __init__(self, number: int, room: int = 0):
        super().__init__()
        self._number, self._room = number, room

    def write(self, text: str) -> int:
        self._room -= len(text)
        if self._room < 0:
            raise OSError(self._number, "the reason")
        return super().write(text)


LOSSES = {errno.EPIPE: BROKEN_PIPE, errno.ENOSPC: BAD_INPUT, errno.EIO: BAD_INPUT}


@pytest.mark.parametrize("number", LOSSES)
def test_a_lost_output_is_one_kind_of_end(number, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(number))
    for printing in (lambda: say("a line"), lambda: make_console().print("a line")):
        with pytest.raises(OutputLost, match="the reason") as lost:
            printing()
        assert lost.value.exit_code == LOSSES[number]


@pytest.mark.parametrize("number", LOSSES)
def test_what_has_more_to_do_goes_on_and_tells_at_its_end(number, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(number, room=12))
    console = make_console(goes_on=True)
    check_output(console)
    for _ in range(3):
        console.print("a line")
    assert capsys.readouterr().err == (
        "zojax: standard output cannot be written (the reason); the work continues\n"
    )
    with pytest.raises(OutputLost):
        check_output(console)


def test_nothing_is_told_of_a_lost_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken(errno.ENOSPC))
    make_console(stderr=True).print("a line")
    assert cli.main(["eval", "no run"]) == BAD_INPUT


def test_a_closed_output_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    say("a line")
    make_console().print("a line")


@pytest.mark.parametrize("columns", ["0", "", "-1", "x", "1"])
def test_no_width_swallows_the_text(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    file = io.StringIO()
    make_console(file=file).print("abc")
    assert file.getvalue().split() in (["abc"], ["a", "b", "c"])


def test_a_command_whose_output_is_lost_ends_in_a_line_or_none(monkeypatch, capsys, root):
    for number, line in (
        (errno.EPIPE, ""),
        (errno.ENOSPC, "zojax: error: standard output cannot be written (the reason)\n"),
    ):
        monkeypatch.setattr(sys, "stdout", Broken(number))
        assert cli.main(["configs", str(root / "configs" / "demo.py")]) == LOSSES[number]
        assert capsys.readouterr().err == line


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_a_run_goes_on_when_nobody_reads_its_log(
    number, monkeypatch, capsys, run, trained, config_file, tmp_path
):
    monkeypatch.setattr(sys, "stdout", Broken(number, room=60))
    command = ["train", "--config", str(config_file), "--set", f"run.dir={tmp_path / 'run'}"]
    assert cli.main(command) == LOSSES[number]
    assert "the work continues" in capsys.readouterr().err
    journals = [read_journal(path / "journal.zj") for path in (tmp_path / "run", trained)]
    losses, undisturbed = [journal.records["losses"].tolist() for journal in journals]
    assert losses == undisturbed
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"result.json", "curves.png"}


@pytest.mark.parametrize("argument", ["--x\x1b[31m", "\x1b[31m", "--set\u202e", "--\udcff"])
def test_arguments_that_cannot_be_parsed_are_quoted_as_plain_text(argument, run):
    code, out, err = run("eval", "run", argument, "--unknown")
    assert (code, out) == (2, "")
    assert "--unknown" in err
    assert all(character.isprintable() or character == "\n" for character in err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--model", "m", "--prompt", "a\udcff"],
        ["generate", "run", "--prompt", "a", "--stop", "\udcff"],
        ["score", "--model", "m", "--text", "\udcff", "--candidate", "a"],
        ["train", "--config", "c.py", "--set", "run.dir=\udcff"],
    ],
)
def test_a_text_that_is_not_utf8_is_refused(arguments, run, refusal):
    assert refusal(run(*arguments)).endswith("\\udcff: this argument is not UTF-8")


def test_an_output_of_ascii_shows_what_it_can(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    listed = configs.Listed("x", "“x” ☃", "", "sst2", "lozo", "m", 1, "about")
    assert cli.main([]) == 0  # which makes the streams ready
    configs.show([listed], make_console(highlight=False))
    assert b"\\u201cx\\u201d \\u2603" in raw.getvalue()


def test_files_of_json_hold_null_where_a_number_is_not_finite(tmp_path):
    from zojax.files import write_json

    write_json(tmp_path / "a.json", {"loss": float("nan"), "all": [float("inf"), 1.5]})
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read == {"loss": None, "all": [None, 1.5]}
