"""Compile a run's step for a machine that is not here, and print what it takes.

Example:
  zojax plan --model facebook/opt-13b --target h100x1
  zojax plan --config configs/opt13b_lozo.py --target v5e-4,v6e-4 --json
  zojax plan --model facebook/opt-66b --target v5p-8 --set mesh.model=4
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from zojax.commands.options import CONFIG, COUNT, JSON, SET, Option
from zojax.errors import DOES_NOT_FIT
from zojax.printing import make_console, say_json
from zojax.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.config import Config
    from zojax.planning.answer import Answer
    from zojax.planning.plan import Plan, Planned
    from zojax.planning.targets import Chip

DEFAULT_MODEL = "facebook/opt-13b"

# Settings to compile for devices that are not here, and to leave alone those that are.
_WITHOUT_DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # only so that libtpu does not ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at a time use no TPU
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

_PARTS = {
    "products": "matrix products",
    "memory": "reading weights and adapters",
    "copies": "copying matrices of layers",
    "links": "exchanges between devices",
}
_SETS = {"products": "matrix products", "memory": "memory", "links": "exchanges"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--model",
        metavar="M",
        help="directory with a config.json, or a published model by its name (default: the "
        "configuration's, or facebook/opt-13b); nothing is downloaded",
    )
    what = f"{CONFIG['help']} (default: LoZO on SST-2 in bfloat16)"
    config: Option = CONFIG | {"help": what}
    parser.add_argument("--config", **config)
    parser.add_argument("--set", **SET)
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        dest="targets",
        metavar="T",
        help="h100x8, h200x8, a100x8: 8 GPUs; v5e-8, v6e-8: 8 TPU chips; v5p-8: 8 TPU cores, two "
        "per chip (repeatable, or separated by commas)",
    )
    parser.add_argument(
        "--tokens",
        **COUNT,
        help="distinct tokens in a batch (default: 14.5 per example, as in SST-2)",
    )
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Compile for every target, and print a page for each."""
    for name, value in _WITHOUT_DEVICES.items():  # before JAX is imported
        os.environ.setdefault(name, value)

    from zojax.distributed.platforms import check_platforms
    from zojax.planning.answer import plan_targets

    check_platforms()
    config = read_plan_config(args.config, args.model, args.overrides)
    console = make_console(highlight=False)
    answers = plan_targets(config, args.targets, args.tokens, make_console(stderr=True))
    if args.json:
        say_json({"plans": [to_json(answer) for answer in answers]})
    else:
        for number, answer in enumerate(answers):
            if number:
                console.print()
            show(answer, console)
    return 0 if all(answer.plan.fits for answer in answers) else DOES_NOT_FIT


def read_plan_config(
    config: str | None, model: str | None, overrides: Sequence[str] = ()
) -> Config:
    """Read the configuration to plan; the default is LoZO on SST-2 in bfloat16.

    Args:
        config: ``FILE`` or ``FILE:NAME``.
        model: the model to use instead of the configuration's.
        overrides: ``--set`` overrides, as for training.
    """
    from zojax.config import Config, ModelConfig, RunConfig, apply_overrides
    from zojax.config.loading import load_config

    in_place = [] if model is None else [f"model.path={model}"]
    if config is not None:
        return load_config(config, [*in_place, *overrides])
    base = Config(ModelConfig(DEFAULT_MODEL, dtype="bfloat16"), RunConfig("runs/plan"))
    return apply_overrides(base, [*in_place, *overrides])


def size(num_bytes: float) -> str:
    """Bytes with a unit, for people.

    >>> size(25_707_000_000), size(1_500_000), size(384), size(999_999)
    ('25.71 GB', '1.50 MB', '384 B', '1.00 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.9995 * factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes:.0f} B"


def mesh_of(plan: Plan) -> str:
    """A plan's mesh in words."""
    return f"data {plan.mesh[0]} × model {plan.mesh[1]}"


def to_json(answer: Answer) -> dict[str, Any]:
    """A whole plan in JSON's types, in bytes and seconds."""
    summary = _plan_json(answer.plan)
    summary["smallest_that_fits"] = None if answer.instead is None else _plan_json(answer.instead)
    return summary


def _plan_json(plan: Plan) -> dict[str, Any]:
    programs = {"step": plan.step, "fold": plan.fold}
    return {
        "model": plan.model,
        "target": plan.target.name,
        "devices": plan.target.num_devices,
        "chip": plan.target.chip.name,
        "mesh": {"data": plan.mesh[0], "model": plan.mesh[1]},
        "fits": plan.fits,
        "why_not": plan.refusal,
        "batch": {**plan.batch, "compiled_page_tokens": plan.page_tokens},
        "bytes_per_device": {
            **plan.kinds,
            "peak": plan.peak,
            "usable": plan.target.chip.usable_memory,
        },
        "programs": {name: _program(p) for name, p in programs.items() if p is not None},
        "all_reduces_per_layer": plan.reduces_per_layer,
        "defects": plan.defects,
        "compile_seconds": plan.compile_seconds,
        "lower_bound_seconds": {
            "estimate": True,
            "step": plan.bound.seconds,
            "set_by": plan.bound.limit,
            **dataclasses.asdict(plan.bound),
        },
    }


def _program(program: Planned) -> dict[str, Any]:
    from zojax.planning.traffic import by_kind

    return {
        "arguments": program.arguments,
        "temporaries": program.temporaries,
        "outputs": program.outputs,
        "peak": program.peak,
        "collectives": {
            kind: {"times": times, "bytes": num_bytes, "sent_bytes_per_device": sent}
            for kind, (times, num_bytes, sent) in by_kind(program.exchanges).items()
        },
        "weight_sized_copies": [c._asdict() for c in program.copies if c.whole],
        "layer_sized_copies": [c._asdict() for c in program.copies if not c.whole],
    }


def show(answer: Answer, console: Console) -> None:
    """Print a page about a plan."""
    plan = answer.plan
    verdict = ("fits", "bold green") if plan.fits else ("does not fit", "bold red")
    heading = (f"{plain(plan.model)} on {plan.target.name}: ", "bold")
    console.print(Text.assemble(heading, verdict), soft_wrap=True)
    console.print(
        f"{plan.target.num_devices} × {plan.target.chip.name}, mesh {mesh_of(plan)}, "
        f"{_compiled(plan)}",
        soft_wrap=True,
    )
    batch = plan.batch
    console.print(
        f"a step: {batch['tokens']} tokens in {batch['places']} places on "
        f"{batch['pages']} page{'s' * (batch['pages'] > 1)}, {batch['variants']} variants of each",
        soft_wrap=True,
    )
    if plan.page_tokens > batch["page_tokens"]:
        console.print(
            f"compiled for pages of {plan.page_tokens} places: without a GPU to try them on, XLA "
            "finds no matrix products for fewer"
        )
    for table in (_memory(plan), _moved(plan), _time(plan)):
        console.print()
        console.print(table)
    for defect in plan.defects:
        console.print(f"defect: {defect}", style="red")
    if not plan.fits:
        console.print()
        console.print(_instead(answer), soft_wrap=True)


def _compiled(plan: Plan) -> str:
    if plan.step is None:
        return f"not compiled: {plan.refusal}"
    return f"compiled in {plan.compile_seconds:.1f} s"


def _instead(answer: Answer) -> str | Text:
    plan, other = answer.plan, answer.instead
    if other is None:
        return f"it does not fit on any number of {plan.target.chip.name} that is known here"
    found = f"the smallest target that fits: {other.target.name}"
    if other.target.name == plan.target.name:
        found = f"it fits with --set mesh.model={other.mesh[1]}"
    return Text.assemble(
        (found, "bold"),
        f", mesh {mesh_of(other)}, "
        f"{size(other.peak)} of {size(other.target.chip.usable_memory)} per device (compiled)",
    )


def _table(title: str) -> Table:
    table = Table(title, "", "", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.columns[1].justify = "right"
    table.columns[0].no_wrap = True
    table.columns[1].no_wrap = True
    return table


def _memory(plan: Plan) -> Table:
    table = _table("on each device")
    notes = {"adapters": "what is trained, and V"}
    for kind, num_bytes in plan.kinds.items():
        table.add_row(kind, size(num_bytes), notes.get(kind, ""))
    if plan.step is not None:
        padding = plan.step.arguments - sum(plan.kinds.values())
        if padding > 0.001 * plan.step.arguments:
            table.add_row("padding", size(padding), "from the layouts that XLA chose")
        table.add_row("step's temporaries", size(plan.step.temporaries), "")
    if plan.fold is not None:
        table.add_row("fold's temporaries", size(plan.fold.temporaries), "not at the same time")
    chip = plan.target.chip
    table.add_row(Text("peak", "bold"), Text(size(plan.peak), "bold"), f"of {_room(chip)}")
    return table


def _room(chip: Chip) -> str:
    room = size(chip.usable_memory)
    if chip.gpu is None:
        return f"{room} for programs"
    share = chip.usable_memory / chip.memory
    return f"{room}: JAX takes {share:.0%} of a GPU (XLA_PYTHON_CLIENT_MEM_FRACTION)"


def _moved(plan: Plan) -> Table:
    from zojax.planning.traffic import by_kind

    table = _table("moved by a step")
    for kind, (times, _, sent) in by_kind(plan.step.exchanges if plan.step else ()).items():
        note = f"{times} of them"
        if kind == "all-reduce" and plan.reduces_per_layer:
            note += f", {plan.reduces_per_layer} per layer"
        table.add_row(kind, size(sent), f"sent by each device; {note}")
    if plan.step is not None and not plan.step.exchanges:
        table.add_row("exchanges", "none", "")
    for name, program in (("step", plan.step), ("fold", plan.fold)):
        if program is None:
            continue
        whole = [copy for copy in program.copies if copy.whole]
        text = size(sum(c.times * c.num_bytes for c in whole)) if whole else "none"
        table.add_row(f"weights copied by the {name}", text, "")
    layers = [copy for copy in plan.step.copies if not copy.whole] if plan.step else []
    if layers:
        total = sum(copy.times * copy.num_bytes for copy in layers)
        table.add_row(
            "of a matrix's size", size(total), "written beside the weights, one at a time"
        )
    return table


def _time(plan: Plan) -> Table:
    bound = plan.bound
    table = _table("a step takes at least")
    for name, text in _PARTS.items():
        if name != "copies" or bound.copies:
            table.add_row(text, f"{1e3 * getattr(bound, name):.2f} ms", "")
    if bound.fold:
        note = f"its share of a fold every {plan.interval} steps"
        table.add_row("folding", f"{1e3 * bound.fold:.2f} ms", note)
    note = f"an estimate from published rates, limited by {_SETS[bound.limit]}"
    table.add_row(Text("in all", "bold"), Text(f"{1e3 * bound.seconds:.2f} ms", "bold"), note)
    return table
