"""The tables of a run: the rows to learn from, and those to hold out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zojax.config import DataConfig
from zojax.errors import InputError, first_few
from zojax.tasks.bad_rows import Table
from zojax.tasks.custom import CUSTOM
from zojax.tasks.data_files import find_files, is_table, missing
from zojax.tasks.records import FORMATS, read_file, read_hub
from zojax.tasks.row import OnBad
from zojax.tasks.task import Task


def read_tables(config: DataConfig, task: Task, bad: OnBad) -> tuple[Table, Table, list[str]]:
    """Reads the tables to learn from and to hold out; also returns notes for the user.

    A user's own data without a validation file are split: a fifth of the rows is held out.

    Raises:
        InputError: a table is missing or cannot be read, or no row has a field of the task.
    """
    train, evaluation, notes = _read(config, task, bad)
    for table in (train, evaluation):
        _check_fields(table, task, config)
    return train, evaluation, notes


def read_held_out(config: DataConfig, task: Task, bad: OnBad) -> tuple[Table, Table, list[str]]:
    """Reads the table to hold out, as :func:`read_tables` does.

    The table to learn from is not read, and need not exist, unless it must be split: it is then
    returned first, and otherwise an empty one.

    Raises:
        InputError: for the same reasons as :func:`read_tables`.
    """
    split, notes, rest = task.splits[1], [], None
    if config.path is None:
        table = _from_hub(task, split)
    elif paths := _find(config.path, task, split):
        table = read_files(paths, bad)
    elif task.hub is None and _find(config.path, task, task.splits[0]):
        rest, table, notes = _read(config, task, bad)
    else:
        raise missing(Path(config.path), split)
    _check_fields(table, task, config)
    return rest or Table(table.where, []), table, notes


def _read(config: DataConfig, task: Task, bad: OnBad) -> tuple[Table, Table, list[str]]:
    if config.path is None:
        train, evaluation = (_from_hub(task, split) for split in task.splits)
        return train, evaluation, []
    directory = Path(config.path)
    train_paths, paths = (_find(config.path, task, split) for split in task.splits)
    if not train_paths or not (paths or task.hub is None):
        raise missing(directory, task.splits[1 if train_paths else 0])
    train = read_files(train_paths, bad)
    if paths:
        return train, read_files(paths, bad), []
    rest, held_out, note = _hold_out(train)
    tests = [f for f in FORMATS if (directory / f"test.{f}").exists()]
    if tests:
        note += f"; if test.{tests[0]} is what to evaluate on, rename it to validation.{tests[0]}"
    return rest, held_out, [note]


def _from_hub(task: Task, split: str) -> Table:
    assert task.hub is not None  # a user's own data have a path
    return Table(f"split {split!r} on the hub", read_hub(*task.hub, split))


def _find(path: str, task: Task, split: str) -> list[Path]:
    """The files of a split; a user's own data may be one file, which is the first split."""
    if task.hub is None and is_table(Path(path)):
        return [Path(path)] if split == task.splits[0] else []
    return find_files(Path(path), split, task.hub[1] if task.hub else None)


def read_files(paths: Sequence[Path], bad: OnBad) -> Table:
    """Reads the rows of a split's one file, or of its shards."""
    where = str(paths[0])
    if len(paths) > 1:
        where += f" … {paths[-1].name}"
    return Table(where, [row for path in paths for row in read_file(path, bad)])


def _hold_out(table: Table) -> tuple[Table, Table, str]:
    """Splits off a fifth of the rows, the same for any configuration, and notes that."""
    count = len(table.rows) // 5
    if not count:
        raise InputError(
            f"{table.where}: {len(table.rows)} rows are too few to hold some out; add a file named "
            "validation with other rows beside it"
        )
    held_out = set(np.random.RandomState(0).permutation(len(table.rows))[:count].tolist())
    parts = [
        [row for i, row in enumerate(table.rows) if (i in held_out) == is_held_out]
        for is_held_out in (False, True)
    ]
    note = (
        f"{table.where}: there is no validation file beside it, so {count} of its "
        f"{len(table.rows)} rows are held out for evaluation, always the same ones"
    )
    return Table(table.where, parts[0]), Table(table.where, parts[1]), note


def _check_fields(table: Table, task: Task, config: DataConfig) -> None:
    """Refuses a field that no row has, which is a mistake in the configuration, not in the rows."""
    there = dict.fromkeys(field for row in table.rows for field in row.record or ())
    for field in task.fields:
        if there and field not in there:
            by = f" (named in {_namer(field, config)})" if task.name == CUSTOM else ""
            raise InputError(f"{table.where}: no field {field!r}{by}; there are {first_few(there)}")


def _namer(field: str, config: DataConfig) -> str:
    """The setting that names a field, in the configuration of a user's own data."""
    if config.candidates is None:
        return "data.answer" if field == config.answer else "data.prompt"
    return "data.label" if field == config.label else "data.prompt"
