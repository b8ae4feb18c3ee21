"""Every family scores, generates and saves as transformers does, with adapters and without."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters import stack_variants
from zojax.adapters.lora import load_lora
from zojax.generation.decode import generate_tokens
from zojax.generation.prompts import pack_prompts
from zojax.hub import load, save
from zojax.models.precision import dequantise
from zojax.scoring import Item, from_span, pack, repeat_for_slots, score, shape_needed
from zojax.scoring.prefix import prefix_from_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peers = pytest.importorskip("tests.models.peers")

# Both sides compute in float32 and sum in other orders; logits here are of the order of 1.
TOLERANCE = 2e-5
SCORE = jax.jit(score, static_argnames=("graphdef", "variants"))


every_family = pytest.mark.parametrize("name", peers.FAMILIES)


@functools.cache
def moved(name: str):
    """A pool whose slot 1 moves all parameters, and the model of transformers with that change."""
    peer = peers.peer(name)
    change = peers.change_of_all(peer.ours)
    return stack_variants([jax.tree.map(jnp.asarray, change)]), peers.changed(
        peer, peers.dense(change)
    )


def tokens(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(3, peers.VOCABULARY, count).astype(np.int32)


@every_family
def test_packed_candidates_score_as_transformers_scores_them_in_every_slot(name):
    rng, peer, (pool, moved_theirs) = np.random.default_rng(1), peers.peer(name), moved(name)
    items = [Item(tokens(rng, n), (tokens(rng, 3), tokens(rng, 2))) for n in (9, 2, 14)]
    pages = repeat_for_slots(pack(items, shape_needed(items, 2)), 0, 2)
    logprob_pc = np.asarray(
        SCORE(peer.ours.weights, pool, pages, graphdef=peer.ours.graphdef, variants=2)
    )
    for slot, theirs in enumerate([peer.theirs, moved_theirs]):
        for i, item in enumerate(items):
            for c, candidate in enumerate(item.candidates):
                here = (pages.weight_pc > 0) & (pages.slot_p == slot)[:, None]
                here &= (pages.example_pc == i) & (pages.candidate_pc == c)
                sequence = np.concatenate([item.prompt, candidate])
                expected = peers.their_logprobs(theirs, sequence, len(item.prompt))
                np.testing.assert_allclose(logprob_pc[here], expected, atol=TOLERANCE)


@every_family
def test_it_generates_token_for_token_what_transformers_generates_in_every_slot(name):
    rng, peer, (pool, moved_theirs) = np.random.default_rng(2), peers.peer(name), moved(name)
    prompts = [tokens(rng, 6), tokens(rng, 3)]
    expected = []
    for prompt, theirs in zip(prompts, [peer.theirs, moved_theirs], strict=True):
        asked = torch.tensor(prompt[None], dtype=torch.int64)
        new = theirs.generate(asked, max_new_tokens=8, do_sample=False, eos_token_id=None)
        expected.append(new[0, len(prompt) :].tolist())
    new_pm = generate_tokens(
        peer.ours.weights,
        pool,
        pack_prompts(prompts, 8, slots=[0, 1]),
        jax.random.key(0),
        graphdef=peer.ours.graphdef,
        max_new_tokens=8,
    )
    assert new_pm.tolist() == expected
    assert len(set(expected[0] + expected[1])) > 2, "says little"


@every_family
def test_it_is_saved_as_it_was(name, tmp_path):
    peer = peers.peer(name)
    save(peer.ours, tmp_path)
    again = peers.read_by_transformers(tmp_path)
    assert type(again) is type(peer.theirs)
    for (name, a), b in zip(peer.theirs.named_parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach(), err_msg=name)
    assert again.config.rope_parameters == peer.theirs.config.rope_parameters


@pytest.mark.parametrize("name", ["gemma2"])
def test_long_pages_are_attended_in_blocks_with_windows_and_soft_caps(name):
    peer = peers.peer(name)
    text = tokens(np.random.default_rng(4), 300)  # longer than a block
    pages = pack(items := [from_span(text, 1, len(text))], shape_needed(items))
    logprob_pc = SCORE(peer.ours.weights, {}, pages, graphdef=peer.ours.graphdef)
    expected = peers.their_logprobs(peer.theirs, text)
    np.testing.assert_allclose(np.asarray(logprob_pc)[0], expected, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama", "smollm3"])
def test_a_prefix_of_tokens_is_the_text_that_begins_with_them(name):
    """For a prefix's keys stand before the text, where its tokens would."""
    peer = peers.peer(name)
    rng = np.random.default_rng(5)
    before, text = tokens(rng, 5), tokens(rng, 9)
    prefix = prefix_from_tokens(
        peer.ours.weights, jnp.asarray(before), peer.ours.graphdef, first_position=-len(before)
    )
    on = jnp.ones(peer.ours.config.num_hidden_layers)
    pool = stack_variants([{"layers": {"self_attn": {"prefix": {**prefix, "on": on}}}}])
    pages = pack(items := [from_span(text, 1, len(text))], shape_needed(items))
    pages = repeat_for_slots(pages, 0, 2)
    base, under_prefix = np.asarray(
        SCORE(peer.ours.weights, pool, pages, graphdef=peer.ours.graphdef)
    )
    np.testing.assert_allclose(base, peers.their_logprobs(peer.theirs, text), atol=TOLERANCE)
    both = np.concatenate([before, text])
    expected = peers.their_logprobs(peer.theirs, both, first=len(before) + 1)
    np.testing.assert_allclose(under_prefix, expected, atol=TOLERANCE)
    assert np.abs(under_prefix - base).max() > 50 * TOLERANCE, "says nothing"


def test_a_lora_that_peft_made_scores_as_peft_scores_it(tmp_path):
    peft, peer = pytest.importorskip("peft"), peers.peer("llama")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = peft.LoraConfig(
        r=2, target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(copy.deepcopy(peer.theirs), settings).eval()
    adapted.save_pretrained(str(tmp_path))
    pool = stack_variants([load_lora(tmp_path, peer.ours)])
    text = tokens(np.random.default_rng(8), 12)
    pages = pack(items := [from_span(text, 1, len(text))], shape_needed(items))
    pages = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    ours = np.asarray(SCORE(peer.ours.weights, pool, pages, graphdef=peer.ours.graphdef))[0]
    np.testing.assert_allclose(ours, peers.their_logprobs(adapted, text), atol=TOLERANCE)
    assert np.abs(ours - peers.their_logprobs(peer.theirs, text)).max() > 50 * TOLERANCE


def test_int8_matrices_score_as_the_numbers_that_they_hold():
    peer = peers.peer("qwen3")
    exact = load(peer.ours.path, dtype="int8", exact=True)
    assert exact.weights["layers"]["mlp"]["gate_proj"]["weight"].dtype == jnp.int8
    rounded = dataclasses.replace(peer.ours, weights=dequantise(exact.weights))
    text = tokens(np.random.default_rng(6), 12)
    pages = pack(items := [from_span(text, 1, len(text))], shape_needed(items))
    ours = SCORE(exact.weights, {}, pages, graphdef=exact.graphdef)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded.weights)
    expected = SCORE(wide, {}, pages, graphdef=peer.ours.graphdef)
    np.testing.assert_allclose(ours, expected, atol=5 * TOLERANCE)
