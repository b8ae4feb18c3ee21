"""LoRAs of Llama as people publish them, read as PEFT reads them: every layer, ranks, rsLoRA."""

import copy
import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from zojax.adapters import stack_variants
from zojax.adapters.lora import load_lora
from zojax.scoring import from_span, pack, score, shape_needed

peft = pytest.importorskip("peft")
pytest.importorskip("torch")
pytest.importorskip("transformers")
peers = pytest.importorskip("tests.models.peers")

TOLERANCE = 2e-5
SCORE = jax.jit(score, static_argnames=("graphdef",))

MODULES = {
    "self_attn": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
}
# As PEFT 0.13 to 0.18 write it, with entries that are empty.
CONFIG: dict[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "meta-llama/Meta-Llama-3-8B",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": [name for names in MODULES.values() for name in names],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 32},
    "ranks of single layers and of a kind": {
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 4, "down_proj": 16},
        "alpha_pattern": {"down_proj": 64},
    },
    "ranks with rsLoRA": {"rank_pattern": {"k_proj": 2}, "use_rslora": True},
    "all layers by a word": {"target_modules": "all-linear"},
}


def write(directory, settings: dict[str, Any], ours) -> None:
    """A configuration and random factors, named as PEFT names them."""
    rng, tensors = np.random.default_rng(4), {}
    config = {**CONFIG, **settings}
    shapes = {name: p.shape for name, p in ours.theirs.named_parameters()}
    for layer in range(ours.ours.config.num_hidden_layers):
        for block, names in MODULES.items():
            for name in names:
                module = f"model.layers.{layer}.{block}.{name}"
                by_end = {end: r for end, r in config["rank_pattern"].items() if end in module}
                rank = next(iter(by_end.values()), config["r"])
                m, n = shapes[f"{module}.weight"]
                for side, shape in (("A", (rank, n)), ("B", (m, rank))):
                    factor = 0.2 * rng.standard_normal(shape).astype(np.float32)
                    tensors[f"base_model.model.{module}.lora_{side}.weight"] = factor
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("settings", PUBLISHED.values(), ids=PUBLISHED)
def test_a_published_lora_on_every_matrix_of_llama_scores_as_in_peft(settings, tmp_path):
    peer = peers.peer("llama")
    write(tmp_path, settings, peer)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(peer.theirs), str(tmp_path)).eval()
    pool = stack_variants([load_lora(tmp_path, peer.ours)])
    text = np.random.default_rng(8).integers(3, peers.VOCABULARY, 12).astype(np.int32)
    pages = pack(items := [from_span(text, 1, len(text))], shape_needed(items))
    pages = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    ours = np.asarray(SCORE(peer.ours.weights, pool, pages, graphdef=peer.ours.graphdef))[0]
    np.testing.assert_allclose(ours, peers.their_logprobs(theirs, text), atol=TOLERANCE)
    assert np.abs(ours - peers.their_logprobs(peer.theirs, text)).max() > 50 * TOLERANCE
