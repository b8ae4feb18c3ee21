"""What a family of models provides: zojax knows an architecture from one file alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

from pydantic import Field

from zojax.models.decoder import Decoder

Layers = Annotated[int, Field(strict=True, ge=1, le=1 << 12)]
Width = Annotated[int, Field(strict=True, ge=1, le=1 << 17)]
WideWidth = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
Rows = Annotated[int, Field(strict=True, ge=1, le=1 << 22)]
"""Types of an architecture's hyperparameters: depth, widths, and rows of a table. Their limits lie
far above any model's, and bound the work that a ``config.json`` alone can cause to a second.
"""


class DecoderConfig(Protocol):
    """An architecture's hyperparameters, named as in ``config.json``: a family's frozen dataclass.

    Attributes:
        splits: the dimensions that the number of weight shards must divide, by name.
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


SENTENCEPIECE = "llama"
"""What llama.cpp calls a vocabulary of SentencePiece, whatever the family."""


class Gguf(NamedTuple):
    """How llama.cpp's files describe a family.

    Attributes:
        architecture: their name for it.
        config: entries of ``config.json`` that follow from others, which the files leave out.
        paired_rows: whether the two rows of queries or keys that rotary positions turn together
            stand side by side, and not half a head apart.
        norm_offset: what the weights of norms are larger by than in the checkpoint.
        scaling: the entries of ``rope_scaling`` but for ``factor``, where files have a tensor of
            factors of the frequencies in their place; None where they have none.
    """

    architecture: str
    config: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda raw: {}
    paired_rows: bool = False
    norm_offset: float = 0.0
    scaling: Mapping[str, Any] | None = None


class Family(NamedTuple):
    """A family of models, as functions and tables.

    Its weight tree mirrors the names of its Hugging Face checkpoints, with the layers stacked.

    Attributes:
        model_type: the ``model_type`` in ``config.json``.
        architectures: the ``architectures`` in ``config.json``, which identify a checkpoint without
            ``model_type``.
        config: the class of its configurations.
        read_config: ``(parsed config.json) -> config``; ``InputError`` says what is missing.
        write_config: ``(config) -> entries of config.json``, without dtype and token ids.
        module: ``(config, *, precision, rngs) -> module`` with random weights.
        logical_axes: ``(path, ndim) -> logical names of a parameter's axes``, for
            :mod:`zojax.distributed`.
        prefix: the start of all tensor names but the head's.
        aliases: other starts of names that checkpoints use, and the usual start for each.
        token_ids: default token-id entries for the ``config.json`` of a saved checkpoint.
        published: configurations of published checkpoints, by hub id.
        ignored: endings of tensor names in some checkpoints that are not parameters.
        ignored_starts: starts of such names, as of the parts that see in a multimodal model.
        relative_positions: whether only differences of positions matter. A prefix then starts as
            tokens before the text, and not at the text's own first positions.
        always_bos: whether prompts start with BOS even if the tokenizer's files do not ask for it.
        gguf: how llama.cpp's files describe it; None if they do not.

    A module of yours that holds a family is used after ``--allow-module``, or where a configuration
    names it as ``model.family="my_models:FAMILY"``. A checkpoint belongs to the family with its
    ``model_type``.

    Example:
        >>> from zojax.models.opt import FAMILY
        >>> FAMILY._replace(model_type="my_opt").prefix
        'model.decoder.'
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
    ignored_starts: tuple[str, ...] = ()
    relative_positions: bool = False
    always_bos: bool = False
    gguf: Gguf | None = None
