"""Make the space of what is trained from its settings."""

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax

from zojax.adapters import (
    Draw,
    Fold,
    FoldPolicy,
    Sites,
    Space,
    draw_dense,
    draw_factored,
    factored,
    gathered,
    in_layers,
    lora_space,
    lowrank,
    lowrank_fold,
    of_modules,
    prefix_space,
    seeded_fold,
    trainable_sites,
)
from zojax.config import LinearConfig, LoraConfig, PrefixConfig
from zojax.config.spaces import OnWeights
from zojax.errors import InputError
from zojax.models import Model
from zojax.models.branches import Layers
from zojax.models.registry import family_of
from zojax.scoring.prefix import prefix_from_tokens

Tree = Any


def on_weights(settings: Any) -> TypeGuard[OnWeights]:
    """Whether the weights themselves are trained, and not something beside them."""
    return isinstance(settings, OnWeights)


def low_rank(settings: Any, model: Model, rank: int) -> tuple[Space, Draw]:
    """Low-rank factors of every trained matrix; beside the weights, low-rank directions."""
    if on_weights(settings):
        sites = weight_sites(settings, model)
        if settings.fold == "adapter":
            return gathered(sites, rank=rank, adapter_rank=adapter_rank(settings, rank)), draw_dense
        return lowrank(sites, rank=rank), draw_dense
    space = beside(settings, model)
    return factored(space, _shapes(space, model), rank=rank), draw_factored


def adapter_rank(settings: OnWeights, rank: int) -> int:
    """The rank of the LoRA into which intervals of this rank are folded.

    >>> from zojax.config import LinearConfig
    >>> adapter_rank(LinearConfig(fold="adapter"), 2)
    32
    """
    return _INTERVALS_HELD * rank if settings.adapter_rank is None else settings.adapter_rank


_INTERVALS_HELD = 16
"""How many intervals' columns an adapter has unless a user chooses: with 16, the demo learns what
it does in the weights, with 4 half of that (docs/fold_policies.md).
"""


def low_rank_shapes(settings: Any, model: Model) -> list[tuple[int, ...]]:
    """The shapes of the matrices to which :func:`low_rank` gives factors."""
    if on_weights(settings):
        return [site.shape for site in weight_sites(settings, model) if site.is_matrix]
    return list(_shapes(beside(settings, model), model).values())


def lora_shapes(settings: LoraConfig, model: Model) -> list[tuple[int, ...]]:
    """The shapes of the weights that get a LoRA."""
    return [site.shape for site in _lora_sites(settings, model)]


def _shapes(space: Space, model: Model) -> dict[str, tuple[int, ...]]:
    params = jax.eval_shape(space.init, model.weights, jax.random.key(0))
    return {path: leaf.shape for path, leaf in params.items()}


def weight_sites(settings: OnWeights, model: Model) -> Sites:
    """The parameters that are trained in place."""
    sites = trainable_sites(model.weights, settings.name)
    targets = settings.targets if isinstance(settings, LinearConfig) else None
    return _chosen(sites, targets, settings.layers)


def low_rank_fold(settings: OnWeights, model: Model) -> Fold:
    """The fold that adds low-rank factors to the weights."""
    return lowrank_fold(weight_sites(settings, model), _rounding(settings))


def moves_weights(settings: Any) -> bool:
    """Whether what an interval gathers is folded into the weights themselves."""
    return on_weights(settings) and settings.fold not in ("none", "adapter")


def directions_fold(settings: OnWeights, model: Model) -> Fold:
    """The fold that draws dense directions again and adds them to the weights."""
    dtype = jax.tree.leaves(model.weights)[0].dtype
    return seeded_fold(weight_sites(settings, model), _rounding(settings), dtype)


def _rounding(settings: OnWeights) -> FoldPolicy:
    assert settings.fold not in ("none", "adapter"), "no weight is moved then"
    return settings.fold


def beside(settings: Any, model: Model) -> Space:
    """The space of what stays beside the weights: LoRA's matrices or a prefix."""
    return _BESIDE[type(settings)](settings, model)


def _lora(settings: LoraConfig, model: Model) -> Space:
    sites = _lora_sites(settings, model)
    return lora_space(sites, rank=settings.rank, alpha=settings.alpha)


def _lora_sites(settings: LoraConfig, model: Model) -> Sites:
    linear = trainable_sites(model.weights, "linear")
    return _chosen(linear, settings.targets, settings.layers)


def _chosen(sites: Sites, targets: Sequence[str] | None, layers: str | None) -> Sites:
    """The sites of some modules in some of the layers; None is all of them."""
    try:
        chosen = sites if targets is None else of_modules(sites, targets)
    except ValueError as error:
        raise InputError(f"space.targets: {error}") from None
    if layers is None:
        return chosen
    total = next(site.shape[0] for site in sites if site.is_stacked)
    return in_layers(chosen, _layers(layers, total))


def _layers(text: str, total: int) -> Layers | None:
    """The layers that a setting names, of a model of so many; None for all of them.

    >>> _layers("4-", 6)
    Layers(first=4, stop=6, total=6)
    """
    first, dash, last = text.partition("-")
    start = int(first or 0)
    stop = 1 + int(last if last else total - 1 if dash else start)
    if not start < stop <= total:
        raise InputError(f"space.layers={text}: the model's layers are 0-{total - 1}")
    return Layers(start, stop, total) if stop - start < total else None


def _prefix(settings: PrefixConfig, model: Model) -> Space:
    first = -settings.length if family_of(model.config).relative_positions else 0

    def start(weights: Tree, key: jax.Array) -> Tree:
        """The activations of random tokens, as in MeZO."""
        tokens_l = jax.random.randint(key, (settings.length,), 0, model.config.vocab_size)
        return prefix_from_tokens(weights, tokens_l, model.graphdef, first_position=first)

    return prefix_space(start)


_BESIDE: dict[type, Callable[[Any, Model], Space]] = {LoraConfig: _lora, PrefixConfig: _prefix}
