"""The run directory: whose run it holds, and files that are never half written."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zojax.config import Config, from_dict, to_dict
from zojax.errors import InputError

CONFIG, JOURNAL, METRICS = "config.json", "journal.zj", "metrics.jsonl"
PROGRESS, RESULT, CURVES = "progress.json", "result.json", "curves.png"


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; ``InputError`` names the file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def read_config(directory: Path) -> Config:
    """The configuration of the run in a directory."""
    if not (directory / CONFIG).exists():
        raise InputError(f"{directory}: no run here (it has no {CONFIG})")
    return from_dict(read_json(directory / CONFIG))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def holds_run(directory: Path, config: Config) -> bool:
    """Whether the directory holds this very run, to go on with; False if it is free.

    Raises:
        InputError: it holds another run, or things that are not a run.
    """
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise InputError(f"run.dir {directory} is a file; choose another with --set run.dir=DIR")
    if not (directory / CONFIG).exists():
        if any(directory.iterdir()):
            raise InputError(
                f"run.dir {directory} holds files but no run; choose another with --set run.dir=DIR"
            )
        return False
    theirs, ours = _flatten(read_json(directory / CONFIG)), _flatten(to_dict(config))
    differing = [
        f"{name} (there {theirs.get(name)!r}, now {ours.get(name)!r})"
        for name in sorted(theirs | ours)
        if name != "run.dir" and theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise InputError(
            f"run.dir {directory} already holds another run, which differs in "
            f"{', '.join(differing)}; choose another with --set run.dir=DIR"
        )
    return True


def set_aside(directory: Path) -> Path | None:
    """Renames a directory to the first free ``NAME.1``, ``NAME.2``, …; None if there is no run."""
    if not directory.exists():
        return None
    number = 1
    while (aside := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    directory.rename(aside)
    return aside
