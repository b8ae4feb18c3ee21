"""Serves for minutes: load, reloads, clients that go away or are killed. ``make soak`` runs it.

    python -m tests.serving.soak --minutes 10

After a while it trains one job after the other, too. It fails if a request is neither answered
nor refused, a job does not end as it should, an answer comes from an adapter that was replaced,
something is compiled before jobs are trained, a job compiles more than twice as much as the first
two of its kind, or memory keeps growing.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.serving.conftest import write_lora
from tests.serving.soak_jobs import Training

PROCESSES = 2
PROMPT = "a gripping film"
WARM_UP, WARM_JOBS = 0.4, 16
"""The part of the time, and the jobs, in which memory may grow: allocators and caches fill up."""
ALONE = 0.15
"""The part of the time before jobs are trained, in which nothing may be compiled."""

_TOLD = {
    # Every job compiles the same programs again; from files that takes a tenth of the time.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    # With an arena for each of the jobs' threads, it takes 60 jobs until all are as large as ever.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "65536",
}
"""What is told to the server's process by its environment."""


class Reloads:
    """Replaces the adapter ``live`` again and again, and looks for answers of the one before.

    Args:
        http: asks the server.
    """

    def __init__(self, http: httpx.Client):
        self.count = self.stale = 0
        self._http = http
        self._expected = {name: self._text(name) for name in ("one", "two")}
        self._names = itertools.cycle(self._expected)
        assert len(set(self._expected.values())) == 2

    def once(self) -> None:
        """Replaces it once."""
        name = next(self._names)
        body = {"lora_name": "live", "lora_path": name, "load_inplace": True}
        self._http.post("/v1/load_lora_adapter", json=body).raise_for_status()
        self.count += 1
        self.stale += self._text("live") != self._expected[name]

    def _text(self, model: str) -> str:
        body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        answer = self._http.post("/v1/completions", json=body).raise_for_status()
        return answer.json()["choices"][0]["text"]


def soak(url: str, pid: int, seconds: float, *, trains: bool = True) -> dict[str, Any]:
    """Lets clients ask and jobs train for some time, and says what happened.

    Args:
        url: a server's that trains, with the adapters ``one`` and ``two`` below where clients load
            them from.
        pid: its process.
        seconds: how long.
        trains: whether jobs are trained, too.
    """
    began, end = time.time(), time.time() + seconds
    http = httpx.Client(base_url=url, timeout=60)

    def compilations() -> float:
        return _metric(http, "zojax_compilations_total")

    compiled = compilations()
    reloads = Reloads(http)
    reloads.once()
    seeds = itertools.count()
    clients = [_start(url, next(seeds), end) for _ in range(PROCESSES)]
    training = Training(url, compilations)
    kills = [began + seconds * part for part in (1 / 3, 2 / 3)]
    memory: list[tuple[float, float, int]] = []
    while time.time() < end:
        reloads.once()
        if trains and not training.is_alive() and time.time() > began + ALONE * seconds:
            compiled = compilations() - compiled
            training.start()
        memory.append((time.time() - began, _own_mib(pid), training.outcomes.total()))
        if kills and time.time() > kills[0]:
            kills.pop(0)
            clients[0].send_signal(signal.SIGKILL)
            clients[0].communicate()
            clients[0] = _start(url, next(seeds), end)
        time.sleep(0.2)
    told = [json.loads(client.communicate(timeout=90)[0]) for client in clients]
    if trains:
        training.stop()
    else:
        compiled = compilations() - compiled
    later = [one for one in memory if one[0] > WARM_UP * seconds]
    warm = np.array([one for one in later if one[2] >= WARM_JOBS][10:] or later)
    slope, _ = np.polyfit(warm[:, 0], warm[:, 1], 1)
    return {
        "seconds": round(time.time() - began, 1),
        "outcomes": dict(sum(map(Counter, told), Counter())),
        "jobs": dict(training.outcomes),
        "compiled by jobs": training.compiled,
        "jobs compile more": training.compiles_more,
        "reloads": reloads.count,
        "stale": reloads.stale,
        "open at the end": _left_open(http),
        "compilations": compiled,
        "MiB after every tenth of the time": [
            round(memory[min(i * len(memory) // 10, len(memory) - 1)][1]) for i in range(11)
        ],
        "MiB a minute after warming up": round(60 * float(slope), 3),
    }


def faults(report: dict[str, Any], most_mib_a_minute: float | None) -> list[str]:
    """What is wrong in a report; None does not look at memory."""
    ends = (*report["outcomes"], *report["jobs"])
    found = [name for name in ends if name.startswith("lost")]
    wrong = ("stale", "open at the end", "compilations", "jobs compile more")
    found += [name for name in wrong if report[name]]
    found += ["nothing was answered"] * (not report["outcomes"].get("answered"))
    grows = report["MiB a minute after warming up"]
    return found + ["memory grows"] * (most_mib_a_minute is not None and grows > most_mib_a_minute)


def _start(url: str, seed: int, end: float) -> subprocess.Popen[str]:
    program = Path(__file__).with_name("soak_client.py")
    command = [sys.executable, str(program), url, str(seed), str(end)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _own_mib(pid: int) -> float:
    """Its own memory, be it swapped out: files that it reads come and go as others need room."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(kb) for kb in re.findall(r"(?:RssAnon|VmSwap):\s+(\d+) kB", status)) / 1024


def _metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def _left_open(http: httpx.Client) -> float:
    """The texts that are still served or waiting when all clients have gone."""
    names = ("zojax_requests_running", "zojax_requests_waiting")
    for _ in range(100):
        if not (count := sum(_metric(http, name) for name in names)):
            break
        time.sleep(0.1)
    return count


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[tuple[str, int]]:
    """A server of the demo's model: its address and its process."""
    for seed, name in enumerate(("one", "two")):
        write_lora(directory / name, seed)
    command = [sys.executable, "-m", "zojax.cli", "serve", "--port", "0", "--rows", "4"]
    command += ["--max-lora-rank", "2", "--max-loras", "2"]
    command += ["--allow-adapters-from", str(directory)]
    command += ["--allow-training-in", str(directory / "tunings"), "--training-share", "0.3"]
    for name in ("one", "two"):
        command += ["--adapter", f"{name}={directory / name}"]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(directory / "programs"), **_TOLD, **os.environ}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if found := re.search(r"http://\S+:\d+", line):
                    yield found[0], server.pid
                    break
                print(line, end="", file=sys.stderr)
        finally:
            server.terminate()


def main() -> int:
    """Runs as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--most-mib-a-minute", type=float, default=2.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, _server(Path(directory)) as (url, pid):
        report = soak(url, pid, 60 * args.minutes)
    print(json.dumps(report, indent=2))
    found = faults(report, args.most_mib_a_minute)
    found += ["nothing was trained"] * (not report["jobs"])
    print("; ".join(found) or "nothing is wrong")
    return int(bool(found))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
