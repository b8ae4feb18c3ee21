"""Ask a server as many clients at once would, and note when its answers came.

A *closed loop* has a fixed number of clients, each of which asks again as soon as it is answered:
it shows what a server gets done at most. An *open loop* asks when the clock says so, whether
answers have come or not, as users do: it shows how long they wait. All draws are made from fixed
seeds.
"""

import asyncio
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import httpx
import numpy as np

PROMPT_TOKENS, NEW_TOKENS = (32, 256), (16, 64)
CANDIDATES, CANDIDATE_TOKENS = 4, (1, 8)
FIRST_TOKEN = 10  # the ids before it may be special


class Question(NamedTuple):
    """A prompt, and what is wanted of it.

    Attributes:
        prompt: token ids.
        new_tokens: the number of tokens to add; 0 if candidates are to be scored.
        candidates: the token ids of each candidate.
    """

    prompt: list[int]
    new_tokens: int
    candidates: list[list[int]]


class Answer(NamedTuple):
    """When a question was asked and answered, in seconds of one clock.

    Attributes:
        due: when it was to be asked.
        arrived: when each part of the answer arrived.
        units: the new tokens or scored candidates of the whole answer; 0 if it failed.
    """

    due: float
    arrived: tuple[float, ...]
    units: int

    @property
    def latency(self) -> float:
        """Until the last part."""
        return self.arrived[-1] - self.due

    @property
    def first(self) -> float:
        """Until the first part."""
        return self.arrived[0] - self.due

    @property
    def per_token(self) -> float:
        """The mean time between tokens after the first."""
        return (self.arrived[-1] - self.arrived[0]) / max(1, self.units - 1)


Ask = Callable[[httpx.AsyncClient, Question], Awaitable[tuple[tuple[float, ...], int]]]
"""``ask(client, question) -> (times of the parts, units)``; raises ``httpx.HTTPError``."""


def questions(seed: int, vocab_size: int, *, scores: bool) -> Iterator[Question]:
    """Draw questions for ever, none of which begins like another."""
    rng = np.random.default_rng(seed)

    def tokens(bounds: tuple[int, int]) -> list[int]:
        count = rng.integers(*bounds, endpoint=True)
        return rng.integers(FIRST_TOKEN, vocab_size, count).tolist()

    while True:
        prompt = tokens(PROMPT_TOKENS)
        if scores:
            yield Question(prompt, 0, [tokens(CANDIDATE_TOKENS) for _ in range(CANDIDATES)])
        else:
            yield Question(prompt, int(rng.integers(*NEW_TOKENS, endpoint=True)), [])


def asks_to_generate(models: Sequence[str]) -> Ask:
    """Ask for greedy continuations as a stream, of each model in turn."""
    names = itertools.cycle(models)

    async def ask(client: httpx.AsyncClient, question: Question) -> tuple[tuple[float, ...], int]:
        body = {
            "model": next(names),
            "prompt": question.prompt,
            "max_tokens": question.new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        arrived, units = [], 0
        async with client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[len("data: ") :])
                if event.get("choices"):
                    arrived.append(time.perf_counter())
                if event.get("usage"):
                    units = event["usage"]["completion_tokens"]
        return tuple(arrived), units

    return ask


def asks_to_score(model: str) -> Ask:
    """Ask zojax for the candidates' log-probabilities."""

    async def ask(client: httpx.AsyncClient, question: Question) -> tuple[tuple[float, ...], int]:
        logprobs = await zojax_logprobs(client, model, question)
        return (time.perf_counter(),), len(logprobs)

    return ask


async def zojax_logprobs(client: httpx.AsyncClient, model: str, question: Question) -> list[float]:
    """Each candidate's log-probability, by ``/v1/score``."""
    body = {"model": model, "prompt": question.prompt, "candidates": question.candidates}
    answer = await _post(client, "/v1/score", body)
    return answer["scores"]


def asks_for_prompts(model: str) -> Ask:
    """Ask vLLM for them: every candidate behind its prompt, all in one request."""

    async def ask(client: httpx.AsyncClient, question: Question) -> tuple[tuple[float, ...], int]:
        logprobs = await vllm_logprobs(client, model, question)
        return (time.perf_counter(),), len(logprobs)

    return ask


async def vllm_logprobs(client: httpx.AsyncClient, model: str, question: Question) -> list[float]:
    """Each candidate's log-probability, by vLLM's ``prompt_logprobs`` of ``/v1/completions``."""
    body = {
        "model": model,
        "prompt": [question.prompt + candidate for candidate in question.candidates],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,  # none besides the prompt's own tokens
    }
    answer = await _post(client, "/v1/completions", body)
    return [
        sum(
            told[str(token)]["logprob"]
            for told, token in zip(
                choice["prompt_logprobs"][-len(candidate) :], candidate, strict=True
            )
        )
        for choice, candidate in zip(answer["choices"], question.candidates, strict=True)
    ]


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    response.raise_for_status()
    return response.json()


def connect(url: str) -> httpx.AsyncClient:
    """A client with as many connections as are wanted."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=600, limits=limits)


async def _answer(client: httpx.AsyncClient, ask: Ask, question: Question, due: float) -> Answer:
    try:
        arrived, units = await ask(client, question)
    except httpx.HTTPError:
        arrived, units = (), 0
    return Answer(due, arrived or (time.perf_counter(),), units)


async def closed_loop(
    url: str, ask: Ask, asked: Iterator[Question], clients: int, seconds: float
) -> list[Answer]:
    """Let each of some clients ask one question after another, for a time.

    Args:
        url: the server's address.
        ask: how it is asked.
        asked: the questions.
        clients: the number of clients.
        seconds: after this time nothing more is asked; what was asked is waited for.
    """
    found: list[Answer] = []
    async with connect(url) as client:
        end = time.perf_counter() + seconds

        async def ask_on() -> None:
            while (now := time.perf_counter()) < end:
                found.append(await _answer(client, ask, next(asked), now))

        await asyncio.gather(*[ask_on() for _ in range(clients)])
    return found


def arrivals(seed: int, rate: float, seconds: float, burst: int = 1) -> list[float]:
    """Draw when to ask: ``burst`` questions at each time of a Poisson process."""
    if rate <= 0:
        return []
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(burst / rate, size=int(4 * rate * seconds / burst) + 16)
    times = np.cumsum(gaps)
    return np.repeat(times[times < seconds], burst).tolist()


async def open_loop(
    url: str, ask: Ask, asked: Iterator[Question], times: Sequence[float]
) -> list[Answer]:
    """Ask at given times, in seconds from now, and wait for all answers."""
    async with connect(url) as client:
        start = time.perf_counter()

        async def ask_at(moment: float, question: Question) -> Answer:
            await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
            return await _answer(client, ask, question, start + moment)

        return list(
            await asyncio.gather(*[ask_at(t, q) for t, q in zip(times, asked, strict=False)])
        )


def rate(answers: Sequence[Answer], start: float, end: float) -> float:
    """The units that arrived a second between two times, where a stream's parts count alike.

    >>> rate([Answer(0.0, (1.0, 2.0, 3.0, 4.0), units=8)], start=1.5, end=3.5)
    2.0
    """
    found = sum(
        answer.units / len(answer.arrived) * sum(start <= t < end for t in answer.arrived)
        for answer in answers
    )
    return found / (end - start)


@dataclasses.dataclass(frozen=True)
class Promise:
    """What users are promised, in seconds.

    Attributes:
        first: the most until a text's first token.
        per_token: the most between its tokens, in the mean.
        scored: the most until candidates are scored.
    """

    first: float = math.inf
    per_token: float = math.inf
    scored: float = math.inf

    def with_times(self, alone: float, units: float, *, scores: bool) -> "Promise":
        """The promise in times of what transformers takes for one question after the other.

        Scores come within twice as long as those of one question take there, the first token within
        a whole text's time, and the next ones within five times a token's.

        Args:
            alone: the units a second of transformers.
            units: the units of a question.
            scores: whether these are scored candidates.

        >>> Promise().with_times(10.0, 40.0, scores=False)
        Promise(first=4.0, per_token=0.5, scored=inf)
        """
        if scores:
            return dataclasses.replace(self, scored=2 * units / alone)
        return dataclasses.replace(self, first=units / alone, per_token=5 / alone)

    def is_kept(self, answer: Answer, *, scores: bool) -> bool:
        """Whether an answer came as promised.

        >>> promise = Promise(first=1.0, per_token=0.1, scored=0.5)
        >>> promise.is_kept(Answer(0.0, (0.9, 1.0), units=2), scores=False)
        True
        >>> promise.is_kept(Answer(0.0, (0.9,), units=1), scores=True)
        False
        """
        if not answer.units:
            return False
        if scores:
            return answer.latency <= self.scored
        return answer.first <= self.first and answer.per_token <= self.per_token
