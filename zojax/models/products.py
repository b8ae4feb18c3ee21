"""Products of which zeroth-order training needs to know how they are rounded.

Axes: p pages, t tokens, r reads, k rank, m rows, n columns, g pages under v variants.
"""

import functools

import jax
import jax.numpy as jnp

# Factors are small and carry the perturbation, so no backend may round them (TF32, bf16).
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def matmul(axes: str, x: jax.Array, weight: jax.Array, exact: bool = False) -> jax.Array:
    """Multiplies in the weight's dtype; accumulates and returns float32.

    Rounding x to that dtype loses a perturbation that moved x by less than half the spacing of
    the dtype's numbers. With ``exact``, the rounding error is multiplied by the weight too, and
    backends may not use fewer bits for float32.
    """
    product = functools.partial(jnp.einsum, axes, preferred_element_type=jnp.float32)
    if weight.dtype == jnp.float32:
        return product(x, weight, precision="highest" if exact else None)
    if not exact:
        return product(x.astype(weight.dtype), weight)
    limits = jnp.finfo(weight.dtype)
    # XLA may remove a cast there and back, but not this.
    high = jax.lax.reduce_precision(x, limits.nexp, limits.nmant)
    low = (x - high).astype(weight.dtype)
    both = product(jnp.concatenate([high.astype(weight.dtype), low], axis=1), weight)
    return both[:, : x.shape[1]] + both[:, x.shape[1] :]  # one product reads the weights once


def as_differences(x_ptn: jax.Array, variants: int) -> jax.Array:
    """Replaces the variants of a page, which are neighbours, by their differences from the first.

    Rounding the first one then affects all alike, and rounding the differences is relative to
    their own size, so neither hides the differences between the variants' losses.
    """
    x_gvtn = x_ptn.reshape(-1, variants, *x_ptn.shape[1:])
    first, others = x_gvtn[:, :1], x_gvtn[:, 1:]
    return jnp.concatenate([first, others - first], axis=1).reshape(x_ptn.shape)


def from_differences(y_ptm: jax.Array, variants: int) -> jax.Array:
    """The inverse of :func:`as_differences`."""
    y_gvtm = y_ptm.reshape(-1, variants, *y_ptm.shape[1:])
    first, others = y_gvtm[:, :1], y_gvtm[:, 1:]
    return jnp.concatenate([first, others + first], axis=1).reshape(y_ptm.shape)
