"""``zojax journal show``: a journal's header, and its first and last records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from zojax.commands.options import read_run_journal
from zojax.errors import InputError
from zojax.printing import to_json
from zojax.text import plain

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from zojax.journal.file import Journal
    from zojax.journal.header import Header

_SHOWN = 5  # records to show at either end


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

    journal = read_run_journal(path)
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
