"""Measure a host's work for a batch that many devices share.

    python benchmarks/packing.py --write-docs

The sentences are made up and as long as SST-2's, with 16 on every page, and a page for every
device. A process goes over the lengths of the whole batch and packs the pages of its own devices.
It takes a few seconds.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import command
import numpy as np
from setting import ROOT, machine_name

from zojax.scoring import Item, shape_needed
from zojax.training.batches import BatchSource, batch_indices, shape_of_all

DOCS = ROOT / "docs" / "scale.md"
MARKERS = "<!-- table: made by benchmarks/packing.py -->", "<!-- end of packing.py's table -->"

PER_PAGE, PAGES = 16, (2, 64, 1024)
_DATA_SET = 67_349
_WORDS = np.array([5], np.int32), np.array([6], np.int32)


@dataclasses.dataclass(frozen=True)
class Row:
    """A batch of one size.

    Attributes:
        pages: the number of pages, with 16 examples each.
        all_seconds: the time to pack every page.
        own_seconds: the time to pack one of them.
    """

    pages: int
    all_seconds: float
    own_seconds: float


def make_items(count: int) -> list[Item]:
    """Make examples of 8 to 46 tokens, with two candidates of one token."""
    random = np.random.default_rng(0)
    return [
        Item(random.integers(4, 50_000, random.integers(8, 47), np.int32), _WORDS)
        for _ in range(count)
    ]


def measure(items: Sequence[Item], pages: int, repeats: int) -> Row:
    """Measure the median time of a batch, as training's own source makes it."""
    order = functools.partial(batch_indices, 0, len(items), PER_PAGE * pages)
    batches = [[items[i] for i in order(step)] for step in range(repeats + 1)]
    bucket = shape_of_all([shape_needed(batch, pages) for batch in batches])

    def seconds(only: frozenset[int] | None) -> float:
        source = BatchSource(items, order, PER_PAGE * pages, [bucket], only=only)
        source(0)  # draws an epoch's order
        return statistics.median(_time(source, step) for step in range(1, repeats + 1))

    return Row(pages, seconds(None), seconds(frozenset([0])))


def _time(source: BatchSource, step: int) -> float:
    began = time.perf_counter()
    source(step)
    return time.perf_counter() - began


def table(rows: Sequence[Row], machine: str) -> str:
    """The figures as Markdown."""
    lines = [
        f"{machine}; one thread.",
        "",
        "| examples a step | pages | packing all | packing one | packing one, per example |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        examples = PER_PAGE * row.pages
        lines.append(
            f"| {examples:,} | {row.pages:,} | {1e3 * row.all_seconds:.1f} ms "
            f"| {1e3 * row.own_seconds:.1f} ms | {1e6 * row.own_seconds / examples:.1f} µs |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9, help="batches timed (default: 9)")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args(argv)
    items = make_items(_DATA_SET)
    rows = [measure(items, pages, args.repeats) for pages in PAGES]
    figures = [dataclasses.asdict(row) for row in rows]
    command.tell(args, table(rows, machine_name()), figures, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
