"""Kills a server that trains four jobs and answers others, again and again; nothing may be lost.

    python -m tests.serving.killed_jobs --kills 40

Afterwards every job has succeeded with the scalars of the same run of ``zojax train``, and no
request was answered wrongly: those that were cut off got an error.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
from rich.console import Console

import zojax
from tests.serving.test_fine_tuning import reviews
from zojax.journal.file import JOURNAL, read_journal
from zojax.journal.segments import records_hash
from zojax.runs.run_dir import read_config
from zojax.serving.start import bound_socket

PROMPT = "a gripping film"
JOBS = (
    {"estimator": "mezo", "rank": 4, "steps": 400},
    {"estimator": "mezo", "rank": 2, "steps": 300, "batch_size": 8},
    {"estimator": "lozo", "rank": 8, "steps": 200},
    {"estimator": "fzoo", "rank": 8, "steps": 60},
)
_START_SECONDS = 180
_SAY = "from zojax.cli import run; run()"


@contextlib.contextmanager
def server(directory: Path, port: int) -> Iterator[subprocess.Popen]:
    """A server in a process of its own, once it is ready; killed at the end."""
    options = ["--port", str(port), "--rows", "4", "--allow-training-in", str(directory)]
    with (directory.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SAY, "serve", *options], stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                    yield process
                    return
            time.sleep(0.1)
        raise RuntimeError((directory.parent / "server.log").read_text())
    finally:
        process.kill()
        process.wait()


class Asking(threading.Thread):
    """Asks for the same text all the time, and counts what comes of it.

    Args:
        url: the server's.
        expected: the text.
    """

    def __init__(self, url: str, expected: str):
        super().__init__(daemon=True)
        self.outcomes: Counter[str] = Counter()
        self._url, self._expected, self._ends = url, expected, False

    def run(self) -> None:
        """Asks until it is stopped."""
        body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        while not self._ends:
            try:
                answer = httpx.post(f"{self._url}/v1/completions", json=body, timeout=60)
                text = answer.raise_for_status().json()["choices"][0]["text"]
                self.outcomes["right" if text == self._expected else "wrong"] += 1
            except (httpx.HTTPError, json.JSONDecodeError):
                self.outcomes["error"] += 1
                time.sleep(0.05)

    def stop(self) -> None:
        """Asks no more."""
        self._ends = True
        self.join()


def create_jobs(url: str) -> list[str]:
    """Uploads rows and creates the jobs."""
    sent = {"file": ("reviews.jsonl", reviews(60))}
    file = httpx.post(f"{url}/v1/files", files=sent, data={"purpose": "fine-tune"}).json()["id"]
    ids = []
    for seed, hyperparameters in enumerate(JOBS):
        body = {"model": "demo", "training_file": file, "seed": seed}
        body |= {"hyperparameters": hyperparameters, "data": {"prompt": "{text} It was"}}
        answer = httpx.post(f"{url}/v1/fine_tuning/jobs", json=body)
        ids.append(answer.raise_for_status().json()["id"])
    return ids


def statuses(url: str, ids: list[str]) -> list[str]:
    """How far the jobs are."""
    return [httpx.get(f"{url}/v1/fine_tuning/jobs/{id_}").json()["status"] for id_ in ids]


def differing(directory: Path, ids: list[str]) -> list[str]:
    """The jobs whose journals are not those of the same runs alone."""
    found = []
    for id_ in ids:
        run, alone = directory / "jobs" / id_ / "run", directory.parent / f"alone-{id_}"
        config = read_config(run)
        config.run.dir = str(alone)
        zojax.train(config, Console(quiet=True))
        hashes = {records_hash(read_journal(path / JOURNAL).records) for path in (run, alone)}
        if len(hashes) != 1:
            found.append(id_)
    return found


def campaign(kills: int, directory: Path, seed: int = 0) -> dict:
    """Kills the server so many times while jobs are trained; returns what came of it.

    Args:
        kills: how often.
        directory: an empty directory.
        seed: what the times until it is killed are drawn from.
    """
    rng, tunings = random.Random(seed), directory / "tunings"
    tunings.mkdir()
    with bound_socket("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    [expected] = zojax.load(zojax.demo.MODEL).generate([PROMPT], max_new_tokens=12)
    asking = Asking(url, expected.text)
    ids, ended = list[str](), list[str]()
    for kill in range(kills + 1):
        with server(tunings, port):
            if not ids:
                ids = create_jobs(url)
                asking.start()
            if kill < kills:
                time.sleep(rng.uniform(0, 6))
                continue
            while {*(ended := statuses(url, ids))} & {"queued", "running"}:
                time.sleep(0.5)
            asking.stop()
        print(f"{kill} kills: {dict(asking.outcomes)}", file=sys.stderr)
    return {
        "kills": kills,
        "statuses": ended,
        "answers": dict(asking.outcomes),
        "differing": differing(tunings, ids),
    }


def main() -> None:
    """Runs the campaign from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = campaign(args.kills, Path(directory))
    print(json.dumps(report))
    is_bad = set(report["statuses"]) != {"succeeded"} or report["differing"]
    sys.exit(bool(is_bad or report["answers"].get("wrong")))


if __name__ == "__main__":
    main()
