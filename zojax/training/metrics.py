"""``metrics.jsonl``: a line a step of training, and a line an evaluation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from zojax.training.journal import SKIPPED
from zojax.training.run_dir import write_atomically


def step_metrics(records: np.ndarray) -> list[dict[str, Any]]:
    """What people want to see of journal records, a dict each; None for what is not finite."""

    def number(value: np.floating) -> float | None:
        return float(value) if math.isfinite(value) else None

    return [
        {
            "step": int(record["step"]) + 1,
            "loss": number(record["losses"].mean()),
            "projected_grad": number(record["projected_grad"].mean()),
            "learning_rate": float(record["learning_rate"]),
            **({"skipped": True} if record["flags"] & SKIPPED else {}),
        }
        for record in records
    ]


def mend_metrics(path: Path, records: np.ndarray) -> None:
    """Makes the file agree with the journal again, after a crash between the two.

    A torn line and lines of steps that the journal does not have are dropped, lines of steps that
    only the journal has are added.
    """
    if not path.exists():
        return
    kept: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("step", math.inf) <= len(records):
            kept.append(entry)
    have = {entry["step"] for entry in kept if "loss" in entry}
    kept += [entry for entry in step_metrics(records) if entry["step"] not in have]
    kept.sort(key=lambda entry: entry["step"])
    write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
