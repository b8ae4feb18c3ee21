"""A checkpoint's note: its run, its steps, and the hashes of its arrays.

It is a small JSON file, so that one can find out what the arrays are without reading them.
``docs/checkpoints.md`` describes its contents.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import xxhash
from pydantic import Field, StrictInt, StrictStr
from typing_extensions import TypedDict

from zojax.errors import InputError
from zojax.journal.file import Journal
from zojax.models import content_hash
from zojax.reading import read_json, validate
from zojax.version import __version__

Tree = Any

FORMAT = 2  # format 1 kept an interval's movement beside the weights until the next step

_PLACE = Path("note", "metadata")
"""The place in the checkpoint's directory where Orbax writes the note."""

_MAX_BYTES = 1 << 16


class _Formatted(TypedDict):
    """The fields that a note of any format has."""

    format: StrictInt


class _Note(_Formatted):
    """The fields of this format that are used."""

    step: Annotated[int, Field(strict=True, ge=0)]
    dev_accuracy: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None
    base_hash: StrictStr
    header: StrictInt
    records: StrictStr
    hashes: dict[Literal["state", "weights"], StrictStr]
    checksum: StrictStr


def make_note(
    step: int, trees: Mapping[str, Tree], journal: Journal, dev_accuracy: float | None
) -> dict[str, Any]:
    """Make the note of a checkpoint that is about to be written.

    Args:
        step: the number of steps done.
        trees: the arrays to save, by item name.
        journal: the run's journal, with at least these steps.
        dev_accuracy: the accuracy on the dev set after these steps, if known.
    """
    if len(journal.records) < step:
        raise ValueError(f"the journal has only {len(journal.records)} steps")
    return seal(
        {
            "format": FORMAT,
            "zojax": __version__,
            "step": step,
            "examples": step * journal.header.configuration(journal.path).train.batch_size,
            "dev_accuracy": dev_accuracy,
            "base_hash": journal.header.base_hash,
            "header": journal.seed,
            "records": digest(journal, step),
            "hashes": {name: content_hash(tree) for name, tree in trees.items()},
        }
    )


def check_note(path: Path, journal: Journal, folded: bool) -> dict[str, Any]:
    """Read a checkpoint's note and check that it belongs to this journal; read no arrays.

    Args:
        path: the checkpoint's directory.
        journal: the run's journal.
        folded: whether the checkpoint must hold weights.

    Raises:
        InputError: it belongs to another journal, or cannot be read.
    """
    note = read_note(path)
    if note is None:
        raise InputError(f"{path}: is damaged or incomplete")
    if note["format"] != FORMAT:
        raise InputError(f"{path}: has format {note['format']}; this zojax reads {FORMAT}")
    if note["base_hash"] != journal.header.base_hash:
        raise InputError(f"{path}: is a checkpoint of another run, with another base model")
    if note["header"] != journal.seed:
        raise InputError(f"{path}: is a checkpoint of another run, with other settings")
    if note["step"] != int(path.name):
        raise InputError(f"{path}: is the checkpoint of step {note['step']}")
    if note["step"] > len(journal.records):
        raise InputError(f"{path}: the journal has only {len(journal.records)} steps")
    if note["records"] != digest(journal, note["step"]):
        raise InputError(f"{path}: the journal has other steps than those that led to it")
    if ("weights" in note["hashes"]) != folded:
        raise InputError(f"{path}: holds {'no' if folded else 'folded'} weights, unlike the run")
    return note


def read_note(path: Path) -> dict[str, Any] | None:
    """The note of any run's checkpoint; None if it is damaged.

    In a note of another format, only ``format`` has been checked.
    """
    file = path / _PLACE
    try:
        note = read_json(file, _MAX_BYTES)
        if validate(_Formatted, note, str(file))["format"] != FORMAT:
            return note
        validate(_Note, note, str(file))
    except InputError:
        return None
    return note if note == seal(note) else None


def seal(note: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum to a note, so that no change in its bytes goes unnoticed."""
    unsealed = {name: value for name, value in note.items() if name != "checksum"}
    text = json.dumps(unsealed, sort_keys=True).encode()
    return {**unsealed, "checksum": xxhash.xxh3_64_hexdigest(text)}


def digest(journal: Journal, steps: int) -> str:
    """The xxh3-128 hash of the records that led to a checkpoint."""
    return xxhash.xxh3_128_hexdigest(journal.records[:steps].tobytes(), seed=journal.seed)
