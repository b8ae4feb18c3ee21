"""Room for a runtime: how long its texts are, and where which adapters may be."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import traverse_util

from zojax.adapters import AdapterPool, Site, trainable_sites
from zojax.distributed import layout_of, put
from zojax.engine.ladder import Ladder, make_ladder
from zojax.errors import InputError, first_few
from zojax.models import Model

Tree = Any

_USUAL_LENGTH = 2048
_SHORTEST = 32


def choose_length(model: Model, wanted: int | None, name: str) -> int:
    """The most tokens of a prompt and what follows it.

    Args:
        model: the model.
        wanted: how many are wanted; None for the model's positions, but at most 2048.
        name: what an error calls the wish.

    Raises:
        InputError: the model has fewer positions, or they are too few.
    """
    positions = model.config.max_position_embeddings
    if wanted is None:
        return min(positions, _USUAL_LENGTH)
    if not _SHORTEST <= wanted <= positions:
        raise InputError(f"{name}: give {_SHORTEST} to {positions}, the model's positions")
    return wanted


def check_shared_layers(model: Model, wanted: int, name: str) -> int:
    """The number of lowest layers that adapters share.

    Args:
        model: the model.
        wanted: how many are wanted; 0 for none.
        name: what an error calls the wish.

    Raises:
        InputError: the model has no layer above them, or it is negative.
    """
    layers = model.config.num_hidden_layers
    if not 0 <= wanted < layers:
        raise InputError(f"{name}: give 0 to {layers - 1}, fewer than the model's {layers} layers")
    return wanted


def ladder_for(weights: Tree, length: int, num_rows: int) -> Ladder:
    """The ladder for the devices that the weights are on.

    A CPU looks at what rows hold, however many places are visible, so one number of these will do.
    Its time grows with the rows and tokens that it computes, so that more sizes are worth while.

    Args:
        weights: the model's parameters.
        length: the most tokens of a sequence.
        num_rows: the number of sequences that are continued together.
    """
    if layout_of(weights).mesh.devices.flat[0].platform == "cpu":
        return make_ladder(length, num_rows, first_visible=length, first_rows=4, fine_pages=True)
    return make_ladder(length, num_rows)


def make_pool(
    model: Model, adapters: Sequence[Tree], *, num_slots: int, rank_to_come: int | None = None
) -> AdapterPool | None:
    """Room for adapters: at all linear layers if any may come, else where those that there are are.

    Args:
        model: the base model.
        adapters: the adapters that there are.
        num_slots: the most adapters on the device together.
        rank_to_come: the largest rank of adapters that come later; None if none do.

    Returns:
        The pool, which is empty; None if there are no adapters.

    Raises:
        InputError: an adapter is no LoRA.
    """
    found: list[dict[str, Any]] = [
        dict(traverse_util.flatten_dict(adapter, sep="/")) for adapter in adapters
    ]
    may_come = rank_to_come is not None
    if not (found or may_come):
        return None
    sites = _matrices(model, sorted({path for flat in found for path in flat}))
    ranks = [leaf.shape[-1] for flat in found for leaf in flat.values()]
    every = trainable_sites(model.weights, "linear") if may_come else ()
    pool = AdapterPool(
        tuple({site.path: site for site in (*every, *sites)}.values()),
        num_slots=num_slots if may_come else min(num_slots, len(found)),
        rank=max([*ranks, rank_to_come or 0]),
    )
    whole = layout_of(model.weights).sharding()
    pool.arrays = jax.tree.map(lambda leaf: put(leaf, whole), pool.arrays)
    pool.evict(pool.insert({}))  # so that the program that writes into slots is compiled
    return pool


def _matrices(model: Model, leaves: Sequence[str]) -> list[Site]:
    """The matrices that factors of these paths belong to."""
    shapes = {site.path: site.shape for site in trainable_sites(model.weights, "full")}
    parts = [leaf.rpartition("/") for leaf in leaves]
    strange = [path for path, _, name in parts if path not in shapes or name not in ("u", "v")]
    if strange:
        raise InputError(
            f"the adapter is no LoRA ({first_few(strange, 2)}), and only LoRAs go into a runtime; "
            "export the whole model and load that"
        )
    return [Site(path, shapes[path]) for path in dict.fromkeys(path for path, *_ in parts)]
