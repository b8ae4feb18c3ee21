"""Low-rank directions in a space of small matrices, such as LoRA's: ``U Vᵀ`` replaces a dense z.

The params are small, so directions are multiplied out and nothing needs to be folded.
"""

import jax

from zojax.adapters.fold import outer_product
from zojax.adapters.sites import Flat, site_key
from zojax.adapters.space import Sample, Space, draw_subspace, split_nothing


def factored(space: Space, shapes: dict[str, tuple[int, ...]], *, rank: int) -> Space:
    """The same space with a subspace: a V ``(…, n, k)`` for each of its params ``(…, m, n)``.

    It is not split over a mesh: ``U Vᵀ`` for a part of V's rows may round differently than for all
    rows, and directions must have the same bits on every mesh.

    Args:
        space: a space whose own subspace is empty.
        shapes: the shapes of its params, all of them matrices.
        rank: the number of columns k of V, for :func:`draw_factored`.
    """
    return space._replace(redraw=lambda key: draw_subspace(key, shapes, rank), split=split_nothing)


def draw_factored(key: jax.Array, params: Flat, subspace: Flat, sample: Sample) -> Flat:
    """Draws U and returns the direction ``U Vᵀ`` with the subspace's V."""
    direction = {}
    for path, v in subspace.items():
        u = sample(site_key(key, path), (*params[path].shape[:-1], v.shape[-1]))
        direction[path] = outer_product(u, v)
    return direction
