"""Curves of accuracy against forward passes and time: figures, tables and a plot."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from accuracy_record import Accuracies, Run, Speed
from accuracy_runs import CONTENDERS, REFERENCE, step_at
from matplotlib.axes import Axes
from setting import ROOT

DOCS = ROOT / "docs" / "results.md"
PNG = ROOT / "docs" / "images" / "time_to_accuracy.png"
BEGIN, END = "<!-- table: made by benchmarks/time_to_accuracy.py -->", "<!-- end of the table -->"
COLOURS = {"lozo": "#4c72b0", "mezo-lora": "#dd8452", "fzoo": "#55a868", "mezo": "#8172b3"}
PEER = "#c44e52"


def chosen(runs: Sequence[Run], method: str) -> list[Run]:
    """The runs of a method's best learning rate, which has the most seeds or else passes."""
    mine = [run for run in runs if run.method == method]

    def merit(rate: float) -> tuple[int, int, float]:
        same = [run for run in mine if run.rate == rate]
        last = max(run.last for run in same)
        return len(same), last, max(run.marks[run.last].dev_calibrated for run in same)

    best = max({run.rate for run in mine}, key=merit, default=None)
    return [run for run in mine if run.rate == best]


def mean_and_spread(values: Sequence[float]) -> str:
    """In percent, with the standard deviation over the seeds.

    >>> mean_and_spread([0.5, 0.52]), mean_and_spread([0.5])
    ('51.0 ± 1.4', '50.0')
    """
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def difference(runs: Sequence[Run], others: Sequence[Run]) -> str:
    """The mean of the seeds' differences on the dev set, in points, with its standard error."""
    by_seed = {run.seed: run for run in others}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if not pairs:
        return ""
    mark = min(run.last for pair in pairs for run in pair)
    deltas = [100 * (a.marks[mark].dev_calibrated - b.marks[mark].dev_calibrated) for a, b in pairs]
    mean = f"{statistics.fmean(deltas):+.1f}"
    if len(deltas) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(deltas) / len(deltas) ** 0.5:.1f}"


def table(runs: Sequence[Run], speed: Speed | None) -> str:
    """The figures as Markdown."""
    methods = [name for name in CONTENDERS if any(run.method == name for run in runs)]
    parts = [_accuracies(runs, methods), _rates(runs, methods)]
    if speed is not None:
        parts.insert(1, _times(runs, methods, speed))
    return "\n\n".join(parts)


def _accuracies(runs: Sequence[Run], methods: Sequence[str]) -> str:
    lines = [
        "Accuracy in %, mean ± standard deviation over the seeds; raw, and calibrated by the dev "
        "set's median.",
        "",
        "| method | seeds | passes | dev, raw | dev, calibrated | − LoZO ± standard error | "
        "validation, raw | validation, calibrated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    untrained = list({run.seed: run.marks[0] for run in runs}.values())
    lines.append(_row("untrained", 0, untrained, ""))
    for method in methods:
        best = chosen(runs, method)
        mark = min(run.last for run in best)
        against = "" if method == REFERENCE else difference(best, chosen(runs, REFERENCE))
        lines.append(
            _row(CONTENDERS[method].title, mark, [run.marks[mark] for run in best], against)
        )
    return "\n".join(lines)


def _row(title: str, passes: int, found: Sequence[Accuracies], against: str) -> str:
    cells = [
        title,
        str(len(found)),
        f"{passes:,}",
        mean_and_spread([one.dev for one in found]),
        mean_and_spread([one.dev_calibrated for one in found]),
        against,
        mean_and_spread([one.eval for one in found]),
        mean_and_spread([one.eval_calibrated for one in found]),
    ]
    return f"| {' | '.join(cells)} |"


def _rates(runs: Sequence[Run], methods: Sequence[str]) -> str:
    lines = [
        "The learning rates, by calibrated accuracy on the dev set of the first seed:",
        "",
        "| method | learning rate: accuracy after so many passes |",
        "|---|---|",
    ]
    for method in methods:
        first = [run for run in runs if run.method == method and run.seed == 0]
        cells = [
            f"{run.rate:g}: {100 * run.marks[run.last].dev_calibrated:.1f} after {run.last:,}"
            for run in first
        ]
        lines.append(f"| {CONTENDERS[method].title} | {'; '.join(cells)} |")
    return "\n".join(lines)


def mean_curve(runs: Sequence[Run], *, calibrated: bool = True) -> list[tuple[int, float, float]]:
    """``(passes, mean, standard deviation)`` on the dev set, where all runs have been."""
    points = []
    for mark in sorted(set.intersection(*(set(run.marks) for run in runs))):
        found = [run.marks[mark] for run in runs]
        values = [one.dev_calibrated if calibrated else one.dev for one in found]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        points.append((mark, statistics.fmean(values), spread))
    return points


def seconds_to(points: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """When a curve of ``(seconds, accuracy)`` first reaches an accuracy, by interpolation.

    >>> seconds_to([(0.0, 0.5), (10.0, 0.75)], 0.625), seconds_to([(0.0, 0.5), (9.0, 0.6)], 0.7)
    (5.0, None)
    """
    for (t0, a0), (t1, a1) in itertools.pairwise(points):
        if a0 < accuracy <= a1:
            return t0 + (t1 - t0) * (accuracy - a0) / (a1 - a0)
    return None


def _in_seconds(runs: Sequence[Run], seconds: float) -> list[tuple[float, float]]:
    """A method's mean curve against the time of its steps."""
    contender = CONTENDERS[runs[0].method]
    return [(step_at(mark, contender) * seconds, mean) for mark, mean, _ in mean_curve(runs)]


def _times(runs: Sequence[Run], methods: Sequence[str], speed: Speed) -> str:
    reference = chosen(runs, REFERENCE)
    goal = mean_curve(reference)[-1][1]
    lines = [
        f"{speed.machine}. Time to the calibrated accuracy with which LoZO ends, "
        f"{100 * goal:.1f} %, from the medians of interleaved steps. PyTorch is the authors' way "
        "of LoZO on the same batches; over 50 steps from the same directions its losses differ by "
        f"at most {speed.largest_difference:.0e}.",
        "",
        "| | ms a step | ms a pass | minutes |",
        "|---|---|---|---|",
    ]

    def row(title: str, method: str, seconds: float) -> str:
        passes = CONTENDERS[method].passes
        reached = seconds_to(_in_seconds(chosen(runs, method), seconds), goal)
        minutes = "not reached" if reached is None else f"{reached / 60:.1f}"
        return f"| {title} | {1e3 * seconds:.0f} | {1e3 * seconds / passes:.0f} | {minutes} |"

    lines += [
        row(CONTENDERS[method].title, method, speed.seconds[method])
        for method in methods
        if method in speed.seconds
    ]
    lines.append(row("LoZO, PyTorch", REFERENCE, speed.peer_seconds))
    return "\n".join(lines)


def draw(runs: Sequence[Run], speed: Speed | None, path: Path) -> None:
    """Draw accuracy against passes, and against time if the steps' times are known."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels = 1 if speed is None else 2
    figure, axes = plt.subplots(
        1, panels, figsize=(5.5 * panels, 4), layout="constrained", squeeze=False, sharey=True
    )
    by_method = {method: chosen(runs, method) for method in CONTENDERS}
    by_method = {method: best for method, best in by_method.items() if best}
    _against_passes(axes[0, 0], by_method)
    if speed is not None:
        _against_time(axes[0, 1], by_method, speed)
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _against_passes(axes: Axes, by_method: Mapping[str, Sequence[Run]]) -> None:
    for method, runs in by_method.items():
        marks, means, spreads = zip(*mean_curve(runs), strict=True)
        label = f"{CONTENDERS[method].title}, {runs[0].rate:g}"
        axes.errorbar(
            marks,
            [100 * mean for mean in means],
            [100 * spread for spread in spreads],
            color=COLOURS[method],
            label=label,
            marker="o",
            markersize=4,
            capsize=3,
        )
        raw = mean_curve(runs, calibrated=False)
        axes.plot(
            [mark for mark, *_ in raw],
            [100 * mean for _, mean, _ in raw],
            ":",
            color=COLOURS[method],
        )
    axes.set_xlabel("forward passes over a batch of 16")
    axes.set_ylabel("accuracy on the dev set, %")
    axes.set_title("calibrated (dotted: raw)", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _against_time(axes: Axes, by_method: Mapping[str, Sequence[Run]], speed: Speed) -> None:
    lines = [
        (CONTENDERS[method].title, COLOURS[method], _in_seconds(runs, speed.seconds[method]))
        for method, runs in by_method.items()
        if method in speed.seconds
    ]
    if REFERENCE in by_method:
        peer = _in_seconds(by_method[REFERENCE], speed.peer_seconds)
        lines.append(("LoZO, PyTorch", PEER, peer))
    for label, colour, points in lines:
        seconds, means = zip(*points, strict=True)
        minutes = [value / 60 for value in seconds]
        axes.plot(minutes, [100 * m for m in means], "o-", markersize=4, color=colour, label=label)
    axes.set_xlabel("minutes of training")
    axes.set_title("calibrated", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
