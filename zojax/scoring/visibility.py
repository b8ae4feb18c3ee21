"""Which tokens of a page see which: a token sees its prompt, and earlier tokens of its own run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from zojax.scoring.pages import Pages


class Visibility(NamedTuple):
    """What each token sees, as two ranges of its page: its prompt, and its own run of tokens.

    Token t sees the keys s with ``first ≤ s < prompt_stop`` and those with ``own ≤ s ≤ t``. A
    prompt is a single run, so its first range is empty. All arrays are int32.

    Attributes:
        first_pt: where the token's sequence begins.
        prompt_stop_pt: where the prompt of the token's candidate ends.
        own_pt: where the token's run begins.
    """

    first_pt: jax.Array
    prompt_stop_pt: jax.Array
    own_pt: jax.Array


def tree_visibility(pages: Pages) -> Visibility:
    """The visibility on packed pages, where sequences, and the runs of each, are contiguous."""
    segments_pt, branches_pt = jnp.asarray(pages.segments_pt), jnp.asarray(pages.branches_pt)
    t = jnp.arange(segments_pt.shape[1], dtype=jnp.int32)

    def before(a_pt: jax.Array) -> jax.Array:
        return jnp.pad(a_pt[:, :-1], ((0, 0), (1, 0)), constant_values=-1)

    def latest(event_pt: jax.Array) -> jax.Array:
        return jax.lax.cummax(jnp.where(event_pt, t, 0), axis=1)

    begins_pt = segments_pt != before(segments_pt)
    first_pt = latest(begins_pt)
    own_pt = latest(begins_pt | (branches_pt != before(branches_pt)))
    leaves_pt = (branches_pt > 0) & (before(branches_pt) == 0)
    return Visibility(first_pt, jnp.where(branches_pt > 0, latest(leaves_pt), first_pt), own_pt)


def causal_visibility(pages: int, tokens: int) -> Visibility:
    """The visibility on pages with one sequence each, whose tokens see all before them."""
    return Visibility(*(jnp.zeros((pages, tokens), jnp.int32) for _ in Visibility._fields))


def sees(
    first: jax.Array, prompt_stop: jax.Array, own: jax.Array, t: jax.Array, s: jax.Array
) -> jax.Array:
    """Whether tokens ``t`` see keys ``s``; bool, in the arguments' broadcast shape.

    Args:
        first: where the tokens' sequences begin, as in :class:`Visibility`.
        prompt_stop: where their candidates' prompts end.
        own: where their runs begin.
        t: the tokens' places on their page.
        s: the keys' places on the same page.
    """
    return ((first <= s) & (s < prompt_stop)) | ((own <= s) & (s <= t))


def mask_of(visibility: Visibility) -> jax.Array:
    """The visibility as a mask ``(p, t, s)`` bool: whether query token t sees key token s."""
    first, stop, own = (a_pt[:, :, None] for a_pt in visibility)
    s = jnp.arange(visibility.own_pt.shape[1])
    return sees(first, stop, own, s[:, None], s)
