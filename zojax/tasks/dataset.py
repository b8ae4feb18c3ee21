"""Reading a task's records and choosing the examples of a run, as MeZO's scripts choose them."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks import sst2
from zojax.tasks.example import Example

TASKS: Mapping[str, ModuleType] = {"sst2": sst2}


@dataclasses.dataclass(frozen=True)
class Splits:
    """The examples of a run: to learn from, to choose the best step by, and held out."""

    train: list[Example]
    dev: list[Example]
    eval: list[Example]


def get_task(name: str) -> ModuleType:
    """A task's module: ``HUB``, ``FIELDS``, ``CANDIDATES`` and ``render``."""
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1, cutoff=0)
        raise InputError(f"data.task={name!r}: no such task; did you mean {close[0]!r}?")
    return TASKS[name]


def load_splits(config: DataConfig) -> Splits:
    """Reads, chooses and renders.

    As MeZO does: ``num_train + num_dev`` records from a permutation of the train split seeded
    with ``seed`` (NumPy's legacy generator), the last ``num_dev`` of them for dev; and up to
    ``num_eval`` of the validation split's permutation. Where records are too few for train and
    dev, MeZO takes what there is with a warning; here it is an error.

    Raises:
        InputError: names file and line of a bad record, or the fix for missing data.
    """
    task = get_task(config.task)
    train, evaluation = (_read(config, task, split) for split in ("train", "validation"))
    wanted = config.num_train + config.num_dev
    if len(train) < wanted:
        raise InputError(
            f"{_where(config, 'train')}: has {len(train)} records, but data.num_train="
            f"{config.num_train} and data.num_dev={config.num_dev} need {wanted}"
        )
    chosen = _choose(train, wanted, config.seed)
    examples = [_render(task, record, name) for name, record in chosen]
    train_examples = examples[: config.num_train]
    if config.shuffle_labels:
        train_examples = _shuffle_labels(train_examples, config.seed)
    held_out = _choose(evaluation, min(config.num_eval, len(evaluation)), config.seed)
    return Splits(
        train_examples,
        examples[config.num_train :],
        [_render(task, record, name) for name, record in held_out],
    )


Record = tuple[str, Mapping[str, Any]]


def _choose(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    order = np.random.RandomState(seed).permutation(len(records))[:count]
    return [records[i] for i in order]


def _shuffle_labels(examples: Sequence[Example], seed: int) -> list[Example]:
    """The same examples under a permutation of their labels."""
    order = np.random.RandomState(seed + 1).permutation(len(examples))
    return [
        dataclasses.replace(example, label=examples[i].label)
        for example, i in zip(examples, order, strict=True)
    ]


def _render(task: ModuleType, record: Mapping[str, Any], name: str) -> Example:
    for field in task.FIELDS:
        if field not in record:
            raise InputError(f"{name}: no field {field!r}; there are {', '.join(record) or 'none'}")
    label = record["label"]
    if type(label) is not int or not 0 <= label < len(task.CANDIDATES):  # true is an int to Python
        words = ", ".join(f"{i} ({word!r})" for i, word in enumerate(task.CANDIDATES))
        raise InputError(f"{name}: label {label!r} has no word; labels are {words}")
    for field in task.FIELDS:
        if field != "label" and not isinstance(record[field], str):
            raise InputError(f"{name}: {field} is {record[field]!r}, which is no text")
    return task.render(record, name)


def _where(config: DataConfig, split: str) -> str:
    if config.path is None:
        return f"split {split!r} on the hub"
    return str(Path(config.path) / f"{split}.jsonl")


def _read(config: DataConfig, task: ModuleType, split: str) -> list[Record]:
    if config.path is None:
        return _read_hub(task, split)
    return _read_jsonl(Path(_where(config, split)))


def _read_jsonl(path: Path) -> list[Record]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_what_is_missing(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    records = []
    # Not splitlines: JSON strings may hold other line separators, such as U+2028, as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at column {error.colno}"
            raise InputError(f"{path}:{number}: is not JSON ({reason})") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number}: is not a JSON object")
        records.append((f"{path}:{number}", record))
    if not records:
        raise InputError(f"{path}: holds no record")
    return records


def _what_is_missing(path: Path) -> str:
    directory = path.parent
    if directory.is_dir():
        return f"{path}: no such file, and data.path={str(directory)!r} should hold it"
    what = "is a file" if directory.is_file() else "no such directory"
    return f"data.path={str(directory)!r}: {what}; give a directory that holds {path.name}"


def _read_hub(task: ModuleType, split: str) -> list[Record]:
    repository, name = task.HUB
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"reading {repository} needs datasets: pip install 'zojax[hub]', or give a local "
            "directory with --set data.path=DIR"
        ) from None
    try:
        rows = datasets.load_dataset(repository, name, split=split)
    except Exception as error:  # the library raises many kinds; all mean that it is not to be had
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{repository} cannot be read from the hub ({reason}); give a local directory with "
            "--set data.path=DIR"
        ) from error
    return [(f"{repository} {split}:{i}", dict(row)) for i, row in enumerate(rows)]
