"""A checkpoint's note: whose it is, of which steps, and what its arrays' bytes must be.

It is a small JSON file, so that nobody has to read arrays to find out what they are.
``docs/checkpoints.md`` says what is in it.
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

FORMAT = 2  # 1 kept an interval's movement beside the weights until the next step

_PLACE = Path("note", "metadata")
"""Where Orbax writes it in the checkpoint's directory."""

_MAX_BYTES = 1 << 16


class _Formatted(TypedDict):
    """What every format's note has."""

    format: StrictInt


class _Note(_Formatted):
    """What is used of this format's."""

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
    """The note of a checkpoint that is to be written.

    Args:
        step: how many steps are done.
        trees: what is saved, by the name of the item.
        journal: of the run, with these steps at least.
        dev_accuracy: of the model then, if known.
    """
    if len(journal.records) < step:
        raise ValueError(f"the journal has {len(journal.records)} steps only")
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
    """The note of a checkpoint, if that belongs to this journal; reads no arrays.

    Args:
        path: the checkpoint's directory.
        journal: of the run.
        folded: whether the checkpoint must hold weights.

    Raises:
        InputError: it does not, or cannot be read.
    """
    note = read_note(path)
    if note is None:
        raise InputError(f"{path}: is damaged or was never whole")
    if note["format"] != FORMAT:
        raise InputError(f"{path}: has format {note['format']}; this zojax reads {FORMAT}")
    if note["base_hash"] != journal.header.base_hash:
        raise InputError(f"{path}: is a checkpoint of another run, with another base model")
    if note["header"] != journal.seed:
        raise InputError(f"{path}: is a checkpoint of another run, with other settings")
    if note["step"] != int(path.name):
        raise InputError(f"{path}: is the checkpoint of step {note['step']}")
    if note["step"] > len(journal.records):
        raise InputError(f"{path}: the journal has {len(journal.records)} steps only")
    if note["records"] != digest(journal, note["step"]):
        raise InputError(f"{path}: the journal tells of other steps than led to it")
    if ("weights" in note["hashes"]) != folded:
        raise InputError(f"{path}: holds {'no' if folded else 'folded'} weights, unlike the run")
    return note


def read_note(path: Path) -> dict[str, Any] | None:
    """A checkpoint's note, of whatever run; None if it is damaged.

    One of another format has its ``format`` alone for certain.
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
    """A note with a checksum, so that none of its own bytes changes unseen."""
    unsealed = {name: value for name, value in note.items() if name != "checksum"}
    text = json.dumps(unsealed, sort_keys=True).encode()
    return {**unsealed, "checksum": xxhash.xxh3_64_hexdigest(text)}


def digest(journal: Journal, steps: int) -> str:
    """xxh3-128 of the records that led to a checkpoint."""
    return xxhash.xxh3_128_hexdigest(journal.records[:steps].tobytes(), seed=journal.seed)
