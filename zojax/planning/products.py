"""Count the FLOPs of a traced program's matrix products, by how they are computed."""

import collections
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

HIGH, EXACT = "high float32", "exact float32"
"""Products whose float32 operands a backend may shorten slightly (high) or not at all (exact).

Other products are named after the dtype of their operands.
"""


def count_products(jaxpr: Jaxpr, times: int = 1) -> Mapping[str, int]:
    """Count the FLOPs of all matrix products: two for each pair of entries, multiply and add.

    A scan's body counts as often as it runs, a conditional counts as its most expensive branch, and
    the body of any other loop counts once.

    Args:
        jaxpr: the jaxpr of a function.
        times: how often it runs.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((3, 4)), jnp.ones((5, 4, 4))
        >>> f = lambda x, w: jax.lax.scan(lambda x, m: (x @ m, None), x, w)[0]
        >>> dict(count_products(jax.make_jaxpr(f)(x, w).jaxpr)) == {"float32": 5 * 2 * 3 * 4 * 4}
        True
    """
    flops: collections.Counter[str] = collections.Counter()
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            flops[_how(equation)] += times * _product(equation)
        elif name == "cond":
            branches = [count_products(b.jaxpr, times) for b in params["branches"]]
            flops.update(max(branches, key=lambda branch: sum(branch.values())))
        else:
            inner = times * (params["length"] if name == "scan" else 1)
            for nested in _nested(params.values()):
                flops.update(count_products(nested, inner))
    return flops


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)


def _how(equation: Any) -> str:
    dtype, precision = equation.invars[0].aval.dtype.name, equation.params["precision"]
    whole = jax.lax.DotAlgorithmPreset.F32_F32_F32
    pair = precision if isinstance(precision, tuple) else (precision,)
    if dtype != "float32":
        return dtype
    if jax.lax.Precision.HIGHEST in pair or whole in pair:
        return EXACT
    return HIGH if jax.lax.Precision.HIGH in pair else dtype


def _nested(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _nested(value)
