"""Explains in plain words what is wrong with a configuration."""

import difflib
import reprlib
import traceback
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from zojax.text import plain

_LONGEST = 500
"""The maximum number of characters of a library's message, or of a name to look up."""

_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false", "string": "text"}


def hint(name: str, names: Sequence[str]) -> str:
    """Suggests the field that was meant: in another section, abbreviated (lr), or misspelt."""
    part, _, field = name.rpartition(".")
    here = [n for n in names if n.startswith(f"{part}.")] or names
    fields = {n: n.rpartition(".")[2] for n in names}
    close = (
        [n for n in names if fields[n] == field]
        or [n for n in here if "".join(word[0] for word in fields[n].split("_")) == field]
        or difflib.get_close_matches(name[:_LONGEST], here, n=1, cutoff=0.7)
    )
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are {', '.join(here)}"


def closest(name: str, names: Sequence[str]) -> str | None:
    """The most similar name, ignoring case; None if no name is similar.

    >>> closest("WSC", ["wic", "wsc"]), closest("nope", ["cb-mezo", "drop-mezo"])
    ('wsc', None)
    """
    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower()[:_LONGEST], by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def joined(names: Iterable[str], last: str) -> str:
    """Joins names for a sentence.

    >>> joined(["lozo", "mezo", "fzoo"], "and")
    'lozo, mezo and fzoo'
    """
    *names, end = names
    return f"{', '.join(names)} {last} {end}" if names else end


def shown(value: object) -> str:
    """A value of any type as an error message shows it, shortened.

    >>> shown("x" * 100), shown(10**5000)
    ("'xxxxxxxxxxxx...xxxxxxxxxxxxx'", '…')
    """
    try:
        return reprlib.repr(value)
    except Exception:  # an integer with more digits than Python prints, or a faulty __repr__
        return "…"


def reason(error: ValidationError) -> str:
    """What is wrong with the first invalid value, without its name."""
    first = error.errors()[0]
    kind, _, problem = first["type"].partition("_")
    if kind in _KINDS and problem in ("type", "parsing"):
        return f"should be {_KINDS[kind]}"
    if first["type"] == "string_too_short":
        return "should not be empty"
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return message[:1].lower() + plain(message[1:], _LONGEST)


def line_of(path: str, error: BaseException) -> str:
    """``:LINE``, where the configuration file failed, or "" if that is unknown."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if isinstance(error, SyntaxError) and error.filename == path:
        lines.append(error.lineno)
    return f":{lines[-1]}" if lines and isinstance(lines[-1], int) else ""
