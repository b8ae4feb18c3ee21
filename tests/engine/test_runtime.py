"""Requests are answered as if each were alone, by programs that were compiled before."""

import functools
import threading

import jax
import numpy as np
import pytest

from tests.engine.conftest import LENGTHS, ROWS, adapter_of, ids, prompt_of
from zojax.engine.requests import GenerateRequest, ScoreRequest
from zojax.engine.score_items import score_items
from zojax.errors import InputError
from zojax.generation import Sampling
from zojax.programs.compiling import CompilationCounter
from zojax.scoring import Item, score


def test_texts_are_those_of_offline_generation_whatever_runs_beside(ask, offline):
    requests = [GenerateRequest(prompt_of(n, n), 9) for n in LENGTHS]
    assert [ids(answer) for answer in ask.all(requests)] == offline


def test_a_sample_depends_on_its_seed_and_prompt_alone(ask):
    request = GenerateRequest(prompt_of(6), 12, Sampling(1.0, top_k=40, top_p=0.95), seed=7)
    alone = ask(request)
    crowd = [GenerateRequest(prompt_of(n, n), 9, Sampling(0.7), seed=n) for n in LENGTHS]
    assert ids(ask.all([*crowd, request])[-1]) == ids(alone)
    others = [GenerateRequest(prompt_of(6), 12, Sampling(1.0), seed=seed) for seed in range(3)]
    assert len({tuple(ids(answer)) for answer in ask.all(others)}) == 3


def test_log_probabilities_are_those_of_scoring_the_text(ask):
    request = GenerateRequest(prompt_of(6), 8, num_logprobs=3)
    tokens, _, _ = ask(request)
    item = Item(request.prompt, (np.array([t.id for t in tokens], np.int32),))
    [logprobs], _, _ = ask(ScoreRequest(item))
    np.testing.assert_allclose([t.logprob for t in tokens], logprobs, atol=2e-5)
    for token in tokens:  # greedy: the chosen one is the most probable
        assert token.top[0] == (token.id, pytest.approx(token.logprob, abs=1e-6))
        assert len(token.top) == 3
        assert token.top[0][1] >= token.top[1][1] >= token.top[2][1]


def test_the_most_probable_tokens_in_place_of_scored_ones_are_those_of_generating(ask):
    tokens, _, _ = ask(GenerateRequest(prompt_of(6), 8, num_logprobs=3))
    new = np.array([token.id for token in tokens], np.int32)
    item = Item(prompt_of(6), (new, new[:2]))
    ask(ScoreRequest(item, num_logprobs=3))
    for candidate, tops in zip(item.candidates, ask.tops, strict=True):
        assert len(tops) == len(candidate)
        for token, top in zip(tokens, tops, strict=False):
            assert [id_ for id_, _ in top] == [id_ for id_, _ in token.top]
            np.testing.assert_allclose(
                [logprob for _, logprob in top], [logprob for _, logprob in token.top], atol=2e-5
            )
    ask(ScoreRequest(item))
    assert not ask.tops


def test_stop_tokens_end_a_text_and_are_part_of_it(ask, offline):
    at = next(i for i, token in enumerate(offline[0]) if token not in offline[0][:i] and i > 1)
    tokens, reason, _ = ask(GenerateRequest(prompt_of(1, 1), 9, stop_ids=(offline[0][at],)))
    assert ([t.id for t in tokens], reason) == (offline[0][: at + 1], "stop")


def test_a_prompt_that_begins_like_an_earlier_one_is_not_computed_again(ask):
    prompt = prompt_of(30, seed=99)
    first = ask(GenerateRequest(prompt, 5))
    count = ask.runtime.core.counts.reused_tokens
    again = ask(GenerateRequest(prompt, 5))
    assert ids(again) == ids(first)
    assert (first[2], again[2]) == (0, 29)
    longer = np.concatenate([prompt, ids(first)[:4], prompt_of(3, 5)]).astype(np.int32)
    assert ask(GenerateRequest(longer, 4))[2] == 34
    assert ask.runtime.core.counts.reused_tokens == count + 29 + 34
    together = ask.all([GenerateRequest(prompt, 6)] * 3)  # two of them in copies of the row
    assert [reused for _, _, reused in together] == [29] * 3
    assert len({tuple(ids(answer)) for answer in together}) == 1


def test_each_adapter_gives_what_it_gives_alone_and_more_take_turns_than_have_slots(ask):
    names = [None, *(f"adapter {number}" for number in range(5))]
    prompt = prompt_of(9, seed=4)
    item = Item(prompt, (prompt_of(3, 8), prompt_of(2, 9)))

    def requests(name):
        return GenerateRequest(prompt, 6, num_logprobs=0, adapter=name), ScoreRequest(item, name)

    alone = [[ask(request) for request in requests(name)] for name in names]
    mixed = ask.all([request for name in names for request in requests(name)] * 2)
    for i, (text, scores) in enumerate(alone * 2):
        mixed_text, mixed_scores = mixed[2 * i : 2 * i + 2]
        assert ids(mixed_text) == ids(text)
        np.testing.assert_allclose(
            [t.logprob for t in mixed_text[0]], [t.logprob for t in text[0]], atol=1e-5
        )
        for a, b in zip(mixed_scores[0], scores[0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    firsts = [answer[0][0].logprob for answer, _ in alone]
    assert np.diff(sorted(firsts)).min() > 1e-3


def test_an_adapter_of_the_same_name_never_meets_the_old_ones_cache(ask, sites):
    registry, prompt = ask.runtime.registry, prompt_of(20, seed=6)
    answers = []
    for seed in (50, 51, 50):
        registry.add("changing", lambda seed=seed: adapter_of(sites, seed))
        answers.append(ask(GenerateRequest(prompt, 6, adapter="changing")))
    assert ids(answers[0]) == ids(answers[2]) != ids(answers[1])
    assert [reused for _, _, reused in answers] == [0, 0, 0]


def test_an_adapter_that_cannot_be_loaded_fails_its_own_requests_alone(ask):
    def broken():
        raise InputError("it is broken")

    ask.runtime.registry.add("broken", broken)
    ask.runtime.registry.add("too large", lambda: {"no/site": {"u": 1}})
    _, failing = ask.start(GenerateRequest(prompt_of(4), 5, adapter="broken"))
    _, large = ask.start(GenerateRequest(prompt_of(4), 5, adapter="too large"))
    assert len(ask(GenerateRequest(prompt_of(4), 5))[0]) == 5
    with pytest.raises(InputError, match="it is broken"):
        ask.finish(failing)
    with pytest.raises(InputError, match="no place for no/site"):
        ask.finish(large)


def test_biases_and_penalties_change_the_choice_and_not_the_log_probabilities(ask):
    plain = ask(GenerateRequest(prompt_of(5), 10, num_logprobs=0))[0]
    wanted = next(token for token in range(3, 90) if token not in ids((plain,)))
    biased = ask(GenerateRequest(prompt_of(5), 4, num_logprobs=0, logit_bias={wanted: 100.0}))[0]
    assert [token.id for token in biased] == [wanted] * 4
    assert biased[0].logprob < plain[0].logprob
    every = ask(GenerateRequest(prompt_of(5), 20, presence_penalty=1e4))[0]
    assert len({token.id for token in every}) == 20  # none comes twice
    counted = {wanted: 1e4, wanted + 1: 9.9e3}
    turns = ask(GenerateRequest(prompt_of(5), 6, logit_bias=counted, frequency_penalty=200.0))[0]
    assert [token.id - wanted for token in turns] == [0, 1, 0, 1, 0, 1]
    assert ids((ask(GenerateRequest(prompt_of(5), 10))[0],)) == ids((plain,))  # and no trace stays


def test_a_cancelled_request_frees_its_row(ask):
    number, answers = ask.start(GenerateRequest(prompt_of(3), 40))
    ask.runtime.cancel(number)
    assert ask.finish(answers)[1] in ("cancelled", "length")
    waiting = [ask.start(GenerateRequest(prompt_of(3, n), 40)) for n in range(3 * ROWS)]
    for number, _ in waiting[1:]:
        ask.runtime.cancel(number)
    reasons = [ask.finish(answers)[1] for _, answers in waiting]
    assert reasons[0] == "length"
    assert reasons.count("cancelled") >= 2 * ROWS


def test_nothing_is_compiled_after_the_start(ask):
    with CompilationCounter() as counter:
        requests: list = [GenerateRequest(prompt_of(n, n), 48 - n) for n in range(1, 47, 3)]
        requests += [ScoreRequest(Item(prompt_of(n), (prompt_of(2),) * 3)) for n in range(1, 40)]
        ask.all(requests)
    assert counter.count == 0


def test_scores_are_those_of_the_offline_engine(ask, model):
    rng = np.random.default_rng(0)
    items = [
        Item(prompt_of(n, n), tuple(prompt_of(k, k) for k in rng.integers(1, 5, 3)))
        for n in rng.integers(1, 40, 12)
    ]
    score_pages = jax.jit(functools.partial(score, model.weights, {}, graphdef=model.graphdef))
    whole = score_items(score_pages, items, model, 12)
    for (logprobs, _, _), expected in zip(ask.all(map(ScoreRequest, items)), whole, strict=True):
        for a, b in zip(logprobs, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest(prompt_of(40), 9), "49 together; the most is 48"),
        (GenerateRequest(np.array([], np.int32), 9), "has no token"),
        (GenerateRequest(np.array([97], np.int32), 9), "token 97, but the model's are 0 to 96"),
        (GenerateRequest(prompt_of(4), 0), "max_new_tokens=0"),
        (GenerateRequest(prompt_of(4), 4, seed=-1), "seed=-1"),
        (GenerateRequest(prompt_of(4), 4, stop_ids=tuple(range(17))), "17 stop tokens"),
        (GenerateRequest(prompt_of(4), 4, num_logprobs=21), "num_logprobs=21"),
        (GenerateRequest(prompt_of(4), 4, logit_bias={97: 1.0}), "no token 97"),
        (GenerateRequest(prompt_of(4), 4, adapter="none"), "no adapter 'none'"),
        (ScoreRequest(Item(prompt_of(40), (prompt_of(9),))), "49 together"),
        (ScoreRequest(Item(prompt_of(4), (prompt_of(9),) * 12)), "too many candidates"),
    ],
)
def test_what_can_never_be_served_is_refused_at_once(ask, request_, message):
    with pytest.raises(InputError, match=message):
        ask.runtime.submit(request_, lambda answer: None)


def test_many_threads_may_ask(ask, offline):
    found: dict[int, list[int]] = {}

    def of_thread(i: int) -> None:
        found[i] = ids(ask(GenerateRequest(prompt_of(LENGTHS[i], LENGTHS[i]), 9, owner=str(i))))

    threads = [threading.Thread(target=of_thread, args=(i,)) for i in range(len(LENGTHS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(LENGTHS))] == offline


def test_numbers_that_are_not_finite_stay_with_the_request_that_made_them(ask, sites, offline):
    """Every row has held them, and is taken by others, whole or in part."""
    huge = {
        path: {name: np.full_like(leaf, 1e30) for name, leaf in factors.items()}
        for path, factors in adapter_of(sites, 0).items()
    }
    ask.runtime.registry.add("huge", lambda: huge)
    broken = ask.all(
        [GenerateRequest(prompt_of(30, n), 9, adapter="huge") for n in range(2 * ROWS)]
    )
    assert [reason for _, reason, _ in broken] == ["nonfinite"] * (2 * ROWS)
    requests = [GenerateRequest(prompt_of(n, n), 9) for n in LENGTHS]
    assert [ids(answer) for answer in ask.all(requests)] == offline


def test_an_adapter_that_waits_for_a_slot_is_not_overtaken_for_ever(ask):
    """Two adapters have the slots, and ask for more than is done before the third is served."""
    item = Item(prompt_of(9), (prompt_of(2),))
    busy = [
        ask.start(ScoreRequest(item, adapter=f"adapter {i % 2}", owner="busy"))[1]
        for i in range(300)
    ]
    ask.finish(ask.start(ScoreRequest(item, adapter="adapter 2", owner="other"))[1])
    assert not busy[-1].qsize()
    for answers in busy:
        ask.finish(answers)
