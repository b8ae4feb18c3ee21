"""int4 matrices are the checkpoint's to half a step of their groups' grids, in half a byte each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.hub.checkpoints import noisy
from zojax.distributed import make_layout
from zojax.errors import InputError
from zojax.hub import load, save
from zojax.models import int4
from zojax.models.model import abstract_model, weight_sharding
from zojax.models.opt import OPTConfig
from zojax.models.precision import SCALE, dequantise, is_quantised
from zojax.models.registry import SHAPES

CONFIG = OPTConfig(50, 16, 3, 2, 96, 32, 4, do_layer_norm_before=False)
"""With projections beside the layers, and fc2 of three groups of 32."""
HALF_A_STEP = 0.5 * (1 + 1e-6)  # of float32's own rounding


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    save(noisy(CONFIG), path)
    return str(path)


def flat(weights) -> dict[str, np.ndarray]:
    return {
        path: np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(weights, sep="/").items()
    }


def transcribed(row: np.ndarray, group: int) -> tuple[list[int], list[float]]:
    """The entries and scales of one row, one number at a time, from the format's description."""
    entries, scales = [], []
    for start in range(0, len(row), group):
        own = [float(x) for x in row[start : start + group]]
        scale = max(abs(x) for x in own) / 7
        exponent = 0
        while scale and scale * 2.0**exponent >= 32:  # to five bits before the point
            exponent -= 1
        while scale and scale * 2.0**exponent < 16:
            exponent += 1
        scale = round(scale * 2.0**exponent) / 2.0**exponent
        scales.append(scale)
        entries += [round(x / scale) if scale else 0 for x in own]
    return entries, scales


def unpacked(packed: np.ndarray, group: int) -> list[int]:
    """The entries of one packed row."""
    entries = []
    for start in range(0, len(packed), group // 2):
        own = [int(byte) for byte in packed[start : start + group // 2]]
        entries += [byte % 16 for byte in own] + [byte // 16 for byte in own]
    return [entry - 16 if entry > 7 else entry for entry in entries]


@pytest.mark.parametrize("group", [2, 8, 24])
def test_entries_and_scales_are_those_of_a_plain_transcription(group):
    matrix = np.random.default_rng(group).standard_normal((5, 48)).astype(np.float32)
    matrix[2] = 0
    matrix[3] *= 1e-6
    packed, scale = int4.quantise(matrix, group)
    again = np.asarray(int4.dequantise(packed, scale, jnp.float32))
    for row, bytes_, of_row, whole in zip(matrix, packed, scale, again, strict=True):
        entries, scales = transcribed(row, group)
        assert unpacked(bytes_, group) == entries
        assert of_row.astype(float).tolist() == scales
        np.testing.assert_array_equal(whole, entries * np.repeat(scales, group))


def test_no_entry_is_further_than_half_a_step_of_its_group():
    weight = np.random.default_rng(0).standard_normal((3, 50, 64)).astype(np.float32)
    packed, scale = int4.quantise(weight, 16)
    steps = np.repeat(scale.astype(np.float32), 16, axis=-1)
    again = np.asarray(int4.dequantise(packed, scale, jnp.float32))
    assert (np.abs(again - weight) <= HALF_A_STEP * steps).all()
    largest = np.repeat(np.abs(weight).reshape(3, 50, 4, 16).max(-1), 16, axis=-1)
    np.testing.assert_allclose(steps, largest / 7, rtol=1 / 32)


def test_a_matrix_is_exactly_one_of_bfloat16():
    weight = np.random.default_rng(0).standard_normal((9, 128)).astype(np.float32)
    parts = int4.quantise(weight, 32)
    in_float32, in_bfloat16 = (int4.dequantise(*parts, d) for d in (jnp.float32, jnp.bfloat16))
    np.testing.assert_array_equal(in_float32, in_bfloat16.astype(jnp.float32))


def test_groups_divide_the_rows_that_there_are():
    assert [int4.group_of(n, 64) for n in (8, 64, 96, 768, 576)] == [8, 64, 48, 64, 64]
    with pytest.raises(InputError, match="has 7 columns, an odd number; use int8"):
        int4.group_of(7, 64)


def test_what_is_loaded_is_the_checkpoint_rounded_group_by_group(directory):
    whole = flat(load(directory, dtype="float32").weights)
    loaded = load(directory, dtype="int4", group_size=32).weights
    packed, again = flat(loaded), flat(dequantise(loaded))
    assert whole.keys() == again.keys()
    for path, weight in whole.items():
        if path.startswith("layers/") and weight.ndim == 3:
            groups = {16: 1, 96: 3}[weight.shape[-1]]
            assert packed[path].nbytes == weight.size // 2
            scale = packed[path.replace("weight", SCALE)]
            assert scale.shape == (*weight.shape[:-1], groups)
            steps = np.repeat(scale.astype(np.float32), weight.shape[-1] // groups, axis=-1)
            assert (np.abs(again[path] - weight) <= HALF_A_STEP * steps).all(), path
        else:
            np.testing.assert_array_equal(again[path], weight.astype(jnp.bfloat16), err_msg=path)


def test_on_a_mesh_scales_lie_as_the_columns_of_their_matrices(directory):
    layout = make_layout(1, 1)
    on_mesh = load(directory, dtype="int4", sharding=weight_sharding(layout, CONFIG)).weights
    specs = {
        path: tuple(leaf.sharding.spec)
        for path, leaf in traverse_util.flatten_dict(on_mesh, sep="/").items()
    }
    scales = [path for path in specs if path.endswith(SCALE)]
    assert len(scales) == 6
    for path in scales:
        assert specs[path] == specs[path.replace(SCALE, "weight")], path
    jax.tree.map(np.testing.assert_array_equal, on_mesh, load(directory, dtype="int4").weights)


@pytest.mark.parametrize(("group_size", "bits"), [(32, 4.5), (64, 4.25), (128, 4.125)])
def test_a_matrix_takes_four_bits_an_entry_and_its_groups_scales(group_size, bits):
    layers = abstract_model(SHAPES["opt-6.7b"], dtype="int4", group_size=group_size).weights[
        "layers"
    ]
    found = sum(
        linear[name].size * linear[name].dtype.itemsize
        for linear in [*layers["self_attn"].values(), layers["fc1"], layers["fc2"]]
        for name in ("weight", SCALE)
    )
    assert 8 * found == bits * 32 * (4 * 4096**2 + 2 * 4096 * 16384)
    others = jax.tree.leaves({"fc1": layers["fc1"]["bias"], "norm": layers["final_layer_norm"]})
    assert not any(is_quantised(leaf.dtype) for leaf in others)
