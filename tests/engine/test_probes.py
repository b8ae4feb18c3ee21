"""Rows carry a probe beside their adapter, and many adapters take turns in few slots."""

import numpy as np
import pytest

from tests.engine.conftest import KEY, LENGTH, Asking, adapter_of, ids, prompt_of
from zojax.adapters import AdapterPool, trainable_sites
from zojax.engine.device import Device
from zojax.engine.ladder import make_ladder
from zojax.engine.requests import GenerateRequest, ScoreRequest
from zojax.engine.runtime import Runtime
from zojax.engine.slots import Registry, Slots
from zojax.errors import InputError
from zojax.scoring import Item

SLOTS, REGISTERED = 64, 1000
ITEM = Item(prompt_of(9), (prompt_of(3, 8), prompt_of(2, 9)))


def added(*adapters):
    """The adapter whose branches are the sums of those of others: their factors side by side."""
    return {
        path: {name: np.concatenate([a[path][name] for a in adapters], axis=-1) for name in "uv"}
        for path in adapters[0]
    }


@pytest.fixture(scope="module")
def all_sites(model, sites):
    """Those of layers, and the table of tokens, which is the head, too."""
    table = next(s for s in trainable_sites(model.weights, "full") if "embed_tokens" in s.path)
    return (*sites, table)


@pytest.fixture(scope="module")
def adapters(all_sites):
    return [adapter_of(all_sites, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def wide(model, all_sites, adapters):
    """A runtime with 64 slots of rank 4, and two of these for a row."""
    pool = AdapterPool(all_sites, num_slots=SLOTS, rank=4)
    ladder = make_ladder(LENGTH, 4, tokens=64, first_visible=LENGTH, first_rows=4)
    device = Device(model, pool.arrays, ladder, KEY, slots_per_row=2)
    device.compile()
    registry = Registry()
    for number, adapter in enumerate(adapters):
        registry.add(f"{number}", lambda adapter=adapter: adapter)
    registry.add("0 + 1", lambda: added(adapters[0], adapters[1]))
    with Runtime(device, Slots(pool), registry) as runtime:
        yield runtime


def both(ask, **names):
    text = ask(GenerateRequest(prompt_of(9), 6, num_logprobs=0, **names))[0]
    scores = ask(ScoreRequest(ITEM, **names))[0]
    return ids((text,)), [token.logprob for token in text], np.concatenate(scores)


def test_a_row_and_a_page_under_an_adapter_and_a_probe_are_under_the_sum_of_both(wide):
    ask = Asking(wide)
    wanted, alone = both(ask, adapter="0 + 1"), both(ask, adapter="0")
    got, turned = both(ask, adapter="0", probe="1"), both(ask, adapter="1", probe="0")
    for found in (got, turned):
        assert found[0] == wanted[0]
        for a, b in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(got[2] - alone[2]).min() > 1e-3
    assert both(ask, probe="0")[0] == alone[0]


def test_neighbours_with_and_without_probes_do_not_change_each_other(wide):
    ask = Asking(wide)
    pairs = [(None, None), ("0", None), ("0", "1"), (None, "2"), ("2", "1"), ("1", "1")]
    requests = [
        GenerateRequest(prompt_of(9), 6, adapter=adapter, probe=probe) for adapter, probe in pairs
    ]
    alone = [ids(ask(request)) for request in requests]
    assert [ids(answer) for answer in ask.all(requests * 3)] == alone * 3
    assert len({tuple(tokens) for tokens in alone}) > 3


def test_what_a_row_holds_is_reused_under_the_same_probe_alone(wide):
    ask, prompt = Asking(wide), prompt_of(20, seed=77)
    names = [("0", "1"), ("0", "2"), ("0", None), ("0", "1")]
    reused = [
        ask(GenerateRequest(prompt, 3, adapter=adapter, probe=probe))[2] for adapter, probe in names
    ]
    assert reused == [0, 0, 0, 19]


def test_a_thousand_adapters_take_turns_in_64_slots(wide, all_sites):
    ask, rng = Asking(wide), np.random.default_rng(0)
    for number in range(REGISTERED):
        wide.registry.add(
            f"one of many {number % 8}.{number}", lambda n=number: adapter_of(all_sites, n % 8)
        )
    numbers = rng.permutation(REGISTERED)
    requests = [ScoreRequest(ITEM, f"one of many {n % 8}.{n}") for n in numbers]
    found = [np.concatenate(scores) for scores, *_ in ask.all(requests)]
    wanted = [np.concatenate(ask(ScoreRequest(ITEM, f"one of many {n}.{n}"))[0]) for n in range(8)]
    assert wide.core.num_adapters == SLOTS
    for number, scores in zip(numbers, found, strict=True):
        np.testing.assert_allclose(scores, wanted[number % 8], atol=1e-5)
    assert np.abs(wanted[0] - wanted[1]).min() > 1e-3


def test_a_probe_that_cannot_be_read_fails_its_own_requests_alone(wide):
    def broken():
        raise InputError("it is broken")

    ask = Asking(wide)
    wide.registry.add("broken", broken)
    _, failing = ask.start(GenerateRequest(prompt_of(4), 5, adapter="0", probe="broken"))
    assert len(ask(GenerateRequest(prompt_of(4), 5, adapter="0"))[0]) == 5
    with pytest.raises(InputError, match="it is broken"):
        ask.finish(failing)
    with pytest.raises(InputError, match="no adapter 'unknown'"):
        ask(GenerateRequest(prompt_of(4), 5, probe="unknown"))


def test_probes_are_refused_where_a_row_has_one_slot(ask):
    with pytest.raises(InputError, match="none for a probe"):
        ask(GenerateRequest(prompt_of(4), 5, adapter="adapter 0", probe="adapter 1"))
