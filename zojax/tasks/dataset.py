"""Chooses the examples of a run, as MeZO's scripts do."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zojax.config import DataConfig, foreign
from zojax.config.messages import closest
from zojax.errors import InputError
from zojax.tasks.bad_rows import BadRows, Table, lost_labels, survey
from zojax.tasks.calibrate import OF_DEV_SET
from zojax.tasks.chat import joined
from zojax.tasks.completions import COMPLETIONS, CONVERSATIONS
from zojax.tasks.copa import COPA
from zojax.tasks.custom import CUSTOM, custom_task, refuse_own_fields
from zojax.tasks.entailment import CB, RTE
from zojax.tasks.example import Example
from zojax.tasks.question_answering import DROP, SQUAD
from zojax.tasks.reading import BOOLQ, MULTIRC
from zojax.tasks.record import RECORD
from zojax.tasks.row import Row
from zojax.tasks.sst2 import SST2
from zojax.tasks.tables import read_held_out, read_tables
from zojax.tasks.task import Task, make_example
from zojax.tasks.words import WIC, WSC

TASKS: Mapping[str, Task] = {
    task.name: task for task in (SST2, RTE, CB, BOOLQ, WSC, WIC, MULTIRC, COPA, RECORD, SQUAD, DROP)
}
"""The tasks of the papers."""

_FORMATS: Mapping[str, Task] = {task.name: task for task in (COMPLETIONS, CONVERSATIONS)}
"""Tasks for rows of one's own in a format that others have named."""

Check = Callable[[Example], object]
"""Raises ``InputError`` for an example that cannot be used, such as one that is too long."""


def _accept(example: Example) -> None:
    """Accepts every example."""


@dataclasses.dataclass(frozen=True)
class Splits:
    """The examples of a run.

    Attributes:
        train: the examples to learn from.
        dev: the examples that select the best step.
        eval: the held-out examples.
        task: the task that they belong to.
        skipped: the number of bad rows that were left out (``data.skip_bad``).
        notes: what the user should know about the choice, one line each.
    """

    train: list[Example]
    dev: list[Example]
    eval: list[Example]
    task: Task
    skipped: int = 0
    notes: tuple[str, ...] = ()


def get_task(config: DataConfig) -> Task:
    """The task of a configuration; ``InputError`` if there is none, or its settings do not fit."""
    known = {**TASKS, **_FORMATS}
    if config.task == CUSTOM:
        task = custom_task(config)
    elif config.task in known or foreign.is_foreign(config.task):
        task = known.get(config.task) or foreign.find(config.task, Task, "a zojax.Task")
        _check_has_data(task, config)
        refuse_own_fields(config)
    else:
        names = [*known, CUSTOM]
        close = closest(config.task, names)
        fix = f"did you mean {close!r}?" if close else f"there are {', '.join(names)}"
        raise InputError(f"data.task={config.task!r}: no such task; {fix}")
    if config.metric == "f1" and task.metric != "f1":
        fix = ": use macro_f1" if task.candidates else ""
        raise InputError(f"data.metric='f1' compares texts, but {task.name} has labels{fix}")
    metric = config.metric or task.metric
    if (metric == "probability") != (task.kind == "completion"):
        how = "is what measures" if task.kind == "completion" else "is not for"
        raise InputError(f"data.metric={metric!r}: 'probability' {how} the task {task.name}")
    if metric == "macro_f1" and (task.kind != "classification" or not task.candidates):
        raise InputError(
            f"data.metric='macro_f1' is for labels that stay the same, but {task.name} has none"
        )
    if config.shuffle_labels and task.kind != "classification":
        raise InputError(f"data.shuffle_labels permutes labels, but {task.name} has none")
    if config.calibration != "none" and task.has_free_answers:
        raise InputError(f"data.calibration is for candidates, but {task.name} has free answers")
    if config.calibration in OF_DEV_SET and not task.candidates:
        raise InputError(
            f"data.calibration={config.calibration!r} is for candidates that stay the same, but "
            f"those of {task.name} depend on the example"
        )
    return dataclasses.replace(task, metric=metric)


def _check_has_data(task: Task, config: DataConfig) -> None:
    if task.hub is None and config.path is None:
        raise InputError(f"data.task={config.task} needs data.path, since it names no hub data set")
    if task is CONVERSATIONS and not config.chat:
        raise InputError(f"data.task={config.task} is of chats: --set data.chat=True")
    if task is CONVERSATIONS and config.system is not None:
        raise InputError(f"data.task={config.task}: its rows say what the system says first")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers of examples that a run asks for."""

    train: int
    dev: int
    eval: int


def get_sizes(config: DataConfig, task: Task) -> Sizes:
    """The configuration's numbers of examples, or else the task's own."""
    return Sizes(
        config.num_train or task.num_train,
        config.num_dev or task.num_dev,
        config.num_eval or task.num_eval,
    )


def load_splits(config: DataConfig, check: Check = _accept) -> Splits:
    """Reads, chooses and renders the examples of a run.

    They are chosen as MeZO does: ``num_train + num_dev`` records from a permutation of the train
    split seeded with ``seed`` (NumPy's legacy generator), the last ``num_dev`` of them for dev, and
    up to ``num_eval`` from the validation split's permutation. If the train split has fewer,
    training gets what dev leaves, provided that ``num_train`` is the task's own; a number that the
    user set is never lowered.

    With ``num_demos`` every prompt gets its own demonstrations from the train split, as in MeZO's
    in-context learning; an example is never its own demonstration.

    With ``skip_bad`` a bad row is replaced by the next row of the permutation, so that the same
    rows are chosen every time.

    Args:
        config: which data to read, and how many.
        check: raises ``InputError`` for an example that cannot be used.

    Raises:
        InputError: a record is bad, with its file and line, or data are missing, with the fix.
    """
    task, bad = get_task(config), BadRows(config.skip_bad)
    sizes = get_sizes(config, task)
    train, evaluation, notes = read_tables(config, task, bad.refuse)
    survey([train, evaluation], task, bad, labels=list(config.candidates or ()))
    nums_shown: list[int] = []
    make = _maker(config, task, train, bad, nums_shown.append, check)
    learning = _choose(train, sizes.train + sizes.dev, config.seed, make, bad)
    num_train = len(learning) - sizes.dev
    if num_train < sizes.train:
        notes.append(_make_do(config, train, sizes, num_train, bad))
    else:
        notes += _beyond_train(train, task, sizes, bad)
    held_out = _hold_out(evaluation, sizes.eval, config.seed, make, bad)
    notes += _beyond_eval(evaluation, task, sizes, bad)
    examples = learning[:num_train]
    if task.hub is None and task.candidates:
        notes += lost_labels(train, task, bad, learning, num_train)
    return Splits(
        _shuffle_labels(examples, config.seed) if config.shuffle_labels else examples,
        learning[num_train:],
        held_out,
        task,
        len(bad),
        (*notes, *_few_shown(config, train, nums_shown), *bad.notes([train, evaluation])),
    )


def load_held_out(config: DataConfig, check: Check = _accept) -> Splits:
    """Loads the held-out examples that :func:`load_splits` chooses, and no others.

    The train split is read only for demonstrations, or if a part of it is held out. Otherwise it
    may be missing, and its bad rows do no harm.

    Args:
        config: which data to read, and how many.
        check: raises ``InputError`` for an example that cannot be used.

    Raises:
        InputError: as :func:`load_splits` does.
    """
    task, bad = get_task(config), BadRows(config.skip_bad)
    if config.num_demos:
        train, evaluation, notes = read_tables(config, task, bad.refuse)
    else:
        train, evaluation, notes = read_held_out(config, task, bad.refuse)
    survey([train, evaluation], task, bad, labels=())
    nums_shown: list[int] = []
    make = _maker(config, task, train, bad, nums_shown.append, check)
    sizes = get_sizes(config, task)
    held_out = _hold_out(evaluation, sizes.eval, config.seed, make, bad)
    notes += _beyond_eval(evaluation, task, sizes, bad)
    notes += [*_few_shown(config, train, nums_shown), *bad.notes([train, evaluation])]
    return Splits([], [], held_out, task, len(bad), tuple(notes))


def _maker(
    config: DataConfig,
    task: Task,
    train: Table,
    bad: BadRows,
    count: Callable[[int], None],
    check: Check,
) -> Callable[[Row, int], Example]:
    """Makes ``(row, its position) -> example``: rendered, with demonstrations, and checked."""
    demonstrate = _demonstrator(train, task, config, bad, count)

    def make(row: Row, position: int) -> Example:
        example = demonstrate(make_example(task, row.record or {}, row.name), position)
        check(example)
        return example

    return make


def _demonstrator(
    train: Table, task: Task, config: DataConfig, bad: BadRows, count: Callable[[int], None]
) -> Callable[[Example, int], Example]:
    """Makes ``(example, its position) -> example`` with demonstrations.

    ``count`` is called with the number of demonstrations of each example.
    """
    join = joined(config, task)
    if not config.num_demos:
        return lambda example, position: join(example, ())
    sizes = get_sizes(config, task)
    most = max(sizes.train + sizes.dev, sizes.eval)
    # MeZO draws a seed for every evaluated example, and a subset of the train split from that seed.
    seeds: Any = np.random.RandomState(config.seed).randint(0, 10_000, most)

    @functools.cache
    def shown(index: int) -> Example | None:
        row = train.rows[index]
        if row.record is None:
            return None
        try:
            return make_example(task, row.record, row.name)
        except InputError as error:
            bad.add(train, row, error)
            return None

    def demonstrate(example: Example, position: int) -> Example:
        order = np.random.RandomState(seeds[position]).permutation(len(train.rows)).tolist()
        others = (shown(i) for i in order if train.rows[i].name != example.name)
        demonstrations = list(itertools.islice(filter(None, others), config.num_demos))
        count(len(demonstrations))
        return join(example, demonstrations)

    return demonstrate


def _choose(
    table: Table,
    count: int,
    seed: int,
    make: Callable[[Row, int], Example],
    bad: BadRows,
) -> list[Example]:
    """The first ``count`` good rows of a permutation; all, if there are fewer."""
    examples: list[Example] = []
    for i in np.random.RandomState(seed).permutation(len(table.rows)).tolist():
        row = table.rows[i]
        if len(examples) == count:
            break
        if row.name in bad.of(table):  # counted by the survey
            continue
        try:
            examples.append(make(row, len(examples)))
        except InputError as error:
            bad.add(table, row, error)
    return examples


def _hold_out(
    table: Table, count: int, seed: int, make: Callable[[Row, int], Example], bad: BadRows
) -> list[Example]:
    """The held-out examples; ``InputError`` if none is good."""
    examples = _choose(table, count, seed, make, bad)
    if not examples:
        last = list(bad.of(table).values())[-1]
        raise InputError(f"{table.where}: all {len(table.rows)} rows are bad, the last: {last}")
    return examples


def _beyond_train(train: Table, task: Task, sizes: Sizes, bad: BadRows) -> list[str]:
    """The note that not all of a user's own rows are learnt from."""
    count = _num_good(train, bad)
    if task.hub is not None or count <= sizes.train + sizes.dev:
        return []
    return [
        f"{train.where}: {sizes.train:,} of its {count:,} rows are learnt from, beside "
        f"{sizes.dev:,} for dev; --set data.num_train={count - sizes.dev} takes all"
    ]


def _beyond_eval(evaluation: Table, task: Task, sizes: Sizes, bad: BadRows) -> list[str]:
    """The note that not all of a user's own rows that are held out are evaluated on."""
    count = _num_good(evaluation, bad)
    if task.hub is not None or count <= sizes.eval:
        return []
    return [
        f"{evaluation.where}: {sizes.eval:,} of {count:,} held-out rows are evaluated on; --set "
        f"data.num_eval={count} takes all"
    ]


def _num_good(table: Table, bad: BadRows) -> int:
    return sum(row.name not in bad.of(table) for row in table.rows)


def _few_shown(config: DataConfig, train: Table, nums_shown: Sequence[int]) -> list[str]:
    """The note about too few demonstrations, known once all examples are made."""
    if min(nums_shown, default=config.num_demos) == config.num_demos:
        return []
    return [
        f"{train.where}: has too few rows for data.num_demos={config.num_demos}; prompts have at "
        f"least {min(nums_shown)} demonstrations"
    ]


def _make_do(config: DataConfig, train: Table, sizes: Sizes, num_train: int, bad: BadRows) -> str:
    """The note that training has fewer examples than usual; an error if that is not allowed."""
    there = f"{train.where}: has {len(train.rows)} records"
    if errors := [error for row in train.rows if (error := bad.of(train).get(row.name))]:
        there += f" ({len(errors)} of them are bad, the first: {errors[0]})"
    if config.num_train is not None:
        raise InputError(
            f"{there}, but data.num_train={sizes.train} and data.num_dev={sizes.dev} need "
            f"{sizes.train + sizes.dev}"
        )
    if num_train < 1:
        raise InputError(
            f"{there}, and data.num_dev={sizes.dev} leaves none to train on; lower it with --set "
            "data.num_dev=N"
        )
    return f"{there}: {num_train} to train on, beside {sizes.dev} for dev"


def _shuffle_labels(examples: Sequence[Example], seed: int) -> list[Example]:
    """The same examples under a permutation of their labels."""
    order = np.random.RandomState(seed + 1).permutation(len(examples))
    return [
        dataclasses.replace(example, label=examples[i].label)
        for example, i in zip(examples, order, strict=True)
    ]
