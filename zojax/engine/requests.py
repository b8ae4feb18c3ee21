"""What may be asked of the runtime, and what it answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from zojax.errors import InputError
from zojax.generation.sampling import GREEDY, Sampling
from zojax.scoring import Item
from zojax.scoring.pages import IntArray

if TYPE_CHECKING:
    from zojax.engine.grammars import Grammar

MAX_LOGPROBS = 20
"""The most alternatives to a token whose log-probabilities can be asked for."""

MAX_STOP_IDS = 16
"""The most tokens that end a request's text."""


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Asks for the log-probability of every token of an item's candidates.

    Attributes:
        item: the prompt and the candidates, as tokens.
        adapter: the name of the adapter to score under; None for the base model.
        owner: who asks; owners get equal shares of the device.
        priority: the smaller is served first.
        num_logprobs: the number of most probable tokens that come with every scored token, at most
            :data:`MAX_LOGPROBS`.
        probe: the name of an adapter whose branches are added to those of ``adapter``, for what
            trains beside it; None for none. It takes a device with two slots a row.
    """

    item: Item
    adapter: str | None = None
    owner: str = ""
    priority: int = 0
    num_logprobs: int = 0
    probe: str | None = None


@dataclasses.dataclass(frozen=True)
class GenerateRequest:
    """Asks for the continuation of a prompt.

    Attributes:
        prompt: the prompt's tokens, BOS first; ``(≥1,)`` int32.
        max_new_tokens: the most tokens to add.
        sampling: how tokens are chosen.
        seed: what sampling draws from, from 0 to 2³¹ − 1; the same seed and prompt give the same
            tokens.
        stop_ids: tokens that end the text, at most :data:`MAX_STOP_IDS`.
        num_logprobs: the number of most probable tokens that come with every new token, at most
            :data:`MAX_LOGPROBS`; None for no log-probabilities at all.
        presence_penalty: subtracted from the logits of all tokens that were added already.
        frequency_penalty: the same, times how often.
        logit_bias: token -> number that is added to its logit.
        grammar: what the text may be, which ends where its grammar does; None for anything.
        adapter: as for :class:`ScoreRequest`.
        owner: as for :class:`ScoreRequest`.
        priority: as for :class:`ScoreRequest`.
        probe: as for :class:`ScoreRequest`.
    """

    prompt: IntArray
    max_new_tokens: int
    sampling: Sampling = GREEDY
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    num_logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    grammar: "Grammar | None" = None
    adapter: str | None = None
    owner: str = ""
    priority: int = 0
    probe: str | None = None

    @property
    def nudges(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)


Request = ScoreRequest | GenerateRequest


class GrammarError(InputError):
    """A grammar cannot be followed any further, since that takes too long."""


class Token(NamedTuple):
    """A new token.

    Attributes:
        id: its id.
        logprob: its log-probability in the model, in nats, whatever the sampling; None if it was
            not asked for.
        top: the most probable tokens and their log-probabilities, the most probable first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


FinishReason = Literal["stop", "length", "nonfinite", "cancelled"]


class Update(NamedTuple):
    """News of a request that generates.

    Attributes:
        tokens: the tokens since the last news.
        finish_reason: why it has ended; None if it goes on.
        num_reused: the number of the prompt's tokens that were in a cache already.
    """

    tokens: list[Token]
    finish_reason: FinishReason | None = None
    num_reused: int = 0


class Scores(NamedTuple):
    """The answer to a request that scores.

    Attributes:
        logprobs: for each candidate ``(tokens,)`` float32, in nats.
        tops: for each candidate and each of its tokens, the most probable tokens in its place and
            their log-probabilities, the most probable first; empty if none were asked for.
    """

    logprobs: list[np.ndarray]
    tops: Sequence[list[tuple[tuple[int, float], ...]]] = ()


Answer = Update | Scores | Exception
"""An update, scores, or why there are none; all but an update without a finish reason are last."""

Deliver = Callable[[Answer], None]
"""A function that takes answers, on the runtime's thread: it must be quick."""


def check_request(request: Request, *, vocab_size: int, max_length: int) -> None:
    """Checks that a request can ever be served.

    Args:
        request: the request.
        vocab_size: the number of the model's tokens.
        max_length: the most tokens of a prompt and what follows it.

    Raises:
        InputError: it cannot; the line says why.
    """
    if isinstance(request, ScoreRequest):
        item = request.item
        longest = max(len(candidate) for candidate in item.candidates)
        _check_tokens(item.prompt, "prompt", vocab_size)
        for candidate in item.candidates:
            _check_tokens(candidate, "candidate", vocab_size)
        _check_length(len(item.prompt), longest, "its longest candidate has", max_length)
        _check_count(request.num_logprobs)
        return
    _check_tokens(request.prompt, "prompt", vocab_size)
    if request.max_new_tokens < 1:
        raise InputError(f"max_new_tokens={request.max_new_tokens}: give 1 or more")
    _check_length(len(request.prompt), request.max_new_tokens, "there may be", max_length)
    if not 0 <= request.seed < 2**31:
        raise InputError(f"seed={request.seed}: give 0 or more, below 2147483648")
    if len(request.stop_ids) > MAX_STOP_IDS:
        raise InputError(f"{len(request.stop_ids)} stop tokens: give at most {MAX_STOP_IDS}")
    _check_count(request.num_logprobs or 0)
    for token in request.logit_bias:
        if not 0 <= token < vocab_size:
            raise InputError(f"logit_bias: there is no token {token} among {vocab_size}")


def _check_count(num_logprobs: int) -> None:
    if not 0 <= num_logprobs <= MAX_LOGPROBS:
        raise InputError(f"num_logprobs={num_logprobs}: give 0 to {MAX_LOGPROBS}")


def _check_tokens(tokens: IntArray, what: str, vocab_size: int) -> None:
    if not len(tokens):
        raise InputError(f"the {what} has no token")
    if not 0 <= tokens.min() <= tokens.max() < vocab_size:
        bad = tokens[(tokens < 0) | (tokens >= vocab_size)][0]
        raise InputError(f"the {what} has token {bad}, but the model's are 0 to {vocab_size - 1}")


def _check_length(prompt: int, more: int, words: str, max_length: int) -> None:
    if prompt + more > max_length:
        raise InputError(
            f"the prompt has {prompt} tokens and {words} {more}, {prompt + more} together; the "
            f"most is {max_length}"
        )
