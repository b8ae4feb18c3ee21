"""Saving: all or nothing, and nothing of a configuration is lost."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.hub.checkpoints import FC1, PRE_LN, assert_same, edit_config
from zojax.hub import load, save
from zojax.hub.saving import save_tensors
from zojax.hub.tensor_names import tensor_shapes


def test_saving_again_leaves_no_older_weights(sharded):
    model, directory = sharded
    other = dataclasses.replace(model, weights=jax.tree.map(lambda a: a + 1, model.weights))
    save(other, directory, metadata={"made_by": "a test"})
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["config.json", "model.safetensors"]
    assert_same(load(str(directory)).weights, other.weights)


def test_a_failed_save_leaves_the_older_weights(saved):
    model, directory = saved
    shapes = tensor_shapes(PRE_LN)

    def produce(name: str) -> np.ndarray:
        if name == FC1:
            raise RuntimeError("out of luck")
        return np.zeros(shapes[name], np.float32)

    with pytest.raises(RuntimeError, match="out of luck"):
        save_tensors(PRE_LN, directory, produce, dtype="float32")
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(load(str(directory)).weights, model.weights)


def test_configuration_and_metadata_are_kept(saved, tmp_path):
    from safetensors import safe_open

    edit_config(saved[1], bos_token_id=0, our_own="entry")
    save(load(str(saved[1])), tmp_path / "again", metadata={"made_by": "a test"})
    raw = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (raw["bos_token_id"], raw["our_own"], raw["pad_token_id"]) == (0, "entry", 1)
    with safe_open(tmp_path / "again" / "model.safetensors", "numpy") as file:
        assert file.metadata()["made_by"] == "a test"
