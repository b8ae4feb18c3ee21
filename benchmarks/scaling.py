"""Measure how the cost of a training step grows with each size that can change it.

    python benchmarks/scaling.py --write-docs

Steps of LoZO on the matrices of a few layers as wide as OPT-125M, random float32 weights and
tokens, timed in turns: every ratio is the median of the ratios within a round. Compile times are
processor time, and memory is by XLA's own count. It takes about 5 minutes on 2 CPU cores.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import command
import matplotlib
from rich.console import Console
from rich.progress import track
from scaled_step import Bytes, ScaledStep, SlottedScore, make_batch
from setting import DOCS, ROOT, arguments, machine_name

from zojax.models import abstract_model, random_model
from zojax.models.family import DecoderConfig
from zojax.models.registry import SHAPES

MARKERS = "<!-- table: made by benchmarks/scaling.py -->", "<!-- end of scaling.py's table -->"
PNG = ROOT / "docs" / "images" / "scaling.png"

RANKS = 1, 2, 8, 32, 128, 512
LENGTHS = 64, 128, 256, 512, 1024, 2048
PROBES = 1, 2, 8, 32
SLOTS = 1, 4, 16, 64
DEPTHS = 12, 48

ONE_SIDED_GOAL, DEPTH_GOAL, MEMORY_GOAL = 0.6, 1.3, 1.02


@dataclasses.dataclass(frozen=True)
class Series:
    """The same thing at several sizes.

    Attributes:
        name: what is timed.
        axis: what the sizes mean.
        sizes: the sizes in ascending order; the others are compared with the smallest.
        work: the work of each size relative to the smallest; 1 if it should not grow at all.
        seconds: the time of every size in every round.
    """

    name: str
    axis: str
    sizes: list[int]
    work: list[float]
    seconds: list[list[float]]

    @property
    def ratios(self) -> list[float]:
        """The cost relative to the smallest size, for the same work."""
        return [
            ratio(seconds, self.seconds[0]) / work
            for seconds, work in zip(self.seconds, self.work, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Growth:
    """Everything that is measured.

    Attributes:
        series: what is timed.
        compile_seconds: the processor time to compile a step, by the number of layers.
        step: the memory of a step.
        scoring: the memory of only scoring the step's variants.
    """

    series: list[Series]
    compile_seconds: dict[int, float]
    step: Bytes
    scoring: Bytes

    def one_sided(self) -> dict[int, float]:
        """The cost of one-sided probes relative to the same number of two-sided ones."""
        one, two = (next(s for s in self.series if s.name == n) for n in ("one-sided", "two-sided"))
        return {
            n: ratio(one.seconds[one.sizes.index(n)], two.seconds[two.sizes.index(n)])
            for n in one.sizes
            if n in two.sizes
        }


def ratio(ours: Sequence[float], base: Sequence[float]) -> float:
    """The median of the rounds' ratios.

    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(ours, base, strict=True))


Timed = ScaledStep | SlottedScore


def make_series(config: DecoderConfig, tokens: int) -> dict[str, tuple[str, dict[int, Timed]]]:
    """Trace what is timed: axis and sizes by name.

    Args:
        config: the model's configuration.
        tokens: the tokens in a batch of full pages, which bounds the longest sequence.
    """
    model, batch = random_model(config), make_batch(config, 16, 15)
    small = make_batch(config, 4, 15)
    lengths = [length for length in LENGTHS if length <= tokens]

    def probes(name: str, n: int) -> ScaledStep:
        settings = [f"estimator.name={name}", f"estimator.num_queries={n}"]
        return ScaledStep(model, settings, small)

    def of_length(length: int) -> ScaledStep:
        count = tokens // length
        return ScaledStep(model, [], make_batch(config, count, length, num_pages=count))

    return {
        "rank": ("rank", {r: ScaledStep(model, [f"estimator.rank={r}"], batch) for r in RANKS}),
        "length": ("tokens of a sequence", {n: of_length(n) for n in lengths}),
        "two-sided": ("probes", {n: probes("lozo", n) for n in PROBES}),
        "one-sided": ("probes", {n: probes("fzoo", n) for n in PROBES if n > 1}),
        "slots": ("live adapters", {n: SlottedScore(model, n, batch) for n in SLOTS}),
    }


def work_of(name: str, sizes: Sequence[int]) -> list[float]:
    """The work of each size relative to the smallest: only the number of scored probes grows.

    >>> work_of("two-sided", [1, 8]), work_of("one-sided", [2, 8]), work_of("rank", [1, 8])
    ([1.0, 8.0], [1.0, 3.0], [1.0, 1.0])
    """
    scored: dict[str, Callable[[int], int]] = {
        "two-sided": lambda n: 2 * n,
        "one-sided": lambda n: n + 1,
    }
    of_size = scored.get(name, lambda n: 1)
    return [of_size(n) / of_size(sizes[0]) for n in sizes]


def measure(
    config: DecoderConfig, layers: int, tokens: int, rounds: int, console: Console
) -> Growth:
    """Compile everything, then time it in turns.

    Args:
        config: the configuration of the published size.
        layers: the number of layers to time.
        tokens: the tokens in a batch whose sequences get longer.
        rounds: the number of rounds.
        console: where to show the progress.
    """
    deep = make_batch(config, 16, 15)
    compile_seconds, steps = {}, {}
    for depth in track(DEPTHS, "compiling by depth", console=console, transient=True):
        of_depth = abstract_model(dataclasses.replace(config, num_hidden_layers=depth))
        steps[depth] = ScaledStep(of_depth, [], deep)
        compile_seconds[depth] = steps[depth].compile()
    shallow = steps[DEPTHS[0]]
    step, scoring = shallow.bytes(), shallow.scoring_bytes()

    made = make_series(dataclasses.replace(config, num_hidden_layers=layers), tokens)
    every = [timed for _, of_size in made.values() for timed in of_size.values()]
    with console.status(f"compiling {len(every)} programs"), ThreadPoolExecutor() as threads:
        list(threads.map(lambda timed: timed.compile(), every))
    for timed in every:
        timed()  # the first touches all memory
    seconds: dict[Timed, list[float]] = {timed: [] for timed in every}
    for _ in track(range(rounds), "rounds", console=console, transient=True):
        for timed in every:
            seconds[timed].append(timed())
    series = [
        Series(
            name,
            axis,
            list(of_size),
            work_of(name, list(of_size)),
            [seconds[timed] for timed in of_size.values()],
        )
        for name, (axis, of_size) in made.items()
    ]
    return Growth(series, compile_seconds, step, scoring)


_TITLES = {
    "rank": "a step, against rank 1",
    "length": "a token, against sequences of 64",
    "two-sided": "a variant of two-sided probes, against one probe",
    "one-sided": "a variant of one-sided probes, against two probes",
    "slots": "a page, against one live adapter",
}


def table(growth: Growth, layers: int, machine: str) -> str:
    """The figures as Markdown."""
    rounds = len(growth.series[0].seconds[0])
    lines = [
        f"{machine}. Medians of {rounds} rounds; {layers} layers of the model are timed.",
        "",
        "| cost of | at | ratio |",
        "|---|---|---|",
    ]
    for series in growth.series:
        sizes = ", ".join(f"{size:,}" for size in series.sizes)
        ratios = ", ".join(f"{value:.2f}" for value in series.ratios)
        lines.append(f"| {_TITLES[series.name]} | {sizes} | {ratios} |")
    few, many = (growth.compile_seconds[depth] for depth in DEPTHS)
    weights, mb = growth.step.weights, 1e-6
    activations = growth.scoring.temporaries
    beside = growth.step.peak - activations
    one_sided = growth.one_sided()
    lines += [
        "",
        "| | | goal |",
        "|---|---|---|",
        *(
            f"| one-sided against two-sided, {n} probes | {value:.2f} | {ONE_SIDED_GOAL} |"
            for n, value in one_sided.items()
            if n > 2
        ),
        f"| compiling {DEPTHS[1]} layers against {DEPTHS[0]} ({few:.1f} s of processor time) "
        f"| {many / few:.2f} | {DEPTH_GOAL} |",
        f"| memory of a step without the temporaries of scoring its batch ({activations * mb:.0f} "
        f"MB), of the weights ({weights * mb:.0f} MB) | {beside / weights:.3f} "
        f"| {MEMORY_GOAL} |",
        "",
        "![cost against size](images/scaling.png)",
    ]
    return "\n".join(lines)


def draw(growth: Growth, path: Path) -> None:
    """Draw each series' ratios by its sizes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = ["rank", "length", "sided", "slots"]
    figure, every = plt.subplots(1, len(names), figsize=(11, 2.8), layout="constrained")
    for axes, part in zip(every, names, strict=True):
        shown = [series for series in growth.series if series.name.endswith(part)]
        for series in shown:
            axes.plot(series.sizes, series.ratios, marker="o", label=series.name)
        sizes = sorted({size for series in shown for size in series.sizes})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size}" for size in sizes], fontsize=8)
        axes.axhline(1, color="grey", linewidth=0.8, zorder=0)
        axes.set_ylim(0, max(1.5, *(1.1 * value for s in shown for value in s.ratios)))
        axes.set_xlabel(shown[0].axis)
        axes.spines[["top", "right"]].set_visible(False)
        if len(shown) > 1:
            axes.legend(frameon=False, loc="lower left")
    titles = ["a step", "a token", "a variant", "a page"]
    for axes, title in zip(every, titles, strict=True):
        axes.set_title(title, fontsize=10)
    every[0].set_ylabel("cost, against the smallest")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=3, help="that are timed (default: 3)")
    parser.add_argument("--rounds", type=int, default=7, help="of timing (default: 7)")
    parser.add_argument("--tokens", type=int, default=2048, help="the longest (default: 2048)")
    parser.add_argument("--png", type=Path, help="where the picture goes, too")
    args = parser.parse_args(argv)
    config = SHAPES[args.shape]
    growth = measure(config, args.layers, args.tokens, args.rounds, Console())
    figures = dataclasses.asdict(growth)
    command.tell(args, table(growth, args.layers, machine_name()), figures, DOCS, MARKERS)
    for path in {args.png, PNG if args.write_docs else None} - {None}:
        draw(growth, path)


if __name__ == "__main__":
    command.run(main)
