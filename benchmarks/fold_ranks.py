"""Measure which rank an adapter needs to learn what folds into the weights learn.

    python benchmarks/fold_ranks.py --write-docs

LoZO learns one matrix T from a loss that is known exactly, ``‖M − T‖² / 2``, plus a random linear
term in every step, as another batch would have. So it needs no data, and the size of the remaining
loss says how much of T was learnt. Steps and folds are zojax's own. It takes two minutes of a core.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np

from zojax.adapters import Site, gathered, lowrank, lowrank_fold, truncation
from zojax.config import TrainConfig
from zojax.errors import InputError
from zojax.estimators import lozo
from zojax.training.interval import OwnedWeights, next_interval
from zojax.training.optimizers import make_optimizer
from zojax.training.step import Method, init_state, train_step

DOCS = Path(__file__).resolve().parent.parent / "docs" / "fold_policies.md"
BEGIN, END = "<!-- table: made by benchmarks/fold_ranks.py -->", "<!-- end of the ranks -->"

SIZE, RANK, INTERVAL = 96, 2, 10
SITE = Site("w", (SIZE, SIZE))
RATES = (3e-5, 1e-4)
NOISE = 0.5
"""The norm of a step's random term, relative to that of the gradient at the start."""

Spectrum = Callable[[np.ndarray], np.ndarray]
SPECTRA: dict[str, Spectrum] = {
    "4 equal ones": lambda k: 1.0 * (k <= 4),
    "1/k": lambda k: 1 / k,
    "all equal": lambda k: np.ones(len(k)),
}
"""The singular values of what is to be learnt, k from 1; they are scaled to a norm of 1."""

ADAPTERS = (None, 8, 16, 32, 64)
"""The ranks R of an adapter; None folds into float32 weights."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The outcome of one rank for one spectrum, at the better of the learning rates.

    Attributes:
        spectrum: the name of T's spectrum.
        adapter_rank: R, or None for folds into the weights.
        rate: the learning rate.
        left: the remaining part of the loss ``‖M − T‖²``, for each seed.
        dropped: what truncation has dropped in all, for each seed.
    """

    spectrum: str
    adapter_rank: int | None
    rate: float
    left: list[float]
    dropped: list[float]


def make_target(spectrum: str, seed: int) -> jax.Array:
    """A random matrix with these singular values and a norm of 1."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
    values = SPECTRA[spectrum](np.arange(1.0, SIZE + 1))
    return jnp.float32((left * (values / np.linalg.norm(values))) @ right.T)


def make_method(adapter_rank: int | None, rates: np.ndarray) -> Method:
    """LoZO on the matrix."""
    if adapter_rank is None:
        space, fold = lowrank((SITE,), rank=RANK), lowrank_fold((SITE,), "nearest")
    else:
        space, fold = gathered((SITE,), rank=RANK, adapter_rank=adapter_rank), None
    optimizer = make_optimizer(TrainConfig(optimizer="sgd"))
    return Method(lozo(space, rank=RANK), optimizer, INTERVAL, rates, fold)


def matrices(weights: Any, branch: Any) -> jax.Array:
    """The matrix under every variant, ``(v, m, n)``, or of one state, ``(m, n)``."""
    u, v = branch["u"], branch["v"].value
    return weights["w"] + jnp.einsum("...mk,nk->...mn", u, v, precision="highest")


def losses(weights: Any, variants: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The objective; a batch is T and the step's random term."""
    target, noise = batch
    m_vmn = matrices(weights, variants["w"])[1:]  # slot 0 is the base
    return 0.5 * jnp.square(m_vmn - target).sum((1, 2)) + (noise * m_vmn).sum((1, 2))


@functools.partial(jax.jit, static_argnames=("adapter_rank", "folds"))
def learn(
    key: jax.Array, target: jax.Array, rates_s: jax.Array, *, adapter_rank: int | None, folds: int
) -> tuple[jax.Array, Any]:
    """Train; return what is left of ``‖T‖²``, and the last subspace."""
    method = make_method(adapter_rank, np.zeros(0, np.float32))
    weights = {"w": jnp.zeros(SITE.shape)}
    state = init_state(method, weights, key)

    def step(carry: Any, rate: jax.Array) -> tuple[Any, None]:
        weights, state = carry
        drawn = jax.random.normal(jax.random.fold_in(key, state.step), SITE.shape)
        batch = target, NOISE / SIZE * drawn
        state, _ = train_step(weights, state, key, rate, batch, method=method, objective=losses)
        return (weights, state), None

    def interval(carry: Any, rates: jax.Array) -> tuple[Any, None]:
        (weights, state), _ = jax.lax.scan(step, carry, rates)
        owned, state = next_interval(OwnedWeights(weights), state, key, method=method)
        return (owned.weights, state), None

    start = (weights, state)
    (weights, state), _ = jax.lax.scan(interval, start, rates_s.reshape(folds, INTERVAL))
    adapter = method.estimator.space.adapter(state.params, state.subspace)
    return jnp.square(matrices(weights, adapter["w"]) - target).sum(), state.subspace


def measure(spectrum: str, adapter_rank: int | None, folds: int, seeds: int) -> Row:
    """Train on all seeds at each learning rate, with a cosine schedule, and keep the better."""
    schedule = np.cos(np.pi / 2 * np.arange(folds * INTERVAL) / (folds * INTERVAL)) ** 2
    rows = []
    for rate in RATES:
        row = Row(spectrum, adapter_rank, rate, [], [])
        for seed in range(seeds):
            left, subspace = learn(
                jax.random.key(seed),
                make_target(spectrum, seed),
                jnp.float32(rate * schedule),
                adapter_rank=adapter_rank,
                folds=folds,
            )
            told = truncation(subspace)
            row.left.append(float(left))
            row.dropped.append(0.0 if told is None else told.total)
        rows.append(row)
    return min(rows, key=lambda row: statistics.fmean(row.left))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| singular values of what is to be learnt | folded into | learning rate | loss left, % | "
        "dropped, % |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        left = [100 * value for value in row.left]
        spread = statistics.stdev(left) if len(left) > 1 else 0.0
        into = "the weights" if row.adapter_rank is None else f"an adapter, R {row.adapter_rank}"
        cells = [
            row.spectrum,
            into,
            f"{row.rate:.0e}",
            f"{statistics.fmean(left):.1f} ± {spread:.1f}",
            "" if row.adapter_rank is None else f"{100 * statistics.fmean(row.dropped):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Measure which rank an adapter needs that LoZO's intervals are folded into.",
        epilog="example: python benchmarks/fold_ranks.py --folds 300 --seeds 1",
    )
    parser.add_argument("--folds", type=int, default=500, help="intervals (default: 500)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--write-docs", action="store_true", help=f"renew the table in {DOCS.name}")
    args = parser.parse_args(argv)
    for name in ("folds", "seeds"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: give at least 1")
    rows = []
    for spectrum in SPECTRA:
        for adapter_rank in ADAPTERS:
            rows.append(measure(spectrum, adapter_rank, args.folds, args.seeds))
            print(f"{spectrum}, R {adapter_rank}: done", file=sys.stderr)
    caption = (
        f"One matrix of {SIZE} by {SIZE}, {args.folds} intervals, ν {INTERVAL}, r {RANK}, "
        f"{args.seeds} seeds (mean ± standard deviation), the better of the learning rates "
        f"{', '.join(f'{rate:.0e}' for rate in RATES)}."
    )
    figures = [dataclasses.asdict(row) for row in rows]
    command.tell(args, f"{caption}\n\n{table(rows)}", figures, DOCS, (BEGIN, END))


if __name__ == "__main__":
    command.run(main)
