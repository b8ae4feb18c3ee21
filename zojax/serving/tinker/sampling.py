"""Continuations and the log-probabilities of prompts, for tinker's client."""

import contextlib
from collections.abc import Sequence

import numpy as np

from zojax.engine.requests import GenerateRequest, Token
from zojax.errors import InputError
from zojax.serving import schema
from zojax.serving.asking import make_requests
from zojax.serving.choices import Part, continuations, prompt_tokens
from zojax.serving.errors import ApiError
from zojax.serving.service import Service
from zojax.serving.tinker.bodies import SampleBody
from zojax.serving.tinker.messages import Sampled, write_samples


def check(service: Service, body: SampleBody) -> None:
    """Refuses what cannot be answered.

    Raises:
        ApiError: too many continuations are asked for, or something that is not known here.
    """
    for name in ("target_prompt_logprobs", "prompt_alt_tokens_k", "record_stability_info"):
        if getattr(body, name):
            raise ApiError(400, f"{name} is not supported", param=name)
    if body.num_samples > service.limits.choices:
        raise ApiError(400, f"num_samples: the most is {service.limits.choices}")
    length = sum(len(chunk.tokens) for chunk in body.prompt.chunks)
    if not 0 < length <= service.max_length:
        raise ApiError(400, f"prompt: give 1 to {service.max_length} tokens", param="prompt")


async def sample(service: Service, body: SampleBody, adapter: str | None, owner: str) -> bytes:
    """Answers a body that was checked.

    Args:
        service: the service.
        body: what is asked.
        adapter: the adapter's name; None for the base model.
        owner: who asks.

    Raises:
        ApiError: it cannot be answered.
        InputError: it can never be served.
    """
    ids = [id_ for chunk in body.prompt.chunks for id_ in chunk.tokens]
    prompt = np.array(ids, np.int32)
    asked = _sampled(body)
    requests = _requests(service, body, asked, prompt, adapter, owner)
    told: Sequence[Token] | None = None
    if body.prompt_logprobs or body.topk_prompt_logprobs:
        [told] = await prompt_tokens(service, [prompt], adapter, owner, body.topk_prompt_logprobs)
        if body.prompt_logprobs_last_n is not None:
            before = max(0, len(ids) - body.prompt_logprobs_last_n)
            told = [*map(Token, ids[:before]), *told[before:]]
    parts: list[list[Part]] = [[] for _ in range(body.num_samples)]
    if requests:
        async with contextlib.aclosing(continuations(service, requests, asked)) as coming:
            async for part in coming:
                parts[part.index].append(part)
    samples = [
        Sampled(
            [shown.token for part in one for shown in part.tokens],
            is_stopped=bool(one) and one[-1].finish_reason == "stop",
        )
        for one in parts
    ]
    return write_samples(samples, body.topk_sample_logprobs, told, body.topk_prompt_logprobs)


def _sampled(body: SampleBody) -> schema.Sampled:
    """The same settings, as of all bodies that ask for continuations."""
    given, stop = body.sampling_params, body.sampling_params.stop
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    settings = {
        "temperature": given.temperature,
        "top_p": given.top_p,
        "top_k": given.top_k,
        "seed": given.seed,
        "stop": [one for one in stops if isinstance(one, str)],
        "stop_token_ids": [one for one in stops if isinstance(one, int)],
    }
    return schema.Sampled.model_validate(settings)


def _requests(
    service: Service,
    body: SampleBody,
    asked: schema.Sampled,
    prompt: np.ndarray,
    adapter: str | None,
    owner: str,
) -> list[GenerateRequest]:
    """A request for each continuation; none if there is no room for a token."""
    left = service.max_length - len(prompt)
    if left < 1:
        if body.prompt_logprobs:
            return []
        raise InputError(f"prompt: has {len(prompt)} tokens, so no room for more")
    stop = body.sampling_params.stop
    ends = service.tokenizer.stop_ids if stop is None or asked.stop else ()
    most, count = min(left, body.sampling_params.max_tokens or left), body.topk_sample_logprobs
    tries = body.num_samples
    return make_requests(service, asked, [prompt], tries, most, count, adapter, owner, ends)
