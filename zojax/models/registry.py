"""The families that zojax knows, and how one is found."""

from collections.abc import Mapping
from typing import Any

from zojax.errors import InputError
from zojax.models import opt
from zojax.models.family import DecoderConfig, Family

FAMILIES: tuple[Family, ...] = (opt.FAMILY,)

PUBLISHED: Mapping[str, DecoderConfig] = {
    hub_id: config for family in FAMILIES for hub_id, config in family.published.items()
}
"""Published architectures by their hub ids."""

SHAPES: Mapping[str, DecoderConfig] = {
    hub_id.rpartition("/")[2]: config for hub_id, config in PUBLISHED.items()
}
"""The same by their names alone."""


def parse_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The architecture that a parsed ``config.json`` is of.

    Raises:
        InputError: a family that is not known, or what the family says of it.

    Example:
        >>> parse_config({"model_type": "gpt2"})
        Traceback (most recent call last):
        zojax.errors.InputError: holds a 'gpt2' model; zojax knows 'opt'
    """
    for family in FAMILIES:
        if raw.get("model_type") == family.model_type:
            return family.read_config(raw)
    if raw.get("model_type") is None:
        for family in FAMILIES:
            if set(raw.get("architectures") or ()) & set(family.architectures):
                return family.read_config(raw)
    known = ", ".join(repr(family.model_type) for family in FAMILIES)
    raise InputError(f"holds a {raw.get('model_type')!r} model; zojax knows {known}")


def family_of(config: DecoderConfig) -> Family:
    """Whose configuration this is."""
    return next(family for family in FAMILIES if isinstance(config, family.config))
