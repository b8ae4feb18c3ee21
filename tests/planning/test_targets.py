"""The machines that can be compiled for."""

import importlib.util

import pytest

from zojax.errors import InputError
from zojax.planning import targets
from zojax.planning.targets import CHIPS, devices_of, find_target


@pytest.mark.parametrize(
    ("name", "num_devices", "topology"),
    [
        ("h100x1", 1, "1x1x1"),
        ("h100x8", 8, "1x1x8"),
        ("h100x16", 16, "1x2x8"),
        ("a100x4", 4, "1x1x4"),
        ("v5e-4", 4, "v5e:2x2"),
        ("v6e-8", 8, "v6e:2x4"),
        ("v5p-8", 4, "v5p:2x2x1"),  # Google counts cores: two a chip
        ("v5p-16", 8, "v5p:2x2x2"),
        ("V5E-256", 256, "v5e:16x16"),
    ],
)
def test_a_name_means_so_many_devices(name, num_devices, topology):
    target = find_target(name)
    assert (target.num_devices, target.topology) == (num_devices, topology)
    assert target.name == name.lower()


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_a_topologys_sides_multiply_to_its_devices(chip):
    for num_devices, topology in chip.topologies.items():
        sides = topology.rpartition(":")[2].split("x")
        product = 1
        for side in sides:
            product *= int(side)
        assert product == num_devices
        assert find_target(chip.names(num_devices)).chip is chip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("b200x8", "--target b200x8: no such target; there are h100x8"),
        ("h100x9", "--target h100x9: h100 comes as h100x1, h100x2"),
        ("v5p-4", "--target v5p-4: v5p comes as v5p-8, v5p-16"),
        ("h100", "--target h100: h100 comes as h100x1"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(name, reason):
    with pytest.raises(InputError) as raised:
        find_target(name)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(("name", "extra"), [("h100x1", "plan-gpu"), ("v5e-4", "plan-tpu")])
def test_without_the_compiler_the_extra_that_brings_it_is_named(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"pip install 'zojax\[{extra}\]'"):
        devices_of(find_target(name))


def test_of_a_gpu_jax_takes_the_share_that_the_environment_names(monkeypatch):
    chip = CHIPS["h100"]
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert chip.usable_memory == int(0.75 * chip.memory)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    assert chip.usable_memory == int(0.92 * chip.memory)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(InputError, match="MEM_FRACTION=most"):
        targets.memory_fraction()
