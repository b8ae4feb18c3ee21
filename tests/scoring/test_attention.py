"""Every way of attending for a page gives what one masked product gives, and computes less."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

from tests.scoring.heads import DEPTH, HEADS, inputs
from zojax.models.forward import Cache, Heads, Prefix
from zojax.scoring import Item, attention_kernel, pack, shape_needed
from zojax.scoring.attention import (
    blockwise_attention,
    masked_attention,
    page_attention,
    prompt_attention,
)
from zojax.scoring.visibility import causal_visibility, mask_of, tree_visibility

TPU = attention_kernel.interpreted(attention_kernel.for_tpu())
GPU = attention_kernel.interpreted(attention_kernel.for_gpu())


def by_blocks(q, k, v, visibility):
    return blockwise_attention(q, k, v, mask_of(visibility), None)


WAYS = {
    "blocks": by_blocks,
    "the kernel as for TPUs": functools.partial(attention_kernel.attend, backend=TPU),
    "the kernel as for GPUs": functools.partial(attention_kernel.attend, backend=GPU),
}


def by_one_product(q, k, v, visibility):
    return masked_attention(q, k, v, mask_of(visibility), None)


def packed(*sizes: tuple[int, ...], num_pages: int = 1):
    """Pages of items whose prompt and candidates have so many tokens that are computed."""
    items = [
        Item(np.full(prompt, 3, np.int32), tuple(np.full(n + 1, 4, np.int32) for n in candidates))
        for prompt, *candidates in sizes
    ]
    return pack(items, shape_needed(items, num_pages))


@pytest.fixture(scope="module")
def trees():
    """Pages of several blocks: prompts with candidates, some of which end in another block."""
    pages = packed(
        *((n, 6, 0, 29) for n in (190, 3, 60, 250, 170, 4)), (20, *[89] * 5), num_pages=2
    )
    assert pages.tokens_pt.shape[1] > 2 * 256
    return pages


@pytest.mark.parametrize("way", WAYS)
def test_trees_see_in_every_way_what_one_product_sees(way, trees):
    arguments = (*inputs(*trees.tokens_pt.shape), tree_visibility(trees))
    got, wanted = jax.jit(WAYS[way])(*arguments), by_one_product(*arguments)
    # Sums in another order, in float32.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_16_bits_stay_what_they_are(way, dtype, tolerance, trees):
    arguments = (*inputs(*trees.tokens_pt.shape), tree_visibility(trees))
    wanted = by_one_product(*arguments)
    got = jax.jit(WAYS[way])(*(x.astype(dtype) for x in arguments[:3]), arguments[3])
    assert got.dtype == dtype
    # Twice what a number near 2 may be off by: q, k, v and probabilities are rounded, and so is it.
    np.testing.assert_allclose(got.astype(jnp.float32), wanted, rtol=0, atol=tolerance)


def test_a_prefix_is_seen_in_blocks_as_in_one_product(trees):
    rng = np.random.default_rng(2)
    pages = len(trees.tokens_pt)
    k, v = (jnp.asarray(rng.standard_normal((pages, 5, HEADS, DEPTH)), jnp.float32) for _ in "kv")
    mask_pts = mask_of(tree_visibility(trees))
    arguments = (*inputs(*trees.tokens_pt.shape), mask_pts, Prefix(k, v, jnp.ones(pages)))
    np.testing.assert_allclose(
        blockwise_attention(*arguments), masked_attention(*arguments), rtol=0, atol=2e-6
    )


def fewer_kv_heads(pages: int, tokens: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """Queries of four heads with keys and values of two, and with the same ones for each query."""
    rng = np.random.default_rng(4)
    q, k, v = (
        jnp.asarray(rng.standard_normal((pages, tokens, heads, DEPTH)), jnp.float32)
        for heads in (4, 2, 2)
    )
    return [q, k, v], [q, *(x[:, :, [0, 0, 1, 1]] for x in (k, v))]


@pytest.mark.parametrize("way", [*WAYS, "one product"])
def test_a_head_of_keys_serves_its_neighbouring_heads_of_queries(way, trees):
    attend = jax.jit({**WAYS, "one product": by_one_product}[way])
    visibility = tree_visibility(trees)
    few, repeated = fewer_kv_heads(*trees.tokens_pt.shape)
    np.testing.assert_allclose(
        attend(*few, visibility), attend(*repeated, visibility), rtol=0, atol=2e-6
    )


def test_a_prefix_has_as_many_heads_as_the_keys(trees):
    pages = len(trees.tokens_pt)
    few, repeated = fewer_kv_heads(*trees.tokens_pt.shape)
    prefixes = [Prefix(x[1][:, :5], x[2][:, :5], jnp.ones(pages)) for x in (few, repeated)]
    mask_pts = mask_of(tree_visibility(trees))
    ours, theirs = (
        masked_attention(*x, mask_pts, prefix)
        for x, prefix in zip((few, repeated), prefixes, strict=True)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def within_window(window: int, trees) -> np.ndarray:
    """Who sees whom on these pages: what the tree shows, and no more than so many tokens back."""
    back = trees.positions_pt[:, :, None] - trees.positions_pt[:, None, :]
    return np.asarray(mask_of(tree_visibility(trees))) & (back < window)


@pytest.mark.parametrize("reads", [False, True])
def test_a_window_shows_the_last_tokens_of_a_sequence_alone(reads, trees):
    """Positions of a candidate go on from its prompt, however many others lie between."""
    q, k, v = inputs(*trees.tokens_pt.shape)
    mask_pts = jnp.asarray(within_window(4, trees))
    assert mask_pts.sum(-1)[trees.segments_pt > 0].max() == 4
    reads_pr = jnp.tile(jnp.array([200, 399]), (len(q), 1)) if reads else None
    heads = Heads(q[:, [200, 399]] if reads else q, k, v, reads_pr, window=4)
    wanted = masked_attention(q, k, v, mask_pts, None)
    out_prhd, _ = page_attention(trees)(0, heads, None)
    wanted = wanted[:, [200, 399]] if reads else wanted
    np.testing.assert_allclose(out_prhd, wanted, rtol=0, atol=2e-6)


def test_half_of_a_long_page_is_never_computed():
    args = (*inputs(1, 2048), jnp.ones((1, 2048, 2048), bool), None)
    flops = {
        attention: jax.jit(attention).lower(*args).compile().cost_analysis()["flops"]
        for attention in (blockwise_attention, masked_attention)
    }
    # Of 8 blocks the i-th meets i/8 of the keys: (1 + … + 8) / 64.
    assert flops[blockwise_attention] < 0.6 * flops[masked_attention]


def test_a_page_of_one_block_is_one_product():
    args = (*inputs(2, 256), jnp.ones((2, 256, 256), bool), None)
    programs = [
        jax.jit(attention).lower(*args).as_text()
        for attention in (blockwise_attention, masked_attention)
    ]
    assert programs[0].replace("blockwise", "masked") == programs[1]


PAGES = {
    "many short sequences": packed(*[(40,)] * 16),
    "a prompt with long candidates": packed((50, *[200] * 3)),
    "one long sequence": packed((640,)),
}


@pytest.mark.parametrize("backend", [TPU, GPU], ids=["TPU", "GPU"])
@pytest.mark.parametrize("pages", PAGES)
def test_the_kernel_multiplies_no_block_of_keys_that_a_block_of_queries_does_not_see(
    pages, backend
):
    visibility = tree_visibility(PAGES[pages])
    mask_ts = np.asarray(mask_of(visibility))[0]
    tokens, queries, keys = len(mask_ts), backend.queries, backend.keys
    q, k, v = inputs(1, tokens)
    attend = jax.jit(functools.partial(attention_kernel.attend, backend=backend))
    left_out = 0
    for start in range(0, tokens, queries):
        block = slice(start, start + queries)
        seen_s = np.repeat(
            [mask_ts[block, s : s + keys].any() for s in range(0, tokens, keys)], keys
        )[:tokens]
        poison = jnp.where(seen_s, 0, jnp.nan)[None, :, None, None]  # which 0 times is NaN still
        assert np.isfinite(attend(q, k + poison, v + poison, visibility)[:, block]).all()
        left_out += (~seen_s).sum() * queries
    assert left_out > 0.3 * tokens**2  # and much is not seen


ON_TPU = AbstractDevice("TPU v5 lite", 1, "tpu")  # whose sizes Mosaic asks for


def lowered(platform: str, tokens: int, dtype: str = "float32", **settings: Any) -> list[str]:
    """The kernels of a page's attention, lowered for a platform that need not be here."""
    names = ("data", "model")
    mesh = AbstractMesh((1, 1), names, (AxisType.Auto,) * 2, abstract_device=ON_TPU)
    sharding = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    x = jax.ShapeDtypeStruct((2, tokens, HEADS, DEPTH), dtype, sharding=sharding)

    def attend(q, k, v):
        cache = Cache(*(jnp.zeros((1, 2, HEADS, tokens, DEPTH), dtype) for _ in range(2)))
        return prompt_attention(0, Heads(q, k, v, **settings), cache)[0]

    traced = jax.jit(attend).trace(x, x, x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return [name for name in ("tpu_custom_call", "triton") if name in text]


@pytest.mark.parametrize(
    ("platform", "tokens", "kernels"),
    [
        ("tpu", 600, ["tpu_custom_call"]),
        ("cuda", 600, ["triton"]),
        ("cpu", 600, []),
        ("rocm", 600, []),
        ("tpu", 256, []),
        ("cuda", 256, []),
    ],
)
def test_long_pages_have_a_kernel_where_it_can_be_compiled(platform, tokens, kernels):
    assert lowered(platform, tokens) == kernels


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_no_kernel_is_chosen_that_lacks_a_window_or_a_soft_cap(platform):
    assert lowered(platform, 600, softcap=50.0) == []
    assert lowered(platform, 600, window=599) == []
    assert len(lowered(platform, 600, window=600)) == 1, "a window that reaches over the page"
    traced = jnp.int32(700)  # one layer's, of several
    assert lowered(platform, 600, window=traced) == []
    assert lowered(platform, 600, window=traced, shortest_window=599) == []
    assert len(lowered(platform, 600, window=traced, shortest_window=600)) == 1


def capped(q, k, v, mask_ts, cap):
    """Every page's attention in NumPy, with a soft cap of the products."""
    out = np.zeros(q.shape)
    for p, h in np.ndindex(q.shape[0], q.shape[2]):
        keys, values = (x[p, :, h * x.shape[2] // q.shape[2]] for x in (k, v))
        logits = cap * np.tanh(q[p, :, h] @ keys.T / np.sqrt(q.shape[-1]) / cap)
        shares = np.where(mask_ts[p], np.exp(logits), 0)
        out[p, :, h] = shares / shares.sum(-1, keepdims=True) @ values
    return out


@pytest.mark.parametrize("attend", [masked_attention, blockwise_attention])
def test_soft_caps_are_of_the_products_before_the_mask(attend, trees):
    (q, k, v), _ = fewer_kv_heads(*trees.tokens_pt.shape)
    mask_pts = mask_of(tree_visibility(trees))
    out = jax.jit(attend, static_argnames="softcap")(q, k, v, mask_pts, None, softcap=0.7)
    expected = capped(*map(np.float64, (q, k, v)), np.asarray(mask_pts), 0.7)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)
    assert np.abs(attend(q, k, v, mask_pts, None) - expected).max() > 0.1, "it does nothing"


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_a_precision_that_users_ask_of_float32_does_not_reach_16_bits(platform):
    with jax.default_matmul_precision("high"):  # which Mosaic does not lower
        assert lowered(platform, 600, "bfloat16")


@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        (attention_kernel.for_tpu(), "(Precision.HIGHEST, Precision.HIGHEST)"),
        (attention_kernel.for_gpu(), "TF32_TF32_F32_X3"),
    ],
    ids=["TPU", "GPU"],
)
def test_no_device_shortens_the_kernels_float32(backend, precision):
    attend = functools.partial(attention_kernel.attend, backend=backend)
    traced = str(jax.make_jaxpr(attend)(*inputs(1, 300), causal_visibility(1, 300)))
    assert traced.count("dot_general[") == traced.count(f"precision={precision}") == 2


@dataclasses.dataclass
class Device:
    device_kind: str
    compute_capability: str = ""


@pytest.mark.parametrize(
    ("device", "there"),
    [
        (Device("Tesla T4", "7.5"), {"tpu"}),
        (Device("NVIDIA A100", "8.0"), {"tpu", "cuda"}),
        (Device("NVIDIA B200", "10.0"), {"tpu", "cuda"}),
        (Device("AMD Instinct", "gfx90a"), {"tpu", "cuda"}),
        (Device("TPU v4"), {"cuda"}),
        (Device("TPU v5 lite"), {"tpu", "cuda"}),
    ],
    ids=lambda value: getattr(value, "device_kind", ""),
)
def test_devices_that_are_too_old_have_no_kernel(device, there, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert set(attention_kernel.backends(600, 128)) == there


@pytest.mark.parametrize(("tokens", "depth"), [(16_384, 80), (16_384, 128), (8_192, 256)])
def test_pages_whose_keys_have_no_room_have_no_kernel_on_tpus(tokens, depth):
    assert set(attention_kernel.backends(tokens, depth)) == {"tpu", "cuda"}
    assert set(attention_kernel.backends(tokens + 1, depth)) == {"cuda"}
