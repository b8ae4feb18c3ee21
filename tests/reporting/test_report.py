"""What a run shows while it trains: on a terminal and off it."""

import io
import json
import re

import matplotlib
import pytest
from rich.console import Console

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
        ("accuracy", None, 999_499, "no finite loss · dev accuracy 100.0 % · 999k tok/s"),
        ("accuracy", 12.34567, 9_999.4, "loss 12.3457 · dev accuracy 100.0 % · 9,999 tok/s"),
        ("f1", -0.25, 10_500_000, "loss -0.2500 · dev f1 100.0 % · 10,500k tok/s"),
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
        "step 20000/20000 · loss 0.5000 · dev f1 100.0 % · 12,345 tok/s · 2.5 steps/s · 0 s left"
    )


@pytest.mark.parametrize("name", ["dev_$\\frac{$", "dev_\x1b[31m", "dev_" + "x" * 10_000])
def test_a_curves_title_is_plain_text(name, tmp_path):
    lines = [{"step": 1, "loss": 0.5}, {"step": 1, name: 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_that_cannot_be_drawn_are_told_of_in_a_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    monkeypatch.setenv("PATH", "")  # where no latex is
    with matplotlib.rc_context({"text.usetex": True}):  # as a matplotlibrc here may have it
        draw_curves(tmp_path)
    err = capsys.readouterr().err
    assert err.startswith("zojax: curves.png was not drawn (")
    assert err.count("\n") == 1
    assert not (tmp_path / "curves.png").exists()
