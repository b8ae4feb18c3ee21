"""Tokens attend over the rows of a cache as over their whole sequences, wherever they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.scoring.heads import DEPTH, HEADS, inputs
from zojax.models.forward import Cache, Heads, Prefix
from zojax.scoring import cache_attention
from zojax.scoring.attention import prompt_attention
from zojax.scoring.cache_attention import cached_attention


def test_a_window_is_the_same_token_by_token():
    q, k, v = inputs(2, 9)
    empty = Cache(*(jnp.zeros((1, 2, HEADS, 12, DEPTH)) for _ in "kv"))
    whole, filled = prompt_attention(0, Heads(q, k, v, window=3), empty)
    np.testing.assert_array_equal(filled.k_ypgsd[0, :, :, :9], jnp.swapaxes(k, 1, 2))
    cache = empty
    for t in range(9):
        here = slice(t, t + 1)
        token = Heads(q[:, here], k[:, here], v[:, here], window=3)
        out_p1hd, cache = cached_attention(jnp.full((2, 1), t))(0, token, cache)
        np.testing.assert_allclose(out_p1hd, whole[:, here], rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [None, 3])
def test_pieces_of_sequences_in_any_rows_attend_as_the_whole(window):
    """Two pieces of 5 tokens, the second with a place of padding, in two of four rows."""
    q, k, v = inputs(2, 9)
    empty = Cache(*(jnp.zeros((1, 2, HEADS, 12, DEPTH)) for _ in "kv"))
    whole, filled = prompt_attention(0, Heads(q, k, v, window=window), empty)
    old = Cache(*(jnp.ones((1, 4, HEADS, 12, DEPTH)) for _ in "kv"))
    row_p, cache, out = jnp.array([3, 1]), old, []
    for start, visible in ((0, 5), (5, 11)):
        places = np.arange(start, start + 5)
        position_pt = jnp.asarray(np.tile(np.where(places < 9, places, 12), (2, 1)))
        here = np.minimum(places, 8)
        piece = Heads(q[:, here], k[:, here], v[:, here], window=window)
        piece_out, cache = cached_attention(position_pt, row_p, visible)(0, piece, cache)
        out.append(piece_out)
    np.testing.assert_allclose(jnp.concatenate(out, 1)[:, :9], whole, rtol=0, atol=2e-6)
    for now, before, wanted in zip(cache, old, filled, strict=True):
        np.testing.assert_array_equal(now[0, [3, 1], :, :9], wanted[0, :, :, :9])
        np.testing.assert_array_equal(now[0, [0, 2]], before[0, [0, 2]])
        np.testing.assert_array_equal(now[0, :, :, 9:], before[0, :, :, 9:])


def long_rows(dtype: str = "float32") -> tuple[Heads, Cache, jax.Array, jax.Array]:
    """Three queries in each of four of five rows of 300 places, of which a row has no token."""
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), dtype)

    cache = Cache(draw(2, 5, HEADS, 300, DEPTH), draw(2, 5, HEADS, 300, DEPTH))
    heads = Heads(draw(4, 3, 2 * HEADS, DEPTH), cache.k_ypgsd, cache.v_ypgsd)
    position_pr = jnp.array([[0, 1, 2], [126, 127, 128], [297, 298, 299], [300, 300, 300]])
    return heads, cache, jnp.array([4, 0, 3, 1]), position_pr


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 2, 130])
def test_block_by_block_tokens_see_what_they_see_at_once(window, softcap):
    heads, cache, row_p, position_pr = long_rows()
    heads = heads._replace(window=window, softcap=softcap)
    arguments = jnp.int32(1), cache, row_p, position_pr
    at_once = functools.partial(cache_attention.over_all_places, own_rows=False, visible=None)
    wanted = at_once(*arguments, heads=heads)
    got = jax.jit(functools.partial(cache_attention.by_blocks, heads=heads))(*arguments)
    np.testing.assert_allclose(got[:3], wanted[:3], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(got[3], 0)


def test_other_processors_look_at_as_many_places_of_all_rows_as_are_visible():
    """Pages that are the first rows, and pages in any rows, of more rows than pages."""
    heads, cache, row_p, position_pr = long_rows()
    position_pr = jnp.minimum(position_pr, 129)
    for own_rows in (True, False):
        rows_p = jnp.arange(4) if own_rows else row_p
        arguments = jnp.int32(1), cache, rows_p, position_pr
        wanted = cache_attention.by_blocks(*arguments, heads=heads)
        poison = jnp.where(jnp.arange(300) < 130, 0, jnp.nan)[:, None]
        poisoned = Cache(cache.k_ypgsd + poison, cache.v_ypgsd + poison)
        got = cache_attention.over_all_places(
            arguments[0], poisoned, *arguments[2:], heads=heads, own_rows=own_rows, visible=130
        )
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prefix_is_seen_before_the_blocks_by_the_pages_that_have_one(dtype):
    heads, cache, row_p, position_pr = long_rows(dtype)
    rng = np.random.default_rng(5)
    k_plgd, v_plgd = jnp.asarray(rng.standard_normal((2, 4, 7, HEADS, DEPTH)), jnp.float32)
    heads = heads._replace(prefix=Prefix(k_plgd, v_plgd, jnp.array([1, 0, 1, 1])), softcap=4.0)
    arguments = jnp.int32(1), cache, row_p, position_pr
    at_once = functools.partial(cache_attention.over_all_places, own_rows=False, visible=None)
    wanted = at_once(*arguments, heads=heads)
    got = cache_attention.by_blocks(*arguments, heads=heads)
    assert got.dtype == wanted.dtype == dtype
    tolerance = 2e-6 if dtype == "float32" else 0.02
    exact = (x[:3].astype(jnp.float32) for x in (got, wanted))
    np.testing.assert_allclose(*exact, rtol=0, atol=tolerance)
    without = cache_attention.by_blocks(*arguments, heads=heads._replace(prefix=None))
    assert np.abs(got[0] - without[0]).max() > 0.1


def test_in_16_bits_block_by_block_only_rounds():
    heads, cache, row_p, position_pr = long_rows("bfloat16")
    arguments = jnp.int32(0), cache, row_p, position_pr
    got = cache_attention.by_blocks(*arguments, heads=heads)
    assert got.dtype == jnp.bfloat16
    exact, in_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), (heads, cache))
    at_once = functools.partial(cache_attention.over_all_places, own_rows=False, visible=None)
    wanted = at_once(arguments[0], in_float32, row_p, position_pr, heads=exact)
    np.testing.assert_allclose(got[:3].astype(jnp.float32), wanted[:3], rtol=0, atol=0.02)


@pytest.mark.parametrize(("window", "blocks"), [(None, [[0], [0, 1], [0, 1, 2], []]), (2, None)])
def test_blocks_that_no_token_sees_are_not_looked_at(window, blocks):
    """NaN would show, even where a mask multiplies it by zero."""
    heads, cache, row_p, position_pr = long_rows()
    blocks = blocks or [[0], [0, 1], [2], []]
    seen_ps = np.zeros((5, 300), bool)
    for row, mine in zip(row_p, blocks, strict=True):
        for block in mine:
            seen_ps[row, 128 * block : 128 * (block + 1)] = True
    seen_ps[3, 300 - 128 :] = True  # the last block ends with the row
    poison = jnp.where(seen_ps, 0, jnp.nan)[None, :, None, :, None]
    poisoned = Cache(cache.k_ypgsd + poison, cache.v_ypgsd + poison)
    got = cache_attention.by_blocks(
        jnp.int32(1), poisoned, row_p, position_pr, heads=heads._replace(window=window)
    )
    assert np.isfinite(got).all()
    assert np.abs(got[:3]).min() > 0
