"""Compile a run's step for a machine that is not here: memory, exchanges, time.

Example:
  zojax plan --model facebook/opt-13b --target h100x1
  zojax plan --config configs/opt13b_lozo.py --target v5e-4,v6e-4 --json
  zojax plan --model facebook/opt-66b --target v5p-8 --set mesh.model=4
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from zojax.commands.options import CONFIG, add_json, add_overrides, count
from zojax.errors import DOES_NOT_FIT

if TYPE_CHECKING:
    from zojax.config import Config

DEFAULT_MODEL = "facebook/opt-13b"

# To compile for devices that are not here. What is here is left alone.
_WITHOUT_DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # only so that libtpu does not ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at a time, which share no TPU
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument(
        "--model",
        metavar="M",
        help="directory with a config.json, or a published OPT by its name (default: the "
        "configuration's, or facebook/opt-13b); nothing is downloaded",
    )
    parser.add_argument(
        "--config", metavar="FILE", help=f"{CONFIG} (default: LoZO on SST-2 in bfloat16)"
    )
    add_overrides(parser)
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        dest="targets",
        metavar="T",
        help="h100x8, h200x8, a100x8: so many GPUs; v5e-8, v6e-8: so many TPU chips; v5p-8: so "
        "many cores, two a chip (repeatable, or with commas)",
    )
    parser.add_argument(
        "--tokens",
        type=count,
        metavar="N",
        help="distinct tokens of a batch (default: SST-2's, 14.5 an example)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Compiles for every target, and prints a page of each."""
    for name, value in _WITHOUT_DEVICES.items():  # before JAX is imported
        os.environ.setdefault(name, value)

    from zojax.planning import report
    from zojax.planning.answer import plan_targets

    config = read_plan_config(args.config, args.model, args.overrides)
    console = Console(highlight=False)
    answers = plan_targets(config, args.targets, args.tokens, Console(stderr=True))
    if args.json:
        print(json.dumps({"plans": [report.to_json(answer) for answer in answers]}))
    else:
        for number, answer in enumerate(answers):
            console.print("\n" * bool(number), end="")
            report.show(answer, console)
    return 0 if all(answer.plan.fits for answer in answers) else DOES_NOT_FIT


def read_plan_config(
    config: str | None, model: str | None, overrides: Sequence[str] = ()
) -> Config:
    """What is planned: a file's configuration, or LoZO on SST-2 in bfloat16 as the defaults are.

    Args:
        config: ``FILE`` or ``FILE:NAME``.
        model: in the place of its own.
        overrides: as for training.
    """
    from zojax.config import Config, ModelConfig, RunConfig, apply_overrides
    from zojax.config.loading import load_config

    in_place = [] if model is None else [f"model.path={model}"]
    if config is not None:
        return load_config(config, [*in_place, *overrides])
    base = Config(ModelConfig(DEFAULT_MODEL, dtype="bfloat16"), RunConfig("runs/plan"))
    return apply_overrides(base, [*in_place, *overrides])
