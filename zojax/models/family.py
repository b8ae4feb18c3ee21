"""What a family of models gives: one file of it is all that zojax knows of an architecture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

from pydantic import Field

from zojax.models.decoder import Decoder

Layers = Annotated[int, Field(strict=True, ge=1, le=1 << 12)]
Width = Annotated[int, Field(strict=True, ge=1, le=1 << 17)]
WideWidth = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
Rows = Annotated[int, Field(strict=True, ge=1, le=1 << 22)]
"""Types of an architecture's numbers: depth, widths, and rows of a table. Their limits lie far
above any model's, and keep what a ``config.json`` alone makes us do within a second.
"""


class DecoderConfig(Protocol):
    """An architecture's numbers, named as in ``config.json``: a frozen dataclass of its family.

    Attributes:
        splits: the numbers that shards of the weights must divide, by what they count.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def vocab_size(self) -> int: ...  # noqa: D102 - named as in config.json
    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def num_hidden_layers(self) -> int: ...  # noqa: D102
    @property
    def num_attention_heads(self) -> int: ...  # noqa: D102
    @property
    def num_key_value_heads(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102
    @property
    def max_position_embeddings(self) -> int: ...  # noqa: D102
    @property
    def splits(self) -> Mapping[str, int]: ...  # noqa: D102


class Family(NamedTuple):
    """A family, as functions and tables.

    Its weight tree mirrors the names of its Hugging Face checkpoints, with the layers stacked.

    Attributes:
        model_type: as ``config.json`` has it.
        architectures: likewise; what a checkpoint without ``model_type`` is found by.
        config: the class of its configurations.
        read_config: ``(parsed config.json) -> config``; ``InputError`` says what it lacks.
        write_config: ``(config) -> entries of config.json``, but for dtype and token ids.
        module: ``(config, *, precision, rngs) -> module`` with random weights.
        logical_axes: ``(path, ndim) -> what each axis of a parameter means`` to
            :mod:`zojax.distributed`.
        prefix: what stands before the names of all tensors but the head's.
        aliases: what else checkpoints have at the start of a name, and what it stands for.
        token_ids: entries of ``config.json`` that a checkpoint gets where nothing else is known.
        published: configurations by their hub ids.
        ignored: endings of tensors that some checkpoints have and that are no parameters.
    """

    model_type: str
    architectures: tuple[str, ...]
    config: type
    read_config: Callable[[Mapping[str, Any]], Any]
    write_config: Callable[[Any], dict[str, Any]]
    module: Callable[..., Decoder]
    logical_axes: Callable[[Sequence[str], int], tuple[str | None, ...]]
    prefix: str
    aliases: Mapping[str, str]
    token_ids: Mapping[str, int]
    published: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
