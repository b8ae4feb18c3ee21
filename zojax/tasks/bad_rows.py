"""Bad rows: left out and counted, but never so that they decide what is learnt."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from zojax.errors import InputError, first_few
from zojax.tasks.example import Example
from zojax.tasks.row import BadRowError, Row
from zojax.tasks.task import Task, make_example

_NAMED = 3
_LEAST_ROWS, _LEAST_SHARE, _LEAST_OF_ALL = 3, 0.02, 0.5
_OTHER = "that cannot be used"


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a split, and where they come from."""

    where: str
    rows: list[Row]


@dataclasses.dataclass
class BadRows:
    """What is wrong with the bad rows of each table; the first one raises unless they are skipped.

    Attributes:
        skip: whether bad rows are left out.
    """

    skip: bool
    _errors: dict[str, dict[str, InputError]] = dataclasses.field(default_factory=dict)

    def refuse(self, error: InputError) -> None:
        """Raises the error of a row that cannot be read, unless it is skipped."""
        if not self.skip:
            raise error

    def add(self, table: Table, row: Row, error: InputError) -> None:
        """Counts a row, once, or raises its error."""
        self.refuse(error)
        self._errors.setdefault(table.where, {}).setdefault(row.name, error)

    def of(self, table: Table) -> Mapping[str, InputError]:
        """The errors of a table's bad rows, and of others of the same file, by the rows' names."""
        return self._errors.get(table.where, {})

    def __len__(self) -> int:
        return sum(map(len, self._errors.values()))

    def notes(self, tables: Sequence[Table]) -> list[str]:
        """A note for each file: how many of its rows are left out, why, and the first of them."""
        return [
            f"{where}: left out {len(errors):,} of {len(rows):,} rows ({_causes(errors)}): "
            f"{'; '.join(list(map(str, errors.values()))[:_NAMED])}{_others(len(errors))}"
            for where, rows in _by_file(tables).items()
            if (errors := self._errors.get(where))
        ]


def _causes(errors: Mapping[str, InputError]) -> str:
    counts = collections.Counter(getattr(e, "cause", _OTHER) for e in errors.values())
    return ", ".join(f"{count:,} {cause}" for cause, count in counts.most_common())


def _others(count: int) -> str:
    return f"; and {count - _NAMED:,} more" if count > _NAMED else ""


def _by_file(tables: Sequence[Table]) -> dict[str, list[Row]]:
    """The rows of each file; a part that was held out of it belongs to it."""
    rows: dict[str, list[Row]] = {}
    for table in tables:
        rows.setdefault(table.where, []).extend(table.rows)
    return rows


def survey(tables: Sequence[Table], task: Task, bad: BadRows, *, labels: Sequence[str]) -> None:
    """Renders all rows, so that the number of bad ones does not depend on which are chosen.

    If bad rows are not skipped, only those count that are chosen, and only ``labels`` are surveyed.

    Args:
        tables: the tables of a run; the first is the one to learn from.
        task: their task.
        bad: counts the bad rows.
        labels: the labels of a user's own task, each of which the first table must have; none if
            that does not matter.

    Raises:
        InputError: many rows have a label that has no word, or no row has a label with one.
    """
    if not (bad.skip or labels):
        return
    found: dict[str, list[int | InputError]] = {table.where: [] for table in tables}
    for table in tables:
        for row in table.rows:
            label = _label_of(row, task)
            found[table.where].append(label)
            if bad.skip and isinstance(label, InputError):
                bad.add(table, row, label)
    for where, results in found.items():
        errors = [e for e in results if isinstance(e, BadRowError) and e.label]
        _check_unknown(where, errors, len(results))
    where = tables[0].where
    _check_lacking(where, found[where], labels, bad.skip)


def _label_of(row: Row, task: Task) -> int | InputError:
    """A row's label, or why it has none, or cannot be used."""
    if row.error is not None:
        return row.error
    try:
        return make_example(task, row.record or {}, row.name).label
    except InputError as error:
        return error


def _check_lacking(
    where: str, found: Sequence[int | InputError], labels: Sequence[str], skip: bool
) -> None:
    """Refuses labels that no row has; the reason may be a bad row."""
    there, errors = set(found), [e for e in found if isinstance(e, InputError)]
    lacking = [label for i, label in enumerate(labels) if i not in there]
    if not lacking:
        return
    if errors and not skip:
        raise errors[0]
    which = f"label {lacking[0]!r}" if len(lacking) == 1 else f"labels {first_few(lacking)}"
    among = f" good row (of {len(errors):,} bad ones the first: {errors[0]})" if errors else " row"
    raise InputError(
        f"{where}: no{among} has the {which}; take what no row has out of data.candidates, or "
        "write it as the file does"
    )


def lost_labels(
    table: Table, task: Task, bad: BadRows, learning: Sequence[Example], num_train: int
) -> list[str]:
    """A note that names the labels of which no row is learnt from, though the table has some.

    Args:
        table: the table to learn from.
        task: its task.
        bad: the bad rows, with those that could not be chosen, such as rows that are too long.
        learning: the chosen examples: those to learn from, and then those for dev.
        num_train: the number of those to learn from.

    Raises:
        InputError: a label is lost since its rows are bad.
    """
    names = task.labels or tuple(word.strip() for word in task.candidates)
    learnt = {example.label for example in learning[:num_train]}
    if len(learnt) == len(names):
        return []
    good = {example.label for example in learning}
    there: set[int] = set()
    for row in table.rows:
        label = _label_of(row, task)
        if isinstance(label, InputError):
            continue
        there.add(label)
        if label not in good and (error := bad.of(table).get(row.name)):
            raise InputError(
                f"{table.where}: every row with the label {names[label]!r} that could be chosen is "
                f"bad, so that nothing would learn it; the first: {error}"
            )
    lost = [repr(names[label]) for label in sorted(there - learnt)]
    if not lost:
        return []
    return [f"{table.where}: no row with the label {first_few(lost)} is among those to learn from"]


def _check_unknown(where: str, errors: Sequence[BadRowError], total: int) -> None:
    """Refuses labels without a word that are too many to be mistakes in single rows."""
    counts = collections.Counter(error.label for error in errors)
    for label, count in counts.most_common(1):
        one_is_many = count >= max(_LEAST_ROWS, _LEAST_SHARE * total)
        all_are_many = len(errors) >= max(_LEAST_ROWS, _LEAST_OF_ALL * total)
        if not (one_is_many or all_are_many):
            return
        others = f" (other labels without one: {len(counts) - 1:,})" if len(counts) > 1 else ""
        fix = next(error.fix for error in errors if error.label == label)
        raise InputError(
            f"{where}: the label {label} of {count:,} of {total:,} rows has no word{others}; {fix}"
        )
