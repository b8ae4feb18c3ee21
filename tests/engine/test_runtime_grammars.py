"""Texts under grammars are those that a grammar allows, beside others that know nothing of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import LENGTHS, ROWS, ids, prompt_of
from tests.rough_models import PRE_LN
from zojax.engine.masks import num_words
from zojax.engine.requests import Answer, GenerateRequest, GrammarError
from zojax.generation import Sampling
from zojax.generation.sampling import GREEDY
from zojax.programs.compiling import CompilationCounter


class Allowing:
    """A grammar by hand: the tokens of each place in turn, and then the end."""

    def __init__(self, *allowed: Sequence[int], fails_at: int | None = None):
        self._allowed, self._fails_at, self._taken = allowed, fails_at, 0

    @property
    def first(self) -> np.ndarray:
        bits = np.zeros(32 * num_words(PRE_LN.vocab_size), np.uint8)
        bits[list(self._allowed[self._taken])] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def begin(self) -> "Allowing":
        return Allowing(*self._allowed, fails_at=self._fails_at)

    def take(self, token: int) -> np.ndarray | None:
        assert token in self._allowed[self._taken]
        self._taken += 1
        if self._taken == self._fails_at:
            raise GrammarError("too much")
        return self.first if self._taken < len(self._allowed) else None


def under(*allowed: Sequence[int], **settings: Any) -> Any:
    return Allowing(*allowed, **settings)


FEW = tuple(range(3, 97, 4))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0), Sampling(0.8, top_k=5, min_p=0.1)])
def test_tokens_under_a_grammar_are_those_of_biases_that_leave_no_others(ask, sampling):
    others = {token: -1e9 for token in range(97) if token not in FEW}
    for n in (1, 6, 33):
        request = GenerateRequest(prompt_of(n, n), 9, sampling, seed=n, num_logprobs=0)
        biased, _, _ = ask(dataclasses.replace(request, logit_bias=others))
        found, reason, _ = ask(dataclasses.replace(request, grammar=under(*[FEW] * 20)))
        assert ids((found,)) == ids((biased,))
        assert {token.id for token in found} <= set(FEW)
        assert reason == "length"
        np.testing.assert_allclose(
            [token.logprob for token in found], [token.logprob for token in biased], atol=2e-5
        )


def test_texts_beside_those_under_grammars_stay_as_they_are(ask, offline):
    requests = [GenerateRequest(prompt_of(n, n), 9) for n in LENGTHS]
    bound = [GenerateRequest(prompt_of(n, n), 9, grammar=under(*[FEW] * 20)) for n in LENGTHS]
    alone = [ids(ask(one)) for one in bound]
    mixed = ask.all([one for pair in zip(requests, bound, strict=True) for one in pair])
    assert [ids(answer) for answer in mixed[::2]] == offline
    assert [ids(answer) for answer in mixed[1::2]] == alone


def test_a_text_ends_where_its_grammar_does_and_else_at_its_limit(ask):
    words = under((10, 11), (20,), (30, 31))
    for limit, reason in ((2, "length"), (3, "stop"), (9, "stop")):
        answer = ask(GenerateRequest(prompt_of(5), limit, grammar=words))
        assert answer[1] == reason
        assert len(answer[0]) == min(limit, 3)
    stopped = ask(GenerateRequest(prompt_of(5), 9, stop_ids=(20,), grammar=words))
    assert (ids(stopped)[1:], stopped[1]) == ([20], "stop")


def test_a_prompt_that_was_read_is_not_computed_again_under_a_grammar(ask):
    prompt = prompt_of(30, seed=98)
    request = GenerateRequest(prompt, 5, grammar=under(*[FEW] * 20))
    first, again = ask(request), ask(request)
    assert (first[2], again[2]) == (0, 29)
    longer = np.concatenate([prompt, ids(first)[:4], prompt_of(3, 5)]).astype(np.int32)
    assert ask(GenerateRequest(longer, 4))[2] == 34
    assert ids(again) == ids(first)


def test_a_grammar_that_cannot_be_followed_fails_its_own_request_alone(ask, offline):
    failing = GenerateRequest(prompt_of(6), 9, grammar=under(*[FEW] * 20, fails_at=4))
    started = [ask.start(failing)[1] for _ in range(2 * ROWS)]
    requests = [GenerateRequest(prompt_of(n, n), 9) for n in LENGTHS]
    assert [ids(answer) for answer in ask.all(requests)] == offline
    for answers in started:
        with pytest.raises(GrammarError, match="too much"):
            ask.finish(answers)


def test_texts_under_grammars_go_on_together(ask):
    first, *others = (
        GenerateRequest(prompt_of(5, n), 20, grammar=under(*[FEW] * 20)) for n in range(ROWS)
    )
    counts, before = ask.runtime.core.counts, ask.runtime.core.counts.iterations
    started = []

    def others_come(_: Answer) -> None:  # all before the next iteration
        while others:
            started.append(ask.start(others.pop())[1])

    ask.finish(ask.start(first, others_come)[1])
    for answers in started:
        ask.finish(answers)
    # where a mask comes too late, the others go on without it: two groups, but not ROWS of them
    assert counts.iterations - before <= 3 * 20 < ROWS * 20


def test_nothing_is_compiled_for_a_grammar(ask):
    with CompilationCounter() as counter:
        ask.all(
            GenerateRequest(prompt_of(n, n), 48 - n, grammar=under(*[FEW] * 48))
            for n in range(2, 47, 3)
        )
    assert counter.count == 0


def test_texts_of_one_token_that_come_and_go_do_not_stop_a_longer_one(ask):
    """The longer one has ended before most of them were asked for."""
    long = ask.start(GenerateRequest(prompt_of(6), 9, grammar=under(*[FEW] * 20)))[1]
    short = [
        ask.start(GenerateRequest(prompt_of(3, i), 1, grammar=under((10, 11))))[1]
        for i in range(200)
    ]
    tokens, reason, _ = ask.finish(long)
    assert (len(tokens), reason) == (9, "length")
    assert short[-1].empty(), "the longer one came last"
    for answers in short:
        assert ask.finish(answers)[1] in ("length", "stop")


def test_a_text_at_its_limit_needs_no_mask_any_more(ask):
    answer = ask(GenerateRequest(prompt_of(5), 3, grammar=under(*[FEW] * 9, fails_at=3)))
    assert answer[1] == "length"
    assert len(answer[0]) == 3
