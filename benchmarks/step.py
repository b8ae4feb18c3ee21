"""Compare a training step with its limit and its peers, all interleaved in one run.

    python benchmarks/step.py --data DIR --tokenizer DIR --write-docs

OPT-125M's shape with random float32 weights, SST-2 in batches of 16, LoZO with r 2 and ν 50. Every
round times a step of zojax for each trainable tree, a large matrix product, and a step of the
published implementation in PyTorch (:mod:`peers`); ratios are between medians of the same rounds.
It takes about 7 minutes on 2 CPU cores.
"""

import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
from bars import bars
from rich.console import Console
from rich.progress import track
from setting import (
    DOCS,
    METHODS,
    ROOT,
    arguments,
    machine_name,
    make_config,
    random_checkpoint,
)
from timed_step import TimedStep, needed_flops

from zojax.config.estimators import LozoConfig

MARKERS = "<!-- table: made by benchmarks/step.py -->", "<!-- end of step.py's table -->"
PNG = ROOT / "docs" / "images" / "step.png"
GOALS = {"full": 16, "lora": 12}
"""The goals: how many times as fast as the peer that trains the same."""

EDGE = 2048  # the size of the square product that measures the machine's rate


@dataclasses.dataclass(frozen=True)
class Row:
    """One step, timed.

    Attributes:
        name: zojax or PyTorch, and what is trained.
        seconds: the time in every round.
        needed_gflop: the step's needed operations, a mean over the rounds; 0 for peers.
        tokens: the computed tokens per variant that are real and distinct, a mean.
        places: the computed places for tokens per variant, a mean.
    """

    name: str
    seconds: list[float]
    needed_gflop: float
    tokens: float
    places: float

    @property
    def median(self) -> float:
        """The median seconds."""
        return statistics.median(self.seconds)


def matmul() -> Callable[[], float]:
    """Measure this machine's rate for one large float32 product, in GFLOP/s."""
    a, b = (jax.random.normal(jax.random.key(i), (EDGE, EDGE)) for i in range(2))
    product = jax.jit(jnp.matmul).lower(a, b).compile()

    def rate() -> float:
        started = time.perf_counter()
        product(a, b).block_until_ready()
        return 2 * EDGE**3 / (time.perf_counter() - started) / 1e9

    rate()
    return rate


def make_peer(
    checkpoint: Path, trainable: str, timed: TimedStep
) -> tuple[Callable[[int], float], list[Any]]:
    """Make the published step for the same batches, ``(round) -> seconds``, and these batches."""
    import peers
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    settings = timed.run.config.estimator
    if not isinstance(settings, LozoConfig):
        raise TypeError(f"the peers step as LOZO does, not as {settings}")
    model = peers.load_model(checkpoint)
    if trainable == "lora":
        peers.put_lora(model)
    batches = [peers.pad(items) for items in timed.items]
    subspace = peers.draw_subspace(model, settings.rank, peers.seeded_draw(0))

    def step(number: int) -> float:
        started = time.perf_counter()
        peers.lozo_step(
            model,
            batches[number],
            subspace,
            lambda: peers.seeded_draw(number),
            epsilon=settings.epsilon,
            learning_rate=1e-7,
        )
        return time.perf_counter() - started

    return step, batches


def zojax_row(name: str, timed: TimedStep, seconds: list[float]) -> Row:
    """The times of zojax's steps, and what they had to compute."""
    variants = timed.run.method.estimator.num_variants
    config = timed.run.model.config
    needed = [needed_flops(config, items, variants) / 1e9 for items in timed.items]
    tokens, places = zip(*(counted for _, _, counted in timed.batches), strict=True)
    return Row(f"zojax {name}", seconds, *map(statistics.mean, (needed, tokens, places)))


def measure(
    checkpoint: Path, data: str, rounds: int, peer_rounds: int, console: Console
) -> tuple[list[Row], list[float]]:
    """Measure the rows, and the machine's matmul rate in every round.

    Args:
        checkpoint: the model's checkpoint.
        data: SST-2.
        rounds: the number of steps of zojax.
        peer_rounds: the number of first rounds in which the peers do a step, too.
        console: where to show the progress.
    """
    steps = {
        name: TimedStep(make_config(checkpoint, data, rounds, settings))
        for name, settings in METHODS.items()
    }
    made = {name: make_peer(checkpoint, name, steps[name]) for name in GOALS}
    rate = matmul()
    ours: dict[str, list[float]] = {name: [] for name in steps}
    theirs: dict[str, list[float]] = {name: [] for name in made}
    rates = []
    for step in steps.values():
        step(0)  # the first touches all memory
    gc.collect()
    for number in track(range(rounds), "rounds", console=console, transient=True):
        for name, step in steps.items():
            ours[name].append(step(number)[0])
            rates.append(rate())
        if number < peer_rounds:
            for name, (step, _) in made.items():
                theirs[name].append(step(number))
            time.sleep(0.2)  # torch's threads spin for a while before they sleep
    rows = [zojax_row(name, step, ours[name]) for name, step in steps.items()]
    for name, (_, batches) in made.items():
        real = statistics.mean(float(b.mask_st.sum()) for b in batches)
        padded = statistics.mean(b.mask_st.numel() for b in batches)
        rows.append(Row(f"PyTorch {name}", theirs[name], 0.0, real, padded))
    return rows, rates


def table(rows: Sequence[Row], rates: Sequence[float], machine: str) -> str:
    """The figures as Markdown."""
    rate = statistics.median(rates)
    lines = [
        f"{machine}. Medians of {len(rows[0].seconds)} steps (PyTorch's of "
        f"{len(rows[-1].seconds)}); a float32 product of {EDGE} x {EDGE} matrices ran at "
        f"{rate:.0f} GFLOP/s between them.",
        "",
        "| step | ms | fastest, slowest tenth | of PyTorch's time | goal | needed GFLOP | "
        "share of the matmul rate | tokens, places |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peers = {row.name.split()[1]: row.median for row in rows if row.name.startswith("PyTorch")}
    for row in rows:
        name = row.name.split()[1]
        ours = row.name.startswith("zojax")
        against = peers.get(name, peers["lora"])
        times = f"1/{against / row.median:.1f}" if ours else "1"
        times += " (of lora's)" if ours and name not in peers else ""
        goal = f"1/{GOALS[name]}" if ours and name in GOALS else ""
        share = f"{100 * row.needed_gflop / row.median / rate:.0f} %" if ours else ""
        needed = f"{row.needed_gflop:.1f}" if ours else ""
        low, *_, high = statistics.quantiles(row.seconds, n=10)
        lines.append(
            f"| {row.name} | {1e3 * row.median:.0f} | {1e3 * low:.0f}, {1e3 * high:.0f} | {times} "
            f"| {goal} | {needed} | {share} | {row.tokens:.0f}, {row.places:.0f} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a bar for each step."""
    medians = [row.median for row in rows]
    labels = [f"{1e3 * median:.0f} ms" for median in medians]
    with bars(path, [row.name for row in rows], medians, labels, (7, 0.5)) as axes:
        axes.set_xlim(right=1.2 * max(medians))
        axes.set_xlabel("seconds a step")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="steps of zojax (default: 60)")
    parser.add_argument("--peer-rounds", type=int, default=30, help="of peers (default: 30)")
    args = parser.parse_args(argv)
    console = Console()
    with random_checkpoint(args.shape, args.tokenizer) as checkpoint:
        rows, rates = measure(checkpoint, args.data, args.rounds, args.peer_rounds, console)
    figures = {"rows": [dataclasses.asdict(row) for row in rows], "gflops": rates}
    command.tell(args, table(rows, rates, machine_name()), figures, DOCS, MARKERS)
    if args.write_docs:
        draw(rows, PNG)


if __name__ == "__main__":
    command.run(main)
