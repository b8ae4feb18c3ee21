"""Long pages are attended for in blocks, which changes nothing but what is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.models.layers import Prefix
from zojax.scoring import Item, pack, shape_needed
from zojax.scoring.attention import causal_attention, masked_attention, tree_mask

pytestmark = pytest.mark.usefixtures("compiled_quickly")

HEADS, DEPTH = 2, 8


def inputs(pages: int, tokens: int) -> list[jax.Array]:
    """Random queries, keys and values."""
    shape = (3, pages, tokens, HEADS, DEPTH)
    return list(jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32))


@pytest.fixture(scope="module")
def trees():
    """A page of several blocks: prompts with candidates, some of which end in another block."""
    rng = np.random.default_rng(1)

    def ids(n: int) -> np.ndarray:
        return rng.integers(3, 90, n).astype(np.int32)

    items = [Item(ids(n), (ids(7), ids(30))) for n in (190, 3, 60, 250)]
    pages = pack(items, shape_needed(items, 1))
    assert pages.tokens_pt.shape[1] > 2 * 256
    return pages


def prefix_of(pages: int) -> Prefix:
    rng = np.random.default_rng(2)
    k, v = (jnp.asarray(rng.standard_normal((pages, 5, HEADS, DEPTH)), jnp.float32) for _ in "kv")
    return Prefix(k, v, jnp.ones(pages))


@pytest.mark.parametrize("with_prefix", [False, True])
def test_trees_see_in_blocks_what_they_see_as_a_whole(with_prefix, trees):
    mask_pts = tree_mask(trees)
    args = (*inputs(*trees.tokens_pt.shape), mask_pts)
    prefix = prefix_of(len(mask_pts)) if with_prefix else None
    blocks, whole = causal_attention(*args, prefix), masked_attention(*args, prefix)
    real = np.asarray(trees.segments_pt) > 0
    # Sums over other numbers of zeros, in float32.
    np.testing.assert_allclose(blocks[real], whole[real], rtol=0, atol=2e-6)


def test_half_of_a_long_page_is_never_computed():
    args = (*inputs(1, 2048), jnp.ones((1, 2048, 2048), bool), None)
    flops = {
        attention: jax.jit(attention).lower(*args).compile().cost_analysis()["flops"]
        for attention in (causal_attention, masked_attention)
    }
    # Of 8 blocks the i-th meets i/8 of the keys: (1 + … + 8) / 64.
    assert flops[causal_attention] < 0.6 * flops[masked_attention]


def test_a_page_of_one_block_is_one_product():
    args = (*inputs(2, 256), jnp.ones((2, 256, 256), bool), None)
    programs = [
        jax.jit(attention).lower(*args).as_text()
        for attention in (causal_attention, masked_attention)
    ]
    assert programs[0].replace("causal", "masked") == programs[1]
