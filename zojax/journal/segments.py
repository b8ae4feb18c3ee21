"""The segments of a fork: steps that another run made before it, with a key and rates of its own.

A fork's journal begins with its parent's records, so it needs no other file: base weights +
journal = the model, as for every run. Its header says for each of these segments under which
configuration and which key it was made. Whatever makes the trained arrays is the same in all of
them (:func:`check_fork`), so one method replays them all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from zojax.config import Config, from_dict, to_dict
from zojax.errors import InputError
from zojax.journal.file import Journal
from zojax.journal.header import Header, Segment

_TRAIN = (
    "batch_size",
    "batches",
    "chunk",
    "eval_every",
    "in_pieces",
    "learning_rate",
    "micro_batches",
    "nonfinite",
    "objective",
    "schedule",
    "seed",
    "steps",
    "warmup_steps",
)
_MODEL = ("allow_nonfinite", "bos_token_id", "path")  # the weights are known by their hash
_MAY_CHANGE = {
    "estimator.epsilon",
    *(f"model.{name}" for name in _MODEL),
    *(f"train.{name}" for name in _TRAIN),
}
_PARTS_THAT_MAY_CHANGE = ("data", "run", "mesh")


class Part(NamedTuple):
    """Consecutive steps of a journal that were made under one key and one configuration.

    Attributes:
        first: the first step.
        end: the step after the last one.
        key: the random key that its draws come from.
        config: its configuration; None if the journal's own is meant.
    """

    first: int
    end: int
    key: jax.Array
    config: dict[str, Any] | None


def parts(journal: Journal) -> list[Part]:
    """The parts of a journal, in order; the last may be empty, and there is one without a fork."""
    header, steps = journal.header, len(journal.records)
    ends = [min(segment.steps, steps) for segment in header.segments]
    keys = [_key(header, segment.key_data) for segment in header.segments]
    configs = [segment.config for segment in header.segments]
    return [
        Part(first, end, key, config)
        for first, end, key, config in zip(
            [0, *ends], [*ends, steps], [*keys, header_key(journal)], [*configs, None], strict=True
        )
    ]


def header_key(journal: Journal) -> jax.Array:
    """The run's key from the header; a fork's own."""
    return _key(journal.header, journal.header.key_data)


def key_after(journal: Journal, steps: int) -> jax.Array:
    """The key of a journal's step ``steps - 1``, which also rounds the model after it."""
    return next(part.key for part in parts(journal) if steps <= part.end)


def _key(header: Header, words: tuple[int, ...]) -> jax.Array:
    return jax.random.wrap_key_data(jnp.array(words, jnp.uint32), impl=header.key_impl)


def records_hash(records: np.ndarray) -> str:
    """The xxh3-128 of records without their checksums, which is the same in a run and its fork."""
    steps = records.shape[0]
    size = records.dtype.itemsize
    raw = np.frombuffer(records.tobytes(), np.uint8).reshape(steps, size)[:, :-4]
    return xxhash.xxh3_128_hexdigest(raw.tobytes())


def segments_at(journal: Journal, step: int, run: str) -> list[Segment]:
    """The segments of a fork of a journal after ``step`` steps.

    Args:
        journal: the parent's journal, with its configuration in the header.
        step: the number of its steps that the fork takes over, 1 or more.
        run: the parent's directory.
    """
    header = journal.header
    kept = [segment for segment in header.segments if segment.steps < step]
    made_by: Header | Segment = next(
        (segment for segment in header.segments if segment.steps >= step), header
    )
    last = Segment(
        step,
        made_by.config or {},
        made_by.key_data,
        records_hash(journal.records[:step]),
        run,
        made_by.data_hash,
    )
    return [*kept, last]


def check_fork(parent: Config, fork: Config, place: object) -> None:
    """Raise ``InputError`` if a fork changes what makes the arrays that its parent trained."""
    theirs, ours = to_dict(parent), to_dict(fork)
    for part in ours:
        if part in _PARTS_THAT_MAY_CHANGE:
            continue
        for name in sorted(theirs[part] | ours[part], key=lambda name: (name != "name", name)):
            before, now = theirs[part].get(name), ours[part].get(name)
            if before != now and f"{part}.{name}" not in _MAY_CHANGE:
                raise InputError(
                    f"{place}: a fork keeps {part}.{name}={before!r}, not {now!r}, since its model "
                    "and the run's must have the same trained arrays; zojax train --config FILE "
                    "begins a run with other ones"
                )


def check_segments(journal: Journal) -> None:
    """Raise ``InputError`` if a header's segments contradict each other or the records."""
    if not journal.header.segments:
        return
    own = journal.header.configuration(journal.path)
    for segment in journal.header.segments:
        place = f"{journal.path}: the segment up to step {segment.steps} in its header"
        check_fork(segment_configuration(segment.config, place), own, place)
        if len(journal.records) < segment.steps:
            return
        if records_hash(journal.records[: segment.steps]) != segment.records:
            raise InputError(f"{place}: has another hash than its records")


def segment_configuration(config: dict[str, Any], place: object) -> Config:
    """A segment's configuration, without the mesh; ``InputError`` names the place."""
    try:
        return from_dict({**config, "mesh": {}})
    except InputError as error:
        raise InputError(f"{place}: config: {error}") from None
