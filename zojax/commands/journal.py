"""``zojax journal show | verify | replay``: what a journal says, whether it is whole, its model."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from zojax.config import Config, from_dict
from zojax.errors import InputError
from zojax.hub import save
from zojax.journal.file import SKIPPED, Journal, read_journal
from zojax.journal.replay import check_records, check_run, header_key, make_replay, merge
from zojax.models import Model, content_hash
from zojax.programs.compiling import CompilationCounter
from zojax.reporting.bar import progress_bar
from zojax.runs import run_dir
from zojax.runs.setup import load_model
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method
from zojax.training.schedules import learning_rates

_SHOWN = 5  # records at either end


def show(path: Path, console: Console, *, as_json: bool = False) -> None:
    """Prints a journal's header and its first and last records.

    Args:
        path: a journal, or the directory of a run.
        console: where to print.
        as_json: one JSON object instead: ``path``, ``header``, ``steps``, ``lost_steps``,
            ``skipped_steps``, ``first`` and ``last``.

    Raises:
        InputError: no journal there, or a damaged one.
    """
    journal = read_journal(_journal_path(path))
    records, skipped = journal.records, int((journal.records["flags"] & SKIPPED).sum())
    first = records[:_SHOWN]
    last = records[max(len(first), len(records) - _SHOWN) :]
    if as_json:
        summary = {
            "path": str(journal.path),
            "header": journal.header,
            "steps": len(records),
            "lost_steps": journal.lost_steps,
            "skipped_steps": skipped,
            "first": [_as_dict(record) for record in first],
            "last": [_as_dict(record) for record in last],
        }
        console.print(json.dumps(summary), soft_wrap=True, markup=False, highlight=False)
        return
    _print_header(journal, skipped, console)
    table = Table("step", "learning rate", "projected gradient", "losses", "", box=None)
    for record in first:
        table.add_row(*_row(record))
    if len(first) + len(last) < len(records):
        table.add_row("…")
    for record in last:
        table.add_row(*_row(record))
    console.print(table)


def verify(path: Path, console: Console) -> int:
    """Checks magic, header and every record: checksum, step, key, learning rate, flags.

    Args:
        path: a journal, or the directory of a run.
        console: where the finding is printed.

    Returns:
        0 if the journal is whole; 1 if its end is damaged, so that a run that goes on with it does
        the lost steps again.

    Raises:
        InputError: what is wrong with a journal that cannot be used as it is.
    """
    journal = read_journal(_journal_path(path))
    check_records(journal, learning_rates(_config(journal).train))
    steps, size = len(journal.records), journal.good_bytes + journal.lost_bytes
    if not journal.lost_bytes:
        console.print(f"OK, {steps} steps ({size} bytes)", highlight=False)
        return 0
    console.print(
        f"{journal.path}: damaged from byte {journal.good_bytes} of {size} on: the first {steps} "
        f"steps are good, {journal.lost_steps} behind them are lost",
        highlight=False,
        soft_wrap=True,
    )
    return 1


def replay_to(
    path: Path,
    console: Console,
    *,
    output: Path | None = None,
    model: str | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Rebuilds a run's weights from its base model and its journal, without data.

    Args:
        path: a journal, or the directory of a run.
        console: where the progress is shown.
        output: new directory for a Hugging Face checkpoint of the result; None writes nothing.
        model: directory or hub id of the base model; None takes the one that the header names.
        steps: how many to replay; None for all.

    Returns:
        ``steps``, ``seconds`` of the replay (without compiling), ``content_hash`` of the result,
        and where the run's directory says how long these steps took in training,
        ``training_seconds``.

    Raises:
        InputError: a damaged journal, fewer steps than asked for, another base model, or an output
            directory that holds something.
    """
    journal = read_journal(_journal_path(path))
    config = _config(journal)
    if model is not None:
        config.model.path = model
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists already; give a new directory")
    check_records(journal, learning_rates(config.train))
    if steps is not None and steps > len(journal.records):
        raise InputError(f"{journal.path}: holds {len(journal.records)} steps, not {steps}")
    with console.status("loading the model"):
        base = load_model(config)
        check_run(journal, config, content_hash(base.weights))
    records = journal.records[:steps]
    result, seconds = _replay_with_bar(config, base, journal, records, console)
    if output is not None:
        metadata = {"base_hash": journal.header["base_hash"], "steps": str(len(records))}
        save(result, output, metadata=metadata)
    trained_for = _training_seconds(journal.path.parent, len(records))
    return {
        "steps": len(records),
        "seconds": seconds,
        "content_hash": content_hash(result.weights),
        **({} if trained_for is None else {"training_seconds": trained_for}),
    }


def in_words(told: Mapping[str, Any]) -> str:
    """What :func:`replay_to` returns, as a line.

    >>> in_words({"steps": 2, "seconds": 0.5, "content_hash": "0f", "training_seconds": 10.0})
    'replayed 2 steps in 0.5 s, 5.0 % of the 10.0 s that they took in training; content hash 0f'
    """
    line = f"replayed {told['steps']} steps in {told['seconds']:.1f} s"
    if trained_for := told.get("training_seconds"):
        share = 100 * told["seconds"] / trained_for
        line += f", {share:.1f} % of the {trained_for:.1f} s that they took in training"
    return f"{line}; content hash {told['content_hash']}"


def _replay_with_bar(
    config: Config, base: Model, journal: Journal, records: np.ndarray, console: Console
) -> tuple[Model, float]:
    """The model after these records, and the seconds that they took, without compiling."""
    method, key = make_method(config, base), header_key(journal)
    total, bar = len(records), progress_bar(console, "replay", transient=False)
    with bar as update, CompilationCounter() as compilations:
        update(0, total)
        started = time.perf_counter()
        replay = make_replay(method, base.weights)
        owned = OwnedWeights(base.weights)
        owned, state = replay(owned, key, records, lambda step: update(step, total))
        weights = merge(owned, state, method, key)
        jax.block_until_ready(weights)
        seconds = time.perf_counter() - started - compilations.seconds
        update(total, total)
    return dataclasses.replace(base, weights=weights), seconds


def _training_seconds(directory: Path, steps: int) -> float | None:
    """What the first steps took when they were trained, if the run's metrics lie there."""
    metrics = directory / run_dir.METRICS
    if not metrics.is_file():
        return None
    seconds: dict[int, float] = {}
    for text in metrics.read_text().splitlines():
        with suppress(ValueError):  # a crash may have cut the last line
            line = json.loads(text)
            if "seconds" in line:
                seconds[line["step"]] = line["seconds"]  # the last one, if it was done again
    taken = [seconds.get(step + 1) for step in range(steps)]
    return None if None in taken else math.fsum(taken)  # pyright: ignore[reportArgumentType]


def _journal_path(path: Path) -> Path:
    return path / run_dir.JOURNAL if path.is_dir() else path


def _config(journal: Journal) -> Config:
    return from_dict({**journal.header["config"], "mesh": {}})


def _print_header(journal: Journal, skipped: int, console: Console) -> None:
    header = journal.header
    config, steps = header["config"], len(journal.records)
    size = journal.good_bytes + journal.lost_bytes
    settings = {name: value for name, value in config["estimator"].items() if name != "name"}
    rows = {
        "journal": f"{journal.path} ({size:,} bytes)",
        "steps": f"{steps} of {config['train']['steps']}, {skipped} skipped",
        "base model": f"{config['model']['path']} ({config['model']['dtype']})",
        "base hash": header["base_hash"],
        "estimator": f"{config['estimator']['name']}: {_listed(settings)}",
        "training": _listed(config["train"]),
        "key": f"{header['key_impl']} {' '.join(map(str, header['key_data']))}",
        "made by": f"zojax {header['zojax']}, jax {header['jax']}",
    }
    if journal.lost_bytes:
        rows["damage"] = f"{journal.lost_steps} steps at the end are lost"
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    console.print()


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _row(record: np.void) -> tuple[str, ...]:
    return (
        str(record["step"]),
        f"{record['learning_rate']:.4g}",
        " ".join(f"{x:.5g}" for x in record["projected_grad"]),
        " ".join(f"{x:.6f}" for x in record["losses"]),
        "skipped" if record["flags"] & SKIPPED else "",
    )


def _as_dict(record: np.void) -> dict[str, Any]:
    """A record in JSON's types; what is not finite becomes null, since JSON knows no NaN."""
    names = record.dtype.names or ()
    fields = {name: record[name].tolist() for name in names if name != "checksum"}
    return {
        name: [_finite(x) for x in value] if isinstance(value, list) else _finite(value)
        for name, value in fields.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
