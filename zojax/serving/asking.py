"""What bodies that ask for continuations become, and what all answers have in common."""

import dataclasses
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from zojax.engine.requests import GenerateRequest
from zojax.errors import InputError
from zojax.scoring import Item
from zojax.scoring.pages import IntArray
from zojax.serving.errors import ApiError
from zojax.serving.feedback import rewards
from zojax.serving.formats import grammar_of
from zojax.serving.schema import Sampled
from zojax.serving.service import Service

_LEAST = -9999.0
"""Stands for the log-probability of what is impossible, which JSON cannot say."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a body asks for.

    Attributes:
        id: the answer's id.
        created: when it was asked, in seconds since 1970.
        model: the model's name.
        owner: who asks.
        adapter: the adapter's name; None for the base model.
        prompts: the tokens of each prompt.
        requests: the continuations, equally many for each prompt; empty if no token is to be added.
    """

    id: str
    created: int
    model: str
    owner: str
    adapter: str | None
    prompts: list[IntArray]
    requests: list[GenerateRequest]

    def head(self, kind: str) -> dict[str, Any]:
        """How every answer and every event begins."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self, new: int) -> dict[str, int]:
        """The tokens of the prompts, and the ``new`` ones of their continuations."""
        before = sum(map(len, self.prompts))
        return {"prompt_tokens": before, "completion_tokens": new, "total_tokens": before + new}


def make_requests(
    service: Service,
    body: Sampled,
    prompts: Sequence[IntArray],
    tries: int,
    max_tokens: int | None,
    num_logprobs: int | None,
    adapter: str | None,
    owner: str,
    ends: Sequence[int],
) -> list[GenerateRequest]:
    """The runtime's requests for ``tries`` continuations of each prompt.

    Args:
        service: the service.
        body: how tokens are chosen.
        prompts: the prompts.
        tries: the number of continuations of each.
        max_tokens: the most tokens of each; None for as many as fit.
        num_logprobs: the number of most probable tokens to tell with each; None for none.
        adapter: the adapter's name; None for the base model.
        owner: who asks.
        ends: the tokens that end a text, unless the body ignores them.

    Raises:
        InputError: a prompt leaves no room for more, or there is no such grammar.
    """
    grammar = grammar_of(service, body)
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    ends = () if body.ignore_eos else ends
    made = []
    for prompt in prompts:
        left = service.max_length - len(prompt)
        if left < 1:
            raise InputError(
                f"prompt: has {len(prompt)} tokens, so no room for more; the most is "
                f"{service.max_length} together"
            )
        made += [
            GenerateRequest(
                prompt,
                left if max_tokens is None else max_tokens,
                body.sampling,
                (seed + i) % 2**31,
                tuple(dict.fromkeys((*ends, *(body.stop_token_ids or ())))),
                num_logprobs,
                body.presence_penalty,
                body.frequency_penalty,
                body.biases,
                grammar,
                adapter,
                owner,
            )
            for i in range(tries)
        ]
    return made


def remember(
    service: Service, asked: Asked, index: int, prompt: IntArray, tokens: Sequence[int]
) -> None:
    """Remembers a choice that is told now, if its model learns from use: a reward may come for it.

    Args:
        service: the service.
        asked: what was asked.
        index: the choice's index.
        prompt: its prompt's tokens.
        tokens: its own.
    """
    if service.tunings is not None and asked.adapter is not None and tokens:
        item = Item(prompt, (np.array(tokens, np.int32),))
        rewards.remember(service.tunings, asked.adapter, (asked.id, index), item)


def new_id(prefix: str) -> str:
    """An id that no other answer has."""
    return f"{prefix}-{secrets.token_hex(12)}"


def as_json(logprob: float) -> float:
    """A log-probability as JSON can say it.

    Raises:
        ApiError: it is not a number.
    """
    if math.isnan(logprob):
        raise ApiError(500, "the model's scores are not finite")
    return max(float(np.float32(logprob)), _LEAST)
