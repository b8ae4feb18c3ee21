"""Who sees whom on a page: a prompt's tokens those before them, a candidate's its prompt too."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from zojax.scoring.pages import Pages


class Visibility(NamedTuple):
    """What each token sees, as two ranges of its page: a prompt, and its own run of tokens.

    Token t sees the keys s with ``first ≤ s < prompt_stop`` and those with ``own ≤ s ≤ t``. In a
    prompt, which is one run, the first range is empty. All are int32.

    Attributes:
        first_pt: where the token's sequence begins.
        prompt_stop_pt: where the prompt that its candidate branches off ends.
        own_pt: where its run begins.
    """

    first_pt: jax.Array
    prompt_stop_pt: jax.Array
    own_pt: jax.Array


def tree_visibility(pages: Pages) -> Visibility:
    """Sequences lie one behind the other, and so do a prompt and its candidates in each."""
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
    """One sequence a page, each token of which sees all before it."""
    return Visibility(*(jnp.zeros((pages, tokens), jnp.int32) for _ in Visibility._fields))


def sees(
    first: jax.Array, prompt_stop: jax.Array, own: jax.Array, t: jax.Array, s: jax.Array
) -> jax.Array:
    """Whether tokens ``t`` see keys ``s``: bool, of the shape that all broadcast to.

    Args:
        first: as in :class:`Visibility`, of the tokens.
        prompt_stop: likewise.
        own: likewise.
        t: the tokens' places on their page.
        s: the keys'.
    """
    return ((first <= s) & (s < prompt_stop)) | ((own <= s) & (s <= t))


def mask_of(visibility: Visibility) -> jax.Array:
    """The same as ``(p, t, s)`` bool: whether query token t sees key token s."""
    first, stop, own = (a_pt[:, :, None] for a_pt in visibility)
    s = jnp.arange(visibility.own_pt.shape[1])
    return sees(first, stop, own, s[:, None], s)
