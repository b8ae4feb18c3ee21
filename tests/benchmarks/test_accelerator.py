"""The accelerator's command: it runs whole on a CPU, and no part of it can spoil another."""

import json
import os
import sys
import time
from pathlib import Path

import accelerator
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from on_device import device, kernels, page, processes
from on_device.figures import Budget, Figure, read_figures

from zojax.models import abstract_model
from zojax.planning.targets import CHIPS


@pytest.fixture
def budget(tmp_path) -> Budget:
    return Budget("some part", tmp_path / "told.jsonl", 100, rehearsal=False)


@pytest.fixture
def parts_in_this_process(monkeypatch):
    """All parts but PyTorch's are done by this process, which has imported all that they need."""
    watch = processes.watch

    def done_here(command, told, seconds, more, on_figure):
        if "PyTorch" in command:
            return watch(command, told, seconds, more, on_figure)
        accelerator.main([*command[2:], "--figures", str(told)])
        for figure in read_figures(told):
            on_figure(figure)
        told.unlink()
        return "done in this process"

    monkeypatch.setattr(processes, "watch", done_here)


@pytest.mark.slow
@pytest.mark.usefixtures("parts_in_this_process")
def test_a_rehearsal_measures_something_in_every_part_and_nothing_wrong(tmp_path, capfd):
    code = accelerator.main(["--rehearse", "--output", str(tmp_path)])
    told = capfd.readouterr().out
    assert code == 0, told
    result = json.loads((tmp_path / "rehearsal.json").read_text())
    assert {part.name for part in accelerator.PARTS} == set(result["parts"])
    assert all(outcome.startswith("done") for outcome in result["parts"].values()), told
    measured = [figure for figure in result["figures"] if figure["value"] is not None]
    assert {figure["part"] for figure in measured} == set(result["parts"])
    asked = [figure for figure in measured if figure["ok"] is not None]
    assert len(asked) > 10
    assert all(figure["what"] in told for figure in measured)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rehearsal.json", "rehearsal.png"]


def test_what_fails_in_a_part_is_told_and_the_rest_goes_on(budget, tmp_path):
    def fail():
        raise MemoryError("of the device\nand more")

    budget.attempt("the first", 10, fail)
    budget.attempt("the second", 1_000, fail)
    budget.attempt("the third", 10, lambda: budget.tell("the third", 1.5, "ms", ok=True))
    first, second, third = read_figures(tmp_path / "told.jsonl")
    assert (first.ok, first.value, first.note) == (False, None, "MemoryError: of the device")
    assert (second.ok, second.value) == (None, None)
    assert "were left" in second.note
    assert third == Figure("some part", "the third", 1.5, "ms", ok=True)


def test_a_figure_that_is_not_finite_is_wrong(budget, tmp_path):
    budget.tell("loss", float("nan"), ok=True)
    [figure] = read_figures(tmp_path / "told.jsonl")
    assert (figure.value, figure.ok) == (None, False)
    assert "nan" in figure.note


TELLS_AND = """
import sys
from pathlib import Path
from on_device.figures import Budget
Budget("part", Path(sys.argv[-1]), 100, rehearsal=True).tell("one", 1.0)
"""


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ("", "done in"),
        ("import time; time.sleep(100)", "stopped after"),
        ("sys.exit('out of memory')", "(exit code 1): out of memory"),
        ("import os; os.kill(os.getpid(), 9)", "(exit code -9)"),
    ],
)
def test_however_a_part_ends_what_it_told_is_kept(then, outcome, tmp_path):
    heard = []
    command = [sys.executable, "-c", TELLS_AND + then]
    began = time.monotonic()
    ended = processes.watch(command, tmp_path / "part.jsonl", 8, {}, heard.append)
    assert outcome in ended
    assert time.monotonic() - began < 60
    assert [figure.what for figure in heard] == ["one"]
    assert not (tmp_path / "part.jsonl").exists()


def test_a_part_that_is_stopped_leaves_no_process_behind(tmp_path):
    starts = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
    starts += "'import time; time.sleep(600)']); print(p.pid, file=open('PID', 'w'), flush=True); "
    for seconds in (4, 16, 64):  # a loaded machine may stop it before it has started any
        pid = tmp_path / f"pid-{seconds}"
        code = f"{starts} time.sleep(600)".replace("PID", str(pid))
        command = [sys.executable, "-c", code]
        processes.watch(command, tmp_path / "part.jsonl", seconds, {}, lambda figure: None)
        if pid.is_file() and pid.read_text():
            break
    started = int(pid.read_text())
    deadline = time.monotonic() + 30
    while _is_alive(started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(started)


def _is_alive(pid: int) -> bool:
    """Not so for one that has ended and that nobody has asked for yet."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_random_weights_are_as_wide_as_those_of_a_model_and_lie_where_they_are_wanted():
    from on_device.sizes import TINY

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = abstract_model(TINY, dtype=jnp.bfloat16, sharding=lambda path, shape: sharding).weights
    weights = device.random_weights(shapes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), weights) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    layers = weights["layers"]
    matrix = np.asarray(layers["fc1"]["weight"], np.float32)
    assert abs(matrix.std() / 0.02 - 1) < 0.05
    assert abs(np.corrcoef(matrix[0].ravel(), matrix[1].ravel())[0, 1]) < 0.1
    assert (np.asarray(layers["final_layer_norm"]["weight"], np.float32) == 1).all()
    assert not np.asarray(layers["fc1"]["bias"], np.float32).any()


@pytest.mark.parametrize(
    ("kind", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6e", "v6e"),
        ("TPU v6 lite", "v6e"),
        ("cpu", None),
    ],
)
def test_a_device_is_found_among_the_published_chips_by_its_kind(kind, chip):
    class Device:
        device_kind = kind

    assert device.chip_of(Device()) == (chip and CHIPS[chip])


def test_a_kernel_that_errs_is_found(budget, tmp_path, monkeypatch):
    right = kernels.attention_kernel.attend
    monkeypatch.setattr(
        kernels.attention_kernel, "attend", lambda *arguments: 1.1 * right(*arguments)
    )
    backend = kernels.attention_kernel.interpreted(kernels.attention_kernel.for_gpu())
    visibility = kernels.pages_of(96)
    inputs = kernels._inputs(visibility.first_pt.shape[1], 2, 16, jnp.float32)
    kernels._compare("kernel", inputs, visibility, backend, 1e-5, budget)
    assert [figure.ok for figure in read_figures(tmp_path / "told.jsonl")] == [False]


MACHINE = {"device": "Some GPU", "jax": "0.11"}


def result_of(*figures: Figure) -> dict:
    return {
        "machine": MACHINE,
        "began": "today",
        "parts": {"a": "done in 1 s", "b": "left out: no time was left"},
        "figures": [vars(figure) for figure in figures],
    }


def test_the_page_has_an_empty_cell_for_what_no_one_has_measured():
    plan = {"machine": MACHINE, "figures": [vars(Figure("plan", "x: a step", 12.5, "ms"))]}
    rows = page.docs_table(plan, []).splitlines()
    assert "| x: a step | 12.5 ms |  |" in rows
    filled = page.docs_table(plan, [result_of(Figure("13B", "x: a step", 14.0, "ms"))])
    assert "| x: a step | 12.5 ms | 14 ms |" in filled.splitlines()
    assert "not measured yet" in rows[0]
    assert "not measured yet" not in filled


def test_the_table_says_what_is_wrong_and_what_was_left_out(tmp_path):
    result = result_of(
        Figure("a", "opt-13b full: a step", 14.0, "ms", expected=12.5),
        Figure("a", "opt-13b full: a step in PyTorch", 700.0, "ms"),
        Figure("a", "c", 1.0, ok=False),
    )
    table = page.table(result)
    assert "| a | c | 1 |  | **wrong** |" in table
    assert "b: left out: no time was left" in table
    assert page.step_times(result) == {
        "zojax opt-13b full": (14.0, 12.5),
        "PyTorch opt-13b full": (700.0, None),
    }
    assert page.draw(result, tmp_path / "x.png")
    assert os.path.getsize(tmp_path / "x.png") > 1000
    assert not page.draw(result_of(), tmp_path / "y.png")
