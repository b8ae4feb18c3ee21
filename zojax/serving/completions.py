"""``/v1/completions``: continues texts, and tells the log-probabilities of prompts."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from zojax.engine.requests import Token
from zojax.errors import InputError
from zojax.generation.streaming import Detokenizer
from zojax.scoring.pages import IntArray
from zojax.serving.asking import Asked, as_json, make_requests, new_id, remember
from zojax.serving.choices import Part, Shown, continuations, prompt_tokens
from zojax.serving.events import Event
from zojax.serving.schema import CompletionBody, Text
from zojax.serving.service import Service


def _tries(body: CompletionBody) -> int:
    return max(body.n, body.best_of or body.n)


def _count(service: Service, body: CompletionBody) -> int:
    """The number of texts that a body asks for, at least 1.

    Raises:
        InputError: it is too large, or cannot be.
    """
    tries = _tries(body)
    if body.best_of is not None and body.best_of < body.n:
        raise InputError("best_of: give n or more")
    if body.stream and tries > body.n:
        raise InputError("best_of: a stream cannot choose the best; leave one of the two out")
    if len(body.prompts) * tries > service.limits.choices:
        raise InputError(
            f"n: with all prompts this makes {len(body.prompts) * tries} texts; the most is "
            f"{service.limits.choices}"
        )
    return len(body.prompts) * tries


def _ask(service: Service, body: CompletionBody, owner: str) -> Asked:
    """Turns a body into requests; takes a moment.

    Raises:
        ApiError: there is no such model.
        InputError: a field cannot be.
    """
    adapter, tries = service.adapter(body.model, owner), _tries(body)
    add = body.add_special_tokens
    prompts = [service.encode(prompt, add_special_tokens=add) for prompt in body.prompts]
    count = body.logprobs if tries == body.n else body.logprobs or 0
    requests = []
    if body.max_tokens != 0:
        ends = service.tokenizer.stop_ids
        requests = make_requests(
            service, body, prompts, tries, body.max_tokens, count, adapter, owner, ends
        )
    if not requests and max(map(len, prompts)) > service.max_length:
        raise InputError(f"prompt: has more than {service.max_length} tokens")
    name = body.model or service.name
    return Asked(new_id("cmpl"), int(time.time()), name, owner, adapter, prompts, requests)


async def complete(service: Service, body: CompletionBody, owner: str) -> dict[str, Any]:
    """Answers as a whole.

    Args:
        service: the service.
        body: what is asked.
        owner: who asks.

    Raises:
        ApiError: there is no such model, or too much is asked at once.
        InputError: a field cannot be.
    """
    with service.gate.entered(owner, _count(service, body)):
        asked = await run_in_threadpool(_ask, service, body, owner)
        echoes = await _echoes(service, body, asked)
        parts: list[list[Part]] = [[] for _ in asked.requests]
        async with contextlib.aclosing(continuations(service, asked.requests, body)) as coming:
            async for part in coming:
                parts[part.index].append(part)
    tries = len(asked.requests) // len(asked.prompts)
    groups = [parts[i * tries : (i + 1) * tries] for i in range(len(asked.prompts))]
    choices = []
    for prompt, echo, group in zip(asked.prompts, echoes, groups, strict=True):
        for one in _best(group, body.n) or [[Part(0, "", [], "length")]] * body.n:
            whole = Part(
                len(choices),
                "".join(part.text for part in one),
                [shown for part in one for shown in part.tokens],
                one[-1].finish_reason,
            )
            tokens = [shown.token.id for shown in whole.tokens]
            remember(service, asked, whole.index, prompt, tokens)
            choices.append(_choice(service, body, whole, echo))
    new = sum(len(part.tokens) for one in parts for part in one)
    return {**asked.head("text_completion"), "choices": choices, "usage": asked.usage(new)}


def _best(tries: Sequence[list[Part]], count: int) -> list[list[Part]]:
    """The most probable continuations, by the mean of their tokens' log-probabilities."""
    if len(tries) <= count:
        return list(tries)

    def mean(parts: list[Part]) -> float:
        found = [shown.token.logprob or 0.0 for part in parts for shown in part.tokens]
        return sum(found) / max(1, len(found))

    return sorted(tries, key=mean, reverse=True)[:count]


async def stream(service: Service, body: CompletionBody, owner: str) -> AsyncGenerator[Event, None]:
    """Answers bit by bit: one event for each part of a choice.

    The arguments and errors are those of :func:`complete`.
    """
    new = 0
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    nothing = {"usage": None} if wants_usage else {}
    with service.gate.entered(owner, _count(service, body)):
        asked = await run_in_threadpool(_ask, service, body, owner)
        echoes = await _echoes(service, body, asked)
        if not asked.requests:
            for i, echo in enumerate(one for one in echoes for _ in range(body.n)):
                choice = _choice(service, body, Part(i, "", [], "length"), echo)
                yield {**asked.head("text_completion"), "choices": [choice], **nothing}
        is_new = [True] * len(asked.requests)
        tokens: list[list[int]] = [[] for _ in asked.requests]
        async with contextlib.aclosing(continuations(service, asked.requests, body)) as coming:
            async for part in coming:
                new += len(part.tokens)
                tokens[part.index] += [shown.token.id for shown in part.tokens]
                if part.finish_reason is not None:
                    prompt = asked.prompts[part.index // body.n]
                    remember(service, asked, part.index, prompt, tokens[part.index])
                echo = echoes[part.index // body.n] if is_new[part.index] else None
                is_new[part.index] = False
                choice = _choice(service, body, part, echo)
                if echo is None and body.echo:  # the offsets go on behind the prompt
                    _shift(choice["logprobs"], len(echoes[part.index // body.n].text))
                yield {**asked.head("text_completion"), "choices": [choice], **nothing}
    if wants_usage:
        yield {**asked.head("text_completion"), "choices": [], "usage": asked.usage(new)}


@dataclasses.dataclass(frozen=True)
class Echo:
    """What is told of a prompt before its continuation.

    Attributes:
        text: its text.
        tokens: its tokens with their log-probabilities, None for the first.
    """

    text: str = ""
    tokens: tuple[Shown, ...] = ()


async def _echoes(service: Service, body: CompletionBody, asked: Asked) -> list[Echo]:
    """What is told of each prompt: nothing, unless the body asks for an echo."""
    if not body.echo:
        return [Echo()] * len(asked.prompts)
    both = list(zip(body.prompts, asked.prompts, strict=True))
    if body.logprobs is None:
        return await run_in_threadpool(lambda: [Echo(_text_of(service, *one)) for one in both])
    found = await prompt_tokens(service, asked.prompts, asked.adapter, asked.owner, body.logprobs)
    return await run_in_threadpool(
        lambda: [
            Echo(
                _text_of(service, given, ids),
                tuple(map(Shown, tokens, _offsets(service, ids))),
            )
            for (given, ids), tokens in zip(both, found, strict=True)
        ]
    )


def _text_of(service: Service, given: Text, ids: IntArray) -> str:
    return given if isinstance(given, str) else service.tokenizer.text(ids.tolist())


def _offsets(service: Service, ids: IntArray) -> list[int]:
    """Where each token's text begins in that of all."""
    detokenizer = Detokenizer(service.tokenizer.text)
    lengths = [len(detokenizer.push(id_)) for id_ in ids.tolist()]
    return [0, *itertools.accumulate(lengths[:-1])]


def _choice(
    service: Service, body: CompletionBody, part: Part, echo: Echo | None
) -> dict[str, Any]:
    """A choice of the answer, or of an event."""
    before = echo or Echo()
    logprobs = None
    if body.logprobs is not None:
        moved = [Shown(s.token, s.offset + len(before.text)) for s in part.tokens]
        logprobs = _logprobs(service, body, [*before.tokens, *moved])
    return {
        "index": part.index,
        "text": before.text + part.text,
        "logprobs": logprobs,
        "finish_reason": part.finish_reason,
    }


def _logprobs(
    service: Service, body: CompletionBody, tokens: Sequence[Shown]
) -> dict[str, list[Any]]:
    def text(token: int) -> str:
        return service.token_text(token, as_id=body.return_tokens_as_token_ids)

    def top(token: Token) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        found: dict[str, float] = {}
        for id_, logprob in (*token.top[: body.logprobs], (token.id, token.logprob)):
            shown = text(id_)  # which several tokens may have
            found[shown] = max(found.get(shown, -math.inf), as_json(logprob))
        return found

    return {
        "tokens": [text(shown.token.id) for shown in tokens],
        "token_logprobs": [
            None if shown.token.logprob is None else as_json(shown.token.logprob)
            for shown in tokens
        ],
        "top_logprobs": [top(shown.token) for shown in tokens],
        "text_offset": [shown.offset for shown in tokens],
    }


def _shift(logprobs: dict[str, list[Any]] | None, by: int) -> None:
    if logprobs is not None:
        logprobs["text_offset"] = [offset + by for offset in logprobs["text_offset"]]
