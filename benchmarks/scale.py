"""Plan every size of OPT for machines that are not here: memory, and the least time of a step.

    make scale

Runs ``zojax plan`` in the two environments that have XLA's compilers, and writes docs/scale.md's
tables and picture. Up to an hour on 2 CPU cores. Nothing is run: bytes are XLA's own count of the
compiled programs, times are bounds from published rates.
"""

import argparse
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import matplotlib
from rich.console import Console
from rich.progress import track
from setting import ROOT

from zojax.errors import InputError
from zojax.models.registry import SHAPES

DOCS = ROOT / "docs" / "scale.md"
PICTURE = ROOT / "docs" / "images" / "scale.png"
MARKERS = "<!-- table: made by benchmarks/scale.py -->", "<!-- end of scale.py's table -->"

TARGETS = {"gpu": ("h100x1", "h100x8"), "tpu": ("v5e-4", "v5p-8")}
ALL_TARGETS = [name for names in TARGETS.values() for name in names]

PUBLISHED_MODEL, PUBLISHED_TOKENS, PUBLISHED_TARGETS = "opt-13b", 206, ("a100x1", "h100x1")
PUBLISHED = {"the authors' LoZO": 726, "the same on vLLM": 93}
"""Milliseconds per step of OPT-13B on SST-2 with batches of 16 on one GPU."""

NETWORK = 50e9
"""The bytes/s that a GPU sends to other hosts, with one 400 Gbit/s port per GPU."""

Plans = Mapping[tuple[str, str], dict[str, Any]]
"""The output of ``zojax plan --json`` by model and target."""


def ask(
    python: Path, model: str, targets: Iterable[str], options: Iterable[str] = ()
) -> dict[str, Any]:
    """Make the plans of a model, by target.

    Args:
        python: of an environment that has the targets' compiler.
        model: a published model.
        targets: the names of the targets.
        options: other arguments of ``zojax plan``.
    """
    line = [python, "-m", "zojax.cli", "plan", "--json", "--model", model]
    line += ["--target", ",".join(targets), *options]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 3):
        raise InputError(f"zojax plan of {model}: {done.stderr.strip()[-300:]}")
    return {told["target"]: told for told in json.loads(done.stdout)["plans"]}


def measure(pythons: Mapping[str, Path], models: Sequence[str]) -> tuple[Plans, dict[str, Any]]:
    """Make all plans, including those for the comparison with published figures."""
    plans: dict[tuple[str, str], dict[str, Any]] = {}
    jobs = [(model, kind) for model in models for kind in TARGETS]
    for model, kind in track(jobs, "plans", console=Console(stderr=True), transient=True):
        told = ask(pythons[kind], f"facebook/{model}", TARGETS[kind])
        plans |= {(model, target): plan for target, plan in told.items()}
    tokens = ["--tokens", str(PUBLISHED_TOKENS)]
    published = ask(pythons["gpu"], f"facebook/{PUBLISHED_MODEL}", PUBLISHED_TARGETS, tokens)
    return plans, published


def _rows(plans: Plans, cell: Any) -> list[str]:
    models = list(dict.fromkeys(model for model, _ in plans))
    return [
        f"| {model} | {' | '.join(cell(plans[model, target]) for target in ALL_TARGETS)} |"
        for model in models
    ]


def head(first: str, others: Iterable[str]) -> list[str]:
    """The first two lines of a table of Markdown."""
    names = [first, *others]
    return [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]


def memory_cell(plan: dict[str, Any]) -> str:
    """The peak bytes and the mesh, or the number of devices that are needed."""
    if not plan["fits"]:
        instead = plan["smallest_that_fits"]
        if instead is None:
            return "no"
        by_hand = instead["target"] == plan["target"]
        return f"mesh.model={instead['mesh']['model']}" if by_hand else f"no: {instead['target']}"
    mesh, peak = plan["mesh"], plan["bytes_per_device"]["peak"]
    return f"{peak / 1e9:.1f} ({mesh['data']} × {mesh['model']})"


def time_cell(plan: dict[str, Any]) -> str:
    """The milliseconds of a step, and what limits it."""
    if not plan["fits"]:
        return "–"
    bound = plan["lower_bound_seconds"]
    return f"{1e3 * bound['step']:.1f} {bound['set_by']}"


def exchange_cell(plan: dict[str, Any]) -> str:
    """The bytes that a device sends in a step."""
    if not plan["fits"]:
        return "–"
    kinds = plan["programs"]["step"]["collectives"].values()
    sent = sum(kind["sent_bytes_per_device"] for kind in kinds)
    return "0" if not sent else f"{sent / 1e6:.0f} MB" if sent >= 1e6 else f"{sent:.0f} B"


def published_rows(told: Mapping[str, Any]) -> list[str]:
    """The published step beside the limits of the GPUs that it may have run on."""
    rows = head(
        f"OPT-13B, {PUBLISHED_TOKENS} distinct tokens, two variants",
        ["weights read", "products", "copies", "a step at least", *PUBLISHED],
    )
    for target, plan in told.items():
        bound = plan["lower_bound_seconds"]
        ms = [1e3 * bound[name] for name in ("memory", "products", "copies", "step")]
        times = [f"{value:.1f} ms" for value in ms]
        others = [f"{value} ms, {value / ms[-1]:.0f} times that" for value in PUBLISHED.values()]
        rows.append(f"| {target} | {' | '.join([*times, *others])} |")
    return rows


def growth_rows(on_one: dict[str, Any], on_host: dict[str, Any]) -> list[str]:
    """What more hosts would exchange, with a separate batch of 16 on each GPU.

    Args:
        on_one: the plan of such a batch on one GPU, for its time.
        on_host: the plan of one batch on all GPUs of a host, for the bytes that they add up.
    """
    [moved] = on_host["programs"]["step"]["collectives"].values()
    per_example = moved["bytes"] / 16
    seconds = on_one["lower_bound_seconds"]["step"]
    rows = head(
        "hosts of 8", ["examples a step", "added up", "sent by a GPU", "takes", "of a step"]
    )
    for hosts in (1, 10, 100, 1_000, 10_000, 100_000):
        examples = 16 * 8 * hosts
        sent = 2 * per_example * examples
        share = sent / NETWORK / seconds
        rows.append(
            f"| {hosts:,} | {examples:,} | {per_example * examples / 1e6:,.3f} MB "
            f"| {sent / 1e6:,.3f} MB | {1e3 * sent / NETWORK:.3f} ms | {100 * share:.2g} % |"
        )
    stop = seconds * NETWORK / (2 * per_example) / (16 * 8)
    about = float(f"{stop:.1g}")
    rows += ["", f"Adding up would take as long as the step itself at about {about:,.0f} hosts."]
    return rows


def table(plans: Plans, published: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    some = {target: plan for (_, target), plan in plans.items()}
    rooms = [f"{t} ({some[t]['bytes_per_device']['usable'] / 1e9:.1f} GB)" for t in ALL_TARGETS]
    compile_seconds = [plan["compile_seconds"] for plan in plans.values() if plan["fits"]]
    lines = [
        "Peak of a device in GB, and the mesh (data × model):",
        "",
        *head("model", rooms),
        *_rows(plans, memory_cell),
        "",
        f"Compiled in {min(compile_seconds):.0f} to {max(compile_seconds):.0f} s each.",
        "",
        "The least a step takes in ms (an estimate), and what sets it:",
        "",
        *head("model", ALL_TARGETS),
        *_rows(plans, time_cell),
        "",
        "Sent by a device in a step:",
        "",
        *head("model", ALL_TARGETS),
        *_rows(plans, exchange_cell),
        "",
        *published_rows(published),
    ]
    if (PUBLISHED_MODEL, "h100x8") in plans:
        on_one, on_host = (plans[PUBLISHED_MODEL, target] for target in TARGETS["gpu"])
        lines += ["", *growth_rows(on_one, on_host)]
    return "\n".join(lines)


def draw(plans: Plans, path: Path) -> None:
    """Draw the bound of every size on every target, and the published times."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    styles = zip(ALL_TARGETS, ("o-", "s-", "o--", "s--"), strict=True)
    for target, style in styles:
        points = [
            (float(model[4:-1]) * (1e9 if model.endswith("b") else 1e6), plan)
            for (model, of), plan in plans.items()
            if of == target and plan["fits"]
        ]
        times = [1e3 * plan["lower_bound_seconds"]["step"] for _, plan in points]
        axes.plot([size for size, _ in points], times, style, label=target, markersize=4)
    for name, value in PUBLISHED.items():
        axes.plot([13e9], [value], "k*", markersize=9)
        axes.annotate(name, (13e9, value), (6, 4), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="ms a step")
    axes.set_title("the least a step takes (lines), and published steps on one GPU", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def add_python(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the option that names the environment with a kind of targets' compiler."""
    parser.add_argument(
        f"--{kind}",
        type=Path,
        default=ROOT / f".venv-plan-{kind}" / "bin" / "python",
        metavar="PYTHON",
        help=f"with zojax[plan-{kind}]",
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind in TARGETS:
        add_python(parser, kind)
    parser.add_argument(
        "--models",
        nargs="*",
        default=[name for name in SHAPES if name.startswith("opt-")],
        help="published sizes (default: OPT's)",
    )
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args(argv)
    plans, published = measure({kind: getattr(args, kind) for kind in TARGETS}, args.models)
    figures = {"plans": list(plans.values()), "published": list(published.values())}
    command.tell(args, table(plans, published), figures, DOCS, MARKERS)
    if args.write_docs:
        draw(plans, PICTURE)


if __name__ == "__main__":
    command.run(main)
