"""Run parts in separate processes: read their figures, and stop them when their time is over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from on_device.figures import Figure, read_figures

BENCHMARKS = Path(__file__).resolve().parents[1]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process, which finds the checkout and asks no hub."""
    paths = [str(BENCHMARKS.parent), str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **more,
    }


def ask_machine(seconds: float) -> dict[str, Any]:
    """Describe the device, in a separate process, since the process that asks occupies it."""
    code = "import json; from on_device.device import *; print(json.dumps(describe(the_device())))"
    command = [sys.executable, "-c", code]
    try:
        asked = subprocess.run(
            command, env=environment({}), capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"accelerator.py: JAX found no device within {seconds:.0f} s")
    if asked.returncode:
        sys.exit(f"accelerator.py: JAX finds no device: {asked.stderr.strip()[-300:]}")
    return json.loads(asked.stdout.splitlines()[-1])


def watch(
    command: Sequence[str],
    told: Path,
    seconds: float,
    more: Mapping[str, str],
    on_figure: Callable[[Figure], None],
) -> str:
    """Run a part until it ends or its time is over; return how it ended.

    Args:
        command: the part's command, which also gets ``--figures`` with the file for its figures.
        told: this file; if the part fails, its output is kept beside it.
        seconds: the time after which the part is killed, with everything that it has started.
        more: more variables of its environment.
        on_figure: called once with each figure, soon after it was reported.
    """
    log, heard, began = told.with_suffix(".log"), 0, time.monotonic()
    told.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--figures", str(told)],
            env=environment(more),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        is_over = False
        while not is_over:
            is_over = process.poll() is not None or time.monotonic() - began > seconds
            figures = read_figures(told)
            for figure in figures[heard:]:
                on_figure(figure)
            heard = len(figures)
            time.sleep(0 if is_over else 0.2)
        code = process.poll()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    told.unlink(missing_ok=True)
    return _outcome(code, time.monotonic() - began, log)


def _outcome(code: int | None, seconds: float, log: Path) -> str:
    if code is None:
        return f"stopped after {seconds:.0f} s: its time was over; what it had told is kept"
    if code:
        last = " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        return f"failed after {seconds:.0f} s (exit code {code}): {last[:300]}"
    log.unlink()
    return f"done in {seconds:.0f} s"
