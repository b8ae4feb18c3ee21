"""Measure what this machine can do, what a training step needs, and where its time goes.

    python benchmarks/roofline.py --data DIR --tokenizer DIR --write-docs

The rates are of float32 products, at the step's own shapes and at a large one, and of reading
memory; they are timed between the steps. Three minutes on 2 CPU cores.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import command
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track
from setting import DOCS, METHODS, arguments, machine_name, make_config, random_checkpoint
from timed_step import TimedStep, needed_flops

MARKERS = "<!-- table: made by benchmarks/roofline.py -->", "<!-- end of roofline.py's table -->"
READ_BYTES = 1 << 28
GOAL = 85
"""The goal: per cent of the matmul rate, for needed FLOPs."""


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast the machine does one thing.

    Attributes:
        name: what is measured.
        unit: GFLOP/s or GB/s.
        values: the rate in every round.
    """

    name: str
    unit: str
    values: list[float]


@dataclasses.dataclass(frozen=True)
class Limits:
    """One method's step beside the machine's limits.

    Attributes:
        name: what is trained.
        needed_gflop: the needed GFLOP of a step, a mean.
        computed_gflop: the GFLOP of the computed matrix products, including padding; a mean.
        weight_gbyte: the GB of weights that a step must read once.
        seconds: the time of a step in every round.
    """

    name: str
    needed_gflop: float
    computed_gflop: float
    weight_gbyte: float
    seconds: list[float]


def timed_matmul(t: int, n: int, m: int) -> Callable[[], float]:
    """Measure the rate of ``(t, n) x (m, n)`` in float32, in GFLOP/s."""
    x, w = jnp.ones((t, n)), jnp.ones((m, n))
    product = jax.jit(lambda x, w: jnp.einsum("tn,mn->tm", x, w)).lower(x, w).compile()
    repeats = max(1, round(4e9 / (2 * t * n * m)))

    def rate() -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            out = product(x, w)
        out.block_until_ready()
        return repeats * 2 * t * n * m / (time.perf_counter() - started) / 1e9

    rate()
    return rate


def timed_read() -> Callable[[], float]:
    """Measure the rate of summing an array larger than any cache, in GB/s."""
    array = jnp.ones(READ_BYTES // 4)
    total = jax.jit(jnp.sum).lower(array).compile()

    def rate() -> float:
        started = time.perf_counter()
        total(array).block_until_ready()
        return READ_BYTES / (time.perf_counter() - started) / 1e9

    rate()
    return rate


def limits(name: str, timed: TimedStep, seconds: list[float]) -> Limits:
    """Compute what the steps of a method need."""
    config, variants = timed.run.model.config, timed.run.method.estimator.num_variants
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.splits["MLP"]
    places = statistics.mean(places for _, _, (_, places) in timed.batches)
    needed = statistics.mean(needed_flops(config, items, variants) for items in timed.items)
    products = 2 * variants * places * layer * config.num_hidden_layers
    weights = jax.tree.leaves(timed.run.model.weights["layers"])
    return Limits(
        name,
        needed / 1e9,
        products / 1e9,
        sum(leaf.nbytes for leaf in weights) / 1e9,
        seconds,
    )


def measure(
    checkpoint: Path, data: str, rounds: int, console: Console
) -> tuple[list[Rate], list[Limits]]:
    """Measure rates and steps in turns."""
    steps = {
        name: TimedStep(make_config(checkpoint, data, rounds, settings))
        for name, settings in METHODS.items()
    }
    some = next(iter(steps.values()))
    config, variants = some.run.model.config, some.run.method.estimator.num_variants
    places = variants * round(statistics.mean(places for _, _, (_, places) in some.batches))
    d, ffn = config.hidden_size, config.splits["MLP"]
    shapes = [(2048, 2048, 2048), (places, d, d), (places, d, ffn), (places, ffn, d)]
    rates = {f"product {t} x {n} x {m}": timed_matmul(t, n, m) for t, n, m in shapes}
    rates[f"sum of {READ_BYTES >> 20} MB"] = timed_read()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    values: dict[str, list[float]] = {name: [] for name in rates}
    for step in steps.values():
        step(0)  # the first touches all memory
    for number in track(range(rounds), "rounds", console=console, transient=True):
        for name, step in steps.items():
            seconds[name].append(step(number)[0])
            for other, rate in rates.items():
                values[other].append(rate())
    units = ["GB/s" if name.startswith("sum") else "GFLOP/s" for name in rates]
    return (
        [Rate(name, unit, values[name]) for name, unit in zip(rates, units, strict=True)],
        [limits(name, step, seconds[name]) for name, step in steps.items()],
    )


def table(rates: Sequence[Rate], steps: Sequence[Limits], machine: str) -> str:
    """The figures as Markdown."""
    rate, read = (statistics.median(r.values) for r in (rates[0], rates[-1]))
    lines = [
        f"{machine}. Medians of {len(steps[0].seconds)} steps and of {len(rates[0].values)} "
        "products between them.",
        "",
        "| float32 | rate |",
        "|---|---|",
        *(f"| {r.name} | {statistics.median(r.values):.1f} {r.unit} |" for r in rates),
        "",
        "| step | needed GFLOP | at the matmul rate | computed GFLOP | weights read once | "
        f"a step | share of the rate, needed alone (goal {GOAL} %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for step in steps:
        median = statistics.median(step.seconds)
        lines.append(
            f"| {step.name} | {step.needed_gflop:.1f} | {1e3 * step.needed_gflop / rate:.0f} ms "
            f"| {step.computed_gflop:.1f} | {1e3 * step.weight_gbyte / read:.0f} ms "
            f"| {1e3 * median:.0f} ms | {100 * step.needed_gflop / rate / median:.0f} % |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="steps of each (default: 30)")
    args = parser.parse_args(argv)
    with random_checkpoint(args.shape, args.tokenizer) as checkpoint:
        rates, steps = measure(checkpoint, args.data, args.rounds, Console())
    parts = {"rates": rates, "steps": steps}
    figures = {name: [dataclasses.asdict(row) for row in rows] for name, rows in parts.items()}
    command.tell(args, table(rates, steps, machine_name()), figures, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
