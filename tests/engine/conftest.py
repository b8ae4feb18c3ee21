"""A runtime for a tiny model, and how tests ask it."""

from queue import SimpleQueue
from typing import Any

import jax
import numpy as np
import pytest

from tests.rough_models import PRE_LN
from zojax.adapters import AdapterPool, Site, trainable_sites
from zojax.engine.device import Device
from zojax.engine.ladder import make_ladder
from zojax.engine.requests import Answer, Deliver, Scores, Token, Update
from zojax.engine.runtime import Runtime
from zojax.engine.slots import Registry, Slots
from zojax.generation import generate

LENGTH, ROWS = 48, 4
KEY = jax.random.key(3)


def adapter_of(sites: tuple[Site, ...], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        site.path: {
            name: rng.standard_normal((*site.lead, size, 2)).astype(np.float32)
            for name, size in zip("uv", site.shape[-2:], strict=True)
        }
        for site in sites
    }


@pytest.fixture(scope="session")
def model(rough_models):
    return rough_models["pre-LN"]


@pytest.fixture(scope="session")
def sites(model):
    return tuple(s for s in trainable_sites(model.weights, "linear") if "v_proj" in s.path)


@pytest.fixture(scope="session")
def runtime(model, sites):
    pool = AdapterPool(sites, num_slots=2, rank=2)
    ladder = make_ladder(LENGTH, ROWS, tokens=64, most_steps=4, first_visible=24, first_rows=2)
    device = Device(model, pool.arrays, ladder, KEY)
    device.compile()
    registry = Registry()
    for number in range(5):
        registry.add(f"adapter {number}", lambda seed=number: adapter_of(sites, seed))
    with Runtime(device, Slots(pool), registry) as runtime:
        yield runtime


class Asking:
    """Submits requests, and waits for their answers."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime

    def start(self, request, also: Deliver = lambda answer: None) -> tuple[int, SimpleQueue]:
        """Submits a request; ``also`` is called with each answer, on the runtime's thread."""
        answers: SimpleQueue = SimpleQueue()

        def deliver(answer: Answer) -> None:
            also(answer)
            answers.put(answer)

        return self.runtime.submit(request, deliver), answers

    def finish(self, answers: SimpleQueue) -> tuple[list[Any], str, int]:
        tokens: list[Token] = []
        while True:
            answer = answers.get(timeout=20)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Scores):
                self.tops = answer.tops
                return answer.logprobs, "scored", 0
            assert isinstance(answer, Update)
            tokens += answer.tokens
            if answer.finish_reason is not None:
                return tokens, answer.finish_reason, answer.num_reused

    def __call__(self, request):
        return self.finish(self.start(request)[1])

    def all(self, requests):
        started = [self.start(request)[1] for request in requests]
        return [self.finish(answers) for answers in started]


@pytest.fixture
def ask(runtime) -> Asking:
    return Asking(runtime)


def prompt_of(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, PRE_LN.vocab_size, length).astype(np.int32)


def ids(answer) -> list[int]:
    return [token.id for token in answer[0]]


LENGTHS = (1, 3, 17, 30, 33, 5, 20, 24)


@pytest.fixture(scope="session")
def offline(model):
    """The continuations that offline generation finds, greedily, for prompts of many lengths."""
    prompts = [prompt_of(n, n) for n in LENGTHS]
    found = generate(model, prompts, lambda ids: "", max_new_tokens=9, batch_size=2)
    return [one.tokens for one in found]
