"""A text that gives up its row for somebody else's goes on later as if it had kept it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.engine.conftest import ROWS, ids, prompt_of
from tests.engine.test_runtime_grammars import FEW, under
from zojax.engine.requests import Answer, GenerateRequest, Update
from zojax.engine.runtime import Runtime
from zojax.generation import Sampling

NUM_NEW = 40


class Crowd:
    """Long texts of one owner, and short ones of another that come in the middle of them."""

    def __init__(self, runtime: Runtime, asking, late: Iterator[GenerateRequest], every: int):
        self._runtime, self._asking, self._late, self._every = runtime, asking, late, every
        self.ended: list[str] = []
        self._num_updates = 0

    def start(self, request: GenerateRequest) -> Any:
        return self._asking.start(request, self._also(request.owner))[1]

    def _also(self, owner: str) -> Callable[[Answer], None]:
        def deliver(answer: Answer) -> None:  # between two iterations, so that it does not depend
            if not isinstance(answer, Update):  # on how quickly threads take turns
                return
            if answer.finish_reason is not None:
                self.ended.append(owner)
            self._num_updates += 1
            if self._num_updates % self._every == 0 and (late := next(self._late, None)):
                self.start(late)

        return deliver


def long_texts() -> list[GenerateRequest]:
    plain = [GenerateRequest(prompt_of(4 + n, n), NUM_NEW, owner="many") for n in range(ROWS)]
    others: list[dict[str, Any]] = [
        {"sampling": Sampling(1.0, top_k=30), "seed": 5, "num_logprobs": 2},
        {"presence_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": {7: 2.0}},
        {"grammar": under(*[FEW] * 48), "sampling": Sampling(1.0), "seed": 9},
        {"adapter": "adapter 1"},
    ]
    return plain + [dataclasses.replace(plain[0], **other) for other in others]


def short_texts(count: int) -> list[GenerateRequest]:
    return [GenerateRequest(prompt_of(5, 50 + n), 3, owner="few") for n in range(count)]


def test_a_short_text_of_another_owner_does_not_wait_for_the_end_of_long_ones(ask, runtime):
    alone = [ids(ask(request)) for request in long_texts()]
    [short] = [ids(ask(request)) for request in short_texts(1)]
    crowd = Crowd(runtime, ask, iter(short_texts(1)), every=ROWS)
    before = runtime.core.counts.paused_texts
    answers = [crowd.start(request) for request in long_texts()]
    found = [ids(ask.finish(one)) for one in answers]
    assert found == alone
    assert crowd.ended[0] == "few"
    assert runtime.core.counts.paused_texts > before
    assert ids(ask(short_texts(1)[0])) == short


def test_texts_that_are_paused_again_and_again_stay_as_they_are(ask, runtime):
    alone = [ask(request)[0] for request in long_texts()]
    crowd = Crowd(runtime, ask, iter(short_texts(40)), every=2)
    before = runtime.core.counts.paused_texts
    answers = [crowd.start(request) for request in long_texts()]
    for tokens, expected in zip([ask.finish(one)[0] for one in answers], alone, strict=True):
        assert [token.id for token in tokens] == [token.id for token in expected]
        told = [(token.logprob or 0.0, *(logprob for _, logprob in token.top)) for token in tokens]
        wanted = [(t.logprob or 0.0, *(logprob for _, logprob in t.top)) for t in expected]
        np.testing.assert_allclose(told, wanted, atol=1e-4)
    assert runtime.core.counts.paused_texts > before + 3


def test_a_text_that_waits_for_its_row_again_can_be_cancelled(ask, runtime):
    crowd = Crowd(runtime, ask, iter(short_texts(8)), every=ROWS)
    numbers = [ask.start(request) for request in long_texts()]
    short = [crowd.start(request) for request in short_texts(4)]
    for number, _ in numbers:
        runtime.cancel(number)
    assert {ask.finish(one)[1] for one in short} == {"length"}
    ends = [ask.finish(one)[1] for _, one in numbers]
    assert set(ends) <= {"cancelled", "length"}
    assert "cancelled" in ends
