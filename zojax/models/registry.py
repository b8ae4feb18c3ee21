"""The families of models that zojax knows, and how the family of a checkpoint is found."""

from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from zojax.config import foreign
from zojax.config.fields import Text
from zojax.errors import InputError
from zojax.models import gemma2, gemma3, llama, mistral, opt, qwen2, qwen3, smollm3
from zojax.models.family import DecoderConfig, Family
from zojax.reading import validate
from zojax.text import plain

FAMILIES: tuple[Family, ...] = (
    opt.FAMILY,
    llama.FAMILY,
    mistral.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    smollm3.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    gemma3.MULTIMODAL,
)
"""The families that come with zojax."""

PUBLISHED: Mapping[str, DecoderConfig] = {
    hub_id: config for family in FAMILIES for hub_id, config in family.published.items()
}
"""Published architectures, by hub id."""

SHAPES: Mapping[str, DecoderConfig] = {
    hub_id.rpartition("/")[2]: config for hub_id, config in PUBLISHED.items()
}
"""The same architectures, by name without the organisation."""


def families() -> list[Family]:
    """The families of the user's allowed modules, and then those that come with zojax."""
    own = [
        thing
        for module in foreign.allowed_modules()
        for thing in vars(module).values()
        if isinstance(thing, Family)
    ]
    return [*own, *FAMILIES]


@dataclass
class _Named:
    model_type: Text | None = None
    architectures: list[Text] | None = None


def parse_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Reads the architecture from a parsed ``config.json``.

    Raises:
        InputError: the family is not known, or the family refuses the configuration.

    Example:
        >>> parse_config({"model_type": "gpt2"})
        Traceback (most recent call last):
        zojax.errors.InputError: holds a 'gpt2' model; zojax knows 'opt', 'llama', \
'mistral', 'qwen2', 'qwen3', 'smollm3', 'gemma2', 'gemma3_text', 'gemma3'
    """
    named = validate(_Named, raw, "config.json")
    for family in families():
        if named.model_type == family.model_type:
            return family.read_config(raw)
    if named.model_type is None:
        for family in families():
            if set(named.architectures or ()) & set(family.architectures):
                return family.read_config(raw)
    known = ", ".join(repr(family.model_type) for family in families())
    raise InputError(f"holds a {plain(repr(named.model_type), 40)} model; zojax knows {known}")


def family_of(config: DecoderConfig) -> Family:
    """The family that a configuration belongs to."""
    return next(family for family in families() if isinstance(config, family.config))
