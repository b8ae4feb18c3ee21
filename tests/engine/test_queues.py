"""Adapters are in slots before their requests are served, and stay there until then."""

import numpy as np
import pytest

from zojax.adapters import AdapterPool, Site
from zojax.engine.queues import Asked, Queues
from zojax.engine.requests import GenerateRequest, ScoreRequest
from zojax.engine.slots import Registered, Slots
from zojax.scoring import Item

ADAPTER = {"w": {"u": np.ones((3, 1), np.float32), "v": np.ones((2, 1), np.float32)}}
A, B, C = (Registered(name, 1 + i, lambda: ADAPTER) for i, name in enumerate("abc"))
ITEM = Item(np.zeros(4, np.int32), (np.zeros(1, np.int32),))


class Later:
    """An executor that does nothing by itself."""

    def submit(self, *_):
        pass


def queues_of(num_slots: int) -> tuple[Queues, Slots]:
    slots = Slots(AdapterPool((Site("w", (3, 2)),), num_slots=num_slots, rank=1))
    return Queues(slots, Later(), lambda *_: None), slots


def scoring(number: int, adapter=None, probe=None) -> Asked:
    return Asked(number, ScoreRequest(ITEM), print, adapter, probe)


def numbers(found) -> list[int]:
    return [asked.number for asked in found]


def test_a_request_is_ready_when_its_adapter_and_its_probe_are_in_slots():
    queues, slots = queues_of(2)
    queues.add(scoring(1, A, B))
    assert queues.ready(4, 9) == []
    queues.loaded(A.version, ADAPTER)
    assert queues.ready(4, 9) == []
    queues.loaded(B.version, ADAPTER)
    assert numbers(queues.ready(4, 9)) == [1]
    assert slots.holds(A.version)
    assert slots.holds(B.version)


def test_an_adapter_whose_probe_is_still_read_keeps_its_slot():
    queues, slots = queues_of(2)
    slots.insert(C.version + 1, ADAPTER)
    slots.acquire([C.version + 1])  # in use, so that one slot is left
    queues.add(scoring(1, A, B))
    queues.add(scoring(2, C))
    queues.loaded(A.version, ADAPTER)
    queues.ready(4, 9)
    queues.loaded(C.version, ADAPTER)
    for _ in range(3):
        assert queues.ready(4, 9) == []
        assert slots.holds(A.version)
    queues.loaded(B.version, ADAPTER)
    slots.release([C.version + 1])
    assert numbers(queues.ready(4, 9)) == [1]


def test_a_text_that_may_take_anothers_row_keeps_its_adapter_in_its_slot():
    queues, slots = queues_of(1)
    slots.insert(A.version, ADAPTER)
    queues.add(Asked(1, GenerateRequest(np.zeros(4, np.int32), 3), print, A))
    queues.add(scoring(2, C))
    queues.loaded(C.version, ADAPTER)
    assert numbers(queues.ready(0, 9)) == [1]  # no row is free
    assert slots.holds(A.version)


def test_versions_are_acquired_all_or_none():
    _, slots = queues_of(1)
    slots.insert(A.version, ADAPTER)
    with pytest.raises(KeyError):
        slots.acquire([A.version, B.version])
    assert slots.insert(B.version, ADAPTER)  # since nobody uses the other
    assert slots.acquire([0, B.version]) == [0, 1]
