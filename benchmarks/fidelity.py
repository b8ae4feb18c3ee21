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
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import command
import float64
import jax
import jax.numpy as jnp
import numpy as np
import peers
import torch
from bars import bars
from flax import traverse_util
from rich.console import Console
from rich.progress import track
from setting import DOCS, ROOT, arguments, machine_name, make_config, random_checkpoint
from timed_step import items_of

from zojax.adapters import Flat, stack_variants, trainable_sites
from zojax.config import Config, apply_overrides
from zojax.config.loading import load_config
from zojax.errors import InputError
from zojax.estimators import SUBSPACE, stream_key
from zojax.models import int4
from zojax.models.model import abstract
from zojax.models.precision import (
    FLOAT32,
    GROUP_SIZE,
    INT8_COMPUTE,
    SCALE,
    Precision,
    dequantise,
    precision_of,
    quantise,
)
from zojax.runs.setup import Run, prepare
from zojax.scoring import Item, shape_needed
from zojax.scoring.buckets import choose_buckets, choose_num_pages
from zojax.training.batches import pack_batch
from zojax.training.generated import GeneratedObjective
from zojax.training.method import make_objective
from zojax.training.step import Batch

MARKERS = "<!-- table: made by benchmarks/fidelity.py -->", "<!-- end of fidelity.py's table -->"
PNG = ROOT / "docs" / "images" / "fidelity.png"
DEMO = ROOT / "configs" / "demo.py"

GROUP_SIZES = (32, 64, 128)
"""The values of ``model.group_size`` that are measured."""

Tree = Any


@dataclasses.dataclass(frozen=True)
class Probe:
    """One probe: a batch, and the directions from the base model.

    Attributes:
        items: the batch.
        batch: the same batch, packed.
        key: the key from which zojax draws U and V.
        u: U ``(…, m, r)`` of every matrix, as zojax draws it.
        v: V ``(…, n, r)`` of every matrix, as zojax draws it.
    """

    items: list[Item]
    batch: Batch
    key: jax.Array
    u: Flat
    v: Flat


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to compute projected gradients.

    Attributes:
        name: the name in the table.
        base: the weights that it has, as a key of :data:`BASES`.
        measure: ``(run, weights, probes) -> c`` of every probe, in a dict whose keys are appended
            to the name, since the same passes may be read in more than one way.
        precision: zojax's precision.
    """

    name: str
    base: str
    measure: Callable[[Run, Tree, Sequence[Probe]], dict[str, np.ndarray]]
    precision: Precision | None = None


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


# What is probed, and where.


Quantise = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function that rounds matrices; it returns entries and scales."""


def to_int8(weights: Tree) -> Tree:
    """The weights as in a model with ``model.dtype=int8``."""
    return _quantised(weights, quantise)


def to_int4(weights: Tree, group_size: int) -> Tree:
    """The weights as in a model with ``model.dtype=int4`` and ``model.group_size``."""
    return _quantised(weights, lambda w: int4.quantise(w, int4.group_of(w.shape[-1], group_size)))


def _quantised(weights: Tree, by: Quantise) -> Tree:
    whole: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    flat = {path: leaf.astype(INT8_COMPUTE) for path, leaf in whole.items()}
    for site in trainable_sites(weights, "linear"):
        entries, scale = by(np.asarray(whole[site.path]))
        flat[site.path] = jnp.asarray(entries)
        flat[f"{site.path.rpartition('/')[0]}/{SCALE}"] = jnp.asarray(scale)
    return traverse_util.unflatten_dict(flat, sep="/")


def cast(weights: Tree, dtype: Any) -> Tree:
    """Convert all weights to a dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), weights)


BASES: dict[str, Callable[[Tree], Tree]] = {
    "float32": lambda weights: weights,
    "bfloat16": functools.partial(cast, dtype=jnp.bfloat16),
    "float16": functools.partial(cast, dtype=jnp.float16),
    "int8": to_int8,
    **{
        f"int4 in groups of {size}": functools.partial(to_int4, group_size=size)
        for size in GROUP_SIZES
    },
}
"""Functions that make a method's weights from the float32 weights."""


def draw_probes(run: Run, count: int) -> Iterator[Probe]:
    """The batches of a run's first steps, packed to one shape, with directions for each."""
    batches = [items_of(run, step) for step in range(count)]
    num_pages = choose_num_pages(batches, run.model.config.hidden_size)
    [shape] = choose_buckets([shape_needed(batch, num_pages) for batch in batches], 1)
    estimator, params = run.method.estimator, start_of(run)

    @jax.jit
    def directions(key: jax.Array) -> tuple[Flat, Flat]:
        subspace = estimator.space.redraw(stream_key(key, SUBSPACE, 0))
        return estimator.gradient(key, jnp.int32(0), params, subspace, jnp.ones(1)), subspace

    for number, batch in enumerate(batches):
        key = jax.random.fold_in(run.key, number)
        yield Probe(batch, pack_batch(batch, shape), key, *directions(key))


def start_of(run: Run) -> Flat:
    """The params of the base model."""
    return run.method.estimator.space.init(run.model.weights, run.key)


# Who answers.


def by_zojax(
    precision: Precision, run: Run, weights: Tree, probes: Sequence[Probe]
) -> dict[str, np.ndarray]:
    """The projected gradients of a training step's own program."""
    estimator, params = run.method.estimator, start_of(run)
    graphdef = abstract(run.model.config, precision)[0]
    scorer = run.scorer._replace(graphdef=graphdef)
    objective = make_objective(run.config, run.data.splits, run.data.tokenizer, scorer)
    assert not isinstance(objective, GeneratedObjective)

    @jax.jit
    def ask(weights: Tree, key: jax.Array, batch: Batch) -> jax.Array:
        subspace = estimator.space.redraw(stream_key(key, SUBSPACE, 0))
        variants = estimator.perturb(key, jnp.int32(0), params, subspace)
        losses_v = objective(weights, stack_variants(variants), batch)
        return estimator.projected_grad(losses_v)[0]

    return {"": np.array([float(ask(weights, p.key, p.batch)) for p in probes])}


def in_place(
    dtype: torch.dtype, run: Run, weights: Tree, probes: Sequence[Probe]
) -> dict[str, np.ndarray]:
    """The published way: add +ε, then −2ε, to weights of a dtype; here each time from the base.

    In 16 bits it is also measured with logits converted to float32 before the loss, which the
    published code does not do.

    Args:
        dtype: the dtype of the weights and of all activations.
        run: the run, for its model and ε.
        weights: not used, since the checkpoint is loaded in ``dtype``.
        probes: the probes to measure.
    """
    model, epsilon = peers.load_model(Path(run.model.path), dtype), run.config.estimator.epsilon
    base = {name: p.data for name, p in model.named_parameters()}
    loss_dtypes = {"": dtype} if dtype == torch.float32 else {"": dtype, _UPCAST: torch.float32}
    grads = {suffix: [] for suffix in loss_dtypes}
    for probe in probes:
        u, v = (
            {name: t.float() for name, t in float64.by_name(f).items()} for f in (probe.u, probe.v)
        )
        model.requires_grad_(False)
        for name, p in model.named_parameters():
            p.data = base[name]
            p.requires_grad_(name in u)
        batch, losses = peers.pad(probe.items), {suffix: [] for suffix in loss_dtypes}
        for length in (epsilon, -2 * epsilon):
            peers.move(model, v, lambda name, shape, u=u: u[name], length)
            logits = peers.logits(model, batch)
            for suffix, loss_dtype in loss_dtypes.items():
                losses[suffix].append(peers.loss_of(logits.to(loss_dtype), batch))
        for suffix, (above, below) in losses.items():
            grads[suffix].append(float((above - below) / (2 * epsilon)))
    return {suffix: np.array(c) for suffix, c in grads.items()}


_UPCAST = ", loss float32"


def by_float64(run: Run, weights: Tree, probes: Sequence[Probe]) -> np.ndarray:
    """The right projected gradients for these weights."""
    model, base = float64.load_model(Path(run.model.path)), float64.by_name(dequantise(weights))
    epsilon = run.config.estimator.epsilon

    def ask(probe: Probe) -> float:
        u, v = float64.by_name(probe.u), float64.by_name(probe.v)
        return float64.projected_grad(model, base, u, v, probe.items, epsilon)

    return np.array([ask(probe) for probe in probes])


def by_float32(run: Run, weights: Tree, probes: Sequence[Probe]) -> np.ndarray:
    """Nearly those: zojax's in float32 for these weights, in a tenth of the time."""
    return by_zojax(FLOAT32, run, cast(dequantise(weights), jnp.float32), probes)[""]


REFERENCES = {"float64": by_float64, "float32": by_float32}


def zojax_method(dtype: str, *, exact: bool = False, group_size: int | None = None) -> Method:
    """The method of zojax with a ``model.dtype``.

    Args:
        dtype: the dtype.
        exact: whether with ``model.activations=float32``.
        group_size: the ``model.group_size``, for int4.
    """
    precision = precision_of(dtype, group_size=group_size or GROUP_SIZE, exact=exact)
    base = dtype if group_size is None else f"{dtype} in groups of {group_size}"
    name = f"zojax {base}{', activations float32' if exact else ''}"
    return Method(name, base, functools.partial(by_zojax, precision), precision)


METHODS = (
    zojax_method("float32"),
    zojax_method("bfloat16"),
    zojax_method("bfloat16", exact=True),
    zojax_method("float16"),
    zojax_method("float16", exact=True),
    zojax_method("int8"),
    zojax_method("int8", exact=True),
    *(zojax_method("int4", group_size=size) for size in GROUP_SIZES),
    zojax_method("int4", group_size=GROUP_SIZE, exact=True),
    Method("in place float32", "float32", functools.partial(in_place, torch.float32)),
    Method("in place bfloat16", "bfloat16", functools.partial(in_place, torch.bfloat16)),
    Method("in place float16", "float16", functools.partial(in_place, torch.float16)),
)
SLOW_ON_CPUS = "float16"
"""The precisions that are not measured on a large model."""


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


# What is told.


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
    """Draw a bar for each method's error on the first model, on a logarithmic axis."""
    rows = [row for row in rows if row.model == rows[0].model]
    errors = [row.error for row in rows]
    labels = [f"{row.error:.0e}, {100 * row.signs:.1f} % of signs" for row in rows]
    with bars(path, [row.method for row in rows], errors, labels, (8, 0.42)) as axes:
        axes.set_xscale("log")
        axes.set_xlim(right=300 * max(errors))
        axes.set_xlabel(f"relative error of the projected gradient, {rows[0].probes} probes")
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
    demo = apply_overrides(load_config(str(DEMO)), [*sizes, *settings])
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
