"""What a call of a model needs besides tokens, for the whole model and for one of its layers.

Axes: p pages, t tokens, r reads, s keys, h heads of queries, g heads of keys and values (each of
which serves ``h / g`` neighbouring heads of queries), d a head's size, l a prefix's length, n the
residual stream's width, y layers.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from zojax.models.branches import STACKED, Adapter, LayerRange, Layers, bind


class Prefix(NamedTuple):
    """Extra keys and values of one layer that every query of a page sees.

    They are used as they are, like a cache's keys and values (a family that rotates keys does not
    rotate these), but take no position, are in every window, and are in float32, since a probe of
    them must not be rounded away. Where they start: :mod:`zojax.scoring.prefix`.

    Attributes:
        k_plgd: l keys for each page.
        v_plgd: the values of these keys.
        on_p: 0 for a page without a prefix.
    """

    k_plgd: jax.Array
    v_plgd: jax.Array
    on_p: jax.Array


class Cache(NamedTuple):
    """The keys and values of all layers that are kept from token to token.

    It is passed from layer to layer as a whole, so that a layer can write its part in place. What a
    head looks at lies together, so that nothing is moved before it is multiplied.
    """

    k_ypgsd: jax.Array
    v_ypgsd: jax.Array


class Heads(NamedTuple):
    """The queries, keys and values with which one layer attends.

    Attributes:
        q_prhd: queries of the tokens ``reads_pr`` of each page.
        k_ptgd: keys of all tokens.
        v_ptgd: values of all tokens.
        reads_pr: indices of the tokens that have queries; None for all tokens.
        prefix: the pages' prefix, if their adapter has one.
        window: the maximum number of tokens of its own sequence that a query sees, including
            itself; may be traced, so that it can differ from layer to layer. None for no limit.
        shortest_window: the shortest of all layers, if ``window`` is traced and it is known.
        softcap: the soft cap of the products of queries and keys, as in
            :func:`zojax.models.layers.soft_capped`.
    """

    q_prhd: jax.Array
    k_ptgd: jax.Array
    v_ptgd: jax.Array
    reads_pr: jax.Array | None = None
    prefix: Prefix | None = None
    window: jax.Array | int | None = None
    softcap: float | None = None
    shortest_window: int | None = None


Attend = Callable[
    [jax.Array | int, Heads, Cache | None],
    tuple[jax.Array, Cache | None],
]
"""``attend(layer, heads, cache) -> (out_prhd, cache)``: the caller of a model decides which tokens
see which, and what the cache keeps of each layer."""


@dataclasses.dataclass(frozen=True)
class LayerForward:
    """What a block needs besides the residual stream.

    Attributes:
        layer: the layer's index, which is traced in a loop.
        positions_pt: as in :class:`Forward`.
        attend: as in :class:`Forward`.
        adapter: this layer's adapter, bound to the pages.
        variants: as in :class:`Forward`.
        reads_pr: the tokens whose output is wanted; for the others only keys and values are
            computed. None for all tokens.
        cache: the cache of all layers.
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
        softcap: float | None = None,
        shortest_window: int | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The heads' output ``(p, r, h · d)`` and the new cache; arguments as in :class:`Heads`."""
        heads = Heads(
            q_prhd, k_ptgd, v_ptgd, self.reads_pr, prefix, window, softcap, shortest_window
        )
        with jax.named_scope("attend"):
            out_prhd, cache = self.attend(self.layer, heads, self.cache)
        return out_prhd.reshape(*out_prhd.shape[:2], -1), cache


@dataclasses.dataclass(frozen=True)
class Forward:
    """What a call of a model needs besides its tokens.

    Attributes:
        positions_pt: each token's position in its own sequence, from 0.
        slot_p: the adapter slot of each page, or several whose branches are added; see
            :func:`zojax.models.branches.bind`.
        attend: the attention function; see :data:`Attend`.
        adapters: a step's variants or a pool: side branches in the model's own tree, with a leading
            slot axis, and ``(slots, layers, …)`` in layers, which may be a
            :class:`zojax.models.branches.LayerRange`. Empty for the base model.
        variants: the number of neighbouring pages that are one page in different slots; see
            :class:`zojax.models.layers.Linear`. 1 makes no claim about neighbours.
        reads_pr: the tokens of each page whose output is wanted; None for all.
        cache: the cache that ``attend`` reads and writes.
    """

    positions_pt: jax.Array
    slot_p: jax.Array
    attend: Attend
    adapters: Adapter = dataclasses.field(default_factory=dict)
    variants: int = 1
    reads_pr: jax.Array | None = None
    cache: Cache | None = None

    def adapter(self, name: str) -> Adapter:
        """The adapter of a module outside the layers, bound to the pages."""
        return bind(self.table(name), self.slot_p)

    def table(self, name: str) -> Adapter:
        """The adapter of an embedding or a head, for all slots."""
        return self.adapters.get(name, {})

    @property
    def adapted(self) -> Layers | None:
        """The layers that have an adapter, if not all of them may have one."""
        table = self.table(STACKED)
        return table.layers if isinstance(table, LayerRange) else None

    def without_adapter(self) -> "Forward":
        """The same for layers that have none."""
        return dataclasses.replace(self, adapters={**self.adapters, STACKED: {}})

    def at_layer(
        self, layer: jax.Array | int, reads_pr: jax.Array | None, cache: Cache | None
    ) -> LayerForward:
        """The same for one layer, as a :class:`LayerForward`; one that may have an adapter."""
        table = self.table(STACKED)
        if isinstance(table, LayerRange):
            adapter = bind(table.tree, self.slot_p, layer - table.layers.first)
        else:
            adapter = bind(table, self.slot_p, layer)
        return LayerForward(
            layer, self.positions_pt, self.attend, adapter, self.variants, reads_pr, cache
        )


def take(x_pt: jax.Array, reads_pr: jax.Array | None) -> jax.Array:
    """The tokens ``reads_pr`` of each page of ``(p, t, …)``; all of them for None.

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
    """The prefix in an attention's adapter (``k`` and ``v (p, l, g · d)``, and ``on``), or None."""
    if "prefix" not in adapter:
        return None
    given = adapter["prefix"]
    k_plgd, v_plgd = (split_heads(given[name], num_kv_heads) for name in ("k", "v"))
    return Prefix(k_plgd, v_plgd, given["on"])
