"""``/v1/chat/completions``: answers chats, which the model's own template makes into prompts."""

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool

from zojax.errors import InputError
from zojax.serving.asking import Asked, as_json, make_requests, new_id, remember
from zojax.serving.choices import Part, Shown, continuations
from zojax.serving.events import Event
from zojax.serving.schema import ChatBody, Message
from zojax.serving.service import Service


def _ask(service: Service, body: ChatBody, owner: str) -> Asked:
    """Turns a body into requests; takes a moment."""
    adapter = service.adapter(body.model, owner)
    if body.n > service.limits.choices:
        raise InputError(f"n: the most is {service.limits.choices}")
    if body.top_logprobs is not None and not body.logprobs:
        raise InputError("top_logprobs: goes with logprobs=true")
    prompt = np.array(chat_ids(service, body.messages), np.int32)
    ends = service.chat_tokenizer.stop_ids
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    count = (body.top_logprobs or 0) if body.logprobs else None
    requests = make_requests(service, body, [prompt], body.n, limit, count, adapter, owner, ends)
    name = body.model or service.name
    return Asked(new_id("chatcmpl"), int(time.time()), name, owner, adapter, [prompt], requests)


def chat_ids(
    service: Service, messages: Sequence[Message], *, is_answered: bool = False
) -> list[int]:
    """The tokens of a chat, up to the answer unless it has one; takes a moment.

    Raises:
        ApiError: the model has no chat template.
        InputError: the template refuses the chat, or it is too long.
    """
    turns = [
        ("system" if message.role == "developer" else message.role, message.text)
        for message in messages
    ]
    service.check_characters("".join(text for _, text in turns))
    tokenizer = service.chat_tokenizer
    assert tokenizer.chat is not None
    [text] = tokenizer.chat.render([turns], answered=[is_answered])
    ids = tokenizer.ids(text)
    if not ids:
        raise InputError("messages: the chat template makes nothing of them")
    return ids


async def complete(service: Service, body: ChatBody, owner: str) -> dict[str, Any]:
    """Answers as a whole.

    Args:
        service: the service.
        body: what is asked.
        owner: who asks.

    Raises:
        ApiError: there is no such model, it has no chat template, or too much is asked at once.
        InputError: a field cannot be, or the template refuses the chat.
    """
    with service.gate.entered(owner, body.n):
        asked = await run_in_threadpool(_ask, service, body, owner)
        parts: list[list[Part]] = [[] for _ in asked.requests]
        async with contextlib.aclosing(continuations(service, asked.requests, body)) as coming:
            async for part in coming:
                parts[part.index].append(part)
    choices = []
    for i, one in enumerate(parts):
        text = "".join(part.text for part in one)
        tokens = [shown.token.id for part in one for shown in part.tokens]
        remember(service, asked, i, asked.prompts[0], tokens)
        choices.append(
            {
                "index": i,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": _logprobs(service, body, [s for part in one for s in part.tokens]),
                "finish_reason": one[-1].finish_reason,
            }
        )
    new = sum(len(part.tokens) for one in parts for part in one)
    return {**asked.head("chat.completion"), "choices": choices, "usage": asked.usage(new)}


async def stream(service: Service, body: ChatBody, owner: str) -> AsyncGenerator[Event, None]:
    """Answers bit by bit: who speaks, then one event for each part of an answer.

    The arguments and errors are those of :func:`complete`.
    """
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    new, is_new = 0, [True] * body.n
    with service.gate.entered(owner, body.n):
        asked = await run_in_threadpool(_ask, service, body, owner)
        head = asked.head("chat.completion.chunk")
        begin = {**head, "usage": None} if wants_usage else head
        tokens: list[list[int]] = [[] for _ in asked.requests]
        async with contextlib.aclosing(continuations(service, asked.requests, body)) as coming:
            async for part in coming:
                new += len(part.tokens)
                tokens[part.index] += [shown.token.id for shown in part.tokens]
                if part.finish_reason is not None:
                    remember(service, asked, part.index, asked.prompts[0], tokens[part.index])
                if is_new[part.index]:
                    is_new[part.index] = False
                    delta = {"role": "assistant", "content": ""}
                    yield {**begin, "choices": [_change(part.index, delta)]}
                delta = {"content": part.text}
                logprobs = _logprobs(service, body, part.tokens)
                change = _change(part.index, delta, logprobs, part.finish_reason)
                yield {**begin, "choices": [change]}
    if wants_usage:
        yield {**head, "choices": [], "usage": asked.usage(new)}


def _change(
    index: int, delta: dict[str, str], logprobs: Any = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {
        "index": index,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }


def _logprobs(service: Service, body: ChatBody, tokens: Sequence[Shown]) -> dict[str, Any] | None:
    if not body.logprobs:
        return None

    def told(token: int, logprob: float) -> dict[str, Any]:
        text = service.token_text(token, as_id=body.return_tokens_as_token_ids)
        parts = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
        return {"token": text, "logprob": as_json(logprob), "bytes": parts}

    content = [
        {
            **told(token.id, token.logprob or 0.0),
            "top_logprobs": [told(*one) for one in token.top],
        }
        for token, _ in tokens
    ]
    return {"content": content, "refusal": None}
