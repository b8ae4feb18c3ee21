"""A journal's header, which identifies the run and is validated before any of it is used."""

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from zojax.config import Config, from_dict
from zojax.errors import InputError
from zojax.reading import validate

Word = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Scalars = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
Hash = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{1,64}$")]
Version = Annotated[str, Field(strict=True, max_length=100)]


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

    def as_dict(self) -> dict[str, Any]:
        """The fields that have a value, in JSON's types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        known = {name: value for name, value in fields.items() if value not in (None, {})}
        return {**known, "key_data": list(self.key_data)}

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
