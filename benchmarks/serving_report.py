"""What the benchmark of serving found: figures, a table and a picture."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from bars import OURS, THEIRS
from serving_load import Answer, Promise

from zojax.errors import InputError

GOAL_ONE_BY_ONE, GOAL_GENERATION, GOAL_SCORING = 5.0, 1.0, 3.0
GOAL_KEPT, GOAL_ADAPTERS = 0.98, 0.10

ONE_BY_ONE = "transformers, one by one"


@dataclasses.dataclass(frozen=True)
class Load:
    """How long answers took under a load; times are in seconds.

    Attributes:
        system: who answered.
        scores: whether candidates were scored.
        burst: how many questions came at once.
        per_second: the questions a second.
        count: the number of questions.
        kept: the share that was answered as promised.
        latency: the 50th and the 99th percentile, until the whole answer.
        first: the same, until the first part.
        per_token: the same, of the mean time between a text's tokens.
    """

    system: str
    scores: bool
    burst: int
    per_second: float
    count: int
    kept: float
    latency: tuple[float, float]
    first: tuple[float, float]
    per_token: tuple[float, float]

    @classmethod
    def of(
        cls,
        system: str,
        scores: bool,
        burst: int,
        per_second: float,
        answers: Sequence[Answer],
        kept: Sequence[bool],
    ) -> "Load":
        """The figures of some answers."""
        if not answers:
            raise InputError(f"{system}: was asked nothing in this time; give more --seconds")
        times = [(a.latency, a.first, a.per_token) for a in answers]
        spread: Any = np.percentile(np.array(times), [50, 99], axis=0).T.tolist()
        share = sum(kept) / len(kept)
        return cls(system, scores, burst, per_second, len(kept), share, *map(tuple, spread))


@dataclasses.dataclass
class Report:
    """All figures.

    Attributes:
        saturated: units a second in every round, by system and whether candidates are scored.
        loads: how long answers took under loads.
        adapters: new tokens a second with one adapter and with many, in every round.
        difference: the largest difference of log-probabilities from transformers', in nats.
        promise: what users are promised.
    """

    saturated: dict[tuple[str, bool], list[float]] = dataclasses.field(default_factory=dict)
    loads: list[Load] = dataclasses.field(default_factory=list)
    adapters: list[list[float]] = dataclasses.field(default_factory=list)
    difference: float = 0.0
    promise: Promise = dataclasses.field(default_factory=Promise)

    def ratio(self, other: str, *, scores: bool) -> float | None:
        """How many times as much zojax gets done, in the median of the rounds."""
        ours, theirs = self.saturated["zojax", scores], self.saturated.get((other, scores))
        if theirs is None:
            return None
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b]
        return statistics.median(a / b for a, b in pairs) if pairs else None

    @property
    def cost_of_adapters(self) -> float | None:
        """The share of throughput that many adapters cost against one."""
        if not self.adapters:
            return None
        return 1 - statistics.median(many / one for one, many in self.adapters)

    def goals(self) -> list[tuple[str, float | None, float, bool]]:
        """For each goal: what it is about, the figure, the goal, and whether less is better."""
        loads = [load.kept for load in self.loads if load.system == "zojax"]
        return [
            (
                "generation, times transformers one by one",
                self.ratio(ONE_BY_ONE, scores=False),
                GOAL_ONE_BY_ONE,
                False,
            ),
            (
                "scoring, times transformers one by one",
                self.ratio(ONE_BY_ONE, scores=True),
                GOAL_ONE_BY_ONE,
                False,
            ),
            ("generation, times vLLM", self.ratio("vLLM", scores=False), GOAL_GENERATION, False),
            ("scoring, times vLLM", self.ratio("vLLM", scores=True), GOAL_SCORING, False),
            ("kept promises, smallest share", min(loads, default=None), GOAL_KEPT, False),
            ("cost of 64 adapters against one", self.cost_of_adapters, GOAL_ADAPTERS, True),
        ]

    def figures(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "saturated": [
                {"system": name, "scores": scores, "per_second": found}
                for (name, scores), found in self.saturated.items()
            ],
            "loads": [dataclasses.asdict(load) for load in self.loads],
            "adapters": self.adapters,
            "difference": self.difference,
            "promise": dataclasses.asdict(self.promise),
            "goals": [
                {"name": name, "found": found, "goal": goal}
                for name, found, goal, _ in self.goals()
            ],
        }


def table(report: Report, model: str, machine: str) -> str:
    """The figures as Markdown."""
    promise = report.promise
    count = len(report.saturated["zojax", False])
    rounds = f"Medians of {count} interleaved rounds" if count > 1 else "One round"
    lines = [
        f"{model}, float32. {machine}. {rounds}; log-probabilities differ "
        f"from transformers' by {report.difference:.0e} at most.",
        "",
        "| saturated | new tokens/s | of zojax's | scored candidates/s | of zojax's |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(name for name, _ in report.saturated):
        cells = []
        for scores in (False, True):
            if (name, scores) not in report.saturated:
                cells += ["", ""]
                continue
            cells.append(f"{statistics.median(report.saturated[name, scores]):.1f}")
            cells.append(
                f"1/{report.ratio(name, scores=scores) or 0:.2g}" if name != "zojax" else "1"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"At 70 % of what each got done. Promised: the first token within {promise.first:.2g} s, "
        "which is what transformers takes for a whole text alone, the next ones within "
        f"{1e3 * promise.per_token:.0f} ms in the mean, five times what it takes for a token, and "
        f"scores within {promise.scored:.2g} s, twice what it takes for a question.",
        "",
        "| load | asked/s | first token, p50, p99, ms | a token, p50, p99, ms "
        "| answer, p50, p99, s | as promised |",
        "|---|---|---|---|---|---|",
    ]
    for load in report.loads:
        work = "scoring" if load.scores else "generation"
        kind = "Poisson" if load.burst == 1 else f"bursts of {load.burst}"
        first, per_token = (
            "" if load.scores else _pair(times, 1e3, 0) for times in (load.first, load.per_token)
        )
        lines.append(
            f"| {load.system}, {work}, {kind} | {load.per_second:.2f} | {first} | {per_token} "
            f"| {_pair(load.latency, 1, 2)} | {100 * load.kept:.0f} % |"
        )
    lines += ["", "| goal | found | goal | met |", "|---|---|---|---|"]
    for name, found, goal, less in report.goals():
        if found is not None:
            met = found <= goal if less else found >= goal
            lines.append(f"| {name} | {found:.2f} | {goal:g} | {'yes' if met else 'no'} |")
    return "\n".join(lines)


def _pair(times: tuple[float, float], scale: float, digits: int) -> str:
    return ", ".join(f"{scale * time:.{digits}f}" for time in times)


def draw(report: Report, path: Path) -> None:
    """Draw a bar for each system at each of the two kinds of work."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(10, 2.6), layout="constrained")
    titles = "new tokens a second", "scored candidates a second"
    for axes, scores, title in zip(both, (False, True), titles, strict=True):
        found = {
            name: values
            for (name, is_score), values in report.saturated.items()
            if is_score == scores
        }
        medians = [statistics.median(values) for values in found.values()]
        colours = [OURS if name == "zojax" else THEIRS for name in found]
        drawn = axes.barh(list(found), medians, color=colours)
        axes.bar_label(drawn, [f"{value:.0f}" for value in medians], padding=4)
        axes.set_xlabel(title)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
