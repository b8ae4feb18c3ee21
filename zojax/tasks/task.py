"""What a task is: where its records are, how they become examples, and what is measured."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from zojax.errors import InputError, first_few
from zojax.tasks.example import Example

Record = Mapping[str, Any]
Kind = Literal["classification", "likelihood", "generation"]
Metric = Literal["accuracy", "f1"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as configurations name it.
        hub: repository and configuration on the Hugging Face hub; None for a user's own data.
        fields: the fields that a record must have: ``str`` for text, ``int`` for a number, ``list``
            for texts, ``object`` for what ``render`` looks at itself.
        render: ``(record, name) -> Example``; ``InputError`` names a bad record.
        kind: ``classification`` is trained by cross-entropy over the candidates; ``likelihood`` on
            the right one alone, by its mean negative log-likelihood, and ranks them;
            ``generation`` is trained so too, and generates its answer.
        metric: of its evaluation.
        candidates: the words of its labels, where every example has the same.
        splits: names of the splits to train on and to evaluate on.
        num_train: training examples, as in MeZO's tables.
        num_dev: examples to choose the best step by.
        num_eval: held-out examples.
        max_new_tokens: the longest answer that is generated.
        stop: text that ends an answer.
    """

    name: str
    hub: tuple[str, str | None] | None
    fields: Mapping[str, type]
    render: Callable[[Record, str], Example]
    kind: Kind
    metric: Metric = "accuracy"
    candidates: tuple[str, ...] = ()
    splits: tuple[str, str] = ("train", "validation")
    num_train: int = 1000
    num_dev: int = 500
    num_eval: int = 1000
    max_new_tokens: int = 0
    stop: str = "\n"


def make_example(task: Task, record: Record, name: str) -> Example:
    """Renders a record; ``InputError`` names a bad one and says what is wrong with it."""
    known = dict(record)
    for field, kind in task.fields.items():
        if field not in record:
            there = first_few(record) or "none"
            raise InputError(f"{name}: no field {field!r}; there are {there}")
        value = record[field]
        if kind is int and isinstance(value, str) and value.isdecimal() and len(value) < 20:
            known[field] = int(value)  # tables in CSV hold nothing but text
        if kind is str and not isinstance(value, str):
            raise InputError(f"{name}: {field} is {reprlib.repr(value)}, which is no text")
        if kind is list and not is_texts(value):
            raise InputError(f"{name}: {field} is {reprlib.repr(value)}, which is no list of texts")
    example = task.render(known, name)
    label = example.label
    if type(label) is not int or not 0 <= label < len(example.candidates):  # true is an int, too
        words = first_few(f"{i} ({word!r})" for i, word in enumerate(example.candidates))
        raise InputError(f"{name}: label {reprlib.repr(label)} has no word; labels are {words}")
    return example


def is_texts(value: Any) -> bool:
    """Whether a value is a list of at least one text.

    >>> is_texts(["Rome", "Italy"]), is_texts([]), is_texts("Rome")
    (True, False, False)
    """
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
