"""Measure the accuracy that zeroth-order training reaches, against forward passes and time.

    python scripts/fetch_smollm2.py
    python benchmarks/time_to_accuracy.py --data DIR --write-docs

Every method gets the same forward passes over batches of 16 examples and the same grid: three
learning rates, of which one that has made the model worse is stopped after a quarter of the passes,
and those that are hopeless beside another after half of them. The dev set, held out of the train
split, chooses; the best rate is trained with two more seeds. A method that is hopeless beside
another has one rate and one seed; the validation split has the final word. Runs are kept in
``--work`` and accuracies in ``--record``: call it again to go on where it stopped, for whatever
reason.

All of it takes about 3 hours on 2 CPU cores, half of them for MeZO's dense directions. Time the
steps with ``--speed`` while nothing else runs.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import command
from accuracy_record import write_record
from accuracy_report import BEGIN, DOCS, END, PNG, draw, table
from accuracy_runs import CONTENDERS, SIZES, Study, advance
from accuracy_speed import measure
from docs_table import write_docs
from setting import ROOT, SMOLLM2

from zojax.errors import InputError

SEEDS = (0, 1, 2)
HOPELESS = 0.02
"""How far behind the best rate a rate may be on the dev set, and still be trained to the end; and a
method behind the best method, and still be trained with other seeds."""


class Piece(NamedTuple):
    """A run to train up to a number of forward passes."""

    method: str
    rate: float
    seed: int
    until: int


def dev_accuracy(study: Study, piece: Piece) -> float:
    """The calibrated accuracy on the dev set at the end of a piece; 0 for a diverged model."""
    run = study.read().run(piece.method, piece.rate, piece.seed)
    found = run.marks[piece.until]
    return 0.0 if found.diverged else found.dev_calibrated


def has_collapsed(study: Study, method: str, rate: float) -> bool:
    """Whether a rate has made the model worse after a quarter of the passes."""
    untrained, quarter = (Piece(method, rate, SEEDS[0], until) for until in study.marks[:2])
    return dev_accuracy(study, quarter) < dev_accuracy(study, untrained) - HOPELESS


def screened(study: Study, method: str) -> dict[float, float]:
    """The accuracies after half of the passes of those rates that have come there."""
    return {
        rate: dev_accuracy(study, Piece(method, rate, SEEDS[0], study.screen))
        for rate in CONTENDERS[method].rates
        if not has_collapsed(study, method, rate)
    }


def survivors(study: Study, method: str) -> list[float]:
    """The learning rates of a method that are worth training to the end."""
    found = screened(study, method)
    return [rate for rate in found if found[rate] > max(found.values()) - HOPELESS]


def best_rate(study: Study, method: str) -> float:
    """The learning rate that is best on the dev set of the first seed."""
    return max(
        survivors(study, method),
        key=lambda rate: dev_accuracy(study, Piece(method, rate, SEEDS[0], study.passes)),
    )


def contending(study: Study, methods: Sequence[str]) -> list[str]:
    """The methods that keep up with the best one, after half of the passes of the first seed."""
    by_rate = {method: screened(study, method) for method in methods}
    found = {method: max(rates.values()) for method, rates in by_rate.items() if rates}
    return [method for method in found if found[method] > max(found.values()) - HOPELESS]


def pieces(study: Study, methods: Sequence[str]) -> Iterator[Piece]:
    """All pieces in order; what comes later is decided by the scores of what came before."""
    for method in methods:
        for rate in CONTENDERS[method].rates:
            yield Piece(method, rate, SEEDS[0], study.marks[1])
            if not has_collapsed(study, method, rate):
                yield Piece(method, rate, SEEDS[0], study.screen)
    good = contending(study, methods)
    for method in methods:
        found = screened(study, method)
        best_first = sorted(survivors(study, method), key=lambda rate: -found[rate])
        for rate in best_first if method in good else best_first[:1]:
            yield Piece(method, rate, SEEDS[0], study.passes)
    for seed, method in itertools.product(SEEDS[1:], good):
        yield Piece(method, best_rate(study, method), seed, study.passes)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(SMOLLM2), help="checkpoint (default: SmolLM2-135M)")
    parser.add_argument("--task", default="sst2", choices=SIZES, help="task (default: sst2)")
    parser.add_argument("--data", help="the task's directory or hub id (default: from the hub)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(CONTENDERS),
        choices=list(CONTENDERS),
        help="what to compare (default: all)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "time_to_accuracy",
        help="directory of the runs (default: runs/time_to_accuracy)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        help="file of the figures (default: benchmarks/results/accuracy-TASK.json)",
    )
    parser.add_argument("--passes", type=int, default=2000, help="of a run (default: 2000)")
    parser.add_argument("--hours", type=float, help="begin no piece after so many hours")
    parser.add_argument("--report", action="store_true", help="train nothing, report what is there")
    parser.add_argument(
        "--speed", action="store_true", help="only time the steps, on an otherwise idle machine"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"renew docs/{DOCS.name}")
    return parser.parse_args(argv)


def train_all(study: Study, args: argparse.Namespace) -> None:
    """Train piece after piece."""
    started = time.monotonic()
    for piece in pieces(study, args.methods):
        hours = (time.monotonic() - started) / 3600
        if args.hours is not None and hours > args.hours:
            print(f"stopped after {hours:.1f} hours; call it again to go on", file=sys.stderr)
            return
        print(f"{hours:.2f} h: {piece}", file=sys.stderr, flush=True)
        advance(study, *piece)
        print(f"  dev {dev_accuracy(study, piece):.4f}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parse(argv)
    path = args.record or ROOT / "benchmarks" / "results" / f"accuracy-{args.task}.json"
    study = Study(args.model, args.task, args.data, args.work, path, args.passes)
    if args.passes % 4 or args.passes < 4:
        raise InputError(f"--passes {args.passes}: give a multiple of 4")
    if args.speed:
        speed = measure(study, args.methods)
        write_record(path, dataclasses.replace(study.read(), speed=speed))
    elif not args.report:
        train_all(study, args)
    record = study.read()
    runs = record.trained(args.methods)
    if not runs:
        raise InputError(f"{path}: has no run that has come to a mark; leave out --report")
    text = table(runs, record.speed)
    print(text)
    if args.write_docs:
        write_docs(DOCS, BEGIN, END, text)
        draw(runs, record.speed, PNG)


if __name__ == "__main__":
    command.run(main)
