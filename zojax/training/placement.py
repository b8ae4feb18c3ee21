"""Where a run's arrays lie: trained arrays with their matrices, and batches split by pages."""

import functools
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from zojax.adapters.space import Specs
from zojax.distributed import Layout, put, put_pages
from zojax.generation.prompts import Prompts
from zojax.scoring import Pages
from zojax.training.step import Method, TrainState, init_state, map_moments

Tree = Any


def state_shardings(method: Method, weights: Tree) -> TrainState | None:
    """Where each array of a training state lies; None if the weights are not on a mesh.

    Args:
        method: how to train; its space says how the trained arrays follow the weights.
        weights: arrays, or shape structs with shardings.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    shardings = {path: getattr(leaf, "sharding", None) for path, leaf in flat.items()}
    on_mesh = {path: s for path, s in shardings.items() if isinstance(s, NamedSharding)}
    if len(on_mesh) < len(flat):
        return None
    mesh = next(iter(on_mesh.values())).mesh
    specs = {path: sharding.spec for path, sharding in on_mesh.items()}
    of_params, of_subspace = method.estimator.space.split(specs)

    def placed(flat: Tree, specs: Specs) -> Tree:
        return {path: NamedSharding(mesh, specs.get(path, PartitionSpec())) for path in flat}

    state = jax.eval_shape(functools.partial(init_state, method), weights, jax.random.key(0))
    params, everywhere = placed(state.params, of_params), NamedSharding(mesh, PartitionSpec())

    def of_moment(moment: Tree) -> Tree:
        """Like the params, unless the optimizer keeps only a sum of each param or of its rows."""
        return {
            path: params[path] if leaf.shape == state.params[path].shape else everywhere
            for path, leaf in moment.items()
        }

    return TrainState(
        step=everywhere,  # pyright: ignore[reportArgumentType]
        params=params,
        subspace=placed(state.subspace, of_subspace),
        opt_state=map_moments(state, of_moment, lambda _: everywhere),
    )


def put_batch(batch: Tree, layout: Layout) -> Tree:
    """Put a batch's arrays or shape structs on their devices: pages and prompts over ``data``.

    Args:
        batch: a batch; the leading axis of its pages is pages, or micro-batches and then pages.
        layout: says where everything goes.
    """

    def is_pages(node: Any) -> bool:
        return isinstance(node, Pages | Prompts)

    def of_node(node: Any) -> Any:
        if is_pages(node):
            return put_pages(node, layout, axis=node.slot_p.ndim - 1)
        return put(node, layout.sharding())

    return jax.tree.map(of_node, batch, is_leaf=is_pages)
