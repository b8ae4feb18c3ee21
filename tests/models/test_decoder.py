"""The layers as a whole are their parts, one after the other, under any number of variants."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from tests.hub.checkpoints import noisy
from zojax.models import decoder
from zojax.models.branches import LayerRange, Layers
from zojax.models.forward import Forward
from zojax.models.opt import OPTConfig
from zojax.scoring.attention import prompt_attention

CONFIG = OPTConfig(50, 8, 4, 2, 16, 32, 4, do_layer_norm_before=False)
PAGES, TOKENS, VARIANTS, FIRST = 2, 7, 3, 2
TOKENS_PT = np.random.default_rng(0).integers(0, 50, (PAGES, TOKENS))
READS_PR = jnp.array([[1, 6], [4, 5]])


@pytest.fixture(scope="module")
def model():
    loaded = noisy(CONFIG)
    return nnx.merge(loaded.graphdef, loaded.weights)


def causal(_, heads, cache):
    """Attention of whole sequences that keeps nothing."""
    q, k, v, reads_pr, *_ = heads
    reads_pr = jnp.broadcast_to(jnp.arange(TOKENS), k.shape[:2]) if reads_pr is None else reads_pr
    mask = reads_pr[:, None, :, None] >= jnp.arange(TOKENS)
    return jax.nn.dot_product_attention(q, k, v, mask=mask), cache


def forward_of(pages: int, **settings) -> Forward:
    positions_pt = jnp.broadcast_to(jnp.arange(TOKENS), (pages, TOKENS))
    return Forward(positions_pt, jnp.zeros(pages, int), causal, **settings)


def logits_in_parts(model, forward: Forward, *edges: int) -> jax.Array:
    x_ptn = model.embed(TOKENS_PT, forward)
    for first, stop in itertools.pairwise(edges):
        x_ptn, _ = decoder.run_layers(model, x_ptn, forward, first, stop)
    return decoder.logits(model, model.finish(x_ptn, forward), forward)


@pytest.mark.parametrize("edges", [(0, 0, 4), (0, 1, 4), (0, 3, 4), (0, 1, 2, 3, 4)], ids=str)
def test_parts_one_after_the_other_give_the_logits_of_the_whole(model, edges):
    forward = forward_of(PAGES, reads_pr=READS_PR)
    hidden_prn, _ = decoder.run(model, TOKENS_PT, forward)
    whole = decoder.logits(model, hidden_prn, forward)
    assert whole.shape == (PAGES, 2, 50)
    parts = logits_in_parts(model, forward, *edges)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def branch_of_upper_layers() -> dict:
    """Side branches of three slots that the layers below FIRST do not have."""
    rng = np.random.default_rng(1)
    u, v = (rng.standard_normal((VARIANTS, 4, m, 1)).astype(np.float32) for m in (16, 8))
    u[:, :FIRST] = 0
    return {"layers": {"fc1": {"weight": {"u": jnp.asarray(u), "v": jnp.asarray(v)}}}}


def test_what_no_variant_touches_is_computed_once_for_all_of_them(model):
    adapters = branch_of_upper_layers()
    forward = dataclasses.replace(
        forward_of(PAGES * VARIANTS, adapters=adapters, variants=VARIANTS),
        slot_p=jnp.tile(jnp.arange(VARIANTS), PAGES),
        reads_pr=jnp.repeat(READS_PR, VARIANTS, axis=0),
    )
    repeated_pt = jnp.repeat(jnp.asarray(TOKENS_PT), VARIANTS, axis=0)
    hidden_prn, _ = decoder.run(model, repeated_pt, forward)
    whole = decoder.logits(model, hidden_prn, forward)

    base = forward_of(PAGES)
    x_ptn, _ = decoder.run_layers(model, model.embed(TOKENS_PT, base), base, 0, FIRST)
    x_ptn = jnp.repeat(x_ptn, VARIANTS, axis=0)
    x_prn, _ = decoder.run_layers(model, x_ptn, forward, FIRST)
    parts = decoder.logits(model, model.finish(x_prn, forward), forward)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())
    by_variant = np.asarray(whole).reshape(PAGES, VARIANTS, -1)
    assert np.abs(np.diff(by_variant, axis=1)).max() > 1e-2, "says nothing"


def test_parts_fill_the_same_cache(model):
    def cache_of(*edges: int):
        cache = decoder.empty_cache(model, PAGES, TOKENS)
        forward = dataclasses.replace(forward_of(PAGES, cache=cache), attend=prompt_attention)
        x_ptn = model.embed(TOKENS_PT, forward)
        for first, stop in itertools.pairwise(edges):
            x_ptn, cache = decoder.run_layers(model, x_ptn, forward, first, stop)
            forward = dataclasses.replace(forward, cache=cache)
        return cache

    for parts, whole in zip(cache_of(0, 2, 4), cache_of(0, 4), strict=True):
        assert whole.shape == (4, PAGES, 2, TOKENS, 4)
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(("first", "stop"), [(4, 4), (2, 1), (0, 5), (-1, 2)])
def test_layers_that_there_are_not_are_refused(model, first, stop):
    x_ptn = jnp.zeros((PAGES, TOKENS, 8))
    with pytest.raises(ValueError, match=f"layers {first} to {stop} of 4"):
        decoder.run_layers(model, x_ptn, forward_of(PAGES), first, stop)


def test_the_weight_tree_is_the_checkpoints():
    """Content hashes and run keys depend on these paths."""
    flat = traverse_util.flatten_dict(noisy(CONFIG).weights, sep="/")
    linear = ["self_attn/q_proj", "self_attn/k_proj", "self_attn/v_proj", "self_attn/out_proj"]
    with_bias = [*linear, "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
    layers = {f"layers/{name}/{part}" for name in with_bias for part in ("weight", "bias")}
    tables = ("embed_tokens", "embed_positions", "project_in", "project_out")
    assert flat.keys() == layers | {f"{name}/weight" for name in tables}


@pytest.mark.parametrize("edge", [1, 2, 3])
def test_an_adapter_of_some_layers_is_cut_where_a_part_ends(model, edge):
    whole = branch_of_upper_layers()
    cut = jax.tree.map(lambda leaf: leaf[:, FIRST:], whole["layers"])
    ranged = {"layers": LayerRange(cut, Layers(FIRST, 4, 4))}
    found = []
    for adapters in (whole, ranged):
        forward = dataclasses.replace(forward_of(PAGES, adapters=adapters), reads_pr=READS_PR)
        forward = dataclasses.replace(forward, slot_p=jnp.array([1, 2]))
        x_ptn, _ = decoder.run_adapted(model, model.embed(TOKENS_PT, forward), forward, 0, edge)
        found.append(decoder.run_from(model, x_ptn, forward, edge)[0])
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5 * np.abs(found[0]).max())
