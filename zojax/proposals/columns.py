"""What the columns of a table hold, counted in one pass over its rows."""

import collections
import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any

from zojax.tasks.labels import is_missing, whole_number
from zojax.tasks.row import Record
from zojax.tasks.task import is_texts

MOST_VALUES = 1_000
"""Up to so many different values are counted; a column with more has no classes."""

_LONGEST_LABEL = 100
_LOOKED_AT = 200  # texts of a column whose form is looked at

_NO_TEXT = re.compile(
    r"[\w.+-]+@[\w.-]+|\w+://\S+|www\.\S+"  # an address
    r"|[\d\s./:,+T-]*\d[\d\s./:,+TZ-]*"  # a number, a date, a time
    r"|[!-~]*\d[!-~]*"  # a number of a document, a hash: ASCII with a digit, without a blank
)


@dataclasses.dataclass(eq=False)
class Column:
    """What a column holds.

    Attributes:
        name: its name.
        filled: the number of rows with a value; empty cells, null and NaN are none.
        missing: the number of the others.
        blank: the number of those that are empty texts, which a prompt can hold.
        values: how often each value occurs, as labels are written; incomplete if ``is_varied``.
        is_varied: whether there are too many values, or too long ones, to be classes.
        texts: the number of values that are texts, or lists of texts.
        numbers: the number of values that are numbers or written as one.
        fractions: the number of values that are numbers with a fraction.
        lists: the number of values that are lists of texts.
        lines: the number of texts with several lines.
        characters: the length of all texts together.
        words: the number of words of all texts together.
        sample: the first texts.
    """

    name: str
    filled: int = 0
    missing: int = 0
    blank: int = 0
    values: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    is_varied: bool = False
    texts: int = 0
    numbers: int = 0
    fractions: int = 0
    lists: int = 0
    lines: int = 0
    characters: int = 0
    words: int = 0
    sample: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_text(self) -> bool:
        """Whether it holds texts to read, and not numbers, dates, addresses or a single value."""
        if not self.filled or self.texts < self.filled or self.lists or self.is_constant:
            return False
        coded = sum(bool(_NO_TEXT.fullmatch(text.strip())) for text in self.sample)
        return coded < 0.9 * len(self.sample)

    @property
    def is_constant(self) -> bool:
        """Whether all its values are the same."""
        return len(self.values) == 1 and not self.is_varied

    @property
    def is_numeric(self) -> bool:
        """Whether all its values are numbers."""
        return 0 < self.filled == self.numbers

    @property
    def mean_words(self) -> float:
        """How many words its texts have on average."""
        return self.words / max(self.texts, 1)

    @property
    def mean_length(self) -> float:
        """How many characters its texts have on average."""
        return self.characters / max(self.texts, 1)

    def count(self, value: Any) -> None:
        """Counts the value of a row."""
        if is_missing(value):
            self.missing += 1
            self.blank += isinstance(value, str)
            return
        self.filled += 1
        if isinstance(value, str) or is_texts(value):
            self._count_text(value if isinstance(value, str) else value[0])
            self.lists += not isinstance(value, str)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers += 1
            self.fractions += not float(value).is_integer()
        label = _label(value)
        if label is None or len(label) > _LONGEST_LABEL:
            self.is_varied = True
        elif label in self.values or len(self.values) < MOST_VALUES:
            self.values[label] += 1
        else:
            self.is_varied = True

    def _count_text(self, text: str) -> None:
        self.texts += 1
        self.characters += len(text)
        self.words += len(text.split())
        self.lines += "\n" in text.strip()
        if len(self.sample) < _LOOKED_AT:
            self.sample.append(text[:_LONGEST_LABEL])
        if number := re.fullmatch(r"[+-]?\d+(\.(\d+))?", text.strip()):
            self.numbers += 1
            self.fractions += bool((number[2] or "").strip("0"))


def look(records: Iterable[Record]) -> dict[str, Column]:
    """Looks at the columns of a table, in the order of their first rows.

    >>> columns = look([{"text": "a b", "label": 1}, {"text": "c", "label": None}])
    >>> columns["text"].words, columns["label"].values, columns["label"].missing
    (3, Counter({'1': 1}), 1)
    """
    columns: dict[str, Column] = {}
    count = 0
    for count, record in enumerate(records, start=1):
        for name, value in record.items():
            if name not in columns:
                columns[name] = Column(name, missing=count - 1)
            columns[name].count(value)
    for column in columns.values():
        column.missing = count - column.filled  # JSON may leave a field out
    return columns


def _label(value: Any) -> str | None:
    """A value as the label that a configuration writes; None if it cannot be one."""
    if isinstance(value, str):
        if value in ("True", "TRUE", "False", "FALSE"):
            return value.lower()
        whole = whole_number(value) if "." in value else None
        return value if whole is None else str(whole)
    if isinstance(value, bool):
        return json.dumps(value)
    whole = whole_number(value)
    return None if whole is None else str(whole)
