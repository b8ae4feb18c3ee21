"""What packing promises, of random batches: nothing lost, nothing twice, nothing too much."""

import dataclasses

import jax
import numpy as np
import pytest

from zojax.errors import InputError
from zojax.scoring import Item, PageShape, from_span, pack, shape_needed
from zojax.scoring.pages import assign
from zojax.scoring.visibility import mask_of, tree_visibility

SEEDS = range(12)


def random_items(rng: np.random.Generator, vocab: int = 100_000) -> list[Item]:
    """Up to 12 items of up to 4 candidates, among them single tokens and prompts of one token.

    Of so large a vocabulary, equal tokens are rare: a token out of place is seen.
    """

    def tokens(most: int) -> np.ndarray:
        return rng.integers(1, vocab, rng.integers(1, most + 1)).astype(np.int32)

    return [
        Item(
            tokens(20),
            tuple(tokens(rng.choice([1, 5])) for _ in range(rng.integers(1, 5))),
            label=0,
            name=f"item {i}",
        )
        for i in range(rng.integers(1, 13))
    ]


@pytest.fixture(params=SEEDS)
def batch(request) -> tuple[list[Item], int]:
    """Items, and a number of pages to spread them over (it may exceed theirs)."""
    rng = np.random.default_rng(request.param)
    return random_items(rng), int(rng.integers(1, 6))


def packed(batch, **larger):
    items, num_pages = batch
    shape = shape_needed(items, num_pages)
    return pack(items, dataclasses.replace(shape, **larger)), shape


def seen_by(mask_pts, pages, page: int, at: int) -> np.ndarray:
    """The tokens that a token sees, itself included, in the order of their positions."""
    seen = np.flatnonzero(mask_pts[page, at])
    positions = pages.positions_pt[page, seen]
    assert sorted(positions) == list(range(len(seen))), "a position is missing or taken twice"
    return pages.tokens_pt[page, seen[np.argsort(positions)]]


def scored_tokens(pages):
    """Of every scored token: (example, candidate), its page and its place on the scored axis."""
    for page, c in zip(*np.nonzero(pages.weight_pc), strict=True):
        yield (int(pages.example_pc[page, c]), int(pages.candidate_pc[page, c])), page, c


def test_every_scored_token_is_predicted_from_just_what_precedes_it(batch):
    items, _ = batch
    pages, _ = packed(batch)
    mask_pts = np.asarray(mask_of(tree_visibility(pages)))
    progress = {(i, c): 0 for i, item in enumerate(items) for c in range(len(item.candidates))}
    for (i, c), page, at in scored_tokens(pages):
        candidate, done = items[i].candidates[c], progress[i, c]
        assert pages.targets_pc[page, at] == candidate[done]
        read = pages.reads_pr[page, pages.read_pc[page, at]]
        context = np.concatenate([items[i].prompt, candidate[:done]])
        np.testing.assert_array_equal(seen_by(mask_pts, pages, page, read), context)
        progress[i, c] += 1
    assert progress == {(i, c): len(items[i].candidates[c]) for i, c in progress}


def test_every_token_is_computed_once_and_last_tokens_never(batch):
    items, _ = batch
    pages, _ = packed(batch)
    computed = np.sort(pages.tokens_pt[pages.segments_pt > 0])
    wanted = [part for item in items for part in (item.prompt, *(c[:-1] for c in item.candidates))]
    np.testing.assert_array_equal(computed, np.sort(np.concatenate(wanted)))
    assert len(computed) == sum(item.num_computed for item in items)


def test_each_position_is_read_once_however_many_candidates_it_answers(batch):
    items, _ = batch
    pages, _ = packed(batch)
    used = {(page, int(pages.read_pc[page, c])) for _, page, c in scored_tokens(pages)}
    reads = {(page, int(pages.reads_pr[page, read])) for page, read in used}
    assert len(reads) == len(used) == sum(item.num_reads for item in items)


def test_weights_make_the_mean_over_each_candidates_tokens(batch):
    items, _ = batch
    pages, _ = packed(batch)
    sums: dict[tuple[int, int], float] = {}
    for owner, page, c in scored_tokens(pages):
        length = len(items[owner[0]].candidates[owner[1]])
        assert pages.weight_pc[page, c] == np.float32(1 / length)
        sums[owner] = sums.get(owner, 0.0) + float(pages.weight_pc[page, c])
    np.testing.assert_allclose(list(sums.values()), 1.0, rtol=1e-6)


def test_segments_are_unbroken_runs_of_one_item_each(batch):
    items, _ = batch
    pages, _ = packed(batch)
    total = 0
    for segments in pages.segments_pt:
        used = np.trim_zeros(segments, "b")
        assert (np.diff(used) >= 0).all(), "segments are not back to back"
        assert set(np.diff(used)) <= {0, 1}
        total += len(set(used))
    assert total == len(items)


def test_unused_places_are_zero_and_new_pages_are_in_slot_0(batch):
    pages, shape = packed(batch, tokens=200, reads=90, scored=95)
    unused = pages.segments_pt == 0
    assert unused.any(axis=1).all()
    for name in ("tokens_pt", "positions_pt", "branches_pt"):
        assert not getattr(pages, name)[unused].any()
    for name in ("targets_pc", "example_pc", "candidate_pc", "read_pc"):
        assert not getattr(pages, name)[pages.weight_pc == 0].any()
    np.testing.assert_array_equal(pages.slot_p, np.zeros(shape.pages))


def test_a_larger_bucket_adds_nothing_but_unused_places(batch):
    tight, _ = packed(batch)
    loose, _ = packed(batch, tokens=200, reads=90, scored=95)
    for field in dataclasses.fields(tight):
        ours, theirs = getattr(tight, field.name), getattr(loose, field.name)
        if ours is None:  # states that are not kept
            continue
        if ours.ndim == 2:
            assert not theirs[:, ours.shape[1] :].any()
            theirs = theirs[:, : ours.shape[1]]
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == (np.float32 if field.name == "weight_pc" else np.int32)


def test_some_pages_alone_are_as_they_are_among_all(batch):
    items, num_pages = batch
    whole, shape = packed(batch)
    only = range(1, num_pages, 2)
    for part, all_pages in zip(
        *map(jax.tree.leaves, (pack(items, shape, only), whole)), strict=True
    ):
        others = np.delete(np.arange(num_pages), only)
        np.testing.assert_array_equal(part[only], all_pages[only])
        assert not part[others].any()


@pytest.mark.parametrize("axis", ["tokens", "reads", "scored"])
def test_the_shape_needed_is_the_smallest_that_holds_a_batch(batch, axis):
    items, _ = batch
    pages, shape = packed(batch)
    assert pages.tokens_pt.shape == (shape.pages, shape.tokens)
    assert pages.reads_pr.shape == (shape.pages, shape.reads)
    assert pages.targets_pc.shape == (shape.pages, shape.scored)
    smaller = dataclasses.replace(shape, **{axis: getattr(shape, axis) - 1})
    with pytest.raises(InputError, match=r"item \d+: the batch does not fit pages of shape"):
        pack(items, smaller)


def test_every_item_is_on_one_page_and_no_page_is_fuller_than_it_must_be(batch):
    items, num_pages = batch
    members = assign(items, num_pages).members
    assert sorted(i for page in members for i in page) == list(range(len(items)))
    lengths = [item.num_computed for item in items]
    fullest = max(sum(lengths[i] for i in page) for page in members)
    # Graham's bound for any rule that fills the emptiest page next.
    assert fullest <= sum(lengths) / num_pages + max(lengths) * (1 - 1 / num_pages)
    if len(items) <= num_pages:
        assert fullest == max(lengths)


def test_single_token_candidates_cost_their_prompt_and_one_read():
    prompt = np.arange(5, dtype=np.int32)
    item = Item(prompt, tuple(np.array([t], np.int32) for t in (7, 8, 9)))
    assert shape_needed([item]) == PageShape(pages=1, tokens=5, reads=1, scored=3)


def test_candidates_share_their_prompt():
    # Prompt of 5; candidates of 3 and 2: 5 + 2 + 1 computed, read at the prompt's end and at these
    # 3, 5 scored. Alone they would be 7 + 6 computed.
    item = Item(np.arange(5, dtype=np.int32), (np.array([1, 2, 3]), np.array([4, 5])))
    assert shape_needed([item]) == PageShape(pages=1, tokens=8, reads=4, scored=5)


def test_more_pages_than_items_leaves_pages_empty():
    item = Item(np.array([3, 4], np.int32), (np.array([5], np.int32),))
    pages = pack([item], shape_needed([item], 3))
    assert (pages.segments_pt.max(axis=1) > 0).sum() == 1
    assert np.count_nonzero(pages.weight_pc) == 1


def test_an_empty_batch_is_all_unused_places():
    pages = pack([], PageShape(2, 8, 1, 1))
    assert all(not np.any(getattr(pages, f.name)) for f in dataclasses.fields(pages))


@pytest.mark.parametrize(
    "item",
    [
        Item(np.array([], np.int32), (np.array([1], np.int32),), name="here"),
        Item(np.array([1], np.int32), (np.array([1]), np.array([], np.int32)), name="here"),
    ],
    ids=["prompt", "candidate"],
)
def test_a_prompt_or_candidate_of_no_token_is_refused(item):
    with pytest.raises(InputError, match=r"^here: a prompt or a candidate has no token$"):
        pack([item], PageShape(1, 8, 8, 8))


@pytest.mark.parametrize(("start", "stop"), [(1, 2), (1, 6), (3, 5), (5, 6)])
def test_a_scored_span_is_an_item_with_one_candidate(start, stop):
    tokens = np.array([9, 8, 7, 6, 5, 4], np.int32)
    item = from_span(tokens, start, stop)
    [span] = item.candidates
    np.testing.assert_array_equal(np.concatenate([item.prompt, span]), tokens[:stop])
    assert (item.num_scored, item.num_computed) == (stop - start, stop - 1)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (2, 2), (3, 2), (1, 7), (-1, 3)])
def test_a_span_without_context_or_tokens_is_refused(start, stop):
    with pytest.raises(InputError, match=f"line 3: no scored span .{start}, {stop}. in 6 tokens"):
        from_span(np.arange(6), start, stop, name="line 3")
