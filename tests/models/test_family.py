"""One file is all that another family takes: loading, scoring, generating, splitting and saving."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from tests.models import rotary
from zojax.adapters import stack_variants
from zojax.adapters.sites import trainable_sites
from zojax.distributed import Layout
from zojax.generation.decode import generate_tokens
from zojax.generation.prompts import pack_prompts
from zojax.hub import load, save
from zojax.models import registry
from zojax.models.model import weight_sharding
from zojax.scoring import Item, pack, score, shape_needed
from zojax.scoring.prefix import prefix_from_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 2e-5
WINDOW = 4


@pytest.fixture(autouse=True)
def _another_family(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, rotary.FAMILY))


@pytest.fixture(scope="module")
def theirs():
    config = transformers.MistralConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        max_position_embeddings=64,
        sliding_window=WINDOW,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3, 0.4)
    return model


@pytest.fixture
def ours(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "rotary"}))
    return load(str(tmp_path / "theirs"))


def their_logprobs(theirs, tokens: np.ndarray, first: int) -> np.ndarray:
    """Of the tokens from ``first`` on."""
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens[None], dtype=torch.int64)).logits[0]
    logprobs = logits.log_softmax(-1).numpy()
    return logprobs[np.arange(first - 1, len(tokens) - 1), tokens[first:]]


def test_packed_candidates_score_as_transformers_scores_them(theirs, ours):
    rng = np.random.default_rng(1)

    def tokens(n: int) -> np.ndarray:
        return rng.integers(3, 60, n).astype(np.int32)

    items = [Item(tokens(n), (tokens(3), tokens(2))) for n in (9, 2, 14)]
    pages = pack(items, shape_needed(items, 2))
    run = jax.jit(score, static_argnames="graphdef")
    logprob_pc = np.asarray(run(ours.weights, {}, pages, graphdef=ours.graphdef))
    for i, item in enumerate(items):
        for c, candidate in enumerate(item.candidates):
            here = (pages.weight_pc > 0) & (pages.example_pc == i) & (pages.candidate_pc == c)
            sequence = np.concatenate([item.prompt, candidate])
            expected = their_logprobs(theirs, sequence, len(item.prompt))
            np.testing.assert_allclose(logprob_pc[here], expected, atol=TOLERANCE)


def test_it_generates_what_transformers_generates(theirs, ours):
    prompt = np.array([7, 41, 3, 22, 9, 13], np.int32)
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(prompt[None], dtype=torch.int64), max_new_tokens=8, do_sample=False
        )[0, len(prompt) :].tolist()
    new_pm = generate_tokens(
        ours.weights,
        {},
        pack_prompts([prompt], 8),
        jax.random.key(0),
        graphdef=ours.graphdef,
        max_new_tokens=8,
    )
    assert new_pm[0].tolist()[: len(expected)] == expected


def test_it_is_saved_as_it_was(theirs, ours, tmp_path):
    save(ours, tmp_path / "ours")
    again = transformers.MistralForCausalLM.from_pretrained(tmp_path / "ours")
    for (name, a), b in zip(theirs.named_parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach(), err_msg=name)


def test_heads_of_keys_are_split_as_the_mesh_has_them(ours):
    layout = Layout(AbstractMesh((4, 2), ("data", "model")))  # pyright: ignore[reportArgumentType]
    sharding = weight_sharding(layout, ours.config)
    path = ("layers", "self_attn", "k_proj", "weight")
    assert sharding(path, (3, 12, 24)).spec == PartitionSpec(None, "model", None)


def test_side_branches_and_prefixes_are_found_by_its_own_names(ours):
    sites = [site.path for site in trainable_sites(ours.weights, "linear")]
    names = ["mlp/down_proj", "mlp/gate_proj", "mlp/up_proj"]
    names += [f"self_attn/{name}_proj" for name in "koqv"]
    assert sites == [f"layers/{name}/weight" for name in names]
    prefix = prefix_from_tokens(ours.weights, jnp.array([7, 41, 3]), ours.graphdef)
    assert prefix["k"].shape == prefix["v"].shape == (3, 3, 2 * 6)
    rng = np.random.default_rng(2)
    down = {
        "u": jnp.asarray(rng.standard_normal((3, 24, 1)), jnp.float32),
        "v": jnp.asarray(rng.standard_normal((3, 40, 1)), jnp.float32),
    }
    attention = {"prefix": {**prefix, "on": jnp.ones(3)}}
    pool = stack_variants(
        [{"layers": {"mlp": {"down_proj": {"weight": down}}, "self_attn": attention}}]
    )
    items = [Item(np.array([5, 6], np.int32), (np.array([8], np.int32),))]
    pages = pack(items, shape_needed(items))
    base = score(ours.weights, {}, pages, graphdef=ours.graphdef)
    in_slot_1 = dataclasses.replace(pages, slot_p=pages.slot_p + 1)
    moved = score(ours.weights, pool, in_slot_1, graphdef=ours.graphdef)
    assert np.abs(np.asarray(moved - base)[pages.weight_pc > 0]).min() > 1e-3
