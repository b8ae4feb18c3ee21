"""What is trained: the settings of each space; :mod:`zojax.training.spaces` builds it."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from zojax.config.fields import STRICT, Positive, Size, Text
from zojax.config.kinds import Kinds

SPACES = Kinds("space")

Fold = Literal["stochastic", "nearest", "none"]
Targets = Annotated[tuple[Text, ...], Field(min_length=1)]


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class LinearConfig:
    """The matrices of attention and MLP.

    Attributes:
        name: ``linear``.
        fold: how folding rounds to the weights' dtype: ``stochastic``, ``nearest`` (exact enough
            for float32 weights only), or ``none``: V stays, nothing is folded.
    """

    name: Literal["linear"] = "linear"
    fold: Fold = "stochastic"


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class FullConfig:
    """Everything: also embeddings and head, norms and biases.

    Attributes:
        name: ``full``.
        fold: as of ``linear``.
    """

    name: Literal["full"] = "full"
    fold: Fold = "stochastic"


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class LoraConfig:
    """PEFT's A and B, which stay beside the weights.

    Attributes:
        name: ``lora``.
        rank: their r.
        alpha: their ``lora_alpha``, so that they count alpha / r times.
        targets: names of the layers that get one.
    """

    name: Literal["lora"] = "lora"
    rank: Size = 8
    alpha: Positive = 16.0
    targets: Targets = ("q_proj", "v_proj")


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class PrefixConfig:
    """Keys and values that every query sees, started from the activations of random tokens.

    Attributes:
        name: ``prefix``.
        length: in tokens.
    """

    name: Literal["prefix"] = "prefix"
    length: Size = 5


OnWeights = LinearConfig | FullConfig
"""What is trained in the weights themselves; all else stays beside them."""

SpaceSettings = OnWeights | LoraConfig | PrefixConfig
"""Those that zojax has."""
