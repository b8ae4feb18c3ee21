"""The adapter pool: unrelated adapters come and go, and nothing is compiled for that."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.random_weights import numpy_model
from zojax.adapters import AdapterPool, Site, trainable_sites
from zojax.adapters.sites import nest
from zojax.errors import InputError
from zojax.models.branches import Shared
from zojax.models.opt import OPTConfig
from zojax.programs.compiling import CompilationCounter
from zojax.scoring import Item, pack, score, shape_needed

SHAPE = OPTConfig(
    vocab_size=61,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=24,
    max_position_embeddings=32,
    word_embed_proj_dim=16,
)
RANK, SLOTS = 4, 3
SITES = (Site("layers/q/weight", (2, 5, 3)), Site("head/weight", (7, 3)))


def adapter(sites, rank: int, seed: int, scale: float = 0.3):
    """Random factors, as a file of another user has them."""
    random = np.random.default_rng(seed)

    def factor(site, length):
        return scale * random.normal(size=(*site.lead, length, rank)).astype(np.float32)

    return nest(
        {
            site.path: {f: factor(site, n) for f, n in zip("uv", site.shape[-2:], strict=True)}
            for site in sites
        }
    )


def product(arrays, path: str, slot: int) -> np.ndarray:
    node = functools.reduce(lambda tree, name: tree[name], path.split("/"), arrays)
    return np.asarray(node["u"][slot]) @ np.asarray(node["v"][slot]).swapaxes(-1, -2)


def make_pool() -> AdapterPool:
    return AdapterPool(SITES, num_slots=SLOTS, rank=RANK)


def test_every_slot_holds_its_own_adapter_and_slot_0_the_base():
    pool, given = make_pool(), {}
    for seed, rank in enumerate((1, 4, 2)):
        given[pool.insert(adapter(SITES, rank, seed))] = (seed, rank)
    assert sorted(given) == [1, 2, 3]
    for slot, (seed, rank) in given.items():
        state = {"slot": jax.tree.map(lambda leaf: leaf[None], adapter(SITES, rank, seed))}
        for site in SITES:
            np.testing.assert_allclose(
                product(pool.arrays, site.path, slot), product(state["slot"], site.path, 0)
            )
            assert not product(pool.arrays, site.path, 0).any()


def test_a_new_adapter_leaves_nothing_of_the_one_before_it():
    pool = make_pool()
    slot = pool.insert(adapter(SITES, 4, seed=0))
    pool.evict(slot)
    partial = adapter(SITES[:1], 1, seed=1)
    assert pool.insert(partial) == slot
    assert not product(pool.arrays, SITES[1].path, slot).any()
    alone = jax.tree.map(lambda leaf: leaf[None], partial)
    np.testing.assert_allclose(
        product(pool.arrays, SITES[0].path, slot), product(alone, SITES[0].path, 0)
    )


def test_a_slot_in_use_is_kept_until_it_is_released_as_often_as_acquired():
    pool = make_pool()
    slot = pool.insert(adapter(SITES, 1, seed=0))
    pool.acquire(slot)
    pool.acquire(slot)
    pool.release(slot)
    with pytest.raises(ValueError, match=f"slot {slot} .* is in use"):
        pool.evict(slot)
    pool.release(slot)
    pool.evict(slot)
    for misused in (pool.evict, pool.acquire, pool.release):
        with pytest.raises(ValueError, match="holds no adapter"):
            misused(slot)


def test_what_nobody_holds_is_not_released_and_the_base_never_evicted():
    pool = make_pool()
    slot = pool.insert(adapter(SITES, 1, seed=0))
    with pytest.raises(ValueError, match="not in use"):
        pool.release(slot)
    with pytest.raises(ValueError, match="slot 0"):
        pool.evict(0)
    pool.acquire(0)
    pool.release(0)


def test_a_full_pool_says_so_and_takes_the_next_where_one_left():
    pool = make_pool()
    slots = [pool.insert(adapter(SITES, 1, seed)) for seed in range(SLOTS)]
    with pytest.raises(InputError, match="all 3 slots"):
        pool.insert(adapter(SITES, 1, seed=9))
    pool.evict(slots[1])
    assert pool.insert(adapter(SITES, 1, seed=9)) == slots[1]


def changed(path: str, leaf):
    """A fitting adapter with one entry replaced."""
    state = adapter(SITES, 2, seed=0)
    node, *rest = path.split("/")
    inner = state[node]
    for name in rest[:-1]:
        inner = inner[name]
    inner[rest[-1]] = leaf
    return state


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (adapter(SITES, 5, seed=0), r"shape \(2, 5, 5\); the pool takes \(2, 5, 4\)"),
        (adapter((Site("layers/k/weight", (2, 5, 3)),), 1, seed=0), "layers/k/weight/u"),
        ({"layers": {"q": {"bias": np.zeros((2, 5))}}}, "no place for layers/q/bias"),
        (changed("head/weight/u", np.zeros((8, 2))), r"head/weight/u has shape \(8, 2\)"),
        (changed("head/weight/u", np.zeros(7)), r"head/weight/u has shape \(7,\)"),
        (changed("head/weight/u", np.zeros((7, 1))), "u and v, both of one rank"),
        ({"head": {"weight": {"u": np.zeros((7, 1))}}}, "u and v, both of one rank"),
        (changed("head/weight/v", Shared(np.zeros((3, 2)))), "head/weight/v is shared"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_changes_nothing(state, says):
    pool = make_pool()
    before = jax.tree.map(np.asarray, pool.arrays)
    with pytest.raises(InputError, match=says) as refused:
        pool.insert(state)
    assert "\n" not in str(refused.value)
    jax.tree.map(np.testing.assert_array_equal, pool.arrays, before)
    assert pool.insert(adapter(SITES, 1, seed=0)) == 1


def test_vectors_have_no_place_in_a_pool():
    with pytest.raises(ValueError, match="layers/q/bias"):
        AdapterPool((Site("layers/q/bias", (2, 5)),), num_slots=1, rank=1)


def test_adapters_score_in_a_pool_as_alone_and_no_change_compiles_anything():
    """By two programs, the one that writes and the one that scores, however many come and go."""
    model = numpy_model(SHAPE, seed=1)
    sites = trainable_sites(model.weights, "linear")
    random, tails = np.random.default_rng(0), (np.array([5, 7], np.int32), np.array([11], np.int32))
    items = [Item(random.integers(3, 61, n).astype(np.int32), tails) for n in (3, 9, 5)]
    pages = pack(items, shape_needed(items, 1))
    scored = pages.weight_pc > 0

    @jax.jit
    def scores(weights, arrays, pages):
        return score(weights, arrays, pages, graphdef=model.graphdef)

    def in_slot(arrays, slot: int) -> np.ndarray:
        page = dataclasses.replace(pages, slot_p=np.full_like(pages.slot_p, slot))
        return np.asarray(scores(model.weights, arrays, page))[scored]

    users = [adapter(sites, 1 + seed % RANK, seed) for seed in range(8)]
    pool = AdapterPool(sites, num_slots=SLOTS, rank=RANK)
    live, found = [], {}
    for seed, state in enumerate(users):
        with CompilationCounter() as compilations:
            if len(live) == SLOTS:
                pool.evict(live.pop(0))
            live.append(pool.insert(state))
            found[seed] = in_slot(pool.arrays, live[-1])
        assert seed == 0 or compilations.count == 0
    base = in_slot(pool.arrays, 0)
    for seed, state in enumerate(users):
        # Alone, of its own rank and in no pool: sums of float32 in another order.
        alone = in_slot(jax.tree.map(lambda leaf: np.stack([0 * leaf, leaf]), state), 1)
        np.testing.assert_allclose(found[seed], alone, atol=1e-5)
        assert np.abs(alone - base).max() > 1e-3
