"""What a call of a model needs beside its tokens, as a whole and at one of its layers.

Axes: p pages, t tokens, r reads, s keys, h heads of queries, g heads of keys and values (of which
each serves ``h / g`` neighbouring heads of queries), d a head's size, l a prefix's length, n the
residual stream, y layers.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zojax.models.layers import STACKED, Adapter, bind


class Prefix(NamedTuple):
    """Keys and values of one layer that every query of a page sees besides what it sees else.

    They enter as the keys and values of tokens do (rotated, where a family rotates those), and take
    no position; but in float32, since a probe of them must not be rounded away.

    Attributes:
        k_plgd: l keys a page.
        v_plgd: their values.
        on_p: 0 where the page has no prefix.
    """

    k_plgd: jax.Array
    v_plgd: jax.Array
    on_p: jax.Array


class Cache(NamedTuple):
    """Keys and values that are kept from token to token, of all layers.

    It goes from layer to layer as a whole, so that a layer can write its part in place.
    """

    k_ypsgd: jax.Array
    v_ypsgd: jax.Array


class Heads(NamedTuple):
    """What one layer attends with.

    Attributes:
        q_prhd: queries of the tokens ``reads_pr`` of each page.
        k_ptgd: keys of all tokens.
        v_ptgd: their values.
        reads_pr: None for all tokens.
        prefix: of the pages, if their adapter has one.
        window: how many tokens of its own sequence a query sees at the most, itself the last; may
            be traced, so that it can differ from layer to layer. None for all.
    """

    q_prhd: jax.Array
    k_ptgd: jax.Array
    v_ptgd: jax.Array
    reads_pr: jax.Array | None = None
    prefix: Prefix | None = None
    window: jax.Array | int | None = None


Attend = Callable[
    [jax.Array | int, Heads, Cache | None],
    tuple[jax.Array, Cache | None],
]
"""``attend(layer, heads, cache) -> (out_prhd, cache)``: the caller of a model decides who sees
whom, and what is kept of each layer."""


@dataclasses.dataclass(frozen=True)
class LayerForward:
    """What a block needs beside the residual stream.

    Attributes:
        layer: its number, which a loop traces.
        positions_pt: as in :class:`Forward`.
        attend: likewise.
        adapter: this layer's, bound to the pages.
        variants: as in :class:`Forward`.
        reads_pr: the only tokens that are asked for, if not all; nothing but keys and values is
            computed for the others.
        cache: of all layers.
    """

    layer: jax.Array | int
    positions_pt: jax.Array
    attend: Attend
    adapter: Adapter
    variants: int
    reads_pr: jax.Array | None
    cache: Cache | None

    def attention(
        self,
        q_prhd: jax.Array,
        k_ptgd: jax.Array,
        v_ptgd: jax.Array,
        prefix: Prefix | None = None,
        window: jax.Array | int | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The heads' outputs ``(p, r, h · d)`` and the cache; arguments as in :class:`Heads`."""
        heads = Heads(q_prhd, k_ptgd, v_ptgd, self.reads_pr, prefix, window)
        with jax.named_scope("attend"):
            out_prhd, cache = self.attend(self.layer, heads, self.cache)
        return out_prhd.reshape(*out_prhd.shape[:2], -1), cache


@dataclasses.dataclass(frozen=True)
class Forward:
    """What a call of a model needs beside its tokens.

    Attributes:
        positions_pt: each token's position in its own sequence, from 0.
        slot_p: the adapter slot of each page.
        attend: attention over the pages.
        adapters: side branches in the model's own tree on a leading slot axis, a step's variants or
            a pool; layers as ``(slots, layers, …)``. Empty for the base model.
        variants: neighbouring pages that are one page in so many slots, see
            :class:`zojax.models.layers.Linear`; 1 says nothing about neighbours.
        reads_pr: the tokens of each page that are wanted; None for all.
        cache: for ``attend``.
    """

    positions_pt: jax.Array
    slot_p: jax.Array
    attend: Attend
    adapters: Adapter = dataclasses.field(default_factory=dict)
    variants: int = 1
    reads_pr: jax.Array | None = None
    cache: Cache | None = None

    def adapter(self, name: str) -> Adapter:
        """What belongs to a module outside the layers, bound to the pages."""
        return bind(self.table(name), self.slot_p)

    def table(self, name: str) -> Adapter:
        """What belongs to an embedding or a head, of all slots."""
        return self.adapters.get(name, {})

    def at_layer(
        self, layer: jax.Array | int, reads_pr: jax.Array | None, cache: Cache | None
    ) -> LayerForward:
        """The same for one layer."""
        adapter = bind(self.table(STACKED), self.slot_p, layer)
        return LayerForward(
            layer, self.positions_pt, self.attend, adapter, self.variants, reads_pr, cache
        )


def take(x_pt: jax.Array, reads_pr: jax.Array | None) -> jax.Array:
    """The tokens ``reads_pr`` of each page, ``(p, t, …)``; all of them for None.

    Example:
        >>> take(jnp.array([[3, 5, 7]]), jnp.array([[0, 2]])).tolist()
        [[3, 7]]
    """
    if reads_pr is None:
        return x_pt
    index_pr = reads_pr[(..., *(None,) * (x_pt.ndim - 2))]
    return jnp.take_along_axis(x_pt, index_pr, axis=1)


def split_heads(y_ptn: jax.Array, num_heads: int) -> jax.Array:
    """``(p, t, heads · d)`` as ``(p, t, heads, d)``."""
    return y_ptn.reshape(*y_ptn.shape[:2], num_heads, -1)


def prefix_of(adapter: Adapter, num_kv_heads: int) -> Prefix | None:
    """The prefix that an attention's adapter may hold: ``k`` and ``v (p, l, g · d)`` and ``on``."""
    if "prefix" not in adapter:
        return None
    given = adapter["prefix"]
    k_plgd, v_plgd = (split_heads(given[name], num_kv_heads) for name in ("k", "v"))
    return Prefix(k_plgd, v_plgd, given["on"])
