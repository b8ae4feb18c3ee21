"""Read the prompts for a command: texts, and files of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zojax.errors import InputError

_MOST_PIPED = 64 << 20  # the most bytes of prompts from a pipe

Prompt = tuple[str, str]
"""Where a prompt comes from, and its text."""


def read_prompts(texts: Sequence[str], file: Path | None) -> list[Prompt]:
    """Read the prompts from the command line, and then those from a file.

    Args:
        texts: the values of ``--prompt``.
        file: ``.txt``, a pipe or ``/dev/stdin`` with one prompt per line, or ``.jsonl`` (``.csv``,
            ``.parquet``) with a field ``prompt``.

    Raises:
        InputError: there is no prompt, or the file cannot be read.
    """
    prompts = [(f"--prompt {i}", text) for i, text in enumerate(texts, start=1)]
    if file is not None:
        prompts += _read_text(file) if _is_text(file) else _read_records(file)
    if not prompts:
        raise InputError("no prompt; give --prompt TEXT or --prompts FILE")
    return prompts


def blank_note(texts: Sequence[str]) -> str | None:
    """A note on texts that end in a blank, which models expect at the start of the next word."""
    count = sum(text.endswith((" ", "\t")) for text in texts)
    if not count:
        return None
    which = "the text ends" if len(texts) == 1 else f"{count:,} of {len(texts):,} prompts end"
    return (
        f"note: {which} in a blank, which most models expect at the beginning of the next word: "
        "leave it out"
    )


def _is_text(file: Path) -> bool:
    from zojax.reading import is_stream

    return file.suffix == ".txt" or (not file.suffix and is_stream(file))


def _read_text(file: Path) -> list[Prompt]:
    from zojax.reading import read_lines
    from zojax.tasks.records import check_line
    from zojax.tasks.row import MAX_CHARACTERS

    prompts = []
    lines = read_lines(file, MAX_CHARACTERS, most_of_stream=_MOST_PIPED)
    for i, line in enumerate(lines, start=1):
        text = check_line(line, f"{file}:{i}").removesuffix("\n")
        if text.strip():
            prompts.append((f"{file}:{i}", text))
    return prompts


def _read_records(file: Path) -> list[Prompt]:
    if file.suffix.lower() not in (".jsonl", ".csv", ".parquet"):
        raise InputError(
            f"{file}: unknown format; give a .txt with one prompt per line, or a .jsonl, .csv or "
            ".parquet"
        )

    def refuse(error: InputError) -> None:
        raise error

    from zojax.tasks.records import read_file

    prompts = []
    for row in read_file(file, refuse):
        text = (row.record or {}).get("prompt")
        if not isinstance(text, str):
            raise InputError(f"{row.name}: has no text in a field 'prompt'")
        prompts.append((row.name, text))
    return prompts
