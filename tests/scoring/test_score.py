"""Scores against transformers' own logits, and against themselves in other packings."""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rough_models import PRE_LN, STYLES
from zojax.adapters import (
    adapter_state,
    along,
    draw_dense,
    lowrank,
    own_arrays,
    seeded,
    seeded_fold,
    stack_variants,
    trainable_sites,
)
from zojax.adapters.fold import fold
from zojax.adapters.space_seeded import COEFFICIENTS, SEEDS
from zojax.hub import save
from zojax.models import Model, abstract_model
from zojax.models.opt import OPTConfig
from zojax.scoring import Item, candidate_scores, from_span, pack, score, shape_needed

SHAPES = {
    "pre-LN, odd heads": PRE_LN,
    "as 350M": STYLES["as 350M"],
    "untied head": dataclasses.replace(PRE_LN, tie_word_embeddings=False),
    "one head": dataclasses.replace(PRE_LN, num_attention_heads=1),
    "without biases": dataclasses.replace(PRE_LN, enable_bias=False),
}
# Both sides compute in float32 and sum in other orders; logits here are of the order of 1.
LOGIT_TOLERANCE = 2e-4
jitted_score = jax.jit(score, static_argnames=("graphdef", "normalize"))
PACKING_TOLERANCE = 1e-5


def rough_model(config: OPTConfig) -> Model:
    """Weights six times the usual, random biases and norms, so that no term can go missing."""
    model, rng = abstract_model(config), np.random.default_rng(7)

    def drawn(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 4 * jax.tree_util.keystr(path).endswith("norm']['weight']")
        return jnp.asarray(mean + 0.13 * rng.standard_normal(leaf.shape), leaf.dtype)

    return dataclasses.replace(
        model, weights=jax.tree_util.tree_map_with_path(drawn, model.weights)
    )


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def model(request) -> Model:
    return rough_model(SHAPES[request.param])


def reference_logprobs(model: Model, weights, directory, sequences) -> list[np.ndarray]:
    """Log-probabilities ``(t, vocab)`` of each sequence alone, from transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    save(dataclasses.replace(model, weights=weights), directory)
    theirs = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return [
            theirs(torch.tensor(tokens[None].astype(np.int64))).logits[0].log_softmax(-1).numpy()
            for tokens in sequences
        ]


def random_sequences(lengths, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, PRE_LN.vocab_size, n).astype(np.int32) for n in lengths]


def full_span(tokens: np.ndarray) -> Item:
    """Every token but the first scored."""
    return from_span(tokens, 1, len(tokens))


def scored_by_example(model: Model, pool, items, *, slots=(0,), shape=None):
    """``[slot][example][candidate] -> logprobs of its tokens``."""
    pages = pack(items, shape_needed(items, 4) if shape is None else shape)
    logprobs = []
    for slot in slots:
        in_slot = dataclasses.replace(pages, slot_p=np.full_like(pages.slot_p, slot))
        logprobs.append(in_slot)
    together = jax.tree.map(lambda *parts: np.concatenate(parts), *logprobs)
    logprob_pc = jitted_score(model.weights, pool, together, graphdef=model.graphdef)
    out = []
    for part in np.split(np.asarray(logprob_pc), len(slots)):
        out.append(
            [
                [
                    part[
                        (pages.weight_pc > 0) & (pages.example_pc == i) & (pages.candidate_pc == c)
                    ]
                    for c in range(len(item.candidates))
                ]
                for i, item in enumerate(items)
            ]
        )
    return out


def gold(reference_tv: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return reference_tv[np.arange(len(tokens) - 1), tokens[1:]]


def test_packed_pages_score_as_transformers_does(model, tmp_path):
    longest = PRE_LN.max_position_embeddings
    sequences = random_sequences([2, 3, 17, longest, 9, 5])
    items = [full_span(tokens) for tokens in sequences]
    [ours] = scored_by_example(model, {}, items)
    theirs = reference_logprobs(model, model.weights, tmp_path, sequences)
    for (logprobs,), reference, tokens in zip(ours, theirs, sequences, strict=True):
        np.testing.assert_allclose(logprobs, gold(reference, tokens), atol=LOGIT_TOLERANCE)


def test_candidate_trees_score_as_each_candidate_alone_in_transformers(model, tmp_path):
    prompts = random_sequences([1, 4, 11, PRE_LN.max_position_embeddings - 5])
    tails = random_sequences([1, 3, 1, 2, 5, 4, 1, 1], seed=5)
    items = [Item(prompt, (tails[2 * i], tails[2 * i + 1])) for i, prompt in enumerate(prompts)]
    [ours] = scored_by_example(model, {}, items)
    for item, by_candidate in zip(items, ours, strict=True):
        sequences = [np.concatenate([item.prompt, tail]) for tail in item.candidates]
        theirs = reference_logprobs(model, model.weights, tmp_path, sequences)
        for logprobs, reference, tokens in zip(by_candidate, theirs, sequences, strict=True):
            expected = gold(reference, tokens)[len(item.prompt) - 1 :]
            np.testing.assert_allclose(logprobs, expected, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("trainable", ["linear", "full"])
def test_adapter_slots_score_as_merged_weights_in_transformers(model, trainable, tmp_path):
    sites = trainable_sites(model.weights, trainable)
    states, merged = [], []
    for seed in (1, 2):
        params, subspace = drawn(sites, seed, 0.02)
        states.append(own_arrays(adapter_state(params, subspace)))
        merged.append(merge(model.weights, params, subspace))
    sequences = random_sequences([2, 7, 19])
    items = [full_span(tokens) for tokens in sequences]
    ours = scored_by_example(model, stack_variants(states), items, slots=(0, 1, 2))
    for in_slot, weights in zip(ours, [model.weights, *merged], strict=True):
        theirs = reference_logprobs(model, weights, tmp_path, sequences)
        for (logprobs,), reference, tokens in zip(in_slot, theirs, sequences, strict=True):
            np.testing.assert_allclose(logprobs, gold(reference, tokens), atol=LOGIT_TOLERANCE)
    moved = np.abs(ours[1][2][0] - ours[0][2][0]).max()
    assert moved > 100 * LOGIT_TOLERANCE, "the adapter must matter for this test to say anything"


def drawn(sites, seed, scale):
    """Random params of some scale, and a subspace."""
    space = lowrank(sites, rank=2)
    params, subspace = space.init({}, jax.random.key(0)), space.redraw(jax.random.key(10 + seed))
    direction = draw_dense(jax.random.key(seed), params, subspace, jax.random.normal)
    return {path: scale * value for path, value in direction.items()}, subspace


@pytest.mark.parametrize(
    ("model", "normalize", "blocks"),
    [
        ("pre-LN, odd heads", True, "whole"),
        ("as 350M", True, "in blocks"),
        ("untied head", False, "in blocks"),
    ],
    indirect=["model"],
)
def test_seeded_directions_score_as_weights_moved_along_them(model, normalize, blocks, monkeypatch):
    """What is drawn row by row in every layer is what a fold puts into the weights."""
    if blocks == "in blocks":  # which do not divide the matrices
        monkeypatch.setattr(sys.modules["zojax.adapters.space_seeded"], "_ROWS", 7)
        monkeypatch.setattr(sys.modules["zojax.models.branches"], "_ENTRIES", 7 * 24)
    # Traced anew, with the sizes of these blocks.
    fresh_score = jax.jit(functools.partial(score), static_argnames=("graphdef", "normalize"))
    sites = trainable_sites(model.weights, "full")
    space = seeded(num_directions=2)
    subspace = space.redraw(jax.random.key(4))
    tails = tuple(np.array([t], np.int32) for t in (5, 11, 40))
    items = [Item(prompt, tails) for prompt in random_sequences([3, 9])]
    pages = pack(items, shape_needed(items, 2))
    scale_d, scores = jnp.array([0.02, -0.03]), []
    copy = jax.tree.map(jnp.copy, model.weights)
    fold_seeded = jax.jit(seeded_fold(sites, "nearest").apply)
    moved, _ = fold_seeded(copy, {COEFFICIENTS: scale_d}, subspace, jax.random.key(0))
    pool = stack_variants(along(sites, subspace[SEEDS], scale_d[None]))
    cases = ((moved, {}, 0), (model.weights, pool, 1), (model.weights, pool, 0))
    for weights, adapters, slot in cases:
        pages = dataclasses.replace(pages, slot_p=np.full_like(pages.slot_p, slot))
        logprob_pc = fresh_score(
            weights, adapters, pages, graphdef=model.graphdef, normalize=normalize
        )
        scores.append(candidate_scores(logprob_pc, pages, num_examples=2, num_candidates=3))
    np.testing.assert_allclose(scores[1], scores[0], atol=LOGIT_TOLERANCE)
    assert np.abs(scores[1] - scores[2]).max() > 100 * LOGIT_TOLERANCE  # slot 0 is the base


def merge(weights, params, subspace):
    """The adapter added to the weights: factors through the fold, deltas by a sum."""
    from zojax.adapters.sites import nest

    copy = jax.tree.map(jnp.copy, weights)
    folded, rest = fold(copy, params, subspace, jax.random.key(0), "nearest")
    deltas = nest({path: value for path, value in rest.items() if path not in subspace})

    def add(weight_tree, delta_tree):
        return {
            name: (
                add(weight, delta_tree.get(name, {}))
                if isinstance(weight, dict)
                else weight + delta_tree[name]
                if name in delta_tree
                else weight
            )
            for name, weight in weight_tree.items()
        }

    return add(folded, deltas)


def test_packing_does_not_change_a_score(model):
    items = [full_span(tokens) for tokens in random_sequences([2, 6, 13, 31, 8])]
    [packed] = scored_by_example(model, {}, items)
    largest = shape_needed([items[3]])
    for item, (logprobs,) in zip(items, packed, strict=True):
        [[[alone]]] = scored_by_example(model, {}, [item], shape=largest)
        np.testing.assert_allclose(logprobs, alone, atol=PACKING_TOLERANCE)


def test_bare_logits_rank_single_token_candidates_as_logprobs_do(model):
    prompts = random_sequences([3, 9, 14])
    tails = tuple(np.array([t], np.int32) for t in (5, 11, 40))
    items = [Item(prompt, tails) for prompt in prompts]
    pages = pack(items, shape_needed(items, 2))
    probabilities = []
    for normalize in (True, False):
        logprob_pc = jitted_score(
            model.weights, {}, pages, graphdef=model.graphdef, normalize=normalize
        )
        scores_bk = candidate_scores(logprob_pc, pages, num_examples=3, num_candidates=3)
        probabilities.append(jax.nn.softmax(scores_bk, axis=-1))
    np.testing.assert_allclose(*probabilities, atol=PACKING_TOLERANCE)


def test_bare_logits_see_the_adapter_as_logprobs_do(model):
    sites = trainable_sites(model.weights, "full")
    pool = stack_variants([adapter_state(*drawn(sites, 1, 0.05))])
    tails = tuple(np.array([t], np.int32) for t in (5, 11, 40))
    items = [Item(prompt, tails) for prompt in random_sequences([3, 9])]
    pages = pack(items, shape_needed(items, 2))
    pages = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    probabilities = []
    for normalize in (True, False):
        logprob_pc = jitted_score(
            model.weights, pool, pages, graphdef=model.graphdef, normalize=normalize
        )
        scores_bk = candidate_scores(logprob_pc, pages, num_examples=2, num_candidates=3)
        probabilities.append(jax.nn.softmax(scores_bk, axis=-1))
    np.testing.assert_allclose(*probabilities, atol=PACKING_TOLERANCE)
