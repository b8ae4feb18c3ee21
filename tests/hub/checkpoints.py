"""Small checkpoints of every style, and what the tests do to them."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from zojax.errors import InputError
from zojax.hub import load
from zojax.models import Model, abstract_model
from zojax.models.opt import OPTConfig

PRE_LN = OPTConfig(50, 8, 3, 2, 16, 32, 8)
CONFIGS = {
    "pre_ln": PRE_LN,
    "untied": dataclasses.replace(PRE_LN, tie_word_embeddings=False),
    "350m_style": dataclasses.replace(PRE_LN, do_layer_norm_before=False, word_embed_proj_dim=4),
    "no_bias": dataclasses.replace(PRE_LN, enable_bias=False),
}
EMBEDDING = "model.decoder.embed_tokens.weight"
FC1 = "model.decoder.layers.1.fc1.weight"


@functools.cache
def noisy(config: OPTConfig) -> Model:
    """A model in which no two tensors are alike, so that a swap cannot hide.

    Of shapes alone: compiling what draws a whole model takes seconds.
    """
    model = abstract_model(config)
    leaves, structure = jax.tree.flatten(model.weights)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    leaves = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return dataclasses.replace(model, weights=jax.tree.unflatten(structure, leaves))


def assert_same(weights, expected):
    assert jax.tree.structure(weights) == jax.tree.structure(expected)
    for (path, got), want in zip(
        jax.tree.leaves_with_path(weights), jax.tree.leaves(expected), strict=True
    ):
        assert got.dtype == want.dtype, path
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want), err_msg=str(path))


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(directory / "model.safetensors")


def write_tensors(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, directory / "model.safetensors")


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


def message(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_mentions(text: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in text
