"""What a run shows while it trains: on a terminal and off it."""

import io
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from tests.reporting.events import read_events
from zojax.evaluation.classes import Answers, class_report
from zojax.evaluation.report import Report
from zojax.reporting.board import write_result
from zojax.reporting.confusion import draw_confusion
from zojax.reporting.curves import draw_curves
from zojax.reporting.reporter import Reporter

WIDTH = 80


def last_line(directory, *, terminal: bool, metric: str, loss: float | None, speed: float) -> str:
    """Of a run of 20,000 steps that is at its last, after an evaluation."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=WIDTH if terminal else 200,
        force_terminal=terminal,
        color_system=None,
        legacy_windows=False,
        highlight=False,
    )
    with Reporter(directory, console, 0, 20_000) as reporter:
        reporter.evaluation(20_000, "dev", metric, 1.0)
        reporter.chunk(
            [{"step": 20_000, "loss": loss}], steps_per_second=2.5, tokens_per_second=speed
        )
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", file.getvalue())  # control sequences
    lines = text.replace("\r", "\n").split("\n")
    return [line.rstrip() for line in lines if "20000" in line][-1]


@pytest.mark.parametrize(
    ("metric", "loss", "speed", "expected"),
    [
        ("accuracy", None, 999_499, "no finite loss · dev 100.0 % @ 20000 · 999k tok/s"),
        ("accuracy", 12.34567, 9_999.4, "loss 12.3457 · dev 100.0 % @ 20000 · 9,999 tok/s"),
        ("macro_f1", -0.25, 10_500_000, "loss -0.2500 · dev 100.0 % @ 20000 · 10,500k tok/s"),
    ],
)
def test_the_bar_of_the_longest_line_is_not_cut_at_80_columns(
    tmp_path, metric, loss, speed, expected
):
    line = last_line(tmp_path, terminal=True, metric=metric, loss=loss, speed=speed)
    assert "…" not in line
    assert f"20000/20000 {expected}" in line
    assert line.endswith(" 00:00")
    assert len(line) + len("12:34:56") - len("00:00") <= WIDTH


def test_off_a_terminal_a_line_has_all(tmp_path):
    line = last_line(tmp_path, terminal=False, metric="f1", loss=0.5, speed=12_345)
    assert line == (
        "step 20000/20000 · loss 0.5000 · dev 100.0 % @ 20000 · 12,345 tok/s · 2.5 steps/s · "
        "0 s left"
    )


def test_a_bar_without_room_for_all_leaves_out_the_speed_and_then_the_dev_loss(tmp_path):
    def status(width: int) -> str:
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=True, color_system=None)
        with Reporter(tmp_path, console, 0, 20_000) as reporter:
            reporter.evaluation(400, "dev", "accuracy", 0.5, loss=0.25)
            step = {"step": 20_000, "loss": 0.5}
            reporter.chunk([step], steps_per_second=1.0, tokens_per_second=1000.0)
        return file.getvalue()

    whole = "loss 0.5000 · dev 50.0 %, loss 0.2500 @ 400"
    assert f"{whole} · 1,000 tok/s" in status(100)
    assert whole in status(80)
    assert "tok/s" not in status(80)
    assert "loss 0.5000 · dev 50.0 % @ 400" in status(65)


def test_a_bar_has_a_dev_figure_as_soon_as_it_is_known(tmp_path):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with Reporter(tmp_path, console, 0, 400) as reporter:
        reporter.chunk([{"step": 400, "loss": 0.5}], steps_per_second=1.0, tokens_per_second=1.0)
        reporter.evaluation(400, "dev", "accuracy", 0.5)
    assert "loss 0.5000 · dev 50.0 % @ 400 · 1 tok/s" in file.getvalue()


def lines_off_a_terminal(directory, evaluate_at: int, silent: float = 60.0) -> list[str]:
    """Of 100 steps in chunks of one."""
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zojax.reporting.reporter._SILENT_SECONDS", silent)
        with Reporter(directory, Console(file=file, width=200), 0, 100) as reporter:
            for step in range(1, 101):
                one = {"step": step, "loss": 0.5}
                reporter.chunk([one], steps_per_second=1.0, tokens_per_second=1.0)
                if step == evaluate_at:
                    reporter.evaluation(step, "dev", "accuracy", 0.5, loss=0.25)
    return file.getvalue().splitlines()


def test_off_a_terminal_an_evaluation_is_told_at_once_and_not_beside_later_steps(tmp_path):
    lines = lines_off_a_terminal(tmp_path, evaluate_at=33)
    assert [line.split(" · ")[0] for line in lines] == [
        f"step {step}/100" for step in (10, 20, 30, 33, *range(40, 101, 10))
    ]
    assert lines[3] == "step 33/100 · dev accuracy 50.0 %, loss 0.2500"
    assert not any("dev" in line for line in [*lines[:3], *lines[4:]])


def test_off_a_terminal_no_minute_is_silent(tmp_path):
    lines = lines_off_a_terminal(tmp_path, evaluate_at=33, silent=0.0)
    assert len(lines) == 101


def test_the_dev_loss_is_in_the_metrics_and_for_tensorboard(tmp_path):
    with Reporter(tmp_path, Console(quiet=True), 0, 4) as reporter:
        reporter.evaluation(2, "dev", "macro_f1", 0.5, loss=0.25)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 2,
        "dev_macro_f1": 0.5,
        "dev_loss": 0.25,
    }
    assert scalars(tmp_path / "tb") == [(2, "macro_f1/dev", 0.5), (2, "loss/dev", 0.25)]


def test_tensorboard_has_the_held_out_figures_and_compares_runs_by_their_settings(tmp_path):
    report = Report("accuracy", 0.75, (0.5, 0.875), loss=0.5)
    settings = {
        "model": {"path": "a\udcff", "bos_token_id": None},
        "train": {"learning_rate": 1e-6, "steps": 4, "optimizer_args": {"b1": 0.5}},
        "data": {"skip_bad": True},
    }
    write_result(tmp_path, settings, report, best_step=3)
    assert scalars(tmp_path) == [(3, "accuracy/eval", 0.75), (3, "loss/eval", 0.5)]
    [path] = tmp_path.iterdir()
    values = [value for event in read_events(path) for value in event.summary.value]
    plugins = {value.tag: value.metadata.plugin_data for value in values}
    started = HParamsPluginData.FromString(plugins["_hparams_/session_start_info"].content)
    told = {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in started.session_start_info.hparams.items()
    }
    assert told == {
        "model.path": "a\\udcff",
        "train.learning_rate": 1e-6,
        "train.steps": 4,
        "train.optimizer_args": '{"b1": 0.5}',
        "data.skip_bad": True,
    }
    experiment = HParamsPluginData.FromString(plugins["_hparams_/experiment"].content).experiment
    assert [one.name.tag for one in experiment.metric_infos] == ["accuracy/eval", "loss/eval"]


def scalars(directory: Path) -> list[tuple[int, str, float]]:
    [path] = directory.iterdir()
    return [
        (event.step, value.tag, value.simple_value)
        for event in read_events(path)
        for value in event.summary.value
        if not value.HasField("metadata") or value.metadata.plugin_data.plugin_name != "hparams"
    ]


ODD_NAMES = ["$\\frac{$ \x1b[31m 技術 😀 \ue000", "x" * 10_000, "_"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_in_pictures_are_plain_text_and_no_warning(name, tmp_path, capsys):
    lines = [{"step": 1, "loss": 0.5}, {"step": 1, f"dev_{name}": 0.25, "dev_loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(tmp_path, name, {"best_step": 1, "eval_accuracy": 0.5, "eval_interval": [0, 1]})
    right = np.array([0, 1, 1])
    draw_confusion(tmp_path, name, class_report(Answers((name, "b"), right, np.array([0, 1, 2]))))
    assert capsys.readouterr().err == ""
    for picture in ("curves.png", "confusion.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_curves_that_cannot_be_drawn_are_told_of_in_a_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    monkeypatch.setenv("PATH", "")  # where no latex is
    with matplotlib.rc_context({"text.usetex": True}):  # as a matplotlibrc here may have it
        draw_curves(tmp_path, "run", {})
    err = capsys.readouterr().err
    assert err.startswith("zojax: curves.png was not drawn (")
    assert err.count("\n") == 1
    assert not (tmp_path / "curves.png").exists()
