"""int8 matrices are the checkpoint's to half a step of their rows' grids, all else is bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.hub.checkpoints import noisy
from zojax.distributed import make_layout
from zojax.hub import load, save
from zojax.models.model import weight_sharding
from zojax.models.opt import OPTConfig
from zojax.models.precision import SCALE, dequantise, quantise

CONFIG = OPTConfig(50, 8, 3, 2, 16, 32, 4, do_layer_norm_before=False)
"""With projections beside the layers."""
MATRICES = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    save(noisy(CONFIG), path)
    return path


def flat(weights) -> dict[str, np.ndarray]:
    return {
        path: np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(weights, sep="/").items()
    }


def test_no_entry_is_further_than_half_a_step_of_its_row():
    weight = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    weight[1, 2] = 0
    entries, scale = quantise(weight)
    assert entries.dtype == np.int8
    assert scale.shape == (3, 5)
    steps = np.abs(weight).max(-1) / 127
    error = np.abs(entries.astype(np.float64) * scale[..., None] - weight)
    assert (error.max(-1) <= 0.5 * steps * (1 + 1e-6)).all()
    assert (np.abs(entries).max(-1) == np.where(steps > 0, 127, 0)).all()


def test_the_layers_matrices_alone_are_int8_and_take_a_byte_an_entry(directory):
    whole, int8 = (flat(load(str(directory), dtype=d).weights) for d in ("float32", "int8"))
    stored = {path.split("/")[-2] for path, leaf in int8.items() if leaf.dtype == np.int8}
    assert stored == MATRICES
    for path, leaf in int8.items():
        if path.endswith(SCALE):
            assert leaf.dtype == np.float32
        elif leaf.dtype == np.int8:
            assert path.startswith("layers/")
            assert leaf.shape == whole[path].shape
        else:
            np.testing.assert_array_equal(leaf, whole[path].astype(jnp.bfloat16), err_msg=path)


def test_what_is_loaded_is_the_checkpoint_rounded_row_by_row(directory):
    whole = flat(load(str(directory), dtype="float32").weights)
    again = flat(dequantise(load(str(directory), dtype="int8").weights))
    assert whole.keys() == again.keys()
    for path, weight in whole.items():
        if path.startswith("layers/") and weight.ndim == 3:
            steps = np.abs(weight).max(-1, keepdims=True) / 127
            assert (np.abs(again[path] - weight) <= 0.5 * steps * (1 + 1e-6)).all(), path
            assert np.abs(again[path] - weight).max() > 0.2 * steps.min(), "nothing was rounded"


def test_on_a_mesh_scales_lie_as_the_rows_of_their_matrices(directory):
    layout = make_layout(1, 1)
    on_mesh = load(str(directory), dtype="int8", sharding=weight_sharding(layout, CONFIG)).weights
    specs = {
        path: tuple(leaf.sharding.spec)
        for path, leaf in traverse_util.flatten_dict(on_mesh, sep="/").items()
    }
    for path, spec in specs.items():
        if path.endswith(SCALE):
            assert spec == specs[path.replace(SCALE, "weight")][:2], path
    everywhere = load(str(directory), dtype="int8").weights
    jax.tree.map(np.testing.assert_array_equal, on_mesh, everywhere)
