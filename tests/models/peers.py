"""Every family with its peer in transformers: tiny, random, and with all that makes it special.

Windows are shorter than texts, soft caps are reached, and heads have sizes of their own.
"""

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from flax.traverse_util import flatten_dict

from zojax.adapters import trainable_sites
from zojax.adapters.sites import nest
from zojax.hub import load
from zojax.hub.tensor_names import hf_names
from zojax.models import Model

VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA: dict[str, Any] = {"head_dim": 12, "sliding_window": 4, "query_pre_attn_scalar": 9}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "Llama",
        {"num_hidden_layers": 2, "head_dim": 12, "mlp_bias": True, "rope_parameters": LLAMA_3},
    ),
    "mistral": ("Mistral", {"num_hidden_layers": 2, "sliding_window": 4}),
    "qwen2": (
        "Qwen2",
        {
            "num_hidden_layers": 2,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3", {"num_hidden_layers": 2, "head_dim": 12}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 2, "no_rope_layer_interval": 2}),
    "gemma2": (
        "Gemma2",
        {
            "num_hidden_layers": 2,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            **GEMMA,
        },
    ),
    "gemma3_text": (
        "Gemma3Text",
        {
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e3},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
            **GEMMA,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """A model of transformers, and the same as zojax has loaded it."""

    theirs: Any
    ours: Model

    @property
    def directory(self) -> Path:
        return Path(self.ours.path)


@functools.cache
def peer(name: str) -> Peer:
    """A family's pair, made once a process."""
    kind, settings = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **settings})
    theirs = rough(getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config))
    return Peer(theirs, load(saved(theirs)))


def rough(theirs: Any) -> Any:
    """Random weights with which logits are of the order of 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(0.5 if "norm" in name else 0.0, 0.3)
    return theirs.eval()


def saved(theirs: Any) -> str:
    """Where a model of transformers was saved; its embedding's class cannot be asked for that."""
    directory = tempfile.mkdtemp(prefix="zojax-peer-")
    theirs.save_pretrained(directory)
    return directory


def read_by_transformers(directory: Path) -> Any:
    """A checkpoint as transformers loads it."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def their_logprobs(theirs: Any, tokens: np.ndarray, first: int = 1) -> np.ndarray:
    """Of the tokens from ``first`` on."""
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens[None], dtype=torch.int64)).logits[0]
    logprobs = logits.log_softmax(-1).numpy()
    return logprobs[np.arange(first - 1, len(tokens) - 1), tokens[first:]]


def changed(peer: Peer, change: Mapping[str, np.ndarray]) -> Any:
    """The model of transformers with something added to its weights, by zojax's paths."""
    theirs = copy.deepcopy(peer.theirs)
    weights = theirs.state_dict()
    paths = [tuple(path.split("/")) for path in change]
    for name, (path, layer) in hf_names(paths, peer.ours.config).items():
        moved = change["/".join(path)]
        with torch.no_grad():
            weights[name] += torch.tensor(moved if layer is None else moved[layer])
    return theirs


def dense(adapter: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What an adapter state adds to the weights, by paths."""
    flat = flatten_dict(adapter, sep="/")
    factored = {path.removesuffix("/u") for path in flat if path.endswith("/u")}
    added = {p: flat[f"{p}/u"] @ flat[f"{p}/v"].swapaxes(-1, -2) for p in factored}
    return {**{p: x for p, x in flat.items() if not p.endswith(("/u", "/v"))}, **added}


def change_of_all(model: Model) -> dict[str, Any]:
    """An adapter that moves every parameter: factors of rank 1 of matrices, deltas of vectors."""
    rng, flat = np.random.default_rng(3), {}
    for site in trainable_sites(model.weights, "full"):
        if site.is_matrix:
            *lead, m, n = site.shape
            flat[f"{site.path}/u"] = 0.2 * rng.standard_normal((*lead, m, 1)).astype(np.float32)
            flat[f"{site.path}/v"] = 0.2 * rng.standard_normal((*lead, n, 1)).astype(np.float32)
        else:
            flat[site.path] = 0.2 * rng.standard_normal(site.shape).astype(np.float32)
    return nest(flat)
