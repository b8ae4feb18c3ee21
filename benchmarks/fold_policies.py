"""Measure how much of LoZO's training is left when ``W + A Vᵀ`` is rounded to the weights' dtype.

    python benchmarks/fold_policies.py --write-docs

It moves the matrices of one decoder layer by random projected gradients, folds them at the end of
every interval with zojax's own fold, and compares the total movement with one that is summed in
float64 from the same draws and never rounded. It needs no forward pass and takes half a minute on 2
CPU cores.
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np
from docs_table import write_docs
from flax import traverse_util

from zojax.adapters import Flat, FoldPolicy, Sites, lowrank, trainable_sites
from zojax.adapters.fold import fold
from zojax.adapters.sites import nest
from zojax.errors import InputError
from zojax.estimators import SUBSPACE, lozo, stream_key
from zojax.hub.stored import DTYPES
from zojax.models import abstract_model
from zojax.models.registry import SHAPES

DOCS = Path(__file__).resolve().parent.parent / "docs" / "fold_policies.md"
BEGIN, END = "<!-- table: made by benchmarks/fold_policies.py -->", "<!-- end of table -->"

WEIGHT_STD = 0.02  # of OPT's initial weights; trained ones are about as large
INTERVAL, RANK = 50, 2  # the published ν and r
SEED = 0

POLICIES: list[tuple[str, FoldPolicy]] = [
    ("float32", "nearest"),
    ("bfloat16", "nearest"),
    ("bfloat16", "stochastic"),
    ("float16", "nearest"),
    ("float16", "stochastic"),
]

Arrays = dict[str, np.ndarray]
"""The float64 matrices by site."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """How fast the weights move: ``projected_grad`` is the standard deviation of c, about 0."""

    learning_rate: float
    projected_grad: float


SETTINGS = [Setting(1e-7, 1), Setting(1e-7, 10), Setting(1e-7, 100), Setting(1e-6, 100)]


@dataclasses.dataclass(frozen=True)
class Interval:
    """One interval's accumulated update: A and V as in training, and ``A Vᵀ`` in float64."""

    a: Flat
    v: Flat
    movement: Arrays


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A total movement ΔW compared with the exact one, over all entries of all matrices.

    Attributes:
        error: ``‖ΔW − exact‖ / ‖exact‖``, Frobenius.
        cosine: the cosine of the angle between the two.
        projection: ``⟨ΔW, exact⟩ / ‖exact‖²``: the share of the training that is kept; 1 if the
            error favours no direction.
        moved: the share of the entries that changed at all.
        noise: the rms of the entries of ``ΔW − exact``, in the weights' unit.
    """

    error: float
    cosine: float
    projection: float
    moved: float
    noise: float


@dataclasses.dataclass(frozen=True)
class Row:
    """The outcome of one policy in one setting; ``entry`` is the rms entry of A Vᵀ."""

    setting: Setting
    entry: float
    dtype: str
    policy: FoldPolicy
    outcome: Outcome


def layer_sites(shape: str) -> Sites:
    """The matrices of one decoder layer of a published OPT."""
    config = dataclasses.replace(SHAPES[shape], num_hidden_layers=1)
    return trainable_sites(abstract_model(config).weights, "linear")


def random_weights(sites: Sites) -> Flat:
    """Weights N(0, 0.02²) in float32."""
    random = np.random.default_rng(SEED)
    return {
        site.path: jnp.asarray(WEIGHT_STD * random.standard_normal(site.shape, np.float32))
        for site in sites
    }


@functools.partial(jax.jit, static_argnums=0)
def accumulate(
    sites: Sites, key: jax.Array, first: jax.Array, moves_s: jax.Array
) -> tuple[Flat, Flat, Flat]:
    """One interval of LoZO from step ``first``, with ``moves_s`` = η c of its steps.

    Returns:
        A as training sums it in float32, V, and every step's U on a leading axis.
    """
    space = lowrank(sites, rank=RANK)
    estimator, start = lozo(space, rank=RANK), space.init({}, key)

    def body(a: Flat, at: tuple[jax.Array, jax.Array]) -> tuple[Flat, Flat]:
        step, move = at
        u = estimator.gradient(key, step, start, {}, jnp.ones(1))
        return jax.tree.map(lambda a, u: a - move * u, a, u), u

    steps = first + jnp.arange(moves_s.shape[0])
    a, u = jax.lax.scan(body, start, (steps, moves_s))
    return a, space.redraw(stream_key(key, SUBSPACE, first)), u


def exact_movement(moves_s: np.ndarray, u: Flat, v: Flat) -> Arrays:
    """``−Σ η c U Vᵀ`` of one interval in float64."""
    movement = {}
    for path in v:
        a = -np.tensordot(moves_s.astype(np.float64), np.asarray(u[path], np.float64), axes=1)
        movement[path] = a @ np.swapaxes(np.asarray(v[path], np.float64), -1, -2)
    return movement


def intervals(sites: Sites, setting: Setting, steps: int) -> Iterator[Interval]:
    """The intervals of a run whose projected gradients are random."""
    key = jax.random.key(SEED)
    grads_s = setting.projected_grad * np.random.default_rng(SEED).standard_normal(steps)
    moves_s = (setting.learning_rate * grads_s).astype(np.float32)
    for first in range(0, steps, INTERVAL):
        part_s = moves_s[first : first + INTERVAL]
        a, v, u = accumulate(sites, key, jnp.int32(first), jnp.asarray(part_s))
        yield Interval(a, v, exact_movement(part_s, u, v))


@functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
def fold_weights(weights: Any, a: Flat, v: Flat, key: jax.Array, policy: FoldPolicy) -> Any:
    """The weights after a fold."""
    return fold(weights, a, v, key, policy)[0]


def mean_square(arrays: Arrays) -> float:
    """The mean square of the entries of all arrays."""
    total = sum(float(np.square(array).sum()) for array in arrays.values())
    return total / sum(array.size for array in arrays.values())


def compare(before: Flat, after: Flat, exact: Arrays) -> Outcome:
    """Measure the movement from ``before`` to ``after`` against the exact one."""
    error = dot = length = exact_length = moved = size = 0.0
    for path, wanted in exact.items():
        movement = np.asarray(after[path]).astype(np.float64)
        movement -= np.asarray(before[path]).astype(np.float64)
        error += float(np.square(movement - wanted).sum())
        dot += float((movement * wanted).sum())
        length += float(np.square(movement).sum())
        exact_length += float(np.square(wanted).sum())
        moved += int(np.count_nonzero(movement))
        size += movement.size
    return Outcome(
        error=math.sqrt(error / exact_length),
        cosine=dot / math.sqrt(length * exact_length) if length else 0.0,
        projection=dot / exact_length,
        moved=moved / size,
        noise=math.sqrt(error / size),
    )


def measure(sites: Sites, setting: Setting, steps: int) -> list[Row]:
    """Measure every policy in one setting."""
    start = random_weights(sites)
    before = [{path: w.astype(DTYPES[dtype]) for path, w in start.items()} for dtype, _ in POLICIES]
    after = [nest({path: jnp.copy(w) for path, w in flat.items()}) for flat in before]
    exact = {site.path: np.zeros(site.shape) for site in sites}
    squares = []
    for number, interval in enumerate(intervals(sites, setting, steps)):
        key = jax.random.fold_in(jax.random.key(SEED + 1), number)
        after = [
            fold_weights(weights, interval.a, interval.v, key, policy)
            for weights, (_, policy) in zip(after, POLICIES, strict=True)
        ]
        exact = {path: exact[path] + interval.movement[path] for path in exact}
        squares.append(mean_square(interval.movement))
    entry = math.sqrt(sum(squares) / len(squares))
    rows = []
    for old, new, (dtype, policy) in zip(before, after, POLICIES, strict=True):
        flat: dict[str, Any] = dict(traverse_util.flatten_dict(new, sep="/"))
        rows.append(Row(setting, entry, dtype, policy, compare(old, flat, exact)))
    return rows


def scientific(value: float, digits: int = 0) -> str:
    """``1e-7``, without the exponent's leading zero.

    >>> scientific(1e-7), scientific(1.04e-5, 1)
    ('1e-7', '1.0e-5')
    """
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| η | c | entry of A Vᵀ | weights | rounding | kept | error | cosine | moved | noise |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        outcome = row.outcome
        cells = [
            scientific(row.setting.learning_rate),
            f"{row.setting.projected_grad:g}",
            scientific(row.entry, 1),
            row.dtype,
            "float32's own" if row.dtype == "float32" else row.policy,
            f"{outcome.projection:.3f}",
            f"{outcome.error:.2f}" if outcome.error >= 0.01 else scientific(outcome.error),
            f"{outcome.cosine:.3f}",
            f"{outcome.moved:.0%}",
            scientific(outcome.noise, 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Measure what folding LoZO's update into 16-bit weights loses of it.",
        epilog="example: python benchmarks/fold_policies.py --shape opt-1.3b --steps 200",
    )
    parser.add_argument("--steps", type=int, default=400, help="default: 400")
    parser.add_argument(
        "--shape", default="opt-125m", choices=SHAPES, help="whose layer (default: opt-125m)"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"renew the table in {DOCS.name}")
    args = parser.parse_args(argv)
    if args.steps < 1:
        raise InputError(f"--steps {args.steps}: give at least 1")

    sites = layer_sites(args.shape)
    rows = []
    for setting in SETTINGS:
        rows += measure(sites, setting, args.steps)
        print(f"η {setting.learning_rate:g}, c {setting.projected_grad:g}: done", file=sys.stderr)
    caption = (
        f"One layer of {args.shape}, {args.steps} steps, ν {INTERVAL}, r {RANK}, "
        f"weights N(0, {WEIGHT_STD}²)."
    )
    text = f"{caption}\n\n{table(rows)}"
    print(text)
    if args.write_docs:
        write_docs(DOCS, BEGIN, END, text)


if __name__ == "__main__":
    command.run(main)
