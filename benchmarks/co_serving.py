"""Simulate what training beside requests costs those who ask, and what it gets done.

    python benchmarks/co_serving.py --write-docs

The runtime's own planner and debts decide (``zojax.engine.simulate``); a call of the device lasts
what fitted costs say. Two machines: 2 CPU cores with OPT-125M in float32, whose costs were measured
(docs/serving.md), and an H100 with an 8B model in bfloat16, whose costs are those that ``zojax
plan`` counts with: its bandwidth, and its rate of products. Requests come as Poisson arrivals or in
bursts of 8, at half and at 80 % of what saturates the machine, four times with other arrivals. It
takes about four minutes, and loads one core.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import command
import numpy as np
from serving_load import NEW_TOKENS, PROMPT_TOKENS
from setting import ROOT

from zojax.engine.costs import Costs
from zojax.engine.ladder import Ladder, make_ladder
from zojax.engine.plan import CallCosts
from zojax.engine.simulate import Arrival, Places, Simulated, Training, simulate
from zojax.planning.targets import CHIPS

DOCS = ROOT / "docs" / "training-in-the-server.md"
MARKERS = (
    "<!-- table: made by benchmarks/co_serving.py -->",
    "<!-- end of co_serving.py's table -->",
)
REQUESTS, BURST, SEEDS = 1500, 8, 4
LOADS = (0.5, 0.8)
TARGET_MS = 50.0
GATE_GOODPUT, GATE_LATENCY = 0.98, 0.05
"""The gate of "LoRA fine-tuning beside serving", which its own prototype misses."""

LEAST_IDLE = 0.02
"""Less idle time than this is none."""

_PARAMS, _KEY_BYTES = 8.03e9, 2 * 32 * 8 * 128 * 2  # of Llama 3.1 8B: of keys and values, a token's


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is simulated.

    Attributes:
        name: its name.
        costs: what its calls cost.
        ladder: the shapes of its calls.
        piece_tokens: the tokens of a piece of training, over both ends of its probe.
        promise: what users are promised: milliseconds to the first token or to scores, and for
            each token after it in the mean.
    """

    name: str
    costs: CallCosts
    ladder: Ladder
    piece_tokens: int
    promise: tuple[float, float]

    @property
    def piece_ms(self) -> float:
        """How long a piece takes."""
        return self.costs.score.ms(self.piece_tokens)


def cpu() -> Machine:
    """2 CPU cores, as docs/serving.md found them: ms a call, a token or row, and a key."""
    reads, adds = Costs(55.0, 0.85), Costs(45.0, 2.2, 0.006)
    costs = CallCosts(extend=reads, advance=adds, score=reads)
    return Machine(
        "2 CPU cores, OPT-125M", costs, make_ladder(512, 32, fine_pages=True), 256, (1900, 234)
    )


def h100() -> Machine:
    """An H100 whose calls read all weights, or multiply each of them by every token."""
    chip = CHIPS["h100"]
    base = 1e3 * 2 * _PARAMS / chip.memory_bandwidth
    token = 1e3 * 2 * _PARAMS / chip.matmul_flops["bfloat16"]
    key = 1e3 * _KEY_BYTES / chip.memory_bandwidth
    reads, adds = Costs(base, token), Costs(base, token, key)
    costs = CallCosts(extend=reads, advance=adds, score=reads)
    return Machine("H100, 8B in bfloat16", costs, make_ladder(2048, 64), 256, (200, 50))


class Seen(NamedTuple):
    """What those who ask see of a load.

    Attributes:
        first_ms: the 99th percentile of the time to the first token, or to the scores.
        token_ms: the same of the mean time of the others; None if candidates are scored.
        goodput: the share of requests that are answered as promised.
    """

    first_ms: float
    token_ms: float | None
    goodput: float


def load(
    machine: Machine, share: float, burst: int, *, scores: bool, seed: int = 0
) -> list[Arrival]:
    """Requests that come at a share of what saturates a machine."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(*PROMPT_TOKENS, REQUESTS, endpoint=True)
    new = np.zeros_like(prompts) if scores else rng.integers(*NEW_TOKENS, REQUESTS, endpoint=True)
    sizes = list(zip(prompts.tolist(), new.tolist(), strict=True))
    crowd = [Arrival(0.0, *size) for size in sizes[: REQUESTS // 5]]
    per_ms = share * len(crowd) / run(machine, crowd).ms
    gaps = rng.exponential(burst / per_ms, -(-REQUESTS // burst))
    times = np.repeat(np.cumsum(gaps), burst)[:REQUESTS]
    return [Arrival(at, *size) for at, size in zip(times.tolist(), sizes, strict=True)]


def run(
    machine: Machine, arrivals: Sequence[Arrival], training: Training | None = None
) -> Simulated:
    """Simulate a load."""
    return simulate(arrivals, machine.costs, machine.ladder, target_ms=TARGET_MS, training=training)


def run_all(
    machine: Machine, loads: Sequence[Sequence[Arrival]], training: Training | None = None
) -> Simulated:
    """Simulate several loads one after the other, and put together what became of them."""
    found = [run(machine, arrivals, training) for arrivals in loads]
    return Simulated(
        [outcome for one in found for outcome in one.outcomes],
        sum(one.ms for one in found),
        sum(one.served_ms for one in found),
        sum(one.num_pieces for one in found),
        Places(*map(sum, zip(*(one.places for one in found), strict=True))),
    )


def seen(found: Simulated, promised_ms: tuple[float, float]) -> Seen:
    """What those who ask see, given what they are promised of first and of other tokens."""
    first = np.array([one.first_ms for one in found.outcomes])
    others = np.array([max(one.arrival.new - 1, 0) for one in found.outcomes])
    spent = np.array([one.end_ms - one.first_ms for one in found.outcomes])
    each = spent / np.maximum(others, 1)
    kept = (first <= promised_ms[0]) & (each <= promised_ms[1])
    token = float(np.percentile(each, 99)) if others.any() else None
    return Seen(float(np.percentile(first, 99)), token, float(kept.mean()))


def rows(machines: Sequence[Machine], shares: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Simulate all loads with and without training."""
    for machine in machines:
        for scores in (False, True):
            for busy in LOADS:
                for burst in (1, BURST):
                    arrivals = [
                        load(machine, busy, burst, scores=scores, seed=seed)
                        for seed in range(SEEDS)
                    ]
                    before = run_all(machine, arrivals)
                    base = seen(before, machine.promise)
                    for share in shares:
                        training = Training(machine.piece_ms, share)
                        after = run_all(machine, arrivals, training)
                        yield _row(machine, scores, busy, burst, share, (before, after), base,
                                   seen(after, machine.promise))  # fmt: skip


def _row(
    machine: Machine,
    scores: bool,
    busy: float,
    burst: int,
    share: float,
    found: tuple[Simulated, Simulated],
    base: Seen,
    after: Seen,
) -> dict[str, Any]:
    before, beside = found
    idle = 1 - before.served_ms / before.ms
    trained = beside.num_pieces * machine.piece_ms / beside.ms
    longer = after.first_ms / base.first_ms - 1
    slower = (
        None
        if base.token_ms is None or after.token_ms is None
        else (after.token_ms / base.token_ms - 1)
    )
    good = after.goodput / base.goodput if base.goodput else 1.0
    is_met = good >= GATE_GOODPUT and max(longer, slower or 0.0) <= GATE_LATENCY
    return {
        "machine": machine.name,
        "asks": "scores" if scores else "texts",
        "load": busy,
        "arrivals": "Poisson" if burst == 1 else f"bursts of {burst}",
        "share": share,
        "idle": idle,
        "trained": trained,
        "of_idle": trained / idle if idle > LEAST_IDLE else None,
        "first": longer,
        "token": slower,
        "goodput": good,
        "filled": before.places.filled / max(1, before.places.all),
        "in_pairs": before.places.in_pairs / max(1, before.places.all),
        "tokens_per_second": 1e3 * beside.num_pieces * machine.piece_tokens / beside.ms,
        "is_met": bool(is_met),
    }


def table(found: Sequence[dict[str, Any]], machines: Sequence[Machine]) -> str:
    """The figures as Markdown."""
    pieces = "; ".join(
        f"{one.name}: pieces of {one.piece_tokens} tokens, {one.piece_ms:.0f} ms"
        for one in machines
    )
    lines = [
        f"Simulated with {SEEDS * REQUESTS:,} requests a load. {pieces}.",
        "",
        "| machine | load | share | idle | training | of the idle | first token, p99 | a token, "
        "p99 | kept promises | gate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        token = "" if row["token"] is None else f"{100 * row['token']:+.1f} %"
        of_idle = "" if row["of_idle"] is None else f"{100 * row['of_idle']:.0f} %"
        lines.append(
            f"| {row['machine']} | {row['asks']}, {row['arrivals']}, {100 * row['load']:.0f} % | "
            f"{row['share']:g} | {100 * row['idle']:.0f} % | {100 * row['trained']:.0f} % | "
            f"{of_idle} | {100 * row['first']:+.1f} % | {token} | "
            f"× {row['goodput']:.3f} | {'met' if row['is_met'] else 'missed'} |"
        )
    scored = [row for row in found if row["asks"] == "scores"]
    filled = [100 * row["filled"] for row in scored]
    in_pairs = max(100 * row["in_pairs"] for row in scored)
    lines += [
        "",
        f"Of the places on pages to score, {min(filled):.0f} to {max(filled):.0f} % hold tokens "
        "that were asked for; on pages of a call that are empty, two by two, are at most "
        f"{in_pairs:.1f} %.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.005, 0.02])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--write-docs", action="store_true", help=f"renew docs/{DOCS.name}")
    args = parser.parse_args()
    machines = cpu(), h100()
    found = list(rows(machines, args.shares))
    command.tell(args, table(found, machines), found, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
