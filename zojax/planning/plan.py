"""Plan a run: compile the very programs of training for devices that are not here."""

import dataclasses
import functools
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from zojax.config import Config
from zojax.distributed import Layout
from zojax.errors import InputError
from zojax.models.branches import STACKED
from zojax.models.family import DecoderConfig
from zojax.models.int4 import whole_shape
from zojax.models.model import weight_sharding
from zojax.models.precision import SCALE
from zojax.planning import hlo, traffic
from zojax.planning.products import EXACT, HIGH, count_products
from zojax.planning.shapes import RunShapes, bytes_of, run_shapes, widen_pages
from zojax.planning.targets import Chip, Target, devices_of
from zojax.programs.compiling import cancelled_at_end
from zojax.runs.chunks import compile_programs
from zojax.runs.kept import trained_layers
from zojax.runs.layout import layout_on
from zojax.training.generated import GeneratedObjective
from zojax.training.interval import IntervalProgram
from zojax.training.step import train_step

Tree = Any


@dataclasses.dataclass(frozen=True)
class Planned:
    """What one compiled program needs on each device.

    Attributes:
        arguments: the bytes of its arguments, in XLA's layout.
        temporaries: the bytes of its temporary arrays.
        outputs: the bytes of outputs that do not reuse an argument's buffer.
        exchanges: the exchanges between devices.
        copies: copies as large as a weight, or as one layer of it.
    """

    arguments: int
    temporaries: int
    outputs: int
    exchanges: Sequence[traffic.Collective]
    copies: Sequence[traffic.Copy]

    @property
    def peak(self) -> int:
        """The bytes in use while it runs."""
        return self.arguments + self.temporaries + self.outputs


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least seconds of a step, by what limits it; these are estimates, not measurements.

    Attributes:
        products: the matrix products, at the chip's published rate.
        memory: reading weights and adapters once.
        copies: copying matrices of layers that the compiled step cannot read in place: they are
            written beside the weights and read again.
        links: sending what a device must send.
        fold: a step's share of the time to fold an interval, into the weights or an adapter.
    """

    products: float
    memory: float
    copies: float
    links: float
    fold: float

    @property
    def limit(self) -> str:
        """The name of the largest limit; copies count as memory."""
        return max(self._limits, key=lambda name: self._limits[name])

    @property
    def seconds(self) -> float:
        """The least seconds of a step, including its share of the fold."""
        return self._limits[self.limit] + self.fold

    @property
    def _limits(self) -> Mapping[str, float]:
        memory = self.memory + self.copies
        return {"products": self.products, "memory": memory, "links": self.links}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs on a target.

    Attributes:
        model: the model's name.
        target: the devices.
        mesh: the numbers of shards of the pages and of the weights.
        num_layers: the number of the model's layers.
        batch: a step's numbers of ``tokens``, of ``places`` for them, of ``pages`` in a
            micro-batch, of places in a page (``page_tokens``), of ``variants``, and of ``passes``
            through the weights.
        kinds: the bytes on a device of arrays that live as long as the run, by kind.
        interval: the number of steps between folds; 0 means never.
        step: the compiled step; None if it was not compiled.
        fold: the compiled fold of an interval; None if nothing is folded.
        bound: a lower bound on a step's time.
        compile_seconds: the wall-clock time to compile both.
        refusal: why nothing was compiled; empty if something was.
        page_tokens: the places in a page of the compiled step.
    """

    model: str
    target: Target
    mesh: tuple[int, int]
    num_layers: int
    batch: Mapping[str, int]
    kinds: Mapping[str, int]
    interval: int
    step: Planned | None
    fold: Planned | None
    bound: Bound
    compile_seconds: float
    refusal: str
    page_tokens: int

    @property
    def peak(self) -> int:
        """The most bytes that are in use on a device at once, as far as they are known."""
        programs = [p.peak for p in (self.step, self.fold) if p is not None]
        return max(programs, default=sum(self.kinds.values()))

    @property
    def fits(self) -> bool:
        """Whether the peak is at most what JAX has on such a device."""
        return self.step is not None and self.peak <= self.target.chip.usable_memory

    @property
    def reduces_per_layer(self) -> int:
        """The all-reduces per layer and pass; embeddings and scores have another one each."""
        exchanges = self.step.exchanges if self.step else ()
        count = sum(e.times for e in exchanges if e.kind == "all-reduce")
        return max(0, round((count / self.batch["passes"] - 2) / self.num_layers))

    @property
    def defects(self) -> list[str]:
        """Lines about what a good step would not have."""
        found = []
        for name, program in (("step", self.step), ("fold", self.fold)):
            if program is None:
                continue
            whole = [copy for copy in program.copies if copy.whole]
            if whole:
                size = max(copy.num_bytes for copy in whole) / 1e9
                found.append(f"the {name} copies weights: {whole[0].opcode} of {size:.2f} GB")
        if self.reduces_per_layer > 2:
            found.append(f"{self.reduces_per_layer} all-reduces a layer")
        return found


def make_plan(
    config: Config,
    model: DecoderConfig,
    target: Target,
    tokens: int,
    devices: Sequence[Any] | None = None,
) -> Plan:
    """Compile a configuration's step and fold for a target.

    Args:
        config: the run's configuration.
        model: the model's architecture.
        target: the devices to compile for.
        tokens: the number of distinct tokens in a batch.
        devices: the target's devices; None makes them.

    Raises:
        InputError: the mesh or other settings conflict, or there is no compiler for the target.
    """
    devices = devices_of(target) if devices is None else devices
    room = target.chip.usable_memory
    layout = layout_on(config, model, devices, room)
    shapes = run_shapes(config, model, layout, tokens)
    kinds = _kinds(shapes)
    step, fold, compiled, refusal = None, None, shapes, ""
    started = time.perf_counter()
    if sum(kinds.values()) > room:
        refusal = "its weights and adapters alone are larger"
    else:
        try:
            step, fold, compiled = _compile_somehow(shapes)
        except jax.errors.JaxRuntimeError as error:
            refusal = _out_of_memory(error)
    seconds = time.perf_counter() - started
    mesh = layout.mesh.shape
    [bucket] = shapes.batches
    parts, estimator = config.train.micro_batches, shapes.run.method.estimator
    return Plan(
        config.model.path,
        target,
        (mesh["data"], mesh["model"]),
        model.num_hidden_layers,
        {
            "tokens": tokens,
            "passes": parts * estimator.num_variants // estimator.variants_at_once,
            "places": parts * bucket.pages * bucket.tokens,
            "pages": bucket.pages,
            "page_tokens": bucket.tokens,
            "variants": estimator.num_variants,
        },
        kinds,
        shapes.run.method.interval,
        step,
        fold,
        bound_of(shapes, target.chip, step, fold),
        seconds,
        refusal,
        next(iter(compiled.batches)).tokens,
    )


def _kinds(shapes: RunShapes) -> dict[str, int]:
    state = shapes.state
    return {
        "weights": bytes_of(shapes.run.model.weights),
        "adapters": bytes_of((state.params, state.subspace)),
        "optimizer": bytes_of(state.opt_state),
        "batch": bytes_of(shapes.batches),
    }


_UNTILED = "Couldn't find output tile sizes"
"""XLA's message if it has no GPU to try products on, and its default tiles do not fit a page."""


def _compile_somehow(shapes: RunShapes) -> tuple[Planned, Planned | None, RunShapes]:
    """Compile for the given pages or else for slightly wider ones; return the shapes, too."""
    for multiple in (1, 16, 32, 64, 128):
        wide = widen_pages(shapes, multiple)
        try:
            return *_compile(wide), wide
        except jax.errors.JaxRuntimeError as error:
            if _UNTILED not in str(error):
                raise
    raise InputError(
        f"--tokens {shapes.num_tokens}: XLA finds no tiles for the products of this many tokens "
        "without a GPU to try them on; give another number"
    )


def _compile(shapes: RunShapes) -> tuple[Planned, Planned | None]:
    step, fold = compile_run(shapes)
    return look_at(shapes, step, fold and fold.program)


def compile_run(shapes: RunShapes) -> tuple[Any, IntervalProgram | None]:
    """Compile a run's step and its interval's end; the latter is None if no interval ends."""
    run = shapes.run
    programs = compile_programs(
        run.model.weights,
        shapes.state,
        run.key,
        run.method,
        run.objective,
        shapes.batches,
        steps=max(run.config.train.steps, run.method.interval),
    )
    with cancelled_at_end(programs):  # of the fold, if XLA refuses the step
        [step] = programs.step.values()
        return step, programs.fold and programs.fold.get()


def look_at(shapes: RunShapes, step: Any, fold: Any | None) -> tuple[Planned, Planned | None]:
    """What a run's compiled programs need on a device, whether it is here or not.

    Args:
        shapes: the shapes that they were compiled for.
        step: the executable of a step.
        fold: the executable of an interval's end, if there is one.
    """
    shares = matrix_shares(shapes)
    # A fold moves a table like a layer: by a product that is as large as the matrix.
    by_matrix = [share if len(share) == 3 else (1, *share) for share in shares]
    num_devices = shapes.layout.mesh.size
    return (
        _look(step, shares, num_devices),
        None if fold is None else _look(fold, by_matrix, num_devices),
    )


def _look(program: Any, shares: Sequence[tuple[int, ...]], num_devices: int) -> Planned:
    """Read XLA's analysis of a compiled program."""
    memory, parsed = program.memory_analysis(), hlo.parse(program.as_text())
    return Planned(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        traffic.collectives(parsed, num_devices),
        traffic.weight_copies(parsed, shares),
    )


def matrix_shares(shapes: RunShapes) -> list[tuple[int, ...]]:
    """The shapes of the matrices' shares on a device; stacked layers are the first axis.

    For matrices that are also split over ``data``, the gathered shapes are included; for packed
    ones, those that they have in a product.
    """
    flat: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(shapes.run.model.weights))  # type: ignore[arg-type]
    layouts, config = (shapes.layout, Layout(shapes.layout.mesh)), shapes.run.model.config
    places = [weight_sharding(layout, config) for layout in layouts]
    shares = {
        (place(path, leaf.shape).shard_shape(leaf.shape), leaf.dtype)  # pyright: ignore[reportOptionalMemberAccess]
        for path, leaf in flat.items()
        for place in places
        if leaf.ndim == (3 if path[0] == STACKED else 2) and path[-1] != SCALE
    }
    structs = [jax.ShapeDtypeStruct(*share) for share in shares]
    return sorted({shape for s in structs for shape in (s.shape, whole_shape(s))})


def bound_of(shapes: RunShapes, chip: Chip, step: Planned | None, fold: Planned | None) -> Bound:
    """A lower bound on the time of a run's step.

    Args:
        shapes: the shapes of the run.
        chip: the kind of device that it runs on.
        step: the compiled step; None counts neither copies nor exchanges.
        fold: the compiled fold; None counts no fold.
    """
    run = shapes.run
    assert not isinstance(run.objective, GeneratedObjective), "run_shapes refuses it"
    traced = jax.make_jaxpr(
        functools.partial(train_step, method=run.method, objective=run.objective)
    )
    [batch] = shapes.batches.values()
    program = traced(run.model.weights, shapes.state, run.key, np.float32(0), batch)
    rates = {**chip.matmul_flops, HIGH: chip.high_flops, EXACT: chip.exact_flops}
    products = sum(n / rates[how] for how, n in count_products(program.jaxpr).items())
    weights = run.model.weights
    layers, shares = bytes_of(weights[STACKED]), _shares_of_layers(run, batch)
    head = bytes_of(weights.get("lm_head", weights["embed_tokens"]))
    read = layers * shares.read + (head if run.scorer.normalize else 0) + bytes_of(shapes.state)
    read += bytes_of(shapes.state.params)  # the params are written, too
    sent = sum(e.sent_bytes for e in step.exchanges) if step else 0.0
    changed = layers * shares.folded if run.method.fold else bytes_of(shapes.state.subspace)
    moved = 2 * changed / chip.memory_bandwidth / run.method.interval if fold else 0.0
    copied = sum(copy.times * copy.num_bytes for copy in step.copies) if step else 0
    return Bound(
        products / shapes.layout.mesh.size,
        read / chip.memory_bandwidth,
        2 * copied / chip.memory_bandwidth,
        sent / chip.link_bandwidth,
        moved,
    )


class _Shares(NamedTuple):
    """The shares of all layers that a step reads, and that a fold moves."""

    read: float
    folded: float


def _shares_of_layers(run: Any, batch: Any) -> _Shares:
    trained = trained_layers(run.method, run.model.weights)
    if trained is None:
        return _Shares(1.0, 1.0)
    is_kept = batch.pages.below_ptn is not None
    read = trained.total - trained.first if is_kept else trained.total
    return _Shares(read / trained.total, trained.count / trained.total)


def _out_of_memory(error: Exception) -> str:
    """Why XLA refuses a program as too large; other errors are raised again."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
        raise error
    used = re.search(r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", text) or re.search(
        r"Used ([\d.]+\w) of ([\d.]+\w)", text
    )
    return f"XLA needs {used[1]}iB of {used[2]}iB" if used else "XLA refuses it as too large"
