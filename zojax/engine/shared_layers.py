"""The lowest layers, which adapters that begin above them share: what they leave is kept.

Below the first layer that an adapter changes, keys, values and the residual stream of a text are
the base model's. Rows keep the residual stream before one layer beside their cache, so that a text
whose lower layers were computed under another adapter is computed from there on.

Axes: p pages, t tokens of a page, r reads, s places of a row, n the residual stream's width.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from zojax.models import decoder
from zojax.models.branches import STACKED
from zojax.models.forward import Cache, Forward
from zojax.scoring.pages import Array

Tree = Any

NOWHERE = sys.maxsize
"""The first layer of an adapter that changes nothing."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=("x_psn",), meta_fields=("layer",))
@dataclasses.dataclass(frozen=True)
class Below:
    """What the lowest layers leave of the tokens in rows.

    Attributes:
        x_psn: the residual stream before ``layer``, float32.
        layer: the number of the lowest layers, static.
    """

    x_psn: jax.Array
    layer: int


def nothing_below(layer: int, width: int, *, num_rows: int, length: int) -> Below | None:
    """Of rows that hold nothing; None if no layers are shared.

    Args:
        layer: the number of the lowest layers that are shared.
        width: the residual stream's width.
        num_rows: the number of rows.
        length: the number of places of a row.
    """
    return Below(jnp.zeros((num_rows, length, width), jnp.float32), layer) if layer else None


def run_keeping(
    model: decoder.Decoder,
    tokens_pt: jax.Array,
    forward: Forward,
    below: Below | None,
    row_p: Array | None,
    place_pt: jax.Array,
) -> tuple[jax.Array, Cache | None, Below | None]:
    """Runs a model as :func:`zojax.models.decoder.run`, and keeps what the lowest layers leave.

    Args:
        model: a model of any family.
        tokens_pt: token ids.
        forward: everything else that the call needs.
        below: what is kept so far; None if nothing is.
        row_p: the row of each page; None if page i is row i.
        place_pt: the place of each token in it; one beyond the row's end is not kept.
    """
    if below is None:
        return *decoder.run(model, tokens_pt, forward), None
    x_ptn = model.embed(tokens_pt, forward)
    x_ptn, cache = decoder.run_adapted(model, x_ptn, forward, 0, below.layer)
    rows_p = jnp.arange(len(place_pt)) if row_p is None else jnp.asarray(row_p)
    x_psn = below.x_psn.at[rows_p[:, None], place_pt].set(x_ptn, mode="drop")
    forward = dataclasses.replace(forward, cache=cache)
    hidden_prn, cache = decoder.run_from(model, x_ptn, forward, below.layer)
    return hidden_prn, cache, dataclasses.replace(below, x_psn=x_psn)


def run_above(model: decoder.Decoder, forward: Forward, below: Below, row_p: Array) -> Cache | None:
    """The cache with the upper layers' keys and values of tokens of which the lower ones are kept.

    Args:
        model: a model of any family.
        forward: everything that the call needs; a token's position is its place in its row.
        below: what is kept.
        row_p: the row of each page.
    """
    x_ptn = below.x_psn.at[jnp.asarray(row_p)[:, None], forward.positions_pt].get(mode="clip")
    return decoder.run_adapted(model, x_ptn, forward, below.layer, model.num_layers)[1]


def first_layer(adapter: Tree) -> int:
    """The lowest layer of which an adapter has numbers that are not zero, so that it may change it.

    One that has more than matrices of layers begins at 0.

    >>> u = np.zeros((4, 3, 2), np.float32)
    >>> u[2] = 1.0
    >>> first_layer({"layers": {"fc1": {"u": u, "v": u}}})
    2
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(adapter, sep="/"))
    for path in flat:
        if not path.startswith(f"{STACKED}/") or path.rpartition("/")[2] not in ("u", "v"):
            return 0
    first = NOWHERE
    for leaf in flat.values():
        of_layers = np.asarray(leaf)[:first]
        first = next((layer for layer, one in enumerate(of_layers) if one.any()), first)
    return first
