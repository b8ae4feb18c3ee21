"""Weights that are no numbers: counted and named at loading, and refused unless they are wanted."""

import numpy as np
import pytest

from tests.hub.checkpoints import EMBEDDING, FC1, message, read_tensors, write_tensors
from zojax.errors import InputError
from zojax.hub import load, save
from zojax.hub.finite import count_nonfinite

FLOATS = ("float32", "float16", "bfloat16")


def spoil(directory, *, places: dict[str, dict[int, float]], dtype: str = "float32") -> None:
    tensors = {name: value.astype(dtype) for name, value in read_tensors(directory).items()}
    for name, values in places.items():
        for place, value in values.items():
            tensors[name].flat[place] = value
    write_tensors(directory, tensors)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wanted", [*FLOATS, "int8"])
def test_weights_that_are_not_finite_are_counted_and_named(wanted, value, saved):
    spoil(saved[1], places={FC1: {0: value, 127: value}, EMBEDDING: {3: value}})
    with pytest.raises(InputError) as refused:
        load(str(saved[1]), dtype=wanted)
    text = str(refused.value)
    assert text.startswith(f"{saved[1]}: 3 numbers in 2 tensors are not finite")
    assert f"{FC1} (2 of 128)" in text
    assert f"{EMBEDDING} (1 of 400)" in text
    assert text.endswith("model.allow_nonfinite=True")


@pytest.mark.parametrize("format", ["safetensors", "bin"])
def test_what_a_narrower_dtype_makes_infinite_is_counted(format, pristine, saved, tmp_path):
    spoil(saved[1], places={FC1: {5: 65_520.0, 6: -1e30, 7: 65_519.0}})
    model = load(str(saved[1]))
    save(model, tmp_path / "again", format=format)
    with pytest.raises(InputError, match=r"2 numbers in 1 tensors are not finite as float16"):
        load(str(tmp_path / "again"), dtype="float16")
    weights = load(str(tmp_path / "again"), dtype="float16", allow_nonfinite=True).weights
    fc1 = np.asarray(weights["layers"]["fc1"]["weight"][1]).ravel()
    assert np.flatnonzero(~np.isfinite(fc1)).tolist() == [5, 6]


def test_weights_that_are_not_finite_are_read_where_they_are_wanted(saved):
    spoil(saved[1], places={FC1: {9: np.nan}})
    model = load(str(saved[1]), allow_nonfinite=True)
    fc1 = np.asarray(model.weights["layers"]["fc1"]["weight"][1]).ravel()
    assert np.flatnonzero(np.isnan(fc1)).tolist() == [9]
    [note] = model.notes
    assert f"{FC1} (1 of 128)" in note


def test_finite_weights_need_no_note(saved):
    assert load(str(saved[1])).notes == ()


def test_of_many_tensors_a_few_are_named(saved):
    spoil(saved[1], places={name: {0: np.nan} for name in read_tensors(saved[1])})
    text = message(saved[1])
    assert "52 numbers in 52 tensors" in text
    assert text.count("model.decoder") == 5


@pytest.mark.parametrize("stored", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_every_number_is_counted_as_the_rounding_makes_it(stored, wanted):
    """All numbers of 16 bits, and those of 32 whose upper half is any and whose lower is odd."""
    import jax.numpy as jnp

    upper = np.arange(1 << 16, dtype=np.uint32)
    if stored == "float32":
        lower = np.array([0, 1, 0x6FFF, 0x7000, 0xEFFF, 0xF000, 0x7FFF, 0x8000, 0xFFFF], np.uint32)
        values = ((upper << 16)[:, None] | lower).ravel().view(np.float32)
    else:
        values = upper.astype(np.uint16).view(jnp.dtype(stored))
    with np.errstate(over="ignore"):
        expected = ~np.isfinite(values.astype(jnp.dtype(wanted)).astype(np.float64))
    assert count_nonfinite(values, jnp.dtype(wanted)) == expected.sum()
    assert count_nonfinite(values[expected], jnp.dtype(wanted)) == expected.sum()
    assert count_nonfinite(values[~expected], jnp.dtype(wanted)) == 0


def test_an_empty_piece_has_none():
    assert count_nonfinite(np.empty((0, 8), np.float32), np.dtype("float32")) == 0


def test_a_run_is_told_which_weights_are_no_numbers(
    run, refusal, config_file, tiny_model, tmp_path
):
    import shutil

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    spoil(broken, places={EMBEDDING: {0: np.nan}})
    command = ("eval", "--config", config_file, "--set", f"model.path={broken}")
    line = refusal(run(*command))
    assert f"{EMBEDDING} (1 of 16,384)" in line
    train = ("train", "--config", config_file, "--set", f"model.path={broken}")
    assert "allow_nonfinite" in refusal(run(*train, "--set", f"run.dir={tmp_path}/run"))
