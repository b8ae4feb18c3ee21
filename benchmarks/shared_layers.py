"""Measure the first token of a prompt that another adapter of upper layers has had before.

    python scripts/fetch_smollm2.py
    python benchmarks/shared_layers.py --write-docs --json benchmarks/results/shared-layers.json

Two runtimes of the same weights, of which one shares the lowest layers between adapters (``zojax
serve --shared-layers``), get a new prompt under one random adapter of the layers above, and then
the same prompt under another. In turns, and the first of a round is the other each time. Processor
time is told, too, since it does not count what others do on a machine. It takes some minutes on a
CPU.
"""

import argparse
import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import command
import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from setting import ROOT, SMOLLM2, machine_name

from zojax.adapters import AdapterPool, trainable_sites
from zojax.engine.device import Device
from zojax.engine.requests import GenerateRequest, Update
from zojax.engine.runtime import Runtime
from zojax.engine.slots import Registry, Slots
from zojax.engine.starting import check_shared_layers, ladder_for
from zojax.hub import load
from zojax.models import Model

DOCS = ROOT / "docs" / "serving.md"
MARKERS = (
    "<!-- table: made by benchmarks/shared_layers.py -->",
    "<!-- end of shared_layers.py's table -->",
)
RANK, ROWS, NEW = 8, 4, 9


@dataclasses.dataclass(frozen=True)
class Answer:
    """A text of one runtime.

    Attributes:
        first_ms: the time to its first token.
        processor_ms: the processor time of the whole process until then.
        token_ms: the time of each later token, in the mean.
        tokens: the new tokens.
    """

    first_ms: float
    processor_ms: float
    token_ms: float
    tokens: list[int]


@dataclasses.dataclass(frozen=True)
class Figure:
    """The figures of prompts of one length, with one in each list for each round.

    Attributes:
        prompt: the number of the prompt's tokens.
        shared: the answers under the second adapter where layers are shared.
        whole: the same where none are.
        under_first: under the first adapter, where they are shared.
    """

    prompt: int
    shared: list[Answer]
    whole: list[Answer]
    under_first: list[Answer]

    def ratio(self, name: str) -> float:
        """A figure with sharing, in units of that without, in the median of the rounds."""
        pairs = zip(self.shared, self.whole, strict=True)
        return statistics.median(getattr(a, name) / getattr(b, name) for a, b in pairs)


def adapter_of_upper_layers(sites: Sequence[Any], first: int, seed: int) -> dict[str, Any]:
    """A random LoRA of the layers from one on, small enough to leave texts sensible."""
    rng = np.random.default_rng(seed)
    adapter: dict[str, Any] = {}
    for site in sites:
        sizes = zip("uv", site.shape[-2:], strict=True)
        factors = {
            name: rng.normal(0, 0.05, (*site.lead, size, RANK)).astype(np.float32)
            for name, size in sizes
        }
        for leaf in factors.values():
            leaf[:first] = 0
        adapter[site.path] = factors
    return adapter


@contextlib.contextmanager
def runtime_of(model: Model, length: int, shared: int, first: int) -> Iterator[Runtime]:
    """A runtime with two adapters of the layers from ``first`` on.

    Args:
        model: the base model.
        length: the most tokens of a text.
        shared: the number of lowest layers that are shared.
        first: the adapters' first layer.
    """
    sites = trainable_sites(model.weights, "linear")
    pool = AdapterPool(sites, num_slots=2, rank=RANK)
    pool.evict(pool.insert({}))
    ladder = ladder_for(model.weights, length, ROWS)
    ladder = dataclasses.replace(ladder, pages=ladder.pages[:1])  # nothing is scored here
    device = Device(model, pool.arrays, ladder, jax.random.key(0), shared_layers=shared)
    device.compile()
    registry = Registry()
    for seed, name in enumerate(("one", "two")):
        adapter = adapter_of_upper_layers(sites, first, seed)
        registry.add(name, lambda adapter=adapter: adapter)
    with Runtime(device, Slots(pool), registry) as runtime:
        yield runtime


def ask(runtime: Runtime, prompt: np.ndarray, adapter: str) -> Answer:
    """Ask for a few tokens, and wait for them."""
    news: SimpleQueue[tuple[Any, float, float]] = SimpleQueue()

    def deliver(answer: Any) -> None:
        news.put((answer, time.perf_counter(), time.process_time()))

    started, processor = time.perf_counter(), time.process_time()
    runtime.submit(GenerateRequest(prompt, NEW, adapter=adapter), deliver)
    firsts: tuple[float, float] | None = None
    tokens: list[int] = []
    while True:
        answer, now, used = news.get(timeout=600)
        assert isinstance(answer, Update), answer
        firsts = firsts or (now, used)
        tokens += [token.id for token in answer.tokens]
        if answer.finish_reason is not None:
            first, until = firsts
            later = 1e3 * (now - first) / (len(tokens) - 1)
            return Answer(1e3 * (first - started), 1e3 * (until - processor), later, tokens)


def measure(
    model: Model, shared: int, lengths: Sequence[int], rounds: int, console: Console
) -> list[Figure]:
    """Ask both runtimes in turns."""
    rng, length = np.random.default_rng(0), max(lengths) + 2 * NEW
    figures = [Figure(length, [], [], []) for length in lengths]
    with (
        runtime_of(model, length, shared, shared) as sharing,
        runtime_of(model, length, 0, shared) as whole,
    ):
        every = list(itertools.product(range(-1, rounds), figures))  # the first round warms up
        for number, figure in track(every, "prompts", console=console, transient=True):
            prompt = rng.integers(100, model.config.vocab_size, figure.prompt).astype(np.int32)
            found: dict[str, Answer] = {}
            for one in (sharing, whole) if number % 2 else (whole, sharing):
                first = ask(one, prompt, "one")
                name = "shared" if one is sharing else "whole"
                found[name], found[f"first {name}"] = ask(one, prompt, "two"), first
            if found["shared"].tokens != found["whole"].tokens:
                console.print(f"other tokens: {found['shared'].tokens} {found['whole'].tokens}")
            if number >= 0:
                figure.shared.append(found["shared"])
                figure.whole.append(found["whole"])
                figure.under_first.append(found["first shared"])
    return figures


def table(figures: Sequence[Figure], shared: int, layers: int, machine: str) -> str:
    """The figures as Markdown."""
    lines = [
        f"SmolLM2-135M, float32, {shared} of {layers} layers shared. {machine}, one of them used. "
        f"Medians of {len(figures[0].shared)} rounds.",
        "",
        "| tokens of the prompt | first token under a second adapter, ms | sharing, ms | of it | "
        "by processor time | a later token |",
        "|---|---|---|---|---|---|",
    ]
    for one in figures:
        whole, ours = (
            statistics.median(answer.first_ms for answer in answers)
            for answers in (one.whole, one.shared)
        )
        lines.append(
            f"| {one.prompt} | {whole:.0f} | {ours:.0f} | {one.ratio('first_ms'):.2f} "
            f"| {one.ratio('processor_ms'):.2f} | {one.ratio('token_ms'):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(SMOLLM2), help="checkpoint (default: SmolLM2-135M)")
    parser.add_argument("--shared-layers", type=int, default=24, help="default: 24")
    parser.add_argument(
        "--prompts", type=int, nargs="+", default=[128, 256, 512], help="default: 128 256 512"
    )
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    args = parser.parse_args()
    model = load(args.model)
    layers = model.config.num_hidden_layers
    shared = check_shared_layers(model, args.shared_layers, f"--shared-layers {args.shared_layers}")
    figures = measure(model, shared, args.prompts, args.rounds, Console(stderr=True))
    machine = machine_name()
    told = {
        "machine": machine,
        "shared_layers": shared,
        "layers": layers,
        "figures": [
            {
                **dataclasses.asdict(one),
                "ratios": {
                    name: one.ratio(name) for name in ("first_ms", "processor_ms", "token_ms")
                },
            }
            for one in figures
        ],
    }
    command.tell(args, table(figures, shared, layers, machine), told, DOCS, MARKERS)


if __name__ == "__main__":
    command.run(main)
