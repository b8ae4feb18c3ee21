"""Measure the time to a command's first training step, and the memory of its process.

    python benchmarks/first_step.py --data DIR --tokenizer DIR --write-docs

It runs ``zojax train`` with ``configs/opt125m_lozo.py`` and random float32 weights in a separate
process: first with an empty cache of compiled programs, and then with the cache that this run left.
Each evaluation before the first step has only one batch. It takes a minute on 2 CPU cores.
"""

import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import command
from rich.console import Console
from rich.progress import track
from setting import CONFIG, DOCS, arguments, machine_name, random_checkpoint

from zojax.errors import InputError
from zojax.reporting.metrics import METRICS

MARKERS = (
    "<!-- table: made by benchmarks/first_step.py -->",
    "<!-- end of first_step.py's table -->",
)
GOALS = {"cold": 15, "warm": 5}
"""The goal: seconds to the first step."""

_POLL_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class Start:
    """One run, up to its first step.

    Attributes:
        cache: cold, or warm.
        seconds: the seconds to the first step's end, from the run's metrics.
        processor_seconds: the processor time of all threads of the process, including its stop.
        peak_bytes: the largest resident memory, in bytes.
    """

    cache: str
    seconds: float
    processor_seconds: float
    peak_bytes: int


def start(settings: Sequence[str], cache: str, home: Path) -> Start:
    """Start a run, and stop it after its first step.

    Args:
        settings: settings of the configuration.
        cache: the name of the cache's state, for the result.
        home: the directory of compiled programs, and of the run.
    """
    with tempfile.TemporaryDirectory(dir=home) as directory:
        chosen = [*settings, "train.chunk=1", f"run.dir={directory}/run"]
        options = [option for setting in chosen for option in ("--set", setting)]
        program = [sys.executable, "-m", "zojax.cli", "train", "--config", str(CONFIG), *options]
        others = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        started = time.perf_counter()
        run = subprocess.Popen(
            program, env=others | {"XDG_CACHE_HOME": str(home)}, stdout=subprocess.DEVNULL
        )
        try:
            while not _has_stepped(Path(directory) / "run" / METRICS):
                if run.poll() is not None:
                    raise InputError("the run ended before its first step")
                time.sleep(_POLL_SECONDS)
        except BaseException:  # Ctrl-C too: the run's directory is about to go
            run.kill()
            raise
        seconds = time.perf_counter() - started
        run.send_signal(signal.SIGTERM)
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)  # so that it is not waited for again
    return Start(cache, seconds, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss)


def _has_stepped(metrics: Path) -> bool:
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return any('"loss"' in line for line in lines)


def measure(checkpoint: Path, data: str, repeats: int, console: Console) -> list[Start]:
    """Measure cold and warm starts, several times each."""
    settings = [
        f"model.path={checkpoint}",
        f"data.path={data}",
        "data.num_dev=16",
        "data.num_eval=16",
    ]
    starts = []
    for _ in track(range(repeats), "starts", console=console, transient=True):
        with tempfile.TemporaryDirectory() as home:
            starts += [start(settings, cache, Path(home)) for cache in GOALS]
    return starts


def table(starts: Sequence[Start], weights: int, machine: str) -> str:
    """The figures as Markdown."""
    count = sum(one.cache == "cold" for one in starts)
    lines = [
        f"{machine}. Medians of {count}; the weights are {weights / 1e6:.0f} MB.",
        "",
        "| compiled programs | s to the first step | goal | processor s | resident peak | "
        "of the weights |",
        "|---|---|---|---|---|---|",
    ]
    for cache, goal in GOALS.items():
        of_cache = [one for one in starts if one.cache == cache]
        seconds, processor, peak = (
            statistics.median(getattr(one, name) for one in of_cache)
            for name in ("seconds", "processor_seconds", "peak_bytes")
        )
        name = "none (cold)" if cache == "cold" else "kept (warm)"
        lines.append(
            f"| {name} | {seconds:.1f} | {goal} | {processor:.1f} | {peak / 1e6:.0f} MB "
            f"| {peak / weights:.2f} |"
        )
    return "\n".join(lines)


def weight_bytes(checkpoint: Path) -> int:
    """The bytes of all tensors, as they are stored.

    A safetensors file is a length of eight bytes, a header of that length, and the tensors.
    """
    total = 0
    for path in checkpoint.glob("*.safetensors"):
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        total += path.stat().st_size - 8 - header
    return total


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=2, help="of each (default: 2)")
    args = parser.parse_args(argv)
    with random_checkpoint(args.shape, args.tokenizer) as checkpoint:
        starts = measure(checkpoint, args.data, args.repeats, Console())
        text = table(starts, weight_bytes(checkpoint), machine_name())
    figures = [dataclasses.asdict(one) for one in starts]
    command.tell(args, text, figures, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
