"""Key/value prefixes against transformers' ``past_key_values``, with positions not shifted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters import stack_variants
from zojax.models import Model
from zojax.scoring import Item, from_span, pack, score, shape_needed
from zojax.scoring.prefix import prefix_from_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


# Both sides compute in float32 and sum in other orders; logits here are of the order of 1.
TOLERANCE = 2e-4
SCORE = jax.jit(score, static_argnames="graphdef")
LENGTH = 4


def their_model(model: Model):
    return transformers.AutoModelForCausalLM.from_pretrained(
        model.path, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def random_prefix(model: Model, seed: int) -> dict[str, np.ndarray]:
    """``k`` and ``v`` ``(layers, length, n)``."""
    config, rng = model.config, np.random.default_rng(seed)
    shape = (config.num_hidden_layers, LENGTH, config.hidden_size)
    return {name: rng.standard_normal(shape).astype(np.float32) for name in ("k", "v")}


def state(prefix) -> dict:
    """The adapter state of a prefix."""
    on = np.ones(len(prefix["k"]), np.float32)
    return {"layers": {"self_attn": {"prefix": {**prefix, "on": on}}}}


def their_cache(model: Model, prefix):
    cache = transformers.DynamicCache()
    for layer, (k_ln, v_ln) in enumerate(zip(prefix["k"], prefix["v"], strict=True)):
        heads = [
            torch.tensor(x_ln).reshape(1, LENGTH, model.config.num_attention_heads, -1)
            for x_ln in (k_ln, v_ln)
        ]
        cache.update(*(x.transpose(1, 2) for x in heads), layer)
    return cache


def their_logprobs(theirs, tokens: np.ndarray, cache=None) -> np.ndarray:
    """Log-probabilities of ``tokens[1:]``, with positions from 0."""
    with torch.no_grad():
        logits = theirs(
            torch.tensor(tokens[None], dtype=torch.int64),
            past_key_values=cache,
            position_ids=torch.arange(len(tokens))[None],
        ).logits[0]
    return logits.log_softmax(-1).numpy()[np.arange(len(tokens) - 1), tokens[1:]]


def our_logprobs(model: Model, pool, items: list[Item], slot: int) -> list[list[np.ndarray]]:
    """``[example][candidate]``, of two packed pages under one slot."""
    pages = pack(items, shape_needed(items, 2))
    pages = dataclasses.replace(pages, slot_p=np.full_like(pages.slot_p, slot))
    logprob_pc = np.asarray(SCORE(model.weights, pool, pages, graphdef=model.graphdef))
    scored = pages.weight_pc > 0
    return [
        [
            logprob_pc[scored & (pages.example_pc == i) & (pages.candidate_pc == c)]
            for c in range(len(item.candidates))
        ]
        for i, item in enumerate(items)
    ]


def random_items(vocab_size: int) -> list[Item]:
    """Trees of two candidates, and whole sequences that are scored."""
    rng = np.random.default_rng(3)

    def tokens(length: int) -> np.ndarray:
        return rng.integers(3, vocab_size, length).astype(np.int32)

    trees = [Item(tokens(n), (tokens(3), tokens(2))) for n in (5, 1, 12)]
    return [*trees, *(from_span(tokens(n), 1, n) for n in (2, 9, 40))]


def test_packed_trees_with_a_prefix_score_as_transformers_with_past_key_values(rough_model):
    prefixes = [random_prefix(rough_model, seed) for seed in (1, 2)]
    pool = stack_variants([state(prefix) for prefix in prefixes])
    items = random_items(rough_model.config.vocab_size)
    theirs = their_model(rough_model)
    in_slots = [our_logprobs(rough_model, pool, items, slot) for slot in (1, 2)]
    for prefix, ours in zip(prefixes, in_slots, strict=True):
        for item, by_candidate in zip(items, ours, strict=True):
            for candidate, logprobs in zip(item.candidates, by_candidate, strict=True):
                tokens = np.concatenate([item.prompt, candidate])
                expected = their_logprobs(theirs, tokens, their_cache(rough_model, prefix))
                expected = expected[len(item.prompt) - 1 :]
                np.testing.assert_allclose(logprobs, expected, atol=TOLERANCE)
    moved = np.abs(in_slots[0][5][0] - in_slots[1][5][0]).max()
    assert moved > 100 * TOLERANCE, "the prefix must matter for this test to say anything"


def test_slot_0_beside_a_prefix_scores_as_the_base_model(rough_model):
    pool = stack_variants([state(random_prefix(rough_model, 1))])
    items = random_items(rough_model.config.vocab_size)
    beside = our_logprobs(rough_model, pool, items, 0)
    alone = our_logprobs(rough_model, {}, items, 0)
    # Masked keys weigh exactly 0; but sums over more keys may be taken in another order.
    for with_pool, without in zip(beside, alone, strict=True):
        for a, b in zip(with_pool, without, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_prefix_of_real_tokens_is_their_past_key_values(rough_model):
    tokens_l = np.array([2, 7, 50, 91, 3], np.int32)
    ours = jax.jit(prefix_from_tokens, static_argnames="graphdef")(
        rough_model.weights, jnp.asarray(tokens_l), graphdef=rough_model.graphdef
    )
    with torch.no_grad():
        cache = their_model(rough_model)(
            torch.tensor(tokens_l[None], dtype=torch.int64), use_cache=True
        ).past_key_values
    for name, attribute in (("k", "keys"), ("v", "values")):
        expected = np.stack(
            [getattr(layer, attribute)[0].transpose(0, 1).numpy() for layer in cache.layers]
        )
        assert ours[name].dtype == jnp.float32
        np.testing.assert_allclose(
            ours[name], expected.reshape(*expected.shape[:2], -1), atol=TOLERANCE
        )
