"""``zojax train`` as a process that others meet: a second command, and SIGTERM."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs.outcomes import outcome

STEPS = 600


def arguments(config_file: Path, directory: Path) -> list[str]:
    settings = [f"run.dir={directory}", f"train.steps={STEPS}", "train.eval_every=200"]
    settings += ["train.learning_rate=1e-2", "train.chunk=20"]
    pairs = [argument for setting in settings for argument in ("--set", setting)]
    return ["train", "--config", str(config_file), *pairs]


@pytest.fixture
def training(config_file, compiled_as_here, tmp_path):
    """A process that has trained a few steps and is paused, and its directory."""
    directory = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "zojax.cli", *arguments(config_file, directory)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **compiled_as_here},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline, metrics = time.monotonic() + 300, directory / "metrics.jsonl"
    while not (metrics.exists() and '"loss"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    try:
        yield process, directory
    finally:
        process.kill()
        process.communicate()


def test_a_running_run_is_left_alone_and_goes_on_after_sigterm_with_the_same_bits(
    training, config_file, tmp_path, run, refusal
):
    process, directory = training
    command = arguments(config_file, directory)
    for second in (command, [*command, "--fresh"]):
        line = refusal(run(*second))
        assert line.startswith(f"run.dir {directory} is in use by process {process.pid}; ")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "")
    assert time.monotonic() - began < 10
    stopped = re.search(rf"^stopped after step (\d+) of {STEPS}, nothing is lost", out, re.M)
    assert stopped is not None
    assert 0 < int(stopped[1]) < STEPS

    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert f"resuming after step {stopped[1]} of {STEPS}\n" in out
    assert run(*arguments(config_file, tmp_path / "undisturbed"))[0] == 0
    assert outcome(directory) == outcome(tmp_path / "undisturbed")
