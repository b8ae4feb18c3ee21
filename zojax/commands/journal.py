"""Show, verify or replay a run's journal.

Example:
  zojax journal verify runs/demo
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from zojax.commands.options import COUNT, JSON, add_command
from zojax.errors import InputError
from zojax.printing import make_console, say, say_json, to_json
from zojax.text import plain

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from zojax.journal.file import Journal
    from zojax.models import Model
    from zojax.training.step import Method

_ACTIONS = {
    "show": "Print the header and the first and last records.",
    "verify": "Check every byte; exit code 1 if the end is damaged.",
    "replay": "Rebuild the trained weights from the base model, without data.",
}
_SHOWN = 5  # records at either end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in _ACTIONS.items():
        example = f"zojax journal {name} runs/demo"
        action = add_command(actions, name, f"{about}\n\nExample:\n  {example}")
        what = "directory of a run, or a journal"
        action.add_argument("path", type=Path, metavar="RUN", help=what)
        if name != "verify":
            action.add_argument("--json", **JSON)
    replay = actions.choices["replay"]
    replay.add_argument("--output", type=Path, metavar="DIR", help="write a Hugging Face directory")
    replay.add_argument("--model", metavar="M", help="base model (default: as in the header)")
    replay.add_argument("--steps", **COUNT, help="steps to replay (default: all)")


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    if args.action == "show":
        show(args.path, make_console(), as_json=args.json)
        return 0
    if args.action == "verify":
        return verify(args.path, make_console())

    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs

    keep_programs()
    check_platforms()
    summary = replay_to(
        args.path,
        make_console(stderr=True),
        output=args.output,
        model=args.model,
        steps=args.steps,
    )
    if args.json:
        say_json(summary)
    else:
        say(in_words(summary))
    return 0


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
    from zojax.journal.file import SKIPPED

    journal = _read(path)
    records, skipped = journal.records, int((journal.records["flags"] & SKIPPED).sum())
    first = records[:_SHOWN]
    last = records[max(len(first), len(records) - _SHOWN) :]
    if as_json:
        summary = {
            "path": str(journal.path),
            "header": journal.header.as_dict(),
            "steps": len(records),
            "lost_steps": journal.lost_steps,
            "skipped_steps": skipped,
            "first": [_as_dict(record) for record in first],
            "last": [_as_dict(record) for record in last],
        }
        console.out(to_json(summary), highlight=False)
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
    from zojax.journal.replay import check_records

    journal = _read(path)
    header = journal.header
    is_of_run = header.config is not None
    check_records(journal, header.configuration(journal.path).train if is_of_run else None)
    steps, size = len(journal.records), journal.good_bytes + journal.lost_bytes
    if journal.lost_bytes:
        line = (
            f"{journal.path}: damaged from byte {journal.good_bytes} of {size} on: the first "
            f"{steps} steps are good, {journal.lost_steps} behind them are lost"
        )
    else:
        unsaid = "" if is_of_run else "; of no run, since its header has no configuration"
        line = f"OK, {steps} steps ({size} bytes){unsaid}"
    console.print(line, highlight=False, soft_wrap=True)
    return 1 if journal.lost_bytes else 0


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
    from zojax.hub import save
    from zojax.models import content_hash
    from zojax.outputs import new_directory
    from zojax.runs.rebuild import load_base

    journal = _read(path)
    config = journal.header.configuration(journal.path)
    if model is not None:
        config.model.path = model
    with nullcontext() if output is None else new_directory(output) as partial:
        base, method = load_base(journal, config, console, steps)
        steps = len(journal.records) if steps is None else steps
        result, seconds = _replay_with_bar(base, method, journal, steps, console)
        if partial is not None:
            metadata = {"base_hash": journal.header.base_hash or "", "steps": str(steps)}
            save(result, partial, metadata=metadata)
    trained_for = _training_seconds(journal.path.parent, steps)
    return {
        "steps": steps,
        "seconds": seconds,
        "content_hash": content_hash(result.weights),
        **({} if trained_for is None else {"training_seconds": trained_for}),
    }


def in_words(summary: Mapping[str, Any]) -> str:
    """What :func:`replay_to` returns, as a line.

    >>> in_words({"steps": 2, "seconds": 0.5, "content_hash": "0f", "training_seconds": 10.0})
    'replayed 2 steps in 0.5 s, 5.0 % of the 10.0 s that they took in training; content hash 0f'
    """
    line = f"replayed {summary['steps']} steps in {summary['seconds']:.1f} s"
    if trained_for := summary.get("training_seconds"):
        share = 100 * summary["seconds"] / trained_for
        line += f", {share:.1f} % of the {trained_for:.1f} s that they took in training"
    return f"{line}; content hash {summary['content_hash']}"


def _replay_with_bar(
    base: Model, method: Method, journal: Journal, steps: int, console: Console
) -> tuple[Model, float]:
    """The model after these steps, and the seconds that they took, without compiling."""
    import jax

    from zojax.journal.replay import header_key, merge
    from zojax.programs.compiling import CompilationCounter
    from zojax.reporting.bar import progress_bar
    from zojax.runs.rebuild import rebuild
    from zojax.training.interval import OwnedWeights

    bar = progress_bar(console, "replay", transient=False)
    with bar as update, CompilationCounter() as compilations:
        update(0, steps)
        started = time.perf_counter()
        owned, state, _ = rebuild(
            journal,
            method,
            OwnedWeights(base.weights),
            None,  # no checkpoint: this is the journal's proof
            steps=steps,
            on_progress=lambda step: update(step, steps),
        )
        weights = merge(owned, state, method, header_key(journal))
        jax.block_until_ready(weights)
        seconds = time.perf_counter() - started - compilations.seconds
        update(steps, steps)
    return dataclasses.replace(base, weights=weights), seconds


def _training_seconds(directory: Path, steps: int) -> float | None:
    """What the first steps took when they were trained, if the run's metrics lie there."""
    from zojax.reporting.metrics import METRICS, read_seconds

    seconds = read_seconds(directory / METRICS)
    taken = [seconds.get(step + 1) for step in range(steps)]
    return None if None in taken else math.fsum(taken)  # pyright: ignore[reportArgumentType]


def _read(path: Path) -> Journal:
    from zojax.journal.file import JOURNAL, read_journal

    return read_journal(path / JOURNAL if path.is_dir() else path)


def _print_header(journal: Journal, skipped: int, console: Console) -> None:
    header = journal.header
    size = journal.good_bytes + journal.lost_bytes
    of, settings = _settings(journal)
    rows = {
        "journal": f"{journal.path} ({size:,} bytes)",
        "steps": f"{len(journal.records)}{of}, {skipped} skipped",
        **settings,
        "base hash": header.base_hash or "?",
        "key": f"{header.key_impl} {' '.join(map(str, header.key_data))}",
        "made by": f"zojax {header.zojax or '?'}, jax {header.jax or '?'}",
    }
    if header.settings:
        rows["settings"] = _listed(header.settings)
    if journal.lost_bytes:
        rows["damage"] = f"{journal.lost_steps} steps at the end are lost"
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, Text(plain(value), overflow="fold"))
    console.print(table)
    console.print()


def _settings(journal: Journal) -> tuple[str, dict[str, str]]:
    """Of how many steps the run is, and how it trains; or why that is not known."""
    from zojax.config import to_dict

    try:
        config = to_dict(journal.header.configuration(journal.path))
    except InputError as error:
        return "", {"run": f"unknown: {error}"}
    return f" of {config['train']['steps']}", {
        "base model": f"{config['model']['path']} ({config['model']['dtype']})",
        "estimator": _kind(config["estimator"]),
        "trained": _kind(config["space"]),
        "training": _listed(config["train"]),
    }


def _kind(settings: dict[str, Any]) -> str:
    return f"{settings['name']}: {_listed({n: v for n, v in settings.items() if n != 'name'})}"


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _row(record: np.void) -> tuple[str, ...]:
    from zojax.journal.file import SKIPPED

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
