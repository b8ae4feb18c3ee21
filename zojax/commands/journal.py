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
    from zojax.journal.header import Header
    from zojax.models import Model
    from zojax.training.step import Method

_ACTIONS = {
    "show": "Print the header and the first and last records.",
    "verify": "Check every byte; exit code 1 if the end is damaged.",
    "replay": "Rebuild the trained weights from the base model, without data.",
}
_SHOWN = 5  # records to show at either end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
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
    replay.add_argument("--model", metavar="M", help="base model (default: that in the header)")
    replay.add_argument("--steps", **COUNT, help="steps to replay (default: all)")


def run(args: argparse.Namespace) -> int:
    """Run the given action."""
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
    """Print a journal's header and its first and last records.

    Args:
        path: a journal, or the directory of a run.
        console: where to print.
        as_json: whether to print one JSON object instead, with ``path``, ``header``, ``steps``,
            ``lost_steps``, ``skipped_steps``, ``first`` and ``last``.

    Raises:
        InputError: there is no journal, or it is damaged.
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
    """Check magic, header and every record: checksum, step, key, learning rate, flags.

    Args:
        path: a journal, or the directory of a run.
        console: where to print the result.

    Returns:
        0 if the journal is whole; 1 if its end is damaged, so that a resumed run repeats the lost
        steps.

    Raises:
        InputError: the journal cannot be used as it is.
    """
    from zojax.journal.replay import check_records, run_configuration

    journal = _read(path)
    header = journal.header
    is_of_run = header.config is not None
    check_records(journal, run_configuration(journal).train if is_of_run else None)
    steps, size = len(journal.records), journal.good_bytes + journal.lost_bytes
    if journal.lost_bytes:
        line = (
            f"{journal.path}: damaged from byte {journal.good_bytes} of {size} on: the first "
            f"{steps} steps are good, {journal.lost_steps} after them are lost"
        )
    else:
        unsaid = "" if is_of_run else "; it belongs to no run: its header has no configuration"
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
    """Rebuild a run's weights from its base model and its journal, without data.

    Args:
        path: a journal, or the directory of a run.
        console: where to show the progress.
        output: a new directory for a Hugging Face checkpoint of the result; None writes nothing.
        model: the base model's directory or hub id; None for the one in the header.
        steps: the number of steps to replay; None for all.

    Returns:
        ``steps``, ``seconds`` of the replay (without compiling), ``content_hash`` of the result,
        and ``training_seconds`` if the run's directory says how long these steps took in training.

    Raises:
        InputError: the journal is damaged or has fewer steps, the base model is another one, or the
            output directory is not empty.
    """
    from zojax.hub import save
    from zojax.hub.saving import copy_beside_weights
    from zojax.journal.replay import run_configuration
    from zojax.models import content_hash
    from zojax.outputs import new_directory
    from zojax.runs.rebuild import load_base

    journal = _read(path)
    config = run_configuration(journal)
    if model is not None:
        config.model.path = model
    with nullcontext() if output is None else new_directory(output) as partial:
        base, method = load_base(journal, config, console, steps)
        steps = len(journal.records) if steps is None else steps
        result, seconds = _replay_with_bar(base, method, journal, steps, console)
        if partial is not None:
            metadata = {"base_hash": journal.header.base_hash or "", "steps": str(steps)}
            save(result, partial, metadata=metadata)
            copy_beside_weights(base.path, partial)
    trained_for = _training_seconds(journal.path.parent, steps)
    return {
        "steps": steps,
        "seconds": seconds,
        "content_hash": content_hash(result.weights),
        **({} if trained_for is None else {"training_seconds": trained_for}),
    }


def in_words(summary: Mapping[str, Any]) -> str:
    """The result of :func:`replay_to` as a line.

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
    """Replay; return the model after these steps, and the seconds, without compiling."""
    import jax

    from zojax.journal.replay import merge
    from zojax.journal.segments import key_after
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
            None,  # no checkpoint, since this shows what the journal alone gives
            steps=steps,
            on_progress=lambda step: update(step, steps),
        )
        weights = merge(owned, state, method, key_after(journal, steps))
        jax.block_until_ready(weights)
        seconds = time.perf_counter() - started - compilations.seconds
        update(steps, steps)
    return dataclasses.replace(base, weights=weights), seconds


def _training_seconds(directory: Path, steps: int) -> float | None:
    """The seconds that the first steps took in training, if the run's metrics have them."""
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
        **_forked(header),
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


def _forked(header: Header) -> dict[str, str]:
    """Of a fork, the runs that made its first steps."""
    of = [f"{segment.run} up to step {segment.steps}" for segment in header.segments]
    return {"forked from": ", ".join(of)} if of else {}


def _settings(journal: Journal) -> tuple[str, dict[str, str]]:
    """The run's number of steps and its settings, or why they are unknown."""
    from zojax.config import to_dict
    from zojax.journal.replay import run_configuration

    try:
        config = to_dict(run_configuration(journal))
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
    """A record in JSON's types; a value that is not finite becomes null, as JSON has no NaN."""
    names = record.dtype.names or ()
    fields = {name: record[name].tolist() for name in names if name != "checksum"}
    return {
        name: [_finite(x) for x in value] if isinstance(value, list) else _finite(value)
        for name, value in fields.items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
