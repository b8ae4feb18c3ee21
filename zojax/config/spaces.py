"""The settings of each space, which say what is trained; :mod:`zojax.training.spaces` builds it."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from zojax.config.fields import STRICT, LayerNumbers, Positive, Size, Text
from zojax.config.kinds import Kinds

SPACES = Kinds("space", chosen_anew=("targets",))

Fold = Literal["stochastic", "nearest", "none", "adapter"]
Targets = Annotated[tuple[Text, ...], Field(min_length=1)]


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class LinearConfig:
    """Trains the matrices of attention and MLP.

    Attributes:
        name: ``linear``.
        fold: how folding rounds to the weights' dtype: ``stochastic``, ``nearest`` (exact enough
            for float32 weights only), or ``none`` (V stays the same and nothing is folded).
            ``adapter`` folds into a LoRA beside weights that never move.
        adapter_rank: the rank R of that LoRA; of a fold's sum, the nearest of rank R is kept. If it
            is not set, R is 16 times ``estimator.rank``.
        layers: the layers that are trained, counted from 0: ``24-29``, ``24-`` (and all above),
            ``-5`` (and all below) or ``7``. If it is not set, all are. What lies below the first
            of them is computed once for both ends of a probe.
        targets: names of the layers' matrices that are trained, such as ``down_proj``. If it is not
            set, all are.
    """

    name: Literal["linear"] = "linear"
    fold: Fold = "stochastic"
    adapter_rank: Size | None = None
    layers: LayerNumbers | None = None
    targets: Targets | None = None


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class FullConfig:
    """Trains all parameters, including embeddings, head, norms and biases.

    Attributes:
        name: ``full``.
        fold: as for :class:`LinearConfig`; changes of vectors are never folded.
        adapter_rank: as for :class:`LinearConfig`.
        layers: as for :class:`LinearConfig`; nothing outside the layers is trained then.
    """

    name: Literal["full"] = "full"
    fold: Fold = "stochastic"
    adapter_rank: Size | None = None
    layers: LayerNumbers | None = None


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class LoraConfig:
    """Trains a LoRA: PEFT's A and B, which stay beside the weights.

    Attributes:
        name: ``lora``.
        rank: the LoRA's rank r.
        alpha: PEFT's ``lora_alpha``; the LoRA is scaled by alpha / r.
        targets: names of the layers' matrices that get a LoRA.
        layers: the layers that get one; as for :class:`LinearConfig`.
    """

    name: Literal["lora"] = "lora"
    rank: Size = 8
    alpha: Positive = 16.0
    targets: Targets = ("q_proj", "v_proj")
    layers: LayerNumbers | None = None


@SPACES.register
@dataclass(config=STRICT, kw_only=True)
class PrefixConfig:
    """Trains a prefix: keys and values that every query sees.

    They start as the activations of random tokens.

    Attributes:
        name: ``prefix``.
        length: the prefix's length in tokens.
    """

    name: Literal["prefix"] = "prefix"
    length: Size = 5


OnWeights = LinearConfig | FullConfig
"""Spaces that are trained in the weights themselves; all others stay beside them."""

SpaceSettings = OnWeights | LoraConfig | PrefixConfig
"""The settings of zojax's own spaces."""
