"""The rows of an uploaded file, each of which is checked: what kind they are, and how many."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from zojax.errors import InputError
from zojax.proposals.proposal import estimated_tokens
from zojax.tasks.completions import COMPLETIONS, CONVERSATIONS
from zojax.tasks.records import iterate_rows
from zojax.tasks.task import Task, make_example

Kind = Literal["completions", "conversations", "labelled"]

TEXT, LABEL = "text", "label"
"""The fields of a row with a label."""

_TASKS: dict[Kind, Task] = {"completions": COMPLETIONS, "conversations": CONVERSATIONS}
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "completions": ("prompt", "completion"),
    "conversations": ("messages",),
    "labelled": (TEXT, LABEL),
}
_MOST_LABELS, _LONGEST_LABEL = 64, 100
_MOST_ROWS = 200_000


class Rows(NamedTuple):
    """What a file holds.

    Attributes:
        kind: of prompts and completions, of chats, or of texts with a label.
        count: the number of rows.
        longest: about the most tokens of a row.
        labels: the labels there are, sorted; none unless rows have some.
        answer: about the most tokens of an answer, if rows have no labels.
    """

    kind: Kind
    count: int
    longest: int
    labels: tuple[str, ...] = ()
    answer: int = 0


def check_rows(path: Path) -> Rows:
    """Reads a JSONL file, and checks every row.

    Raises:
        InputError: a row is bad, or of another kind than the first; the message names its line.
    """
    kind, count, longest, answer, labels = None, 0, 0, 0, set[str]()
    try:
        for row in iterate_rows(path, _refuse):
            record = dict(row.record or {})
            kind = kind or _kind(record, row.name)
            if not set(_FIELDS[kind]) <= record.keys():
                fields = " and ".join(_FIELDS[kind])
                raise InputError(f"{row.name}: has no {fields}, as the rows before it have")
            if kind == "labelled":
                labels.add(_label(record, row.name))
            else:
                make_example(_TASKS[kind], record, row.name)
            tokens = [estimated_tokens(text) for text in _texts(record, kind)]
            count, longest = count + 1, max(longest, sum(tokens))
            answer = max(answer, 0 if kind == "labelled" else tokens[-1])
            if count > _MOST_ROWS:
                raise InputError(f"{path}: has more than {_MOST_ROWS:,} rows")
    except InputError as error:
        told = str(error).replace(f"{path}:", "line ").replace(str(path), "the file")
        raise InputError(told) from None
    if kind is None:
        raise InputError("the file has no rows")
    if kind == "labelled" and not 2 <= len(labels) <= _MOST_LABELS:
        raise InputError(f"there are {len(labels)} labels; give 2 to {_MOST_LABELS}")
    return Rows(kind, count, longest, tuple(sorted(labels)), answer)


def _texts(record: dict[str, Any], kind: Kind) -> list[str]:
    """What is read of a good row, but for its label; the answer is the last."""
    if kind == "conversations":
        return [message["content"] for message in record["messages"]]
    return [record[field] for field in _FIELDS[kind] if field != LABEL]


def _refuse(error: InputError) -> None:
    raise error


def _kind(record: dict[str, Any], name: str) -> Kind:
    for kind, fields in _FIELDS.items():
        if set(fields) <= record.keys():
            return kind
    raise InputError(
        f"{name}: give a prompt and a completion, messages, or a text and a label in every row"
    )


def _label(record: dict[str, Any], name: str) -> str:
    """A row's label as text."""
    text, label = record[TEXT], record[LABEL]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{name}: text should be a text that is not empty")
    is_whole = isinstance(label, int) and not isinstance(label, bool)
    if not (is_whole or isinstance(label, str)) or not 1 <= len(str(label)) <= _LONGEST_LABEL:
        raise InputError(
            f"{name}: label should be a whole number, or a text of 1 to {_LONGEST_LABEL} characters"
        )
    return str(label)
