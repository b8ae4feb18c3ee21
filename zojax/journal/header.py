"""A journal's header, which identifies the run and is validated before any of it is used."""

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from zojax.config import Config, from_dict
from zojax.errors import InputError
from zojax.reading import validate

Word = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Scalars = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
Hash = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{1,64}$")]
Version = Annotated[str, Field(strict=True, max_length=100)]


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Segment:
    """The first steps of a fork, which another run made with settings of its own.

    Attributes:
        steps: the number of steps, from the run's first, after which the segment ends.
        config: the configuration of the run that made it.
        key_data: the two words of that run's random key.
        records: the hash of the first ``steps`` records, from
            :func:`zojax.journal.segments.records_hash`.
        run: the directory of the run that was forked, as text for people; it may be gone.
        data_hash: the hash of that run's examples as tokens.
    """

    steps: Annotated[int, Field(strict=True, ge=1)]
    config: dict[str, Any]
    key_data: tuple[Word, Word]
    records: Hash
    run: Annotated[str, Field(strict=True, max_length=10_000)] = "?"
    data_hash: Hash | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields that have a value, in JSON's types."""
        return _as_json(self)


def _in_order(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    ends = [segment.steps for segment in segments]
    if ends != sorted(set(ends)):
        raise ValueError("should end after more and more steps")
    return segments


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Header:
    """The JSON text at the start of a journal; ``docs/journal.md`` describes the fields.

    Reading a file needs only the first three fields; a replay also needs those whose default is
    None.

    Attributes:
        key_data: the two 32-bit words of the run's random key.
        num_queries: the number of projected gradients in a record.
        num_variants: the number of losses in a record.
        key_impl: the random number generator.
        config: the run's configuration as it was written; :meth:`configuration` reads it.
        base_hash: the content hash of the base weights.
        data_hash: the hash of the run's examples as tokens.
        zojax: the version of zojax that wrote the file.
        jax: the version of JAX that wrote the file.
        settings: the JAX settings that a user may choose and that were not at their defaults; see
            :mod:`zojax.programs.settings`.
        segments: of a fork, the segments before its own steps, in order; ``config``, ``key_data``
            and ``data_hash`` are those of the steps after them.
    """

    key_data: tuple[Word, Word]
    num_queries: Scalars
    num_variants: Scalars
    key_impl: Literal["threefry2x32"] = "threefry2x32"
    config: dict[str, Any] | None = None
    base_hash: Hash | None = None
    data_hash: Hash | None = None
    zojax: Version | None = None
    jax: Version | None = None
    settings: dict[Version, Version | bool] = Field(default_factory=dict)
    segments: Annotated[
        tuple[Segment, ...], Field(max_length=1_000), AfterValidator(_in_order)
    ] = ()

    @property
    def first_step(self) -> int:
        """The number of steps that the run took over from the run that it forks; 0 without one."""
        return self.segments[-1].steps if self.segments else 0

    def as_dict(self) -> dict[str, Any]:
        """The fields that have a value, in JSON's types."""
        segments = [segment.as_dict() for segment in self.segments]
        return _as_json(self) | ({"segments": segments} if segments else {})

    def configuration(self, place: object) -> Config:
        """The run's configuration, without the mesh, which depends on the devices at hand.

        Args:
            place: what errors call the journal.

        Raises:
            InputError: there is no configuration, or an invalid one.
        """
        if self.config is None:
            raise InputError(f"{place}: its header has no configuration, so it belongs to no run")
        try:
            return from_dict({**self.config, "mesh": {}})
        except InputError as error:
            raise InputError(f"{place}: config in its header: {error}") from None


def _as_json(header: Header | Segment) -> dict[str, Any]:
    fields = {field.name: getattr(header, field.name) for field in dataclasses.fields(header)}
    known = {name: value for name, value in fields.items() if value not in (None, {}, ())}
    return {**known, "key_data": list(header.key_data)}


def as_header(fields: object, place: object) -> Header:
    """Makes a header from a JSON object; ``InputError`` names the place and the field."""
    return validate(Header, fields, f"{place}: header")


def record_dtype(header: Header) -> np.dtype:
    """The packed structured dtype of a record, with the checksum last.

    >>> record_dtype(Header((0, 42), num_queries=1, num_variants=2)).itemsize
    40
    """
    return np.dtype(
        [
            ("step", "<u8"),
            ("key_data", "<u4", (len(header.key_data),)),
            ("learning_rate", "<f4"),
            ("flags", "<u4"),
            ("projected_grad", "<f4", (header.num_queries,)),
            ("losses", "<f4", (header.num_variants,)),
            ("checksum", "<u4"),
        ]
    )
