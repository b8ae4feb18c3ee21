"""What is kept of requests that are answered later."""

from zojax.serving.tinker.futures import Futures


def test_an_answer_that_made_room_while_it_was_told_is_not_awaited(monkeypatch):
    monkeypatch.setattr("zojax.serving.tinker.futures._MOST", 1)
    futures = Futures()
    first, outcome = futures.begin("owner", 1, is_awaited=True)
    done = futures._done

    def done_late(id_: str) -> None:
        futures.begin("owner", 2)  # from another thread, say
        done(id_)

    monkeypatch.setattr(futures, "_done", done_late)
    outcome.set_result({})
    assert not futures.is_awaited(first)
    assert futures.num_awaited == 0


def test_answers_that_nobody_fetches_are_awaited_for_ten_seconds():
    now = 0.0
    futures = Futures(lambda: now)
    asked = [futures.begin("owner", number, is_awaited=True) for number in range(4)]
    for _, outcome in asked[:2]:
        outcome.set_result({})
    now = 9.0
    assert futures.num_awaited == 4
    now = 11.0
    asked[2][1].set_result({})  # no server stops: nobody asks how many there are
    assert [futures.is_awaited(id_) for id_, _ in asked] == [False, False, True, True]
    assert futures.get("owner", asked[0][0]).result() == {}  # is still there
    futures.fetched(asked[2][0])
    assert futures.num_awaited == 1
