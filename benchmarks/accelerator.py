"""Measure zojax on this machine's accelerator: right numbers, times, memory. One command.

    python benchmarks/accelerator.py --minutes 8
    python benchmarks/accelerator.py --rehearse        # the same at tiny sizes, on any machine

It works from a checkout, without installation and without a network; models have random weights,
made on the device. Every part runs in a separate process with its own time limit, so a part that
fails, hangs or runs out of memory does not stop the others. Figures are printed and saved as they
are made, in DIR/DEVICE.json, with a picture. The exit code is 1 if a figure is wrong or a part
failed.
"""

import argparse
import dataclasses
import importlib
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from on_device import processes
from on_device.figures import Budget, Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a checkout is all there is; what imports zojax comes later

NEEDED = ("jax", "flax", "optax", "orbax.checkpoint", "pydantic", "rich", "xxhash", "transformers")
NEEDED += ("safetensors", "huggingface_hub", "filelock", "matplotlib", "tensorboardX")

OVERHEAD = 15
"""The seconds that a process may take to start and to end."""


class Part(NamedTuple):
    """A part of the benchmark, and its limits.

    Attributes:
        name: the part's name.
        function: ``module:function`` in ``on_device``.
        share: the largest share of the minutes; what it leaves goes to the next parts.
        needs: a module that it requires.
        environment: environment variables of its process.
    """

    name: str
    function: str
    share: float
    needs: str = "jax"
    environment: dict[str, str] = {}  # noqa: RUF012 - never changed


PARTS = (
    Part("agreement", "agreement:measure", 0.25, "torch"),
    Part("13B", "sizes:measure_13b", 0.45),
    Part("smaller sizes", "sizes:measure_smaller", 0.3),
    # PyTorch has the device to itself: JAX would take three quarters of the memory.
    Part("PyTorch", "peer_steps:measure", 0.25, "torch", {"JAX_PLATFORMS": "cpu"}),
    Part("grid", "grid:measure", 0.15),
    Part("breakdown", "breakdown:measure", 0.25),
    Part("precision", "precision:measure", 0.25, "torch"),
)
"""The most important first."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = make_parser().parse_args(argv)
    if args.part:
        return run_part(args)
    if args.plan:
        return write_plan(args)
    if args.write_docs is not None:
        from on_device import page

        page.write_docs(args.write_docs)
        return 0
    absent = [name for name in NEEDED if importlib.util.find_spec(name.split(".")[0]) is None]
    if absent:
        print(
            f"accelerator.py: needs {', '.join(absent)}; see docs/accelerators.md", file=sys.stderr
        )
        return 2
    return run_all(args)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8, help="for everything (default: 8)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on any machine")
    names = [part.name for part in PARTS]
    about = "this part alone; may be given again"
    parser.add_argument("--only", action="append", choices=names, metavar="PART", help=about)
    where = ROOT / "benchmarks" / "results"
    parser.add_argument("--output", type=Path, default=where, metavar="DIR", help="of the results")
    about = "fill docs/accelerators.md, a column a result, and do nothing else"
    parser.add_argument("--write-docs", type=Path, nargs="*", metavar="JSON", help=about)
    about = "write what the plan says of a device that is not here, and do nothing else"
    parser.add_argument("--plan", metavar="TARGET", help=f"{about}; for example h100x1")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # as its own process is called
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser


def run_part(args: argparse.Namespace) -> int:
    """Do a part's work, in its own process."""
    [part] = [part for part in PARTS if part.name == args.part]
    if not args.rehearse:
        keep_programs()
    module, _, function = part.function.partition(":")
    budget = Budget(part.name, args.figures, args.seconds, rehearsal=args.rehearse)
    getattr(importlib.import_module(f"on_device.{module}"), function)(budget)
    return 0


def write_plan(args: argparse.Namespace) -> int:
    """Compile for a device that is not here, and write what a step needs on it."""
    from on_device import plan

    from zojax.files import write_json
    from zojax.planning.targets import find_target

    path, found = args.output / f"plan-{args.plan}.json", []
    args.output.mkdir(parents=True, exist_ok=True)
    machine = {"device": find_target(args.plan).chip.name}
    for figure in plan.figures(args.plan):
        print(figure, flush=True)
        found.append(dataclasses.asdict(figure))
        write_json(path, {"machine": machine, "figures": found})
    return 0


def keep_programs() -> None:
    """Keep compiled programs between parts and between runs of this command."""
    from zojax.programs import cache

    cache.keep_programs()


def run_all(args: argparse.Namespace) -> int:
    """Run the parts one after the other and save their figures."""
    from zojax.files import write_json

    started, stop = time.monotonic(), time.monotonic() + 60 * args.minutes
    args.output.mkdir(parents=True, exist_ok=True)
    machine = processes.ask_machine(min(60 * args.minutes, 120))
    name = "rehearsal" if args.rehearse else machine["device"].lower().replace(" ", "-")
    result: dict[str, Any] = {
        "machine": machine,
        "rehearsal": args.rehearse,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parts": {},
        "figures": [],
    }
    path = args.output / f"{name}.json"
    for part in PARTS:
        if args.only and part.name not in args.only:
            continue
        left = stop - time.monotonic() - OVERHEAD
        seconds = 600 if args.rehearse else min(left, part.share * 60 * args.minutes)
        print(f"== {part.name}, {max(0, seconds):.0f} s at the most", flush=True)
        outcome = run_one(part, seconds, args, result, path)
        print(f"   {outcome}", flush=True)
        result["parts"][part.name] = outcome
        write_json(path, result)
    result["seconds"] = time.monotonic() - started
    write_json(path, result)
    return finish(path, result)


def run_one(
    part: Part, seconds: float, args: argparse.Namespace, result: dict[str, Any], path: Path
) -> str:
    """Run a part, print and save its figures as they come, and report how it ended."""
    if importlib.util.find_spec(part.needs) is None:
        return f"left out: {part.needs} is not installed"
    if seconds < OVERHEAD and not args.rehearse:
        return "left out: no time was left"
    command = [sys.executable, __file__, "--part", part.name, "--seconds", str(seconds)]
    command += ["--rehearse"] if args.rehearse else []

    from zojax.files import write_json

    def on_figure(figure: Figure) -> None:
        print(f"   {figure}", flush=True)
        result["figures"].append(dataclasses.asdict(figure))
        write_json(path, result)

    told = path.with_suffix(f".{part.name.replace(' ', '-')}.jsonl")
    # A rehearsal compiles more than it computes.
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if args.rehearse else {}
    return processes.watch(command, told, seconds, part.environment | quickly, on_figure)


def finish(path: Path, result: dict[str, Any]) -> int:
    """Write the table and the picture; return the exit code."""
    from on_device import page

    print(f"\n{page.table(result)}\n")
    picture = path.with_suffix(".png")
    if page.draw(result, picture):
        print(f"{picture}")
    print(f"{path}: {len(result['figures'])} figures in {result['seconds']:.0f} s")
    wrong = [figure["what"] for figure in result["figures"] if figure["ok"] is False]
    for what in wrong:
        print(f"WRONG: {what}")
    failed = any(how.startswith("failed") for how in result["parts"].values())
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
