"""The projected gradient in float64, by transformers, as the reference for zojax and its peers.

It shares only the weights, the directions and the tokens with what it is compared to: the weights
are set to ``W ± ε U Vᵀ``, every product is in float64, and each sequence has a separate row, padded
on the right.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from torch.nn.functional import cross_entropy
from transformers import OPTForCausalLM

from zojax.hub.tensor_names import hf_names
from zojax.models.family import DecoderConfig
from zojax.models.registry import SHAPES
from zojax.scoring import Item

Tensors = dict[str, torch.Tensor]
"""Arrays by their names in the checkpoint."""


def load_model(path: Path) -> OPTForCausalLM:
    """Load a checkpoint in float64."""
    model = OPTForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager")
    return model.eval()


def by_name(tree: Any, config: DecoderConfig = SHAPES["opt-125m"]) -> Tensors:
    """Convert a tree of zojax's arrays, nested or by site, to float64 arrays of single layers.

    Args:
        tree: the arrays, those of all layers stacked.
        config: a model of the family, of any depth.
    """
    flat: dict[tuple[str, ...], Any] = {}
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        flat[tuple(path.split("/"))] = np.asarray(leaf, np.float64)
    num_layers = max(len(leaf) for path, leaf in flat.items() if path[0] == "layers")
    config = dataclasses.replace(config, num_hidden_layers=num_layers)
    tensors = {}
    for name, (path, layer) in hf_names(flat, config).items():
        tensors[name] = torch.from_numpy(flat[path] if layer is None else flat[path][layer])
    return tensors


@torch.inference_mode()
def scores(model: OPTForCausalLM, items: Sequence[Item]) -> torch.Tensor:
    """The candidates' mean token log-probabilities ``(items, candidates)``.

    Candidates that differ only in their last token are read from the same row.
    """
    candidates = [(item.prompt.tolist(), c.tolist()) for item in items for c in item.candidates]
    rows = {tuple(prompt + tail[:-1]): 0 for prompt, tail in candidates}
    rows = {tokens: row for row, tokens in enumerate(rows)}
    tokens_rt = torch.ones((len(rows), max(map(len, rows))), dtype=torch.long)
    mask_rt = torch.zeros_like(tokens_rt)
    for tokens, row in rows.items():
        tokens_rt[row, : len(tokens)] = torch.tensor(tokens)
        mask_rt[row, : len(tokens)] = 1
    hidden_rtn = model.model(input_ids=tokens_rt, attention_mask=mask_rt).last_hidden_state
    means = []
    for prompt, tail in candidates:
        row, first = rows[tuple(prompt + tail[:-1])], len(prompt) - 1
        logits_cv = model.lm_head(hidden_rtn[row, first : first + len(tail)])
        means.append(logits_cv.log_softmax(-1)[torch.arange(len(tail)), tail].mean())
    return torch.stack(means).view(len(items), -1)


def loss(model: OPTForCausalLM, items: Sequence[Item]) -> float:
    """Cross-entropy over the candidates' scores."""
    labels_b = torch.tensor([item.label for item in items])
    return cross_entropy(scores(model, items), labels_b).item()


def projected_grad(
    model: OPTForCausalLM, base: Tensors, u: Tensors, v: Tensors, items: list[Item], epsilon: float
) -> float:
    """``(L(W + ε U Vᵀ) − L(W − ε U Vᵀ)) / 2ε``; all examples have equally many candidates.

    Args:
        model: the model, whose parameters are all set.
        base: W of every parameter.
        u: U of every matrix that is moved.
        v: V of every matrix that is moved.
        items: the batch.
        epsilon: the probe's length.
    """

    def at(length: float) -> float:
        for name, parameter in model.named_parameters():
            moved = name in u
            parameter.data = base[name] + length * (u[name] @ v[name].T) if moved else base[name]
        return loss(model, items)

    return (at(epsilon) - at(-epsilon)) / (2 * epsilon)
