"""The runtime answers on meshes of 4 virtual devices as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zojax
from tests.campaigns import LONG
from tests.kept_programs import QUICK_FLAGS
from tests.serving.conftest import write_lora

MESHES = ["4x1", "2x2"] if LONG else ["2x2"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answers(root, tmp_path_factory):
    directory = tmp_path_factory.mktemp("serving")
    flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count=4"
    script = Path(__file__).with_name("serving_on_meshes.py")
    lora = write_lora(directory / "lora", 0, first=2)
    done = subprocess.run(
        [sys.executable, script, zojax.demo.MODEL, lora, *MESHES],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", MESHES)
def test_texts_and_scores_on_a_mesh_are_those_on_one_device(answers, mesh):
    alone, together = answers["1x1"], answers[mesh]
    assert (alone["devices"], together["devices"]) == (1, 4)
    assert alone["shared"] == 0
    assert together["shared"] >= 32, "of the long prompt, at least the first piece"
    assert together["texts"] == alone["texts"]
    np.testing.assert_allclose(together["scores"], alone["scores"], atol=1e-4)
