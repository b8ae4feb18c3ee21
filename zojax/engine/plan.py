"""What the device does next: a pure function from what waits to one iteration.

Rows that are being continued have the first claim, since somebody reads along. What is left of the
time that readers accept between two tokens goes to pieces of prompts and to pages to score, in
turn. An iteration ends with the rows' tokens, so that it is all that lies between two of them.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from zojax.engine.costs import PRIOR, Costs
from zojax.engine.ladder import Ladder
from zojax.scoring import Item, PageShape
from zojax.scoring.pages import Assignment

NO_PAGES = PageShape(0, 0, 0, 0)

_UNREAD = 20
"""How many times the target an iteration may take where nobody reads along, or the target is out of
reach: large calls cost less a token, and whoever comes meanwhile waits for one of them."""

_LEAST_SHARE = 3
"""How many times a step's time goes to prompts and pages at least, if any wait."""

_EAGERNESS = 4
"""How many times a step's time goes to prompts if as many wait as there are rows in a step."""


class Prompt(NamedTuple):
    """A prompt in a row, of which a part is to be computed.

    Attributes:
        number: its request's number.
        left: the number of its tokens that are not in the cache.
        above: the number of the next of them of which the upper layers alone are not.
    """

    number: int
    left: int
    above: int = 0


class Scoring(NamedTuple):
    """An item that waits to be scored.

    Attributes:
        number: its number.
        item: its tokens.
        version: its adapter's version, or the versions; a page has items of one version.
    """

    number: int
    item: Item
    version: Hashable


@dataclasses.dataclass(frozen=True)
class Work:
    """What waits.

    Attributes:
        live: the number of rows that a step of those that are being continued computes.
        keys: the number of tokens in those that are being continued.
        prompts: the prompts in rows, in the order in which they should be served.
        scorings: the items to score, in that order.
        scores_next: whether pages come before pieces this time.
        one_by_one: whether rows, live or not, need each token before the next.
    """

    live: int = 0
    keys: int = 0
    prompts: Sequence[Prompt] = ()
    scorings: Sequence[Scoring] = ()
    scores_next: bool = False
    one_by_one: bool = False


class CallCosts(NamedTuple):
    """The fitted costs of the kinds of calls; the last there are where layers are shared."""

    advance: Costs
    extend: Costs
    score: Costs
    extend_above: Costs = PRIOR


class Piece(NamedTuple):
    """The next ``count`` tokens of a request's prompt."""

    number: int
    count: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """One iteration.

    Attributes:
        steps: the number of tokens to add to every live row.
        pieces: the pieces of prompts to compute, in one call.
        piece_shape: the shape ``(n, t)`` of this call.
        scored: the numbers of the items on each page, as in
            :class:`~zojax.scoring.pages.Assignment`; empty for no pages.
        page_shape: the shape of the pages.
        takes_above: whether pieces take the upper layers alone, since rows hold the others.
    """

    steps: int = 0
    pieces: tuple[Piece, ...] = ()
    piece_shape: tuple[int, int] = (0, 0)
    scored: tuple[tuple[int, ...], ...] = ()
    page_shape: PageShape = NO_PAGES
    takes_above: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.steps or self.pieces or self.scored)


def make_plan(work: Work, costs: CallCosts, ladder: Ladder, target_ms: float) -> Plan:
    """Plans an iteration.

    Args:
        work: what waits.
        costs: what calls cost.
        ladder: the shapes that calls may have.
        target_ms: the time between two tokens that readers accept, which bounds an iteration. Where
            a token of all rows takes more than half of it, prompts and pages that wait get at least
            three times as long as that token, the longer the more prompts wait, up to twenty times
            the target. They may take twenty times the target if no row has a reader, too. If
            nothing takes so short a time, the smallest call is made.

    >>> from zojax.engine.ladder import make_ladder
    >>> ladder, costs = make_ladder(256, 4), CallCosts(*[Costs(1.0, 0.1)] * 3)
    >>> make_plan(Work(live=2, keys=40), costs, ladder, target_ms=50.0).steps
    8
    """
    waits = bool(work.prompts or work.scorings or work.one_by_one)
    steps = 0
    if work.live:
        step_ms = costs.advance.ms(work.live, work.keys)
        steps = 1 if waits else max(1, min(ladder.most_steps, int(target_ms / step_ms)))
        left_ms = target_ms - steps * step_ms
        if step_ms > target_ms / 2:
            # The target is out of reach. A step costs about the same however many rows are live,
            # so most tokens are added if rows do not wait for long until they are.
            share = max(_LEAST_SHARE, _EAGERNESS * len(work.prompts) / work.live)
            left_ms = max(step_ms, min(share * step_ms, _UNREAD * target_ms))
        target_ms = left_ms
    elif not work.one_by_one:  # those rows have readers, too, while they wait for their masks
        target_ms *= _UNREAD
    prompts, takes_above = _of_one_kind(work.prompts)
    extend_costs = costs.extend_above if takes_above else costs.extend
    pages_first = bool(work.scorings) and (work.scores_next or not work.prompts)
    if pages_first:
        shape, scored = _pages(work.scorings, costs.score, ladder, target_ms)
        target_ms -= costs.score.ms(shape.pages * shape.tokens)
        pieces = _pieces(prompts, extend_costs, ladder, target_ms, must=False)
    else:
        pieces = _pieces(prompts, extend_costs, ladder, target_ms, must=True)
        target_ms -= extend_costs.ms(pieces[0][0] * pieces[0][1]) if pieces[1] else 0.0
        shape, scored = _pages(work.scorings, costs.score, ladder, target_ms, must=False)
    return Plan(steps, pieces[1], pieces[0], scored, shape, takes_above)


def _of_one_kind(prompts: Sequence[Prompt]) -> tuple[Sequence[Prompt], bool]:
    """The prompts whose next piece is computed as the first one's is, and whether that is above.

    >>> _of_one_kind([Prompt(3, 40, above=30), Prompt(4, 50), Prompt(5, 9, above=8)])
    ([Prompt(number=3, left=30, above=30), Prompt(number=5, left=8, above=8)], True)
    """
    if prompts and prompts[0].above:
        return [one._replace(left=one.above) for one in prompts if one.above], True
    return [prompt for prompt in prompts if not prompt.above], False


def _pieces(
    prompts: Sequence[Prompt], costs: Costs, ladder: Ladder, within_ms: float, *, must: bool
) -> tuple[tuple[int, int], tuple[Piece, ...]]:
    """The pieces of the first prompts, in the shape that computes most of them a millisecond."""
    best: tuple[float, tuple[int, int]] | None = None
    smallest = min(ladder.pieces, key=lambda shape: shape[0] * shape[1])
    for n, t in ladder.pieces if prompts else ():
        ms = costs.ms(n * t)
        if ms > within_ms and not (must and (n, t) == smallest):
            continue
        useful = sum(min(prompt.left, t) for prompt in prompts[:n])
        best = max(best or (0.0, (0, 0)), (useful / ms, (n, t)))
    if best is None:
        return (0, 0), ()
    n, t = best[1]
    pieces = (Piece(prompt.number, min(prompt.left, t)) for prompt in prompts[:n])
    return (n, t), tuple(pieces)


def _pages(
    scorings: Sequence[Scoring],
    costs: Costs,
    ladder: Ladder,
    within_ms: float,
    *,
    must: bool = True,
) -> tuple[PageShape, tuple[tuple[int, ...], ...]]:
    """The pages with the first item, in the shape that scores most tokens a millisecond."""
    fitting = [shape for shape in ladder.pages if scorings and fits(scorings[0].item, shape)]
    found: list[tuple[float, PageShape, tuple[tuple[int, ...], ...]]] = []
    for shape in fitting:
        ms = costs.ms(shape.pages * shape.tokens)
        if ms <= within_ms or (must and shape == fitting[0]):
            members, useful = _fill(scorings, shape)
            found.append((useful / ms, shape, members))
    if not found:
        return NO_PAGES, ()
    _, shape, members = max(found, key=lambda one: one[0])
    return shape, members


def fits(item: Item, shape: PageShape) -> bool:
    """Whether an item fits on a page of its own."""
    return _holds((shape.tokens, shape.reads, shape.scored), _needed(item))


def _needed(item: Item) -> tuple[int, int, int]:
    return item.num_computed, item.num_reads, item.num_scored


def _holds(room: Sequence[int], needed: Sequence[int]) -> bool:
    return all(a <= b for a, b in zip(needed, room, strict=True))


LOOKAHEAD = 256
"""The number of waiting items among which those that fit on the pages are looked for."""


def _fill(scorings: Sequence[Scoring], shape: PageShape) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Puts items on pages, each on the first of its version with room.

    Returns the numbers of each page's items, and the tokens on all pages together.
    """
    members: list[list[int]] = []
    versions: list[Hashable] = []
    room: list[list[int]] = []
    useful = 0
    for number, item, version in scorings[:LOOKAHEAD]:
        needed = _needed(item)
        for page, left in enumerate(room):
            if versions[page] == version and _holds(left, needed):
                break
        else:
            if len(room) == shape.pages or not fits(item, shape):
                continue
            page = len(room)
            members.append([])
            versions.append(version)
            room.append([shape.tokens, shape.reads, shape.scored])
        members[page].append(number)
        room[page] = [a - b for a, b in zip(room[page], needed, strict=True)]
        useful += item.num_computed
    return tuple(map(tuple, members)), useful


def assignment(plan: Plan, index: dict[int, int]) -> Assignment:
    """The plan's pages as an assignment of items, given each number's index among them."""
    filled = [[index[number] for number in page] for page in plan.scored]
    empty: list[list[int]] = [[] for _ in range(plan.page_shape.pages - len(filled))]
    return Assignment(filled + empty, plan.page_shape)
