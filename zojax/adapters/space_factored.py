"""Low-rank directions for a space of small matrices, such as LoRA's: ``U Vᵀ`` for a dense z.

The params are small, so that directions are multiplied out and nothing needs to be folded.
"""

import jax

from zojax.adapters.fold import outer_product
from zojax.adapters.sites import Flat, site_key
from zojax.adapters.space import Sample, Space, draw_subspace, split_nothing


def factored(space: Space, shapes: dict[str, tuple[int, ...]], *, rank: int) -> Space:
    """The same space, with a V ``(…, n, k)`` to be redrawn for each of its params ``(…, m, n)``.

    It is split over no mesh: ``U Vᵀ`` of a part of V's rows may round otherwise than of all, and
    directions are the same to the bit on every mesh.

    Args:
        space: whose own subspace is empty.
        shapes: of its params, all matrices.
        rank: columns k of V, for :func:`draw_factored`.
    """
    return space._replace(redraw=lambda key: draw_subspace(key, shapes, rank), split=split_nothing)


def draw_factored(key: jax.Array, params: Flat, subspace: Flat, sample: Sample) -> Flat:
    """A direction ``U Vᵀ``, with U drawn and V of the subspace."""
    direction = {}
    for path, v in subspace.items():
        u = sample(site_key(key, path), (*params[path].shape[:-1], v.shape[-1]))
        direction[path] = outer_product(u, v)
    return direction
