"""The continuations that a request asks for: asked together, decoded and ended one by one."""

import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from zojax.engine.requests import (
    GenerateRequest,
    GrammarError,
    ScoreRequest,
    Scores,
    Token,
    Update,
)
from zojax.errors import InputError, as_line
from zojax.generation.streaming import Detokenizer, StopStrings
from zojax.scoring import Item
from zojax.scoring.pages import IntArray
from zojax.serving.bridge import Answers
from zojax.serving.errors import LOG, ApiError, as_api_error, without_directories
from zojax.serving.schema import Sampled
from zojax.serving.service import Service

Reason = Literal["stop", "length"]


class Shown(NamedTuple):
    """A new token, and where its text begins in the continuation's."""

    token: Token
    offset: int


class Part(NamedTuple):
    """News of a continuation.

    Attributes:
        index: the continuation's index.
        text: its new text.
        tokens: its new tokens.
        finish_reason: why it has ended; None if it goes on.
    """

    index: int
    text: str
    tokens: list[Shown]
    finish_reason: Reason | None = None


@dataclasses.dataclass
class _Continuation:
    """What is known of a continuation."""

    detokenizer: Detokenizer
    stops: StopStrings
    length: int = 0

    def take(self, index: int, update: Update) -> Part:
        texts, tokens = [], []
        for token in update.tokens:
            tokens.append(Shown(token, self.length))
            new = self.detokenizer.push(token.id)
            self.length += len(new)
            found = self.stops.push(new)
            texts.append(found.text)
            if found.is_end:
                return Part(index, "".join(texts), tokens, "stop")
        reason = update.finish_reason
        if reason == "nonfinite":
            raise ApiError(500, "the model's scores are not finite")
        if reason is None:
            return Part(index, "".join(texts), tokens)
        found = self.stops.push(self.detokenizer.end())
        texts.append(found.text)
        if not found.is_end:
            texts.append(self.stops.end())
        ended = found.is_end or reason == "stop"
        return Part(index, "".join(texts), tokens, "stop" if ended else "length")


async def continuations(
    service: Service, requests: Sequence[GenerateRequest], body: Sampled
) -> AsyncGenerator[Part, None]:
    """Asks for continuations, and yields their parts as they come.

    Args:
        service: the service.
        requests: what is asked.
        body: says how texts end.

    Raises:
        ApiError: one cannot be answered.
        InputError: a request can never be served.
    """
    known = [
        _Continuation(
            Detokenizer(service.tokenizer.text, request.prompt.tolist()),
            StopStrings(body.stops, shows=body.include_stop_str_in_output),
        )
        for request in requests
    ]
    began = time.perf_counter()
    last = [began] * len(requests)
    async with Answers(service.runtime, requests) as answers:
        async for index, answer in answers:
            if not isinstance(answer, Update):
                raise as_api_error(_error(answer))
            part = known[index].take(index, answer)
            if part.finish_reason is not None:
                answers.end(index)
            now = time.perf_counter()
            is_first = last[index] == began
            service.metrics.tokens_came(len(part.tokens), now - last[index], is_first=is_first)
            last[index] = now
            yield part


async def prompt_tokens(
    service: Service, prompts: Sequence[IntArray], adapter: str | None, owner: str, count: int
) -> list[list[Token]]:
    """The tokens of prompts, each with its log-probability, but for the first, which has none.

    Args:
        service: the service.
        prompts: the prompts.
        adapter: the adapter's name; None for the base model.
        owner: who asks.
        count: the number of most probable tokens to tell with each.
    """
    items = [Item(prompt[:1], (prompt[1:],)) for prompt in prompts if len(prompt) > 1]
    found = iter(await scores(service, items, adapter, owner, count))
    return [
        [Token(int(prompt[0])), *(_tokens(prompt[1:], next(found)) if len(prompt) > 1 else ())]
        for prompt in prompts
    ]


def _tokens(ids: IntArray, scores: Scores) -> list[Token]:
    [logprobs] = scores.logprobs
    [tops] = scores.tops or [[()] * len(ids)]
    return [Token(*one) for one in zip(ids.tolist(), logprobs.tolist(), tops, strict=True)]


async def scores(
    service: Service, items: Sequence[Item], adapter: str | None, owner: str, count: int = 0
) -> list[Scores]:
    """The log-probabilities of the tokens of items' candidates.

    Args:
        service: the service.
        items: the items.
        adapter: the adapter's name; None for the base model.
        owner: who asks.
        count: the number of most probable tokens to tell with each.

    Raises:
        ApiError: an item cannot be scored, or its scores are not finite.
        InputError: an item can never be scored.
    """
    found: dict[int, Scores] = {}
    requests = [ScoreRequest(item, adapter, owner, num_logprobs=count) for item in items]
    async with Answers(service.runtime, requests) as answers:
        async for index, answer in answers:
            if not isinstance(answer, Scores):
                raise as_api_error(_error(answer))
            if any(np.isnan(logprobs).any() for logprobs in answer.logprobs):
                raise ApiError(500, "the model's scores are not finite")
            found[index] = answer
    return [found[i] for i in range(len(items))]


def _error(answer: object) -> Exception:
    if isinstance(answer, GrammarError):
        return ApiError(400, f"the grammar cannot be followed any further: {as_line(answer)}")
    if isinstance(answer, InputError):  # only what reads an adapter, whose line may have its path
        LOG.warning("an adapter cannot be loaded: %s", without_directories(as_line(answer)))
        return ApiError(400, "this model's adapter cannot be loaded; the server's log says more")
    return answer if isinstance(answer, Exception) else RuntimeError("an answer of another kind")
