"""A request that generates, in its row: what was sent to the device for it, and what came back."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from zojax.engine.queues import Asked, Begun
from zojax.engine.requests import FinishReason, GenerateRequest, Token, Update
from zojax.engine.rows import Chosen, Pieces
from zojax.engine.shares import Holding
from zojax.generation.prompts import UNUSED
from zojax.generation.sampling import NOT_FINITE
from zojax.scoring.pages import IntArray

if TYPE_CHECKING:
    from zojax.engine.grammars import Following


@dataclasses.dataclass
class Continuing:
    """A request in a row.

    Attributes:
        asked: the request.
        row: its row.
        slots: those of its adapter and, where a row has two, of its probe.
        num_reused: the number of the prompt's tokens that were in a cache when it first got a row.
        start: the number of the tokens before the next new one whose computation was sent to the
            device.
        num_below: the number of these tokens whose shared layers its row holds at least.
        num_sent: the most new tokens that what was sent may add.
        tokens: the new tokens that were told.
        following: its text in its grammar; None before the first token, or without a grammar.
        allowed_w: the mask of its next token; None without a grammar, or while it is not known.
        is_followed: whether its newest token is being taken into its grammar.
        before: the tokens before the next new one when it got its row: the prompt, and what was
            added before it gave up another.
        num_before: the number of those that were added.
    """

    asked: Asked
    row: int
    slots: list[int]
    num_reused: int
    start: int
    num_below: int = 0
    num_sent: int = 0
    tokens: list[int] = dataclasses.field(default_factory=list)
    following: "Following | None" = None
    allowed_w: np.ndarray | None = None
    is_followed: bool = False
    before: IntArray = dataclasses.field(init=False)
    num_before: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        begun = self.asked.begun
        if begun is not None:
            self.tokens, self.num_sent = list(begun.tokens), len(begun.tokens)
            self.num_reused = begun.num_reused
            self.following, self.allowed_w = begun.following, begun.allowed_w
        elif self.request.grammar is not None:
            self.allowed_w = self.request.grammar.first
        self.num_before = len(self.tokens)
        self.before = self.asked.before

    @property
    def request(self) -> GenerateRequest:
        """The request."""
        assert isinstance(self.asked.request, GenerateRequest)
        return self.asked.request

    @property
    def left(self) -> int:
        """The number of tokens that are still to be computed before the next new one."""
        return len(self.before) - self.start

    @property
    def above(self) -> int:
        """The number of the next of them of which the upper layers alone are to be computed."""
        return max(0, self.num_below - self.start)

    @property
    def is_live(self) -> bool:
        """Whether its prompt is computed, and more tokens may be added than were sent for."""
        waits = self.has_grammar and self.allowed_w is None
        return not (self.left or waits) and self.num_sent < self.request.max_new_tokens

    @property
    def has_grammar(self) -> bool:
        """Whether each of its tokens has to be known before the next one."""
        return self.request.grammar is not None

    def wants_more_than(self, count: int) -> bool:
        """Whether so many new tokens would not be all that are wanted."""
        return len(self.tokens) + count < self.request.max_new_tokens

    @property
    def places(self) -> int:
        """The most places that its tokens take in the cache when all that was sent is done."""
        return self.start + max(0, self.num_sent - self.num_before - 1)

    @property
    def cached(self) -> IntArray:
        """The tokens that are known to be in the cache: the newest is not."""
        new = np.array(self.tokens[self.num_before : -1], np.int32)
        return np.concatenate([self.before[: self.start], new])

    @property
    def holding(self) -> Holding:
        """What says whether it gives up its row for others."""
        request, may_wait = self.request, bool(self.left) or self.is_live
        return Holding(self.asked.number, request.owner, request.priority, self.places, may_wait)

    @property
    def without_row(self) -> Asked:
        """The request, to go on later in another row; tokens that were not told come again."""
        begun = Begun(tuple(self.tokens), self.num_reused, self.following, self.allowed_w)
        return dataclasses.replace(self.asked, begun=begun)

    def follow(self, token: int) -> np.ndarray | None:
        """Takes a token into the grammar; returns the mask of the next one, None at the text's end.

        Only one thread may be in here; it may be any.
        """
        assert self.request.grammar is not None
        if self.following is None:
            self.following = self.request.grammar.begin()
        return self.following.take(token)

    def take(self, new: list[Token], *, is_over: bool = False) -> Update:
        """Takes new tokens; returns the news for the one who asked.

        Args:
            new: the tokens.
            is_over: whether its grammar ends the text with them.
        """
        self.tokens += [token.id for token in new]
        reason: FinishReason | None = None
        if new and new[-1].id == NOT_FINITE:
            reason, new = "nonfinite", new[:-1]
            self.tokens.pop()
        elif is_over or (new and new[-1].id in self.request.stop_ids):
            reason = "stop"
        elif len(self.tokens) >= self.request.max_new_tokens:
            reason = "length"
        return Update(new, reason, self.num_reused)


def pieces(parts: list[tuple[Continuing, int]], made: Pieces) -> Pieces:
    """Puts the next ``count`` tokens of each prompt into arrays on the host of nothing but fillers.

    Args:
        parts: the requests with their counts.
        made: the fillers, which are changed.
    """
    settings = made.settings
    for i, (one, count) in enumerate(parts):
        request, stop = one.request, one.start + count
        made.tokens_nt[i, :count] = one.before[one.start : stop]
        made.start_n[i], made.count_n[i], made.row_n[i] = one.start, count, one.row
        made.ends_n[i] = stop == len(one.before)
        settings.slot_ps[i], settings.seed[i] = one.slots, request.seed
        left = request.max_new_tokens - one.num_before
        settings.left[i] = 1 if one.has_grammar else left
        if one.allowed_w is not None:
            made.allowed_nw[i] = one.allowed_w
        settings.stop_e[i, : len(request.stop_ids)] = request.stop_ids
        settings.tells[i], settings.nudged[i] = request.num_logprobs is not None, request.nudges
        settings.presence[i] = request.presence_penalty
        settings.frequency[i] = request.frequency_penalty
        columns: Any = settings.sampling
        for column, value in zip(columns, request.sampling, strict=True):
            column[i] = value
    return made


def tokens_of(chosen: Chosen, index: int, request: GenerateRequest) -> list[Token]:
    """The new tokens of one row or piece.

    Args:
        chosen: new tokens on the host, ``(n,)`` or ``(k, p)``.
        index: of the piece, or of the row.
        request: says how much to tell of them.
    """
    at = (index,) if chosen.token.ndim == 1 else (slice(None), index)
    ids_k = np.atleast_1d(chosen.token[at])
    used = ids_k != UNUSED
    if request.num_logprobs is None:
        return [Token(token) for token in ids_k[used].tolist()]
    count = request.num_logprobs
    logprob_k = np.atleast_1d(chosen.logprob[at])[used].tolist()
    tops = (a[at].reshape(len(ids_k), -1)[used, :count].tolist() for a in chosen[2:])
    top_k = (tuple(zip(*pair, strict=True)) for pair in zip(*tops, strict=True))
    return [Token(*one) for one in zip(ids_k[used].tolist(), logprob_k, top_k, strict=True)]


def num_steps(chosen: Chosen) -> int:
    """The number of steps that gave a token to any row, at least 1: a call may end early."""
    return max(1, int((chosen.token != UNUSED).any(axis=1).sum()))
