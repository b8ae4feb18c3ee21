"""Pages: fixed-shape blocks of tokens that hold whole sequences back to back.

A sequence is a prompt with one or more candidates. The candidates share the prompt's tokens and
branch off it like a tree: a token sees its own prompt and its own candidate, nothing else. The
last token of a candidate is only predicted, so it is never computed. If all candidates are single
tokens, the prompt's last position predicts all of them, and the page holds only the prompt.

Axes: p pages, t tokens of a page, r reads (positions whose hidden state goes to the head),
c scored tokens.
"""

import dataclasses
import functools
import heapq
import operator
from collections.abc import Container, Sequence
from typing import NamedTuple

import jax
import numpy as np

from zojax.errors import InputError

IntArray = np.ndarray

Array = jax.Array | np.ndarray
"""A NumPy array while pages are packed on the host, a JAX array when they are scored."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One example as token ids.

    Attributes:
        prompt: the tokens that are not scored, BOS first; ``(≥1,)`` int32.
        candidates: the continuations to score, each ``(≥1,)`` int32. A plain sequence with a
            scored span is an item with one candidate (see :func:`from_span`).
        label: the index of the right candidate.
        name: where the example comes from, for error messages.
    """

    prompt: IntArray
    candidates: tuple[IntArray, ...]
    label: int = 0
    name: str = "example"

    @functools.cached_property
    def num_computed(self) -> int:
        """The number of tokens to compute: the prompt, and each candidate without its last."""
        return len(self.prompt) + sum(len(c) - 1 for c in self.candidates)

    @functools.cached_property
    def num_scored(self) -> int:
        """The number of tokens to score."""
        return sum(len(c) for c in self.candidates)

    @functools.cached_property
    def num_reads(self) -> int:
        """The number of distinct positions to read: the prompt's end, and those in candidates."""
        return 1 + sum(len(c) - 1 for c in self.candidates)


def from_span(tokens: IntArray, start: int, stop: int, *, name: str = "example") -> Item:
    """The item that scores ``tokens[start:stop]`` given all tokens before (``1 ≤ start < stop``).

    >>> from_span(np.array([0, 7, 8, 9]), 2, 3).candidates
    (array([8]),)
    """
    if not 1 <= start < stop <= len(tokens):
        raise InputError(f"{name}: no scored span [{start}, {stop}) in {len(tokens)} tokens")
    return Item(tokens[:start], (tokens[start:stop],), name=name)


@dataclasses.dataclass(frozen=True, order=True)
class PageShape:
    """A bucket: the shapes that one executable is compiled for, per batch and per page."""

    pages: int
    tokens: int
    reads: int
    scored: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pages:
    """A batch of pages, the input of the score function. All integers are int32.

    Attributes:
        tokens_pt: token ids; unused places hold 0.
        positions_pt: the position of each token in its own sequence.
        segments_pt: 1, 2, … for the sequences of a page; 0 in unused places.
        branches_pt: 0 in a prompt, 1, 2, … in its candidates.
        slot_p: the adapter slot that each page is scored under; or ``(p, s)``, the slots whose
            branches are added.
        reads_pr: the token indices whose hidden states go to the head.
        read_pc: for each scored token, the index on the read axis that predicts it.
        targets_pc: the id of each scored token.
        example_pc: the index of its example in the batch.
        candidate_pc: the index of its candidate in the example.
        weight_pc: 1 / length of its candidate, float32; 0 in unused places.
        below_ptn: the residual stream before the first layer that has an adapter, if it is kept
            (:class:`zojax.scoring.kept_states.KeptStates`); the layers below are not run then.
    """

    tokens_pt: Array
    positions_pt: Array
    segments_pt: Array
    branches_pt: Array
    slot_p: Array
    reads_pr: Array
    read_pc: Array
    targets_pc: Array
    example_pc: Array
    candidate_pc: Array
    weight_pc: Array
    below_ptn: Array | None = None


class Assignment(NamedTuple):
    """Which items lie on which page.

    Attributes:
        members: for each page, the indices of its items, in order.
        shape: the smallest page shape that holds them.
    """

    members: list[list[int]]
    shape: PageShape


def assign(items: Sequence[Item], num_pages: int) -> Assignment:
    """Spreads items over pages evenly: the longest first, each to the page with the most room.

    >>> items = [Item(np.zeros(n, np.int32), (np.zeros(1, np.int32),)) for n in (3, 5, 4, 2)]
    >>> assign(items, 2)
    Assignment(members=[[1, 3], [2, 0]], shape=PageShape(pages=2, tokens=7, reads=2, scored=2))
    """
    members: list[list[int]] = [[] for _ in range(num_pages)]
    emptiest = [(0, page) for page in range(num_pages)]  # a heap of (tokens, page)
    for i in sorted(range(len(items)), key=lambda i: -items[i].num_computed):
        tokens, page = emptiest[0]
        members[page].append(i)
        heapq.heapreplace(emptiest, (tokens + items[i].num_computed, page))

    def largest(attribute: str) -> int:
        return max(1, *(sum(getattr(items[i], attribute) for i in page) for page in members))

    shape = PageShape(num_pages, *map(largest, ("num_computed", "num_reads", "num_scored")))
    return Assignment(members, shape)


def shape_needed(items: Sequence[Item], num_pages: int = 1) -> PageShape:
    """The smallest shape that holds a batch on ``num_pages`` pages."""
    return assign(items, num_pages).shape


def pack(
    items: Sequence[Item],
    shape: PageShape,
    only: Container[int] | None = None,
    *,
    assigned: Assignment | None = None,
) -> Pages:
    """Packs a batch into pages of a given shape, in slot 0, as numpy arrays on the host.

    Args:
        items: the batch.
        shape: the shape of the pages.
        only: indices of the pages to fill, with the others left empty; None fills all.
        assigned: the items' assignment to as many pages as ``shape`` has; None assigns them here.

    Raises:
        InputError: a prompt or a candidate has no token, or the items do not fit ``shape``.
    """
    pages = _empty(shape)
    assigned = assign(items, shape.pages) if assigned is None else assigned
    for page, members in enumerate(assigned.members):
        if only is None or page in only:
            _fill(jax.tree.map(operator.itemgetter(page), pages), items, members, shape)
    return pages


def _empty(shape: PageShape) -> Pages:
    def zeros(width: int, dtype: type[np.generic] = np.int32) -> np.ndarray:
        return np.zeros((shape.pages, width), dtype)

    return Pages(
        tokens_pt=zeros(shape.tokens),
        positions_pt=zeros(shape.tokens),
        segments_pt=zeros(shape.tokens),
        branches_pt=zeros(shape.tokens),
        slot_p=np.zeros(shape.pages, np.int32),
        reads_pr=zeros(shape.reads),
        read_pc=zeros(shape.scored),
        targets_pc=zeros(shape.scored),
        example_pc=zeros(shape.scored),
        candidate_pc=zeros(shape.scored),
        weight_pc=zeros(shape.scored, np.float32),
    )


def _fill(page: Pages, items: Sequence[Item], members: Sequence[int], shape: PageShape) -> None:
    """Writes a page's items into its row of every array."""
    at = reads = scored = 0
    for segment, i in enumerate(members, start=1):
        item = items[i]
        if not len(item.prompt) or not all(len(c) for c in item.candidates):
            raise InputError(f"{item.name}: a prompt or a candidate has no token")
        after = (at + item.num_computed, reads + item.num_reads, scored + item.num_scored)
        if any(map(operator.gt, after, (shape.tokens, shape.reads, shape.scored))):
            raise InputError(f"{item.name}: the batch does not fit pages of shape {shape}")
        prompt_len, prompt_read = len(item.prompt), reads
        runs = [(item.prompt, 0)]  # tokens, first position
        runs += [(c[:-1], prompt_len) for c in item.candidates]
        for branch, (tokens, position) in enumerate(runs):
            here = slice(at, at + len(tokens))
            page.tokens_pt[here] = tokens
            page.positions_pt[here] = position + np.arange(len(tokens))
            page.segments_pt[here] = segment
            page.branches_pt[here] = branch
            first_read = at + len(tokens) - 1 if branch == 0 else at
            num_reads = 1 if branch == 0 else len(tokens)
            page.reads_pr[reads : reads + num_reads] = first_read + np.arange(num_reads)
            if branch > 0:
                candidate = item.candidates[branch - 1]
                there = slice(scored, scored + len(candidate))
                page.read_pc[there] = [prompt_read, *range(reads, reads + num_reads)]
                page.targets_pc[there] = candidate
                page.example_pc[there] = i
                page.candidate_pc[there] = branch - 1
                page.weight_pc[there] = 1.0 / len(candidate)
                scored += len(candidate)
            at += len(tokens)
            reads += num_reads
