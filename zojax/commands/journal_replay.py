"""``zojax journal replay``: a run's model from its base model and its journal, without data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zojax.commands.options import read_run_journal
from zojax.errors import InputError
from zojax.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.journal.file import Journal
    from zojax.models import Model
    from zojax.training.step import Method


def replay_to(
    path: Path,
    console: Console,
    *,
    output: Path | None = None,
    model: str | None = None,
    steps: int | None = None,
    average_last: int | None = None,
) -> dict[str, Any]:
    """Rebuild a run's weights from its base model and its journal, without data.

    Args:
        path: a journal, or the directory of a run.
        console: where to show the progress.
        output: a new directory for a Hugging Face checkpoint of the result; None writes nothing.
        model: the base model's directory or hub id; None for the one in the header.
        steps: the number of steps to replay; None for all.
        average_last: the number of the last of these steps whose models are averaged, in float32;
            None for the model after the last.

    Returns:
        ``steps``, ``average_last`` and ``output`` if they were given, ``seconds`` of the replay
        (without compiling), ``content_hash`` of the result, and ``training_seconds`` if the run's
        directory says how long these steps took in training.

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

    journal = read_run_journal(path)
    config = run_configuration(journal)
    if model is not None:
        config.model.path = model
    with nullcontext() if output is None else new_directory(output) as partial:
        base, method = load_base(journal, config, console, steps)
        steps = len(journal.records) if steps is None else steps
        if average_last is not None and not 1 <= average_last <= steps:
            raise InputError(
                f"--average-last {average_last}: give 1 to {steps}, the steps replayed"
            )
        result, seconds = _replay_with_bar(base, method, journal, steps, average_last, console)
        if partial is not None:
            metadata = {"base_hash": journal.header.base_hash or "", "steps": str(steps)}
            if average_last is not None:
                metadata["average_last"] = str(average_last)
            save(result, partial, metadata=metadata)
            copy_beside_weights(base.path, partial)
    trained_for = _training_seconds(journal.path.parent, steps)
    return {
        "steps": steps,
        **({} if output is None else {"output": str(output)}),
        **({} if average_last is None else {"average_last": average_last}),
        "seconds": seconds,
        "content_hash": content_hash(result.weights),
        **({} if trained_for is None else {"training_seconds": trained_for}),
    }


def in_words(summary: Mapping[str, Any]) -> str:
    """The result of :func:`replay_to` as a line, and another for what was written.

    >>> in_words({"steps": 2, "seconds": 0.5, "content_hash": "0f", "training_seconds": 10.0})
    'replayed 2 steps in 0.5 s, 5.0 % of the 10.0 s that they took in training; content hash 0f'
    >>> print(in_words({"steps": 2, "seconds": 0.5, "content_hash": "0f", "output": "out"}))
    replayed 2 steps in 0.5 s; content hash 0f
    out: the model after step 2
    """
    line = f"replayed {summary['steps']} steps in {summary['seconds']:.1f} s"
    if trained_for := summary.get("training_seconds"):
        share = 100 * summary["seconds"] / trained_for
        line += f", {share:.1f} % of the {trained_for:.1f} s that they took in training"
    if average_last := summary.get("average_last"):
        line += f"; the mean of the models after the last {average_last} of them, in float32"
    line += f"; content hash {summary['content_hash']}"
    if output := summary.get("output"):
        what = "this mean" if average_last else f"the model after step {summary['steps']}"
        line += f"\n{plain(output)}: {what}"
    return line


def _replay_with_bar(
    base: Model,
    method: Method,
    journal: Journal,
    steps: int,
    average_last: int | None,
    console: Console,
) -> tuple[Model, float]:
    """Replay; return the model after these steps, and the seconds, without compiling."""
    import jax

    from zojax.journal.replay import merge
    from zojax.journal.segments import key_after
    from zojax.programs.compiling import CompilationCounter
    from zojax.reporting.bar import progress_bar
    from zojax.runs.average import average
    from zojax.runs.rebuild import rebuild
    from zojax.training.interval import OwnedWeights

    bar = progress_bar(console, "replay", transient=False)
    with bar as update, CompilationCounter() as compilations:
        update(0, steps)
        started = time.perf_counter()
        owned = OwnedWeights(base.weights)

        def on_progress(step: int) -> None:
            update(step, steps)

        # No checkpoint is used, since this shows what the journal alone gives.
        if average_last is None:
            owned, state, _ = rebuild(
                journal, method, owned, None, steps=steps, on_progress=on_progress
            )
            weights = merge(owned, state, method, key_after(journal, steps))
        else:
            last = range(steps - average_last + 1, steps + 1)
            weights = average(journal, method, owned, last, on_progress)
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
