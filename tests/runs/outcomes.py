"""What of a run must not depend on how often it was disturbed."""

import json
from pathlib import Path
from typing import Any

from zojax.journal.file import read_journal
from zojax.reading import read_json
from zojax.runs import run_dir

_OF_RESULT = ("steps", "skipped_steps", "eval_accuracy", "eval_examples")


def outcome(directory: Path) -> dict[str, Any]:
    """A finished run, without the time that it took and where it lies."""
    records = read_journal(directory / run_dir.JOURNAL).records
    # All but the checksum, which depends on the header, and so on the directory's name.
    scalars = [name for name in records.dtype.names or () if name != "checksum"]
    result = read_json(directory / run_dir.RESULT)
    lines = [json.loads(line) for line in (directory / run_dir.METRICS).read_text().splitlines()]
    return {
        "journal": {name: records[name].tobytes() for name in scalars},
        "progress": read_json(directory / run_dir.PROGRESS),
        "metrics": [{name: line[name] for name in line if name != "seconds"} for line in lines],
        "result": {name: result[name] for name in _OF_RESULT},
    }
