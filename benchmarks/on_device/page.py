"""Show a machine's figures as a table, as a picture, and in docs/accelerators.md."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bars import bars
from docs_table import write_docs as write_between
from setting import ROOT

from on_device.kernels import LENGTHS
from on_device.sizes import SMALLER

DOCS = ROOT / "docs" / "accelerators.md"
MARKERS = (
    "<!-- table: made by benchmarks/accelerator.py -->",
    "<!-- end of accelerator.py's table -->",
)
PLAN = ROOT / "benchmarks" / "results" / "plan-h100x1.json"
"""Made by ``benchmarks/accelerator.py --plan h100x1``."""

EXPECTED = {
    **{f"{size} full: a step in PyTorch": "ms" for size in (*SMALLER, "opt-13b")},
    "log-probabilities, float32: largest error": "",
    "c, float32: relative error": "",
    "c, float32: signs right": "",
    "c, bfloat16: relative error": "",
    "c, bfloat16: signs right": "",
    "tokens written as in float64": "",
    "bits of checkpoint and replay the same": "",
    **{f"attention of {n} tokens, {way}": "µs" for n in LENGTHS for way in ("blocks", "kernel")},
    **{
        f"zojax {dtype}: {what}": ""
        for dtype in ("bfloat16", "int8")
        for what in ("signs right", "relative error of c")
    },
}
"""The rows that the page has before anyone has measured them, with their units."""

_STEP = re.compile(r"(opt-[\d.]+[mb]) (\w[\w, ]*): a step( in PyTorch)?$")


def table(result: dict[str, Any]) -> str:
    """Every figure, as Markdown."""
    machine = result["machine"]
    tiny = " A rehearsal: all models are tiny." if result.get("rehearsal") else ""
    rows = [
        f"{machine['device']}, jax {machine['jax']}, {result['began']}.{tiny}",
        "",
        "| part | what | measured | expected | |",
        "|---|---|---|---|---|",
    ]
    for figure in result["figures"]:
        rows.append(
            f"| {figure['part']} | {figure['what']} | {_number(figure['value'], figure['unit'])} "
            f"| {_number(figure['expected'], figure['unit'])} | {_remark(figure)} |"
        )
    left_out = [f"{name}: {how}" for name, how in result["parts"].items() if "done" not in how]
    return "\n".join([*rows, *(["", *left_out] if left_out else [])])


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}".rstrip()


def _remark(figure: dict[str, Any]) -> str:
    verdict = {True: "right", False: "**wrong**", None: ""}[figure["ok"]]
    return "; ".join(filter(None, (verdict, figure["note"])))


def step_times(result: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """The milliseconds of every timed step, and its least time by the plan."""
    found = {}
    for figure in result["figures"]:
        step = _STEP.match(figure["what"])
        if step and figure["value"] is not None:
            size, method, peer = step.groups()
            name = f"{'PyTorch' if peer else 'zojax'} {size} {method}"
            found[name] = figure["value"], figure["expected"]
    return found


def draw(result: dict[str, Any], path: Path) -> bool:
    """Draw a bar for each step, by size; False if none was timed."""
    steps = step_times(result)
    if not steps:
        return False
    names = sorted(steps, key=lambda name: (float(name.split("-")[1].split("b")[0]), name))
    values = [steps[name][0] for name in names]
    labels = []
    for name in names:
        value, least = steps[name]
        labels.append(f"{value:.1f} ms" + (f", {least:.1f} at the least" if least else ""))
    with bars(path, names, values, labels, (8, 0.42)) as axes:
        axes.set_xlim(right=1.45 * max(values))
        tiny = ", a rehearsal: all models are tiny" if result.get("rehearsal") else ""
        axes.set_xlabel(f"milliseconds a step on {result['machine']['device']}{tiny}")
    return True


def write_docs(sources: Sequence[Path]) -> None:
    """Fill the table of docs/accelerators.md: the plan's figures, and one column per machine.

    Args:
        sources: results of machines; without any, a column stays empty. Plans and rehearsals among
            them are skipped.
    """
    found = [json.loads(path.read_text()) for path in sources]
    results = [result for result in found if result.get("rehearsal") is False]
    write_between(DOCS, *MARKERS, docs_table(json.loads(PLAN.read_text()), results))


def docs_table(plan: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """Everything that the command can measure, with an empty cell if nobody has measured it."""
    planned = {figure["what"]: figure for figure in plan["figures"]}
    measured = [{figure["what"]: figure for figure in r["figures"]} for r in results] or [{}]
    names = [r["machine"]["device"] for r in results] or ["not measured yet"]
    told = {what: unit for found in measured for what, unit in _units(found).items()}
    rows = [
        f"| | the plan for {plan['machine']['device']} | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for what, unit in {**_units(planned), **EXPECTED, **told}.items():
        cells = [found.get(what, {}).get("value") for found in (planned, *measured)]
        rows.append(f"| {what} | {' | '.join(_number(cell, unit) for cell in cells)} |")
    return "\n".join(rows)


def _units(figures: dict[str, Any]) -> dict[str, str]:
    return {what: figure["unit"] for what, figure in figures.items()}
