"""Grammars: which tokens may come next in a text, as masks, by llguidance."""

import functools
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
from llguidance.hf import from_tokenizer

from zojax.engine.masks import num_words
from zojax.engine.requests import GrammarError
from zojax.errors import InputError
from zojax.text import plain

# A mask takes milliseconds, and what grows beyond is refused, as are patterns that would take
# seconds and hundreds of megabytes before anything is found out about them.
_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=100_000,
    step_lexer_fuel=50_000,
    max_lexer_states=20_000,
    verbose_errors=False,
)
_MOST_KEPT = 64


class Vocabulary:
    """A tokenizer's tokens, for which grammars are compiled; several threads may use it.

    Making it takes up to seconds, in which no other thread runs.

    Args:
        tokens: the tokenizer object of transformers.
        vocab_size: the number of the model's tokens.
        ends: the tokens that end a text.

    Raises:
        InputError: the tokenizer is of a kind for which there are no grammars.
    """

    def __init__(self, tokens: Any, vocab_size: int, ends: Sequence[int]):
        size = max(vocab_size, len(tokens))
        try:
            self._tokens = from_tokenizer(tokens, n_vocab=size, eos_token=list(ends))
        except Exception as error:  # whatever it is, there are no grammars
            raise InputError(f"no grammars for this tokenizer ({_line(str(error))})") from error
        self._num_words = num_words(vocab_size)
        self.compile = functools.lru_cache(_MOST_KEPT)(self._compile)

    def _compile(self, source: str) -> "Grammar":
        """Compiles a grammar in llguidance's form; the last ones are kept.

        Raises:
            InputError: it has an error, allows nothing, or is too large.
        """
        matcher = llguidance.LLMatcher(self._tokens, source, log_level=0, limits=_LIMITS)
        try:
            first = Following(matcher, self._num_words).mask()
        except GrammarError as error:
            raise InputError(str(error)) from None
        return Grammar(matcher, first)


class Grammar:
    """What a text may be.

    Attributes:
        first: the mask of a text's first token.
    """

    def __init__(self, matcher: llguidance.LLMatcher, first: np.ndarray):
        self.first, self._matcher = first, matcher

    def begin(self) -> "Following":
        """Begins a text; each text needs one of its own."""
        return Following(self._matcher.deep_copy(), len(self.first))


class Following:
    """A text so far; not for several threads at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, words: int):
        self._matcher, self._num_words = matcher, words

    def take(self, token: int) -> np.ndarray | None:
        """Takes the next token; returns the mask of the one after it, None at the text's end.

        Raises:
            GrammarError: what may follow takes too long to find.
        """
        self._matcher.consume_token(token)
        self._check()
        return None if self._matcher.is_stopped() else self.mask()

    def mask(self) -> np.ndarray:
        """The mask of the next token, ``(words,)`` uint32."""
        found = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: self._num_words]
        self._check()
        if not found.any():
            raise GrammarError("no token of the model may follow")
        return found

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(_line(self._matcher.get_error()))


def _line(reason: str) -> str:
    """The first line of a reason, or two if the first only begins it, as of errors in patterns."""
    lines = [line.strip() for line in reason.splitlines()]
    told = [line for line in lines if line.startswith("error: ")]
    return plain("; ".join([*lines[:1], *(line.removeprefix("error: ") for line in told)]), 300)
