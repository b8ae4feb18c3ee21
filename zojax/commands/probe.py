r"""Measure which layers and matrices are worth probing, before training.

Of the space that the configuration names: matrices (linear), norms and biases
as well (full), a LoRA's A and B, or a prefix. By forward passes alone, or by
gradients, which need more memory and are faster by far. The map has what each
is worth in each band of layers: how far a step at its best learning rate
decreases the loss, over that of all together.
What follows ± is one standard error: by how much the figure would differ on
other batches and along other directions. It shrinks with the square root of
--batches, and that of --directions where these are few, down to what two
directions leave open of the curvature.

Example:
  zojax probe --config configs/demo.py --gradients --batches 31
  zojax probe --config configs/opt13b_lozo.py --batches 62 --output runs/probe
  zojax probe --config configs/demo.py --gradients --set space.name=lora
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from zojax.commands.options import CONFIG, COUNT, JSON, SET, SKIP_BAD
from zojax.errors import InputError
from zojax.files import write_json
from zojax.printing import check_output, make_console, say_json

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.config import Config
    from zojax.probing.choice import Choice
    from zojax.probing.moments import Measured
    from zojax.runs.probe import Probed

TABLE, PICTURE = "probe.json", "probe.png"
"""The names of the files in ``--output``."""

_FEWEST_BATCHES = 4
_ALL = "all of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", required=True, **CONFIG)
    parser.add_argument(
        "--batches", **{**COUNT, "default": 30}, help="training batches to measure on (default: 30)"
    )
    parser.add_argument(
        "--bands", **{**COUNT, "default": 5}, help="bands of neighbouring layers (default: 5)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--directions",
        **{**COUNT, "default": 4},
        help="directions of each matrix in each band, two passes a batch (default: 4)",
    )
    how.add_argument(
        "--gradients",
        action="store_true",
        help="differentiate instead: all directions at once, for the memory of backpropagation",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"directory for {TABLE} and {PICTURE}"
    )
    parser.add_argument("--set", **SET)
    parser.add_argument("--skip-bad", **SKIP_BAD)
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Measure, print the map and what follows from it, and draw it."""
    from zojax.config.loading import load_config
    from zojax.outputs import check_place

    for name, least in (("batches", _FEWEST_BATCHES), ("bands", 1), ("directions", 2)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: give {least} or more")
    config = load_config(args.config, args.overrides)
    if args.output is not None:
        check_place(f"--output {args.output}", args.output)

    from zojax.probing.choice import all_of, best
    from zojax.programs.cache import keep_programs
    from zojax.reporting.probe_map import draw_probe_map
    from zojax.runs.probe import Plan, probe

    keep_programs()
    console = make_console(highlight=False, goes_on=True, stderr=args.json)
    plan = Plan(args.batches, args.bands, None if args.gradients else args.directions)
    probed = probe(config, plan, console)
    plain = is_plain(config)
    chosen = best(probed.measured) if plain else None
    told = _as_dict(probed, all_of(probed.measured), chosen, plain_steps=plain)
    if args.json:
        say_json(told)
    else:
        _print(told, console)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(args.output / TABLE, told)
        draw_probe_map(args.output / PICTURE, told["bands"], told["sites"])
        if not args.json:
            console.print(f"map      {args.output / PICTURE}", soft_wrap=True)
    check_output(console)
    return 0


def is_plain(config: Config) -> bool:
    """Whether a step moves by −η c U Vᵀ of one probe: to others the measured rates do not apply."""
    from zojax.config import LinearConfig, LozoConfig

    estimator, train = config.estimator, config.train
    if not isinstance(config.space, LinearConfig):
        return False
    is_lozo = isinstance(estimator, LozoConfig) and estimator.scale == "none"
    return is_lozo and estimator.num_queries == 1 and train.optimizer == "sgd"


def _as_dict(
    probed: Probed, whole: Choice, chosen: Choice | None, *, plain_steps: bool
) -> dict[str, Any]:
    from zojax.probing.choice import cells

    measured, unit = probed.measured, abs(whole.worth.decrease) or math.nan
    paths = list(measured.sites)
    rows = {**{_module(path): [path] for path in paths}, _ALL: paths}

    agrees = whole.worth.decrease > whole.worth.error
    has_rate = agrees and whole.is_curved and plain_steps

    def shown(choice: Choice) -> dict[str, Any]:
        found = choice.worth
        return {
            "relative": found.decrease / unit,
            "error": found.error / unit,
            "signal": found.signal,
            "c_squared": found.squared,
            "curvature": found.curvature,
            "is_curved": choice.is_curved,
        }

    return {
        "bands": [_layers(choice.first, choice.stop) for choice in cells(measured, paths)],
        "sites": {
            name: [shown(choice) for choice in cells(measured, of_row)]
            for name, of_row in rows.items()
        },
        "all": {
            **shown(whole),
            "decrease": whole.worth.decrease,
            "agrees": agrees,
            "learning_rate": whole.worth.rate if has_rate else None,
        },
        "offsets": None if probed.offsets_k is None else probed.offsets_k.tolist(),
        "suggested": None if chosen is None or not agrees else _suggestion(chosen, whole, measured),
    }


def _suggestion(chosen: Choice, whole: Choice, measured: Measured) -> dict[str, Any]:
    from zojax.probing.choice import suggested_epsilon

    difference, error = chosen.margin(whole)
    settings = {
        "train.learning_rate": f"{chosen.worth.rate:.1g}",
        "estimator.epsilon": f"{suggested_epsilon(chosen.worth.curvature):g}",
    }
    are_all = len(chosen.paths) == len(measured.sites)
    settings["space.targets"] = "none" if are_all else f"[{','.join(map(_module, chosen.paths))}]"
    in_all = (chosen.first, chosen.stop) == (0, measured.parts[-1][1])
    settings["space.layers"] = "none" if in_all else _layers(chosen.first, chosen.stop)
    if chosen.first:
        settings["train.kept_states"] = "float32"
    return {
        "settings": settings,
        "by_step": chosen.worth.decrease / whole.worth.decrease,
        "by_second": chosen.by_second / whole.by_second,
        "better_by": difference / abs(whole.by_second),
        "error": error / abs(whole.by_second),
    }


def _print(told: dict[str, Any], console: Console) -> None:
    if told["offsets"] is not None:
        offsets = ", ".join(f"{value:+.2f}" for value in told["offsets"])
        console.print(f"without the bias towards some answers, in nats: {offsets}", soft_wrap=True)
    table = Table("decrease a step", box=None)
    for band in told["bands"]:
        table.add_column(band, justify="right")
    for name, cells in told["sites"].items():
        table.add_row(name, *(f"{cell['relative']:.2f} ± {cell['error']:.2f}" for cell in cells))
    console.print(table)
    whole = told["all"]
    if not whole["agrees"]:
        console.print(
            f"the batches do not agree on any direction (all together: {whole['decrease']:.1g} ± "
            f"{whole['error'] * abs(whole['decrease']):.1g} nats a step), so this map is noise; "
            "give more --batches",
            soft_wrap=True,
        )
        return
    rate = whole["learning_rate"]
    console.print(
        f"all together = 1.00 ± {whole['error']:.2f}, {whole['decrease']:.2g} nats a step"
        + ("" if rate is None else f"; best learning rate {rate:.1g}"),
        soft_wrap=True,
    )
    found = told["suggested"]
    if not whole["is_curved"]:
        console.print(
            "somewhere no probe raises the loss, so the map says where batches agree, and nothing "
            "of how far to step",
            soft_wrap=True,
        )
        return
    if found is None:
        console.print(
            "nothing is better than all of them by three times the error of that; more --batches "
            "tell more",
            soft_wrap=True,
        )
        return
    console.print(
        f"worth most a second: {found['by_second']:.1f} times all of them (more by "
        f"{found['better_by']:.1f} ± {found['error']:.1f})",
        soft_wrap=True,
    )
    settings = " ".join(f"--set {name}={value}" for name, value in found["settings"].items())
    console.print(f"  {settings}", soft_wrap=True, markup=False)


def _module(path: str) -> str:
    """What a matrix is called, or a vector, or what is beside it.

    >>> [_module(f"layers/fc1/{name}") for name in ("weight", "bias", "weight/lora_B")]
    ['fc1', 'fc1 bias', 'fc1 lora_B']
    """
    names = [name for name in path.split("/") if name != "weight"]
    return names[-1] if path.endswith("/weight") else " ".join(names[-2:])


def _layers(first: int, stop: int) -> str:
    return f"{first}" if stop == first + 1 else f"{first}-{stop - 1}"
