"""``zojax journal audit``: whether a journal came from its data and its base model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from zojax.commands.options import read_run_journal
from zojax.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.config import Config
    from zojax.runs.audit import Audit


def audit_journal(
    path: Path,
    console: Console,
    *,
    steps: int = 20,
    seed: int = 0,
    model: str | None = None,
    overrides: Sequence[str] = (),
) -> Audit:
    """Score some of a journal's steps again.

    Args:
        path: a journal, or the directory of a run.
        console: where to show the progress.
        steps: the number of steps.
        seed: the seed of their choice.
        model: the base model's directory or hub id; None for the one in the header.
        overrides: settings as ``part.field=value``, such as the place of the data.

    Raises:
        InputError: the journal is damaged, or its data or model cannot be read.
    """
    from zojax.config import apply_overrides
    from zojax.journal.replay import run_configuration
    from zojax.runs.audit import audit

    if not steps:
        raise InputError("--steps 0: an audit scores at least one step")
    journal = read_run_journal(path)
    config = apply_overrides(as_written(run_configuration(journal), journal.path), overrides)
    if model is not None:
        config.model.path = model
    return audit(journal, config, console, steps=steps, seed=seed)


def as_written(config: Config, journal: Path) -> Config:
    """A configuration with the labels in their own order, which older journals have sorted."""
    from zojax.config import to_dict
    from zojax.runs.run_dir import CONFIG, read_config

    if not (journal.parent / CONFIG).is_file():
        return config
    beside = read_config(journal.parent)
    is_same = to_dict(beside)["data"] == to_dict(config)["data"]
    return dataclasses.replace(config, data=beside.data) if is_same else config


def as_dict(found: Audit) -> dict[str, Any]:
    """An audit in JSON's types."""
    return {**dataclasses.asdict(found), "verdict": verdict(found)}


def print_audit(found: Audit, console: Console) -> None:
    """Print an audit: a row a step, and the verdict."""
    if found.scored:
        table = Table("step", "loss", "again", "projected gradient", "again", "", box=None)
        for one in found.scored:
            losses = (f"{loss:.6f}" for loss in one.losses)
            grads = (" ".join(f"{x:.5g}" for x in xs) for xs in one.projected_grads)
            row = [*losses, *grads, "" if one.agrees else "differs"]
            table.add_row(str(one.step), *row)
        console.print(table)
        console.print()
    console.print(verdict(found), soft_wrap=True, markup=False, highlight=False)


def verdict(found: Audit) -> str:
    """What an audit found, in a sentence or two.

    >>> from zojax.runs.audit import Audit
    >>> verdict(Audit(0, 40, [], ["it is of other data or another tokenizer"]))
    'not from these data and this base model: it is of other data or another tokenizer'
    """
    if found.reasons:
        return f"not from these data and this base model: {'; '.join(found.reasons)}"
    how = "bit for bit" if found.is_exact else "up to rounding"
    line = (
        f"this journal comes from these data and this base model, as far as {len(found.scored)} of "
        f"its {found.steps} steps show: scored again, they have its losses and projected gradients "
        f"{how}"
    )
    if found.first:
        line += (
            f"; its first {found.first} steps are another run's, whose own journal has to be "
            "audited for them"
        )
    return line
