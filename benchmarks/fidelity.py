"""Measure how accurate the projected gradient is: its error and its sign, against float64.

    python benchmarks/fidelity.py --data DIR --tokenizer DIR --write-docs

Every probe has its own batch and its own directions, at the base model. zojax and the published
implementation (:mod:`peers`), which adds ±ε U Vᵀ to the weights in place, get the same probes, and
float64 (:mod:`float64`) gives the right answer twice: for exactly the weights that a method has, so
that the error is that of its arithmetic; and for the float32 weights, so that it includes the
rounding of the base.

It measures the demo's trained model with many probes, and a random OPT of ``--shape`` with few. It
takes five minutes on 2 CPU cores.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
from bars import bars
from fidelity_methods import METHODS, REFERENCES, SLOW_ON_CPUS, Method
from fidelity_probes import BASES, Tree, draw_probes
from rich.console import Console
from rich.progress import track
from setting import (
    DOCS,
    ROOT,
    arguments,
    demo_of_all_matrices,
    machine_name,
    make_config,
    random_checkpoint,
)

from zojax.config import Config, apply_overrides
from zojax.errors import InputError
from zojax.models.precision import dequantise
from zojax.runs.setup import prepare

MARKERS = "<!-- table: made by benchmarks/fidelity.py -->", "<!-- end of fidelity.py's table -->"
PNG = ROOT / "docs" / "images" / "fidelity.png"


@dataclasses.dataclass(frozen=True)
class Row:
    """One method's projected gradients compared with float64's.

    Attributes:
        model: the demo, or the shape.
        method: the method's name.
        probes: the number of probes.
        signs: the share with the same sign as float64's for the same weights.
        error: ``rms(c − c64) / rms(c64)`` for the same weights.
        signs_base: as ``signs``, for the float32 weights.
        error_base: as ``error``, for the float32 weights.
    """

    model: str
    method: str
    probes: int
    signs: float
    error: float
    signs_base: float
    error_base: float


def sign_agreement(grads: np.ndarray, exact: np.ndarray) -> float:
    """The share of projected gradients with the right sign; equal losses have no sign.

    >>> sign_agreement(np.array([2.0, -1.0, 0.0, 3.0]), np.array([1.0, -5.0, 1.0, -1.0]))
    0.5
    """
    return float(np.mean(np.sign(grads) == np.sign(exact)))


def relative_error(grads: np.ndarray, exact: np.ndarray) -> float:
    """``rms(c − c64) / rms(c64)`` over the probes.

    >>> relative_error(np.array([3.0, 1.0]), np.array([3.0, 4.0]))
    0.6
    """
    return float(np.linalg.norm(grads - exact) / np.linalg.norm(exact))


def measure(
    name: str,
    config: Config,
    count: int,
    methods: Sequence[Method],
    console: Console,
    reference: str = "float64",
) -> list[Row]:
    """Measure every method on a model's probes against one of :data:`REFERENCES`."""
    run = prepare(config, Console(quiet=True))
    probes = list(draw_probes(run, count))
    weights = {base: BASES[base](run.model.weights) for base in {m.base for m in methods}}
    exact, right = dict[str, np.ndarray](), REFERENCES[reference]
    for base in ("float32", *sorted(weights.keys() - {"float32"})):
        same = [b for b in exact if _equal(weights[b], weights[base])]
        exact[base] = exact[same[0]] if same else right(run, weights[base], probes)
        console.print(f"{name}: {reference} for {base} weights done", highlight=False)
    rows = []
    for method in track(methods, name, console=console, transient=True):
        for suffix, grads in method.measure(run, weights[method.base], probes).items():
            compared = [
                figure(grads, exact[base])
                for base in (method.base, "float32")
                for figure in (sign_agreement, relative_error)
            ]
            rows.append(Row(name, method.name + suffix, count, *compared))
    return rows


def _equal(a: Tree, b: Tree) -> bool:
    """Whether two trees have equal numbers, such as a float16 checkpoint's in two dtypes."""
    whole_a, whole_b = dequantise(a), dequantise(b)
    pairs = zip(jax.tree.leaves(whole_a), jax.tree.leaves(whole_b), strict=True)
    return all(bool((x.astype(jnp.float32) == y.astype(jnp.float32)).all()) for x, y in pairs)


def table(rows: Sequence[Row], epsilon: float, machine: str) -> str:
    """The figures as Markdown."""
    lines = [
        f"{machine}. ε {epsilon:g}; batches of 16; int8 and int4 are of the layers' matrices, with "
        "a scale a row or a group, and multiplied in bfloat16.",
        "",
        "| model | method | probes | signs right | error | signs right, to the float32 model | "
        "error, to the float32 model |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.model, row.method, str(row.probes)]
        cells += [f"{100 * row.signs:.1f} %", f"{row.error:.1e}"]
        cells += [f"{100 * row.signs_base:.1f} %", f"{row.error_base:.1e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each method's errors on the first model, on a logarithmic axis.

    The bar is that of its arithmetic; a pale one behind includes the rounding of the weights.
    """
    rows = [row for row in rows if row.model == rows[0].model]
    errors = [row.error for row in rows]
    labels = [f"{row.error:.0e}, {100 * row.signs:.1f} % of signs" for row in rows]
    with bars(path, [row.method for row in rows], errors, labels, (8, 0.42)) as axes:
        axes.set_xscale("log")
        axes.set_xlim(right=300 * max(errors))
        whole = [row.error_base for row in rows]
        axes.barh([row.method for row in rows], whole, color="grey", alpha=0.25, zorder=0)
        axes.set_xlabel(
            f"relative error of the projected gradient, {rows[0].probes} probes\n"
            "(pale: with the rounding of the weights)"
        )
        axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--probes", type=int, default=300, help="of the demo (default: 300)")
    parser.add_argument("--shape-probes", type=int, default=3, help="of --shape (default: 3)")
    parser.add_argument("--epsilon", type=float, default=1e-3, help="default: 1e-3")
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        default="float64",
        help="what is right: float64, or zojax in float32, which is quick (default: float64)",
    )
    args = parser.parse_args(argv)
    if args.probes < 1:
        raise InputError(f"--probes {args.probes}: give at least 1")
    console, settings = Console(stderr=True), [f"estimator.epsilon={args.epsilon}"]
    sizes = [f"train.steps={args.probes}", "train.batch_size=16"]
    demo = apply_overrides(demo_of_all_matrices(), [*sizes, *settings])
    rows = measure("demo", demo, args.probes, METHODS, console, args.reference)
    if args.shape_probes:
        quick = [method for method in METHODS if method.base != SLOW_ON_CPUS]
        with random_checkpoint(args.shape, args.tokenizer) as checkpoint:
            config = make_config(checkpoint, args.data, args.shape_probes, settings)
            rows += measure(args.shape, config, args.shape_probes, quick, console, args.reference)
    figures = {"epsilon": args.epsilon, "rows": [dataclasses.asdict(row) for row in rows]}
    command.tell(args, table(rows, args.epsilon, machine_name()), figures, DOCS, MARKERS)
    if args.write_docs:
        draw(rows, PNG)


if __name__ == "__main__":
    command.run(main)
