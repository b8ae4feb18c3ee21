"""Decides what is learnt from a table: which column tells the answer, and which ones are read."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from zojax.config.messages import closest
from zojax.errors import InputError, first_few
from zojax.proposals.columns import MOST_VALUES, Column
from zojax.text import plain

_LABELS = (
    "label labels class category target sentiment intent topic queue emotion tag "
    "polarity stance verdict type kind priority department rating stars score grade "
    "gold y"
)
_ANSWERS = (
    "answer answers reply response output completion summary translation solution target label"
)
"""Words of names that people give such columns, the surest first."""

_NOT_READ = "id uuid guid author user username customer name url link email date time"
"""Words of names of columns that do not help to tell a label, even if they are texts."""

_MOST_TEXTS = 4
_FEW_VALUES = 50  # what a column that is not named like a label may have, to be taken for one
_LEAST_REPEATS = 5  # and how often each of its values must occur, on average


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is learnt from which columns.

    Attributes:
        target: the column with the labels or the answers.
        is_answer: whether it has free answers.
        texts: the columns that the prompt is made of, in the table's order.
        why: why the target was chosen.
        others: other columns that could be the target.
        unread: columns that are not used.
    """

    target: Column
    is_answer: bool
    texts: tuple[Column, ...]
    why: str
    others: tuple[str, ...]
    unread: tuple[str, ...]


def choose(
    where: str, columns: Mapping[str, Column], label: str | None = None, texts: Sequence[str] = ()
) -> Choice:
    """Chooses the target and the texts.

    Args:
        where: the table's name, for messages.
        columns: its columns.
        label: the target that the user names; None is chosen here.
        texts: the columns to read that the user names; empty are chosen here.

    Raises:
        InputError: no column can be the target, or none has texts; the message says what there is.
    """
    for name in [*([] if label is None else [label]), *texts]:
        if name not in columns:
            close = closest(name, list(columns))
            fix = f"did you mean {close!r}?" if close else f"there are {first_few(columns)}"
            raise InputError(f"{where}: no column {name!r}; {fix}")
    if label is None:
        target, is_answer, why = _find_target(where, columns, texts)
    else:
        target, why = columns[label], "as --label says"
        is_answer = _is_answer_given(where, target)
    read = _find_texts(where, columns, target, texts)
    used = {target.name, *(column.name for column in read)}
    return Choice(
        target,
        is_answer,
        read,
        why,
        tuple(c.name for c in columns.values() if c.name not in used and _has_classes(c)),
        tuple(name for name in columns if name not in used),
    )


def _find_target(
    where: str, columns: Mapping[str, Column], texts: Sequence[str]
) -> tuple[Column, bool, str]:
    """The target, whether it has free answers, and why it was chosen."""
    free = [column for column in columns.values() if column.name not in texts]
    classes = [column for column in free if _has_classes(column)]
    if named := _by_name(classes, _LABELS.split()):
        words = [column for column in named if not column.is_numeric]  # beside their numbers
        return (words or named)[0], False, "it is named like a label, and its values repeat"
    readable = [column for column in free if _has_answers(column)]
    for column in _by_name(readable, _ANSWERS.split()):
        if texts or any(other.is_text for other in columns.values() if other is not column):
            return column, True, "it is named like an answer, and its texts differ"
    likely = [column for column in classes if _repeats(column)]
    if likely:
        why = "its few values repeat" if len(likely) == 1 else "the last column with few values"
        return likely[-1], False, why
    raise InputError(
        f"{where}: no column looks like a label ({_in_words(columns.values())}); name the column "
        "to learn with --label, or add one: without labels a model can only score and generate "
        "(zojax score, zojax generate)"
    )


def _has_classes(column: Column) -> bool:
    """Whether the values of a column could be labels: several, each in two rows on average."""
    several = 2 <= len(column.values) <= column.filled / 2
    return several and not (column.is_varied or column.fractions or column.lists or column.lines)


def _repeats(column: Column) -> bool:
    """Whether a column that is not named like a label could be one nevertheless."""
    count = len(column.values)
    most = 10 if column.is_numeric else _FEW_VALUES
    return count <= most and column.filled >= _LEAST_REPEATS * count and column.mean_words <= 4


def _has_answers(column: Column) -> bool:
    """Whether a column's texts could be answers: most differ, and most are one line."""
    texts = column.filled and column.texts == column.filled and column.lines <= column.filled / 2
    differ = column.is_varied or len(column.values) > column.filled / 2
    return bool(texts and differ and (column.lists or column.is_text))


def _by_name(columns: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The columns with one of these words in their names, the surest first."""

    def place(column: Column) -> tuple[bool, int]:
        words = _words(column.name)
        found = [names.index(word) for word in words if word in names]
        return len(words) > 1, min(found, default=len(names))

    return sorted((c for c in columns if place(c)[1] < len(names)), key=place)


def _words(name: str) -> list[str]:
    """The words of a column's name.

    >>> _words("Ticket_Label"), _words("ticketLabel2")
    (['ticket', 'label'], ['ticket', 'label'])
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"[^\W\d_]+", spaced.lower())


def _is_answer_given(where: str, column: Column) -> bool:
    """Whether the target that the user names has free answers; raises if it cannot be one."""
    what = f"{where}: column {column.name!r}"
    if not column.filled:
        raise InputError(f"{what} is empty, so that there is nothing to learn from it")
    if column.is_constant:
        [value] = column.values
        raise InputError(
            f"{what} has one value, {plain(repr(value), 60)}; to learn a difference, rows of "
            "another class are needed, too"
        )
    if _has_classes(column):
        return False
    if column.fractions:
        raise InputError(f"{what} has numbers with fractions; zojax learns classes and texts only")
    if column.texts == column.filled and column.lines == column.filled:
        raise InputError(f"{what} has texts of several lines only; an answer is one line")
    if column.texts == column.filled and (column.lists or column.is_text):
        return True
    many = f"more than {MOST_VALUES:,}" if column.is_varied else f"{len(column.values):,}"
    raise InputError(
        f"{what} has {many} different values in {column.filled:,} rows, and they are no texts: "
        "labels repeat, and answers are texts"
    )


def _find_texts(
    where: str, columns: Mapping[str, Column], target: Column, names: Sequence[str]
) -> tuple[Column, ...]:
    if target.name in names:
        raise InputError(
            f"{where}: column {plain(repr(target.name), 60)} is what is learnt; give another --text"
        )
    if names:
        found = tuple(columns[name] for name in dict.fromkeys(names))
        for column in found:
            _check_fits(where, column)
            if not column.filled:
                raise InputError(f"{where}: column {column.name!r} is empty")
        return found
    there = [c for c in columns.values() if c is not target and c.is_text]
    texts = [column for column in there if fits_template(column.name)]
    if there and not texts:
        _check_fits(where, there[0])
    if not texts:
        raise InputError(
            f"{where}: no column has texts to read ({_in_words(columns.values())}); name it with "
            "--text"
        )
    _check_fits(where, max(there, key=lambda column: column.mean_length))
    longest = max(texts, key=lambda column: column.mean_length)
    others = [column for column in texts if column is longest or _is_told(column)]
    most = sorted(others, key=lambda column: column.mean_length, reverse=True)[:_MOST_TEXTS]
    return tuple(column for column in texts if column in most)


def _is_told(column: Column) -> bool:
    """Whether a text beside the longest is worth reading: most of its values differ.

    Rows without it could not be rendered, unless it is an empty text there.
    """
    differ = column.is_varied or len(column.values) > column.filled / 10
    named = not set(_NOT_READ.split()) & set(_words(column.name))
    there = column.missing == column.blank <= column.filled
    return (differ or column.mean_words >= 3) and named and there


def _check_fits(where: str, column: Column) -> None:
    if not fits_template(column.name):
        raise InputError(
            f"{where}: column {column.name!r} cannot stand in a template; rename it without "
            "braces, brackets, colons and exclamation marks"
        )


def fits_template(name: str) -> bool:
    """Whether a column's name can stand between the braces of a template.

    >>> fits_template("the text"), fits_template("a:b"), fits_template("{a}")
    (True, False, False)
    """
    return bool(name) and not set(name) & set("{}!:[]") and name.isprintable()


def _in_words(columns: Iterable[Column]) -> str:
    """What each of the first columns has."""
    return first_few(map(_described, columns), 5, 80)


def _described(column: Column) -> str:
    name = plain(column.name, 30)
    if not column.filled:
        return f"{name} is empty"
    if column.fractions:
        return f"{name} has numbers with fractions"
    if column.is_constant:
        return f"{name} has one value"
    if column.is_varied and len(column.values) < MOST_VALUES:
        return f"{name} has long texts"
    many = f"more than {MOST_VALUES:,}" if column.is_varied else f"{len(column.values):,}"
    return f"{name} has {many} values in {column.filled:,} rows"
