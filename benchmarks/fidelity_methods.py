"""Who answers the probes of :mod:`fidelity`: zojax, the published way in place, and float64."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import float64
import jax
import jax.numpy as jnp
import numpy as np
import peers
import torch
from fidelity_probes import GROUP_SIZES, Probe, Tree, cast, start_of

from zojax.adapters import stack_variants
from zojax.estimators import SUBSPACE, stream_key
from zojax.models.model import abstract
from zojax.models.precision import FLOAT32, GROUP_SIZE, Precision, dequantise, precision_of
from zojax.runs.setup import Run
from zojax.training.generated import GeneratedObjective
from zojax.training.method import make_objective
from zojax.training.step import Batch


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to compute projected gradients.

    Attributes:
        name: the name in the table.
        base: the weights that it has, as a key of :data:`fidelity_probes.BASES`.
        measure: ``(run, weights, probes) -> c`` of every probe, in a dict whose keys are appended
            to the name, since the same passes may be read in more than one way.
        precision: zojax's precision.
    """

    name: str
    base: str
    measure: Callable[[Run, Tree, Sequence[Probe]], dict[str, np.ndarray]]
    precision: Precision | None = None


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
