"""Compare how close the steps of two models come to the rate of products of their own shapes.

    python scripts/fetch_smollm2.py
    python benchmarks/own_products.py --data DIR --tokenizer DIR --write-docs

A step of LoZO on SST-2 in batches of 16, of OPT-125M's shape with random weights and of
SmolLM2-135M, in turns; between them, products of every matrix's shape by as many tokens as a step
has. Float32. It takes three minutes on 2 CPU cores.
"""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import command
from rich.console import Console
from rich.progress import track
from roofline import timed_matmul
from setting import (
    DOCS,
    SMOLLM2,
    arguments,
    machine_name,
    make_config,
    random_checkpoint,
)
from timed_step import TimedStep

from zojax.adapters import trainable_sites

MARKERS = (
    "<!-- table: made by benchmarks/own_products.py -->",
    "<!-- end of own_products.py's table -->",
)
GOAL = 0.05
"""How far the second model's share may be below the first's."""


@dataclasses.dataclass(frozen=True)
class Share:
    """One model's steps beside its products.

    Attributes:
        name: the model.
        seconds: the time of a step in every round.
        products: the time of all products of the layers in every round.
    """

    name: str
    seconds: list[float]
    products: list[float]

    @property
    def share(self) -> float:
        """The share of a step that its products take, in the median of the rounds."""
        pairs = zip(self.products, self.seconds, strict=True)
        return statistics.median(products / seconds for products, seconds in pairs)


class Products:
    """All products of a step's layers, to be timed alone.

    Args:
        step: the step.
    """

    def __init__(self, step: TimedStep):
        places = statistics.mean(places for _, _, (_, places) in step.batches)
        self._tokens = step.run.method.estimator.num_variants * round(places)
        sites = trainable_sites(step.run.model.weights, "linear")
        self._counts: Counter[tuple[int, ...]] = Counter()
        for site in sites:
            self._counts[site.shape[-2:]] += site.shape[0]
        self._rates = {(m, n): timed_matmul(self._tokens, n, m) for m, n in self._counts}

    def __call__(self) -> float:
        """The seconds that all of them take, at the rate of each shape by itself."""
        return sum(
            count * 2 * self._tokens * m * n / (1e9 * self._rates[m, n]())
            for (m, n), count in self._counts.items()
        )


def measure(
    checkpoints: Mapping[str, Path], data: str, rounds: int, console: Console
) -> list[Share]:
    """Measure steps and products in turns."""
    steps = {name: TimedStep(make_config(path, data, rounds)) for name, path in checkpoints.items()}
    products = {name: Products(step) for name, step in steps.items()}
    found = [Share(name, [], []) for name in steps]
    for step in steps.values():
        step(0)  # the first touches all memory
    for number in track(range(rounds), "rounds", console=console, transient=True):
        for one in found:
            one.seconds.append(steps[one.name](number)[0])
            one.products.append(products[one.name]())
    return found


def table(shares: Sequence[Share], machine: str) -> str:
    """The figures as Markdown."""
    first = shares[0]
    lines = [
        f"{machine}. Medians of {len(first.seconds)} rounds.",
        "",
        "| model | a step | its layers' products alone | share | of the first's |",
        "|---|---|---|---|---|",
    ]
    for one in shares:
        step, products = (1e3 * statistics.median(x) for x in (one.seconds, one.products))
        lines.append(
            f"| {one.name} | {step:.0f} ms | {products:.0f} ms | {100 * one.share:.0f} % "
            f"| {one.share / first.share:.2f} |"
        )
    met = all(one.share >= (1 - GOAL) * first.share for one in shares)
    return "\n".join(
        [*lines, "", f"Within {100 * GOAL:.0f} % of the first: {'yes' if met else 'no'}."]
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--gguf", type=Path, default=SMOLLM2, help="the second model (SmolLM2)")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each (default: 30)")
    args = parser.parse_args(argv)
    with random_checkpoint(args.shape, args.tokenizer) as checkpoint:
        checkpoints = {f"{args.shape}'s shape": checkpoint, args.gguf.stem: args.gguf}
        shares = measure(checkpoints, args.data, args.rounds, Console())
    figures = {"steps": [dataclasses.asdict(one) for one in shares]}
    command.tell(args, table(shares, machine_name()), figures, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
