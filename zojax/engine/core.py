"""The heart of the runtime, without threads: takes requests, and does one iteration after another.

A step sends an iteration to the device, and then reads the one before it, which has had that long
to be computed.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from zojax.engine.calls import Calls
from zojax.engine.continuing import Continuing, pieces, tokens_of
from zojax.engine.counts import Counts
from zojax.engine.device import Device
from zojax.engine.plan import (
    LOOKAHEAD,
    CallCosts,
    Plan,
    Prompt,
    Scoring,
    Work,
    assignment,
    make_plan,
)
from zojax.engine.queues import Asked, Queues
from zojax.engine.requests import GenerateRequest, ScoreRequest, Scores, Token, Update
from zojax.engine.row_table import RowTable
from zojax.engine.rows import Chosen
from zojax.engine.score_answers import scores_of
from zojax.engine.shares import gives_way
from zojax.engine.slots import Slots
from zojax.engine.turns import Turns
from zojax.generation.sampling import NOT_FINITE
from zojax.scoring import Item, Ranked, pack

_LOG = logging.getLogger("zojax")

_MOST_WAITS = 3
"""The most iterations for others in a row while texts under grammars wait for each other."""


Elsewhere = Callable[[Callable[[], Any], Callable[[Any], None]], None]
"""Calls the first function on another thread, and the second on this one between two iterations,
with what the first returned or raised."""


class Core:
    """Serves requests on a device; not for several threads.

    Args:
        device: the device.
        slots: the adapters on it.
        queues: where requests wait.
        elsewhere: where the next tokens of grammars are found.
        target_ms: the time between two tokens that readers accept; see
            :func:`zojax.engine.plan.make_plan`.
        turns: whose turn it is to train, beside and between requests.

    Attributes:
        counts: what was done so far.
        turns: see above.
    """

    def __init__(
        self,
        device: Device,
        slots: Slots,
        queues: Queues,
        elsewhere: Elsewhere,
        *,
        target_ms: float,
        turns: Turns | None = None,
    ):
        self.turns = turns or Turns()
        self.counts, self._elsewhere = Counts(), elsewhere
        self._device, self._slots, self._queues = device, slots, queues
        self._target_ms = target_ms
        self._table = RowTable(device.ladder.row_counts, device.share_below)
        self._continuing: dict[int, Continuing] = {}  # by number, the first admitted first
        self._scoring: dict[int, Asked] = {}  # sent, not read
        self._calls, self._scores_next, self._num_waits = Calls(), False, 0

    @property
    def num_running(self) -> int:
        """The number of requests on the device."""
        return len(self._continuing) + len(self._scoring)

    @property
    def num_waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._queues)

    @property
    def num_adapters(self) -> int:
        """The number of adapters in slots."""
        return self._slots.num_live

    @property
    def costs(self) -> CallCosts:
        """What calls cost, as measured."""
        return self._calls.costs

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting that could be served, and nothing is to be read."""
        return not (self.num_running or self._calls or len(self._queues))

    def add(self, asked: Asked) -> None:
        """Takes a request."""
        running = {one.asked.request.owner for one in self._continuing.values()}
        present = running | set(self._queues.owners)
        self._queues.shares.comes(asked.request.owner, sorted(present))
        self._queues.add(asked)

    def cancel(self, number: int) -> None:
        """Ends a request; nothing more is computed for it from the next iteration on."""
        asked = self._queues.remove(number)
        if asked is None and number in self._continuing:
            one = self._continuing[number]
            self._leave(one, is_sound=False)
            asked = one.asked
        if asked is not None:
            asked.deliver(Update([], "cancelled"))

    def step(self) -> bool:
        """Does an iteration; returns whether there was anything to do."""
        ready = self._queues.ready(self._table.num_free, LOOKAHEAD)
        for asked in ready:
            if isinstance(asked.request, GenerateRequest) and self._finds_row(asked):
                self._admit(asked, asked.request)
        scorings = [asked for asked in ready if isinstance(asked.request, ScoreRequest)]
        live = self._live()
        waits = self._waits(live)
        work = self._work([] if waits else live, scorings)
        plan = make_plan(work, self.costs, self._device.ladder, self._target_ms)
        # An iteration of nothing but waiting keeps nobody, so it does not count.
        self._num_waits = self._num_waits + (not plan.is_empty) if waits else 0
        read = self._calls.take()
        if not plan.is_empty:
            self.counts.iterations += 1
            self._send(plan, {asked.number: asked for asked in scorings})
            self._scores_next = bool(plan.pieces) and not plan.scored
        for call in read:
            self._calls.read(call)
        if read:
            self.turns.others_end()
        self.turns.give(is_serving=self.num_running + self.num_waiting > 0)
        return bool(read) or not plan.is_empty

    def fail(self, error: Exception) -> None:
        """Ends all requests with an error, and begins anew.

        Args:
            error: why; the requests are told, and so is the log.
        """
        _LOG.error("all requests end, since an iteration failed", exc_info=error)
        running = [one.asked for one in self._continuing.values()] + list(self._scoring.values())
        for asked in running:
            self._slots.release(asked.versions)
        self._continuing, self._scoring = {}, {}
        self._calls.take()
        self._table = RowTable(self._device.ladder.row_counts, self._device.share_below)
        try:
            self._device.reset()  # a call that failed may have used up the rows
        finally:
            for asked in running + self._queues.remove_all():
                asked.deliver(error)

    def _finds_row(self, asked: Asked) -> bool:
        """Whether a row is free, perhaps since another text has given it up."""
        if self._table.num_free:
            return True
        holding = [one.holding for one in self._continuing.values()]
        number = gives_way(asked.as_waiting, holding)
        if number is None:
            return False
        one = self._continuing[number]
        self._leave(one, is_sound=False)  # which ends it on the device, too
        self._queues.add(one.without_row)
        self.counts.paused_texts += 1
        return True

    def _admit(self, asked: Asked, request: GenerateRequest) -> None:
        """Gives a free row to a request."""
        before = asked.before
        below = self._slots.below(asked.versions, self._device.shared_layers)
        place = self._table.take(asked.versions, before, below)
        slots, reused = self._acquire(asked), place.num_reused
        self._queues.remove(asked.number)
        self._continuing[asked.number] = Continuing(
            asked, place.row, slots, reused, reused, place.num_below
        )
        self.counts.prompt_tokens += len(before)
        self.counts.reused_tokens += reused
        self.counts.shared_tokens += place.num_below - reused
        if place.source is not None:
            self._device.copy_row(place.source, place.row, reused, place.num_below)
        if request.nudges:
            added = before[len(request.prompt) :]
            self._device.nudge(place.row, dict(request.logit_bias), added.tolist())

    def _acquire(self, asked: Asked) -> list[int]:
        """The slots of a request, as many as a row has, which stay until they are released."""
        return self._slots.acquire(asked.versions)[: self._device.slots_per_row]

    def _live(self) -> list[Continuing]:
        """The rows that get a token if any are added."""
        return [one for one in self._continuing.values() if one.is_live]

    def _waits(self, live: Sequence[Continuing]) -> bool:
        """Whether these rows get no token yet.

        Where all have grammars, they wait for each other's masks: each alone would take as long.
        But not for ever, or texts that come and go would stop those that are longer.
        """
        follows = any(one.is_followed for one in self._continuing.values())
        are_alike = bool(live) and all(one.has_grammar for one in live)
        return follows and are_alike and self._num_waits < _MOST_WAITS

    def _work(self, live: Sequence[Continuing], scorings: Sequence[Asked]) -> Work:
        return Work(
            self._rows_for(live) if live else 0,
            sum(one.places for one in live),
            [Prompt(n, one.left, one.above) for n, one in self._continuing.items() if one.left],
            [Scoring(asked.number, _item(asked), asked.versions) for asked in scorings],
            self._scores_next,
            any(one.has_grammar for one in self._continuing.values()),
        )

    def _rows_for(self, live: Sequence[Continuing]) -> int:
        """The number of rows that a step of these computes: with masks, all."""
        if any(one.allowed_w is not None for one in live):
            return self._device.ladder.num_rows
        return self._device.ladder.rows_for(1 + max(one.row for one in live))

    def _send(self, plan: Plan, scorings: dict[int, Asked]) -> None:
        self._device.set_pool(self._slots.arrays)
        if plan.pieces:
            self._send_pieces(plan)
        if plan.scored:
            self._send_pages(plan, scorings)
        if plan.steps:  # last, so that readers wait for one iteration, not for parts of two
            self._send_advance(plan.steps)

    def _send_advance(self, steps: int) -> None:
        live = self._live()  # with those whose prompts have just been sent: the device counts them
        keys = sum(one.places for one in live)
        ladder = self._device.ladder
        places = max(one.places for one in live) + steps  # but none grows beyond its last place
        visible = ladder.visible_for(min(places, ladder.length))
        rows = self._rows_for(live)
        masks = {one.row: one.allowed_w for one in live if one.allowed_w is not None}
        if masks:
            chosen = self._device.advance_masked(masks, visible)
        else:
            chosen = self._device.advance(steps, rows, visible)
        for one in live:
            one.allowed_w = None
            one.num_sent = min(one.num_sent + steps, one.request.max_new_tokens)

        def deliver(chosen: Chosen) -> None:
            for one in live:
                self._deliver(one, tokens_of(chosen, one.row, one.request))

        self._calls.sent("advance", rows, chosen, deliver, keys=keys)

    def _send_pieces(self, plan: Plan) -> None:
        parts = [(self._continuing[piece.number], piece.count) for piece in plan.pieces]
        n, t = plan.piece_shape
        arrays = pieces(parts, self._device.no_pieces(n, t))
        stop = int((arrays.start_n + arrays.count_n).max())
        visible = self._device.ladder.visible_for(max(stop, t))
        if plan.takes_above:
            kind, result = "extend_above", self._device.extend_above(arrays, visible)
        else:
            kind, result = "extend", self._device.extend(arrays, visible)
        ended: list[tuple[int, Continuing]] = []
        for i, (one, count) in enumerate(parts):
            one.start += count
            self._table.hold(one.row, one.cached)
            self._queues.shares.serve(one.asked.request.owner, count)
            if not one.left:
                one.num_sent, one.allowed_w = one.num_before + 1, None
                ended.append((i, one))

        def deliver(chosen: Chosen) -> None:
            for i, one in ended:
                self._deliver(one, tokens_of(chosen, i, one.request))

        self.counts.padding_tokens += n * t - sum(count for _, count in parts)
        self._calls.sent(kind, n * t, result, deliver)

    def _send_pages(self, plan: Plan, scorings: dict[int, Asked]) -> None:
        numbers = [number for page in plan.scored for number in page]
        sent = {number: scorings[number] for number in numbers}
        items = [_item(asked) for asked in sent.values()]
        assigned = assignment(plan, {number: i for i, number in enumerate(numbers)})
        pages = pack(items, plan.page_shape, assigned=assigned)
        slots_ps = self._device.no_slots(plan.page_shape.pages)
        for page, members in enumerate(plan.scored):
            for number in members:
                slots_ps[page] = self._acquire(sent[number])
                self._scoring[number] = sent[number]
                self._queues.remove(number)
        counts = [_scoring(asked).num_logprobs for asked in sent.values()]
        ranked = self._device.score(pages, slots_ps, ranks=any(counts))
        useful = sum(item.num_computed for item in items)
        tokens = plan.page_shape.pages * plan.page_shape.tokens
        self.counts.scored_tokens += useful
        self.counts.padding_tokens += tokens - useful
        for asked in sent.values():
            self._queues.shares.serve(asked.request.owner, asked.num_tokens)

        def deliver(ranked: Ranked) -> None:
            self._deliver_scores(sent, scores_of(ranked, pages, items, counts))

        self._calls.sent("score", tokens, ranked, deliver)

    def _deliver(self, one: Continuing, new: list[Token]) -> None:
        """Delivers new tokens of a request, after its grammar has taken them, if it has one."""
        ends = bool(new) and new[-1].id in (NOT_FINITE, *one.request.stop_ids)
        if one.has_grammar and new and not ends:
            one.is_followed = True
            self._elsewhere(
                lambda: one.follow(new[-1].id),
                lambda allowed_w: self._followed(one, new, allowed_w),
            )
        else:
            self._tell(one, new)

    def _followed(self, one: Continuing, new: list[Token], found: Any) -> None:
        """Delivers a token of a request under a grammar.

        Args:
            one: the request.
            new: its token.
            found: the mask of its next one, None if the grammar ends the text, or an error.
        """
        if self._continuing.get(one.asked.number) is not one:
            return
        if isinstance(found, Exception) and one.wants_more_than(len(new)):
            self._leave(one, is_sound=True)
            one.asked.deliver(found)
            return
        one.allowed_w = None if isinstance(found, Exception) else found
        one.is_followed = False
        self._tell(one, new, is_over=found is None)

    def _tell(self, one: Continuing, new: list[Token], *, is_over: bool = False) -> None:
        """Delivers new tokens of a request, unless it has ended or lost its row meanwhile."""
        if self._continuing.get(one.asked.number) is not one or not new:
            return
        update = one.take(new, is_over=is_over)
        self.counts.new_tokens += len(update.tokens)
        self._queues.shares.serve(one.request.owner, len(update.tokens))
        self._table.hold(one.row, one.cached)
        if update.finish_reason is not None:
            self._leave(one, is_sound=update.finish_reason != "nonfinite")
        one.asked.deliver(update)

    def _deliver_scores(self, sent: dict[int, Asked], found: list[Scores]) -> None:
        for (number, asked), scores in zip(sent.items(), found, strict=True):
            del self._scoring[number]
            self._slots.release(asked.versions)
            asked.deliver(scores)

    def _leave(self, one: Continuing, *, is_sound: bool) -> None:
        """Frees a row.

        Args:
            one: what was in it.
            is_sound: whether all that the row holds is known to be finite. Else it is cleared: a
                NaN would be in the way of the next request, even where that does not look.
        """
        if not is_sound:
            self._device.clear(one.row)  # first: if it fails, the request is still known
        del self._continuing[one.asked.number]
        if not is_sound:
            self._table.forget(one.row)
        self._table.free(one.row)
        self._slots.release(one.asked.versions)


def _scoring(asked: Asked) -> ScoreRequest:
    assert isinstance(asked.request, ScoreRequest)
    return asked.request


def _item(asked: Asked) -> Item:
    return _scoring(asked).item
