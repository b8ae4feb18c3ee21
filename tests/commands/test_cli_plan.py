"""``zojax plan``: its page, its JSON and its exit codes, for this machine in another's place."""

import dataclasses
import json

import jax
import pytest

from zojax.commands import plan as plan_command
from zojax.planning import answer
from zojax.planning.shapes import SST2_TOKENS
from zojax.planning.targets import CHIPS, Target


@pytest.fixture(autouse=True)
def without_devices(monkeypatch):
    """What the command would leave in the environment."""
    for name, value in plan_command._WITHOUT_DEVICES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def planned(run, monkeypatch):
    """``planned(memory, …)``: the command, for this machine in the place of an H100."""

    def planned(share: float, *options: str):
        gpu = dataclasses.replace(CHIPS["h100"], memory=int(share), gpu=None)
        found = Target(dataclasses.replace(gpu, topologies={1: "1x1x1"}), 1)
        monkeypatch.setattr(answer, "find_target", lambda name: found)
        monkeypatch.setattr("zojax.planning.plan.devices_of", lambda target: jax.devices()[:1])
        return run("plan", "--target", "h100x1", "--set", "model.dtype=float32", *options)

    return planned


def test_a_plan_that_fits_is_a_page_and_exit_code_0(planned, tiny_model):
    code, out, err = planned(1e9, "--model", str(tiny_model), "--tokens", "160")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tiny_model} on h100x1: fits\n")
    assert "a step: 160 tokens in 224 places on 7 pages" in out
    assert "weights copied by the step" in out
    assert "an estimate from published rates" in out


def test_a_plan_that_does_not_fit_ends_with_exit_code_3(planned, tiny_model):
    code, out, err = planned(1e4, "--model", str(tiny_model), "--json")
    assert (code, err) == (3, "")
    [told] = json.loads(out)["plans"]
    assert told["fits"] is False
    assert told["smallest_that_fits"] is None
    assert told["batch"]["tokens"] == SST2_TOKENS
    code, out, _ = planned(1e4, "--model", str(tiny_model))
    assert code == 3
    assert "does not fit" in out
    assert "it does not fit on any number of NVIDIA H100 80GB HBM3 that is known here" in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--target", "tpu"], "--target tpu: no such target"),
        (["--target", ","], "--target: name a target"),
        (["--target", "h100x1", "--model", "gpt2"], "--model gpt2: neither a directory"),
        (["--target", "h100x1", "--set", "mesh.modle=2"], "--set mesh.modle=2: no field"),
    ],
)
def test_a_slip_is_one_line(run, refusal, options, reason):
    assert refusal(run("plan", *options)).startswith(reason)


def test_a_run_that_fits_with_more_shards_is_told_so(planned, tiny_model, monkeypatch):
    def with_room(config, model, plan, tokens, console):
        chip = dataclasses.replace(plan.target.chip, memory=10**9)
        return answer.make_plan(config, model, Target(chip, 1), tokens)

    monkeypatch.setattr(answer, "smallest", with_room)
    code, out, _ = planned(1e4, "--model", str(tiny_model))
    assert code == 3
    assert "it fits with --set mesh.model=1, mesh data 1 × model 1" in out
