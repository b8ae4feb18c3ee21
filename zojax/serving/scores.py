"""``/v1/score``: the log-probabilities of candidates after a prompt, and of labels after items."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool

from zojax.errors import InputError
from zojax.scoring import Item
from zojax.serving import choices
from zojax.serving.asking import as_json, new_id
from zojax.serving.schema import ScoreBody, Text
from zojax.serving.service import Service
from zojax.tasks import Example, tokenise


async def score(service: Service, body: ScoreBody, owner: str) -> dict[str, Any]:
    """Answers a body.

    Raises:
        ApiError: there is no such model, or too much is asked at once.
        InputError: a field cannot be.
    """
    adapter = service.adapter(body.model, owner)
    count = len(_given(body))
    if max(count, len(body.label_token_ids or ())) > service.limits.candidates:
        raise InputError(f"more than {service.limits.candidates} candidates, items or labels")
    _check_lengths(service, body)
    with service.gate.entered(owner, count if body.candidates is None else 1):
        items = await run_in_threadpool(_items, service, body)
        answers = await choices.scores(service, items, adapter, owner)
    found = [answer.logprobs for answer in answers]
    of_labels = body.candidates is None
    answer = _of_labels(body, found) if of_labels else _of_candidates(items[0], found[0])
    tokens = sum(item.num_computed for item in items)
    return {
        "id": new_id("score"),
        "object": "scoring",
        "created": int(time.time()),
        "model": body.model or service.name,
        **answer,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }


def _check_lengths(service: Service, body: ScoreBody) -> None:
    """Refuses what is too long to be tokenised, before each text is written behind its prompt.

    Raises:
        InputError: a text cannot fit, or all of them together are too long.
    """
    first: Any = body.query if body.candidates is None else body.prompt
    total = 0
    for item in _given(body):
        for text in (first, item):
            if isinstance(text, str):
                service.check_characters(text)
            elif len(text) > service.max_length:
                raise InputError(f"prompt: has more than {service.max_length} tokens")
        total += len(first) + len(item)
    if total > service.limits.characters:
        raise InputError(
            f"the texts have {total:,} characters or tokens, with what stands before each; more "
            f"than {service.limits.characters:,} are not tokenised at once"
        )


def _given(body: ScoreBody) -> Sequence[Any]:
    """The candidates or items."""
    given: Any = body.items if body.candidates is None else body.candidates
    return [given] if isinstance(given, str) else given


def _items(service: Service, body: ScoreBody) -> list[Item]:
    """What is scored; takes a moment, as it tokenises."""
    return _of_query(service, body) if body.candidates is None else [_item(service, body)]


def _item(service: Service, body: ScoreBody) -> Item:
    """A prompt and its candidates, tokenised together if both are texts."""
    prompt: Any = body.prompt
    candidates: Any = body.candidates
    are_texts = [isinstance(one, str) for one in (prompt, *candidates)]
    if all(are_texts):
        return tokenise(service.tokenizer, Example(prompt, tuple(candidates), 0, "candidates"))
    if any(are_texts):
        raise InputError("candidates: give them as the prompt, both as texts or both as tokens")
    if not all(candidates):
        raise InputError("candidates: one has no token")
    return Item(service.encode(prompt), tuple(np.array(one, np.int32) for one in candidates))


def _of_query(service: Service, body: ScoreBody) -> list[Item]:
    """A query with each item, followed by each label."""
    query: Any = body.query
    labels = tuple(np.array([label], np.int32) for label in body.label_token_ids or ())
    wholes: list[Text] = []
    for item in _given(body):
        if isinstance(item, str) != isinstance(query, str):
            raise InputError("items: give them as the query, both as texts or both as tokens")
        wholes.append(item + query if body.item_first else query + item)
    return [Item(service.encode(whole), labels) for whole in wholes]


def _of_candidates(item: Item, found: Sequence[np.ndarray]) -> dict[str, Any]:
    return {
        "scores": [as_json(float(logprobs.sum())) for logprobs in found],
        "candidates": [
            {"tokens": ids.tolist(), "token_logprobs": [as_json(x) for x in logprobs]}
            for ids, logprobs in zip(item.candidates, found, strict=True)
        ],
    }


def _of_labels(body: ScoreBody, found: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """Probabilities, of all tokens or, with ``apply_softmax``, of the labels alone."""
    logprob_ik = np.array([[float(one[0]) for one in logprobs] for logprobs in found])
    if body.apply_softmax:
        logprob_ik = logprob_ik - np.logaddexp.reduce(logprob_ik, axis=1, keepdims=True)
    return {"scores": np.exp(logprob_ik).tolist()}
