"""The family of docs/add-a-model.md is transformers' Gemma."""

import re
import types

import jax
import numpy as np
import pytest

from zojax.hub import load, save
from zojax.models import registry
from zojax.scoring import from_span, pack, score, shape_needed

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peers = pytest.importorskip("tests.models.peers")


def test_the_pages_family_scores_and_saves_as_transformers_does(root, tmp_path, monkeypatch):
    text = (root / "docs" / "add-a-model.md").read_text()
    [source] = re.findall(r'```python title="my_gemma.py"\n(.*?)```', text, re.DOTALL)
    module = types.ModuleType("my_gemma")
    exec(compile(source, "my_gemma.py", "exec"), vars(module))
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, module.FAMILY))
    config = transformers.GemmaConfig(**peers.SIZES, num_hidden_layers=1, head_dim=12)
    theirs = peers.rough(transformers.GemmaForCausalLM(config))
    ours = load(peers.saved(theirs))
    tokens = np.random.default_rng(0).integers(3, peers.VOCABULARY, 11).astype(np.int32)
    pages = pack(items := [from_span(tokens, 1, len(tokens))], shape_needed(items))
    run = jax.jit(score, static_argnames="graphdef")
    logprob_pc = run(ours.weights, {}, pages, graphdef=ours.graphdef)
    expected = peers.their_logprobs(theirs, tokens)
    np.testing.assert_allclose(np.asarray(logprob_pc)[0], expected, atol=2e-5)
    save(ours, tmp_path)
    again = peers.read_by_transformers(tmp_path)
    for a, b in zip(theirs.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())
