"""LoRA (Hu et al., 2106.09685) as a space: its matrices A and B are the parameters.

Axes: l layers, m rows, n columns, r the LoRA's rank.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from zojax.adapters.sites import Flat, Site, Sites, layers_of, nest, site_key
from zojax.adapters.space import Space, Specs, keep_moment

A, B = "lora_A", "lora_B"


def lora_space(sites: Sites, *, rank: int = 8, alpha: float = 16.0) -> Space:
    """The space of ``W + (alpha / r) B A`` with A ``(r, n)`` and B ``(m, r)``, as in PEFT.

    A starts as in PEFT: Kaiming-uniform with a = √5, which is uniform in ±1/√n. B starts at zero,
    so that the first model is the base model.

    Args:
        sites: the matrices that get a LoRA.
        rank: the LoRA's rank r.
        alpha: PEFT's ``lora_alpha``.

    Example:
        >>> space = lora_space((Site("layers/q/weight", (2, 5, 3)),), rank=1)
        >>> {path: p.shape for path, p in space.init({}, jax.random.key(0)).items()}
        {'layers/q/weight/lora_A': (2, 1, 3), 'layers/q/weight/lora_B': (2, 5, 1)}
    """

    def shapes(site: Site) -> dict[str, tuple[int, ...]]:
        *lead, m, n = site.shape
        return {f"{site.path}/{A}": (*lead, rank, n), f"{site.path}/{B}": (*lead, m, rank)}

    all_shapes = {path: shape for site in sites for path, shape in shapes(site).items()}

    def init(weights: Any, key: jax.Array) -> Flat:
        params = {path: jnp.zeros(shape, jnp.float32) for path, shape in all_shapes.items()}
        for site in sites:
            path, bound = f"{site.path}/{A}", site.shape[-1] ** -0.5
            params[path] = jax.random.uniform(
                site_key(key, path), all_shapes[path], minval=-bound, maxval=bound
            )
        return params

    def adapter(params: Flat, subspace: Flat) -> dict[str, Any]:
        return nest(
            {
                site.path: {
                    "u": alpha / rank * params[f"{site.path}/{B}"],
                    "v": params[f"{site.path}/{A}"].swapaxes(-1, -2),
                }
                for site in sites
            },
            layers_of(sites),
        )

    def split(weights: Specs) -> tuple[Specs, Specs]:
        """Splits B as W's rows, and A as W's columns."""
        specs = {}
        for site in sites:
            *lead, m, n = weights[site.path]
            specs[f"{site.path}/{B}"] = PartitionSpec(*lead, m, None)
            specs[f"{site.path}/{A}"] = PartitionSpec(*lead, None, n)
        return specs, {}

    return Space(init, lambda key: {}, adapter, keep_moment, split)
