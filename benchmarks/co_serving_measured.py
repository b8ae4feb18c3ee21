"""Measure what a job that is trained costs those who ask meanwhile, and what it gets done.

    python benchmarks/co_serving_measured.py --tokenizer DIR --write-docs

OPT-125M's shape with random weights, served by ``zojax serve`` on this machine. The same
questions arrive at the same times in windows of some seconds, with a job in training and with that
job paused, in pairs of which every second one is turned round. They come at a share of what the
server gets done without a job. Figures of a load are those of all its windows together, with
intervals of 95 % from resampled pairs. The promise that goodput counts is what 95 % of the answers
keep without a job. It takes about 6 minutes for each load, with nothing else on the machine.
"""

import asyncio
import contextlib
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import command
import httpx
import numpy as np
from rich.console import Console
from serving_load import (
    Answer,
    Ask,
    arrivals,
    asks_to_generate,
    asks_to_score,
    closed_loop,
    open_loop,
    questions,
    rate,
)
from serving_systems import MODEL, zojax_server
from setting import ROOT, arguments, machine_name, random_checkpoint

from zojax.errors import InputError

DOCS = ROOT / "docs" / "training-in-the-server.md"
MARKERS = (
    "<!-- table: made by benchmarks/co_serving_measured.py -->",
    "<!-- end of co_serving_measured.py's table -->",
)
CLIENTS, KEPT, RESAMPLED = 16, 0.95, 2000
WORDS = ["the", "film", "was", "a", "slow", "warm", "quiet", "story", "with", "music", "people"]


@dataclasses.dataclass(frozen=True)
class Window:
    """What happened in one window.

    Attributes:
        answers: the answers to its questions.
        pieces: the pieces of training a second.
    """

    answers: list[Answer]
    pieces: float


@dataclasses.dataclass(frozen=True)
class Load:
    """The windows of a load, in pairs.

    Attributes:
        name: the load.
        scores: whether candidates are scored.
        without: the windows in which the job was paused.
        training: those in which it was trained.
        alone: the pieces a second when nobody asks.
    """

    name: str
    scores: bool
    without: list[Window]
    training: list[Window]
    alone: float


Figure = Callable[[Sequence[Answer], Sequence[Answer]], float]


def ratio_of_p99(times: Callable[[Answer], float]) -> Figure:
    """The 99th percentile with training over that without."""

    def of(without: Sequence[Answer], training: Sequence[Answer]) -> float:
        p99 = [
            np.percentile([times(a) for a in answers if a.units], 99)
            for answers in (training, without)
        ]
        return float(p99[0] / p99[1])

    return of


def goodput(scores: bool) -> Figure:
    """The share of answers that keep what ``KEPT`` of them keep without training, over ``KEPT``."""
    times = [_latency] if scores else [_first, _per_token]

    def of(without: Sequence[Answer], training: Sequence[Answer]) -> float:
        def kept(answers: Sequence[Answer], most: list[float]) -> float:
            return float(
                np.mean(
                    [
                        bool(a.units) and all(t(a) <= m for t, m in zip(times, most, strict=True))
                        for a in answers
                    ]
                )
            )

        each = 100 * (1 - (1 - KEPT) / len(times))
        most = [float(np.percentile([t(a) for a in without if a.units], each)) for t in times]
        return kept(training, most) / kept(without, most)

    return of


def interval(load: Load, figure: Figure) -> tuple[float, float, float]:
    """A figure of all windows, and the 2.5th and 97.5th percentile of it over resampled pairs."""
    rng, count = np.random.default_rng(0), len(load.without)

    def of(pairs: Sequence[int]) -> float:
        return figure(
            [a for i in pairs for a in load.without[i].answers],
            [a for i in pairs for a in load.training[i].answers],
        )

    resampled = [of(rng.integers(count, size=count).tolist()) for _ in range(RESAMPLED)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return of(range(count)), float(low), float(high)


def figures(load: Load) -> dict[str, Any]:
    """All figures of a load."""
    told: dict[str, Any] = {"load": load.name, "pairs": len(load.without)}
    told["answers"] = sum(len(w.answers) for w in (*load.without, *load.training))
    told["failed"] = sum(not a.units for w in (*load.without, *load.training) for a in w.answers)
    if load.scores:
        told["latency_p99"] = interval(load, ratio_of_p99(_latency))
    else:
        told["first_p99"] = interval(load, ratio_of_p99(_first))
        told["per_token_p99"] = interval(load, ratio_of_p99(_per_token))
    told["goodput"] = interval(load, goodput(load.scores))
    told["pieces"] = float(np.mean([window.pieces for window in load.training]))
    told["pieces_alone"] = load.alone
    return told


def _latency(answer: Answer) -> float:
    return answer.latency


def _first(answer: Answer) -> float:
    return answer.first


def _per_token(answer: Answer) -> float:
    return answer.per_token


class Trained:
    """A job of a server, which can be paused.

    Args:
        client: asks the server.
        rows: the number of rows to learn from.
    """

    def __init__(self, client: httpx.Client, rows: int = 320):
        self._client = client
        rng = np.random.default_rng(0)
        lines = [
            json.dumps({"text": " ".join(rng.choice(WORDS, 12)), "label": ("bad", "good")[i % 2]})
            for i in range(rows)
        ]
        file = {"file": ("rows.jsonl", "\n".join(lines).encode())}
        upload = client.post("/v1/files", files=file, data={"purpose": "fine-tune"})
        body = {"model": MODEL, "training_file": upload.raise_for_status().json()["id"]}
        body |= {"hyperparameters": {"steps": 20_000}}
        job = client.post("/v1/fine_tuning/jobs", json=body)
        self._url = f"/v1/fine_tuning/jobs/{job.raise_for_status().json()['id']}"
        self.is_paused = False
        self._until_steps()

    def set_paused(self, *, is_paused: bool) -> None:
        """Pauses or resumes it, and waits until it has stopped or does steps."""
        if is_paused == self.is_paused:
            return
        self._client.post(f"{self._url}/{'pause' if is_paused else 'resume'}").raise_for_status()
        if is_paused:
            while self._client.get(self._url).json()["status"] != "paused":
                time.sleep(0.2)
        else:
            self._until_steps()
        self.is_paused = is_paused

    def pieces(self) -> float:
        """The number of pieces that the server has computed."""
        page = self._client.get("/metrics").text
        [count] = re.findall(r"^zojax_training_pieces_total (\S+)$", page, re.MULTILINE)
        return float(count)

    def _until_steps(self, many: int = 40, seconds: float = 300) -> None:
        """Waits until pieces come one after the other."""
        before, end = self.pieces(), time.monotonic() + seconds
        while self.pieces() < before + many:
            if time.monotonic() > end:
                raise InputError(f"the job has done no {many} pieces in {seconds:.0f} s")
            time.sleep(0.5)


class Traffic(NamedTuple):
    """What is asked, and when.

    Attributes:
        scores: whether candidates are scored, and no texts continued.
        share: of what saturates the server.
        burst: how many questions come at once.
    """

    scores: bool
    share: float
    burst: int = 1

    @classmethod
    def read(cls, text: str) -> "Traffic":
        """Reads ``KIND:SHARE`` or ``KIND:SHARE:BURST``.

        >>> Traffic.read("texts:0.5:8").name
        'texts, bursts of 8, 50 %'
        """
        kind, share, *burst = text.split(":")
        if kind not in ("scores", "texts"):
            raise InputError(f"--loads {text}: asks for scores or texts")
        return cls(kind == "scores", float(share), *map(int, burst))

    @property
    def name(self) -> str:
        """What it is called in the table."""
        come = "Poisson" if self.burst == 1 else f"bursts of {self.burst}"
        return f"{'scores' if self.scores else 'texts'}, {come}, {100 * self.share:.0f} %"


def measured(
    url: str, ask: Ask, job: Trained, vocab_size: int, args: Any, traffic: Traffic
) -> Load:
    """Measures one load."""
    scores, share, burst = traffic
    console, asked = Console(stderr=True), questions(1, vocab_size, scores=scores)
    job.set_paused(is_paused=True)
    began = time.perf_counter()
    answers = asyncio.run(closed_loop(url, ask, asked, CLIENTS, args.seconds))
    units = np.mean([a.units for a in answers])
    most = rate(answers, began + args.seconds / 2, began + args.seconds) / units
    windows: dict[bool, list[Window]] = {False: [], True: []}
    for number in range(args.pairs):
        times = arrivals(number, share * float(most), args.seconds, burst)
        for trains in (False, True) if number % 2 == 0 else (True, False):
            job.set_paused(is_paused=not trains)
            of_pair = questions(100 + number, vocab_size, scores=scores)
            before, began = job.pieces(), time.perf_counter()
            found = asyncio.run(open_loop(url, ask, of_pair, times))
            pieces = (job.pieces() - before) / (time.perf_counter() - began)
            windows[trains].append(Window(found, pieces))
        console.print(f"pair {number + 1} of {args.pairs}: {len(times)} questions each")
    job.set_paused(is_paused=False)
    before, began = job.pieces(), time.perf_counter()
    time.sleep(args.seconds)
    alone = (job.pieces() - before) / (time.perf_counter() - began)
    return Load(traffic.name, scores, windows[False], windows[True], alone)


def table(found: Sequence[dict[str, Any]], training_share: float) -> str:
    """The figures as Markdown."""
    lines = [
        f"{found[0]['pairs']} pairs of windows a load, OPT-125M's shape, "
        f"`--training-share {training_share:g}`; {machine_name()}. With training over without, and "
        "95 % intervals.",
        "",
        "| load | answers | failed | first token or scores, p99 | a token, p99 | kept promises "
        "| pieces a second | of training alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for told in found:
        cells = [
            told["load"],
            f"{told['answers']:,}",
            f"{told['failed']}",
            _cell(told.get("first_p99") or told["latency_p99"]),
            _cell(told["per_token_p99"]) if "per_token_p99" in told else "",
            _cell(told["goodput"]),
            f"{told['pieces']:.1f}",
            f"{100 * told['pieces'] / told['pieces_alone']:.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: tuple[float, float, float]) -> str:
    return "× {:.3f} [{:.3f}, {:.3f}]".format(*figure)


@contextlib.contextmanager
def trained_server(checkpoint: Path, training_share: float) -> Iterator[str]:
    """A server of a checkpoint that trains jobs."""
    with tempfile.TemporaryDirectory() as tunings:
        options = ["--rows", "32", "--allow-training-in", tunings]
        options += ["--training-share", f"{training_share:g}"]
        with zojax_server(checkpoint, options) as url:
            yield url


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="of windows (default: 10)")
    parser.add_argument("--seconds", type=float, default=15, help="of a window (default: 15)")
    parser.add_argument("--training-share", type=float, default=0.005, help="default: 0.005")
    parser.add_argument(
        "--loads",
        nargs="+",
        default=["scores:0.5", "scores:0.8", "scores:0.5:8", "texts:0.5"],
        metavar="KIND:SHARE[:BURST]",
    )
    args = parser.parse_args()
    loads, found = [*map(Traffic.read, args.loads)], []
    with random_checkpoint(args.shape, args.tokenizer) as checkpoint:
        vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
        with trained_server(checkpoint, args.training_share) as url:
            asks = {True: asks_to_score(MODEL), False: asks_to_generate([MODEL])}
            with httpx.Client(base_url=url, timeout=600) as client:
                job = Trained(client)
                for load in loads:
                    ask = asks[load.scores]
                    found.append(figures(measured(url, ask, job, vocab_size, args, load)))
                    Console(stderr=True).print(found[-1])
    command.tell(args, table(found, args.training_share), found, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
