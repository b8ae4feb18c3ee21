"""An interval's end has the same bits on every mesh, whatever instructions the processor has."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import LONG

SCRIPT = Path(__file__).with_name("bits_on_meshes.py")
INSTRUCTIONS = ["", "AVX2", "SSE4_2"] if LONG else ["", "AVX2"]
"""Of the processor itself, and of older ones."""


@pytest.fixture(scope="module")
def told(root):
    """``told(instructions)``: what the script prints."""

    @functools.cache
    def told(instructions: str) -> dict[str, Any]:
        flags = "--xla_force_host_platform_device_count=8"
        if instructions:
            flags += f" --xla_cpu_max_isa={instructions}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, str(SCRIPT)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return told


@pytest.mark.parametrize("instructions", INSTRUCTIONS, ids=lambda name: name or "all")
def test_folds_and_carried_moments_have_the_same_bits_on_every_mesh(instructions, told):
    for case, by_mesh in told(instructions).items():
        for mesh, bits in by_mesh.items():
            assert bits["moved"], case
            assert bits == by_mesh["1x1"], f"{case} on {mesh}"


def test_folds_have_the_same_bits_with_and_without_avx_512(told):
    """Both fuse a product with an addition, so that nothing of a fold can round otherwise."""
    here, older = told(""), told("AVX2")
    for case, by_mesh in here.items():
        assert by_mesh["1x1"]["fold"] == older[case]["1x1"]["fold"], case
