"""Run every method on the demo: what it costs, and what it learns in a fixed number of passes.

    python benchmarks/methods.py --write-docs

It takes a quarter of an hour on 2 idle CPU cores. Each method gets the same budget of forward
passes over batches of one size, three seeds, and a learning rate from a search in steps of about 3
on another seed (``--search``).
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import command
import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from setting import demo_of_all_matrices

from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.runs.setup import make_train_source, prepare
from zojax.runs.train import train
from zojax.training.step import init_state
from zojax.training.step_programs import step_program

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "methods.md"
BEGIN, END = "<!-- table: made by benchmarks/methods.py -->", "<!-- end of the table -->"
SEARCH_SEED = 7


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method with its settings.

    Attributes:
        name: the name in the table.
        learning_rate: the best learning rate of a search in steps of about 3.
        settings: settings of the configuration.
    """

    name: str
    learning_rate: float
    settings: dict[str, Any]

    @property
    def passes(self) -> int:
        """The number of forward passes over a batch in a step."""
        queries = self.settings.get("estimator.num_queries", 1)
        one_sided = {"fzoo": queries + 1, "population": queries}
        return one_sided.get(self.settings.get("estimator.name", ""), 2 * queries)

    def config(self, directory: Path, passes: int, seed: int, rate: float | None = None) -> Config:
        """The demo's configuration with this method and a total number of forward passes."""
        steps = passes // self.passes
        values = {
            "train.steps": steps,
            "train.eval_every": max(1, steps // 5),
            "train.learning_rate": rate or self.learning_rate,
            "train.seed": seed,
            "data.seed": seed,
            "run.dir": directory,
            **self.settings,
        }
        base = demo_of_all_matrices()
        return apply_overrides(base, [f"{name}={value}" for name, value in values.items()])


ENTRIES = (
    Entry("LoZO, r 4", 3e-3, {}),
    Entry("LoZO-M, r 4", 3e-3, {"train.optimizer": "momentum"}),
    Entry("LoZO, r 4, full", 3e-4, {"space.name": "full"}),
    Entry("LoZO, r 4, 4 queries", 1e-2, {"estimator.num_queries": 4}),
    Entry("FZOO, r 4, 8 queries", 3e-3, {"estimator.name": "fzoo", "estimator.num_queries": 8}),
    Entry(
        "population of 8, r 4",
        1e-2,
        {"estimator.name": "population", "estimator.num_queries": 8},
    ),
    Entry("MeZO, linear", 1e-2, {"estimator.name": "mezo"}),
    Entry("MeZO, full", 1e-3, {"estimator.name": "mezo", "space.name": "full"}),
    Entry(
        "MeZO factorized, r 128",
        1e-2,
        {"estimator.name": "mezo_factorized", "estimator.rank": 128},
    ),
    Entry(
        "MeZO on LoRA",
        3e-1,
        {"estimator.name": "mezo", "space.name": "lora", "estimator.epsilon": 1e-2},
    ),
    Entry(
        "MeZO on LoRA, Adam",
        3e-3,
        {
            "estimator.name": "mezo",
            "space.name": "lora",
            "estimator.epsilon": 1e-2,
            "train.optimizer": "adam",
        },
    ),
    Entry("LoZO on LoRA", 1e-1, {"space.name": "lora", "estimator.epsilon": 1e-2}),
    Entry(
        "MeZO on prefixes",
        1e-1,
        {"estimator.name": "mezo", "space.name": "prefix", "estimator.epsilon": 1e-1},
    ),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of one method."""

    entry: Entry
    rate: float
    accuracies: list[float]
    seconds: list[float]
    state_bytes: int
    temporary_bytes: int


def memory(config: Config) -> tuple[int, int]:
    """The bytes that a step changes, and those of its temporaries (by XLA's own count)."""
    run = prepare(config, Console(quiet=True))
    batch = list(make_train_source(config, run).abstract.values())[-1]
    state = jax.eval_shape(functools.partial(init_state, run.method), run.model.weights, run.key)
    step = step_program(run.method, run.objective)
    compiled = step.trace(run.model.weights, state, run.key, np.float32(0), batch)()
    in_state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert isinstance(compiled, jax.stages.Compiled)
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return in_state, analysis.temp_size_in_bytes


def run_once(entry: Entry, passes: int, seed: int, rate: float) -> tuple[float, float]:
    """Train once; return the held-out accuracy and the seconds of the steps alone."""
    with tempfile.TemporaryDirectory() as directory:
        config = entry.config(Path(directory) / "run", passes, seed, rate)
        result = train(config, Console(quiet=True))
    return result["eval_accuracy"], result["median_step_seconds"] * config.train.steps


def search(entry: Entry, passes: int) -> float:
    """Find the best of the learning rates around the entry's, on a separate seed."""
    rates = [entry.learning_rate * factor for factor in (0.3, 1, 3)]
    found = {rate: run_once(entry, passes, SEARCH_SEED, rate)[0] for rate in rates}
    tried = ", ".join(f"{rate:.0e} {100 * accuracy:.1f} %" for rate, accuracy in found.items())
    print(f"{entry.name}: {tried}", file=sys.stderr)
    return max(found, key=lambda rate: found[rate])


def measure(entry: Entry, passes: int, seeds: Iterable[int], rate: float) -> Row:
    """Run one method on all seeds."""
    runs = [run_once(entry, passes, seed, rate) for seed in seeds]
    with tempfile.TemporaryDirectory() as directory:
        state, temporary = memory(entry.config(Path(directory) / "run", passes, 0))
    return Row(entry, rate, [a for a, _ in runs], [s for _, s in runs], state, temporary)


def spread(values: Sequence[float]) -> str:
    """The mean and the standard deviation.

    >>> spread([90.0, 92.0, 94.0])
    '92.0 ± 2.0'
    """
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {deviation:.1f}"


def table(rows: Sequence[Row], passes: int) -> str:
    """The rows in Markdown."""
    lines = [
        "| method | passes a step | steps | learning rate | held-out accuracy, % | seconds | "
        "state, kB | temporaries, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.entry.name,
            f"{row.entry.passes}",
            f"{passes // row.entry.passes}",
            f"{row.rate:.0e}",
            spread([100 * accuracy for accuracy in row.accuracies]),
            spread(row.seconds),
            f"{row.state_bytes / 1e3:,.0f}",
            f"{row.temporary_bytes / 1e6:,.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Compare the methods on the demo, with one budget of forward passes.",
        epilog="example: python benchmarks/methods.py --passes 1000 --only MeZO",
    )
    parser.add_argument("--passes", type=int, default=1000, help="in all (default: 1000)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    parser.add_argument("--search", action="store_true", help="search the learning rates first")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--write-docs", action="store_true", help=f"renew {DOCS.name}")
    args = parser.parse_args(argv)
    entries = [entry for entry in ENTRIES if args.only.lower() in entry.name.lower()]
    if not entries:
        raise InputError(f"--only {args.only}: of {', '.join(e.name for e in ENTRIES)} none has it")
    cache = tempfile.TemporaryDirectory()  # the learning rate is not part of a program
    jax.config.update("jax_compilation_cache_dir", cache.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("methods", total=len(entries))
        for entry in entries:
            progress.update(task, description=entry.name)
            rate = search(entry, args.passes) if args.search else entry.learning_rate
            rows.append(measure(entry, args.passes, range(args.seeds), rate))
            progress.advance(task)
    caption = (
        f"The demo's model and reviews, batches of 32, {args.passes} forward passes in all, "
        f"{args.seeds} seeds (mean ± standard deviation), cosine schedule."
    )
    text = f"{caption}\n\n{table(rows, args.passes)}"
    figures = [dataclasses.asdict(row) for row in rows]
    command.tell(args, text, figures, DOCS, (BEGIN, END))


if __name__ == "__main__":
    command.run(main)
