"""Where a run's arrays lie: what is trained beside its matrices, and batches by their pages."""

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
    """Where each array of a training state lies; None where the weights are on no mesh.

    Args:
        method: whose space says how it follows the weights.
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
        """As the params lie; but some optimizers keep a sum of each param, or of its rows."""
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
    """A batch's shape structs or arrays on their devices: pages, and prompts, over ``data``.

    Args:
        batch: leaves of pages lead with the pages, or with micro-batches and then the pages.
        layout: where to.
    """

    def is_pages(node: Any) -> bool:
        return isinstance(node, Pages | Prompts)

    def of_node(node: Any) -> Any:
        if is_pages(node):
            return put_pages(node, layout, axis=node.slot_p.ndim - 1)
        return put(node, layout.sharding())

    return jax.tree.map(of_node, batch, is_leaf=is_pages)
