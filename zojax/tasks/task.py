"""A task: where its records are, how they become examples, and what is measured."""

import dataclasses
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from zojax.errors import first_few
from zojax.tasks.example import Example
from zojax.tasks.labels import label_error, whole_number
from zojax.tasks.row import BadRowError, Record

NOT_TEXT = "with a field that is not text"
Kind = Literal["classification", "likelihood", "generation", "completion"]
Metric = Literal["accuracy", "f1", "macro_f1", "probability"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: how a record of data becomes a prompt with candidates, and what is measured.

    A configuration names a task of your own as ``data.task="my_module:my_task"``.

    Attributes:
        name: what messages and files call the task.
        fields: the fields that a record must have, with their types: ``str``, ``int``, ``list`` for
            a list of texts, or ``object`` for what ``render`` checks itself.
        render: ``(record, name) -> Example``. The record is a dict, and the name says where it
            comes from, as ``file:line``. An :class:`zojax.InputError` refuses a bad record.
        kind: ``classification`` is trained by cross-entropy over the candidates; ``likelihood`` by
            the mean negative log-likelihood of the right candidate alone, and ranks candidates;
            ``generation`` is trained like ``likelihood``, and generates its answers; ``completion``
            is trained like ``likelihood``, and scores its right answers.
        hub: the repository and configuration of a data set on the Hugging Face hub; None for data
            of your own, which ``data.path`` holds. Without a validation file, a fifth of such data
            is held out.
        metric: ``accuracy``; ``f1`` of the words in free answers; ``macro_f1``, the mean of the
            labels' F1; or, for ``completion`` alone, ``probability``: of the tokens of a right
            answer, their geometric mean.
        candidates: the words of the labels, if all examples have the same.
        splits: the names of the splits to train and to evaluate on.
        num_train: the number of training examples, unless ``data.num_train`` is set.
        num_dev: the number of examples that choose the best step.
        num_eval: the number of held-out examples.
        max_new_tokens: the most tokens of a generated answer.
        stop: the text that ends an answer.
        labels: what reports call the labels of ``candidates``; if it is empty, by their words.

    Example:
        >>> import zojax
        >>> def render(record, name):
        ...     prompt = f"{record['text']} So"
        ...     return zojax.Example(prompt, (" bad", " good"), record["label"], name)
        >>> mood = zojax.Task("mood", {"text": str, "label": int}, render, "classification")
        >>> mood.render({"text": "A joy.", "label": 1}, "line 1").prompt
        'A joy. So'
    """

    name: str
    fields: Mapping[str, type]
    render: Callable[[Record, str], Example]
    kind: Kind
    hub: tuple[str, str | None] | None = None
    metric: Metric = "accuracy"
    candidates: tuple[str, ...] = ()
    splits: tuple[str, str] = ("train", "validation")
    num_train: int = 1000
    num_dev: int = 500
    num_eval: int = 1000
    max_new_tokens: int = 0
    stop: str = "\n"
    labels: tuple[str, ...] = ()

    @property
    def has_free_answers(self) -> bool:
        """Whether examples have an answer to learn, and no candidates to compare it with."""
        return self.kind in ("generation", "completion")


@dataclasses.dataclass(frozen=True)
class Unusable:
    """A value that cannot be read: a record that is rendered without it is no worse for it.

    Attributes:
        reason: why, in words that follow the field's name.
        value: what there is, for whoever only hands it on.
    """

    reason: str
    value: Any = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        return str(self.value)


def make_example(task: Task, record: Record, name: str) -> Example:
    """Renders a record; ``InputError`` names a bad one and says what is wrong with it."""
    known = dict(record)
    for field, kind in task.fields.items():
        if field not in record:
            there = first_few(record) or "none"
            raise BadRowError(f"{name}: no field {field!r}; there are {there}", "without a field")
        value = record[field]
        if isinstance(value, Unusable):
            raise BadRowError(f"{name}: {field} {value.reason}", NOT_TEXT)
        if kind is int and (whole := whole_number(value)) is not None:
            known[field] = whole  # every cell of a CSV file is text
        if kind is str and not isinstance(value, str):
            raise not_text(name, field, value)
        if kind is list and not is_texts(value):
            raise not_text(name, field, value, "a list of texts")
    example = task.render(known, name)
    label = example.label
    if type(label) is not int or not 0 <= label < len(example.candidates):  # true is an int, too
        raise label_error(name, "label", label, dict(_numbered(example.candidates)))
    return example


def _numbered(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((str(label), word) for label, word in enumerate(words))


def not_text(name: str, field: str, value: Any, wanted: str = "text") -> BadRowError:
    """The error of a row with a field of another type."""
    return BadRowError(f"{name}: {field} is {reprlib.repr(value)}, which is not {wanted}", NOT_TEXT)


def is_texts(value: Any) -> bool:
    """Whether a value is a list of at least one text.

    >>> is_texts(["Rome", "Italy"]), is_texts([]), is_texts("Rome")
    (True, False, False)
    """
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def label_names(task: Task, words: Sequence[str]) -> tuple[str, ...]:
    """The names of a task's labels, in the order of its candidates.

    A user's own labels are named as in ``data.candidates``, and others by their words, unless the
    task names them.

    Args:
        task: the task.
        words: its candidates, as all examples have them.

    >>> from zojax.tasks.sst2 import SST2
    >>> label_names(SST2, SST2.candidates)
    ('terrible', 'great')
    """
    return task.labels if len(task.labels) == len(words) else tuple(word.strip() for word in words)
