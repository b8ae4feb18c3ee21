"""What variants share is there once, and scores as if each had its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.random_weights import numpy_model
from zojax.adapters import lowrank, num_variants, own_arrays, stack_variants, trainable_sites
from zojax.estimators import lozo
from zojax.models import Model, abstract_model
from zojax.models.branches import Shared, is_shared
from zojax.models.opt import OPTConfig
from zojax.scoring import Item, pack, score, shape_needed

SHAPE = OPTConfig(
    vocab_size=61,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=24,
    max_position_embeddings=32,
    word_embed_proj_dim=8,  # so that there are matrices outside the layers, too
)
# Sums of float32 in another order, of scores of the order of 1.
TOLERANCE = 1e-5
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def model() -> Model:
    return numpy_model(SHAPE, seed=1)


def pages_in(slots):
    """Two pages of four prompts with two candidates, for each slot."""
    random = np.random.default_rng(0)
    tails = (np.array([5, 7], np.int32), np.array([11], np.int32))
    items = [Item(random.integers(3, 61, n).astype(np.int32), tails) for n in (3, 9, 5, 6)]
    pages = pack(items, shape_needed(items, 2))
    parts = [dataclasses.replace(pages, slot_p=np.full_like(pages.slot_p, s)) for s in slots]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@pytest.fixture(scope="module")
def states(model):
    """Both sides of a probe of every matrix, far enough apart that a score tells them."""
    sites = [site for site in trainable_sites(model.weights, "full") if site.is_matrix]
    space = lowrank(tuple(sites), rank=2)
    estimator = lozo(space, rank=2, epsilon=0.05)

    @jax.jit
    def variants():
        return estimator.perturb(KEY, jnp.int32(0), space.init({}, KEY), space.redraw(KEY))

    plus, minus = variants()
    return [plus, with_v_of(plus, minus)]


def with_v_of(one, other):
    """The other state with the very arrays that the first one shares, as within one program."""
    return jax.tree.map(
        lambda a, b: a if isinstance(a, Shared) else b, one, other, is_leaf=is_shared
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_a_shared_v_scores_as_one_of_each_slot(normalize, model, states):
    @jax.jit
    def scores(pool):
        pages = pages_in((0, 1, 2))
        logprob_pc = score(model.weights, pool, pages, graphdef=model.graphdef, normalize=normalize)
        return logprob_pc.reshape(3, -1)

    shared, base = scores(stack_variants(states)), scores({})
    own = scores(stack_variants([own_arrays(state) for state in states]))
    np.testing.assert_allclose(shared, own, atol=TOLERANCE)
    np.testing.assert_allclose(shared[0], base[0], atol=TOLERANCE)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(shared[one] - shared[other]).max() > 100 * TOLERANCE


def test_more_variants_do_not_take_more_of_v():
    """V is large here, and all else that a program could hold for a variant is small."""
    config = dataclasses.replace(SHAPE, ffn_dim=1024)
    model = abstract_model(config)
    sites = [site for site in trainable_sites(model.weights, "linear") if "fc2" in site.path]
    space = lowrank(tuple(sites), rank=512)
    params, subspace = jax.eval_shape(lambda: (space.init({}, KEY), space.redraw(KEY)))

    def scores(weights, params, subspace, num_queries):
        estimator = lozo(space, rank=512, num_queries=num_queries)
        pool = stack_variants(estimator.perturb(KEY, jnp.int32(0), params, subspace))
        pages = pages_in(range(1, 1 + 2 * num_queries))
        return score(weights, pool, pages, graphdef=model.graphdef)

    def temporary_bytes(num_queries):
        program = jax.jit(functools.partial(scores, num_queries=num_queries))
        compiled = program.lower(model.weights, params, subspace).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    [v] = jax.tree.leaves(subspace)
    assert temporary_bytes(3) - temporary_bytes(1) < v.size * v.dtype.itemsize


def test_a_shared_v_and_an_own_one_are_not_stacked(states):
    for pair in ([*states[:1], own_arrays(states[1])], [own_arrays(states[0]), *states[1:]]):
        with pytest.raises(TypeError, match="Shared"):
            stack_variants(pair)


def test_states_of_several_runs_are_not_stacked_under_the_v_of_the_first():
    space = lowrank(trainable_sites({"layers": {"w": np.ones((2, 4, 3))}}, "linear"), rank=2)
    params, subspace = space.init({}, KEY), space.redraw(KEY)
    users = [space.adapter(params, space.redraw(jax.random.key(seed))) for seed in (0, 1)]
    for states in (users, [users[0], space.adapter(params, jax.tree.map(jnp.copy, subspace))]):
        with pytest.raises(ValueError, match="share one V"):
            stack_variants(states)
    same = [space.adapter(params, subspace) for _ in range(2)]
    assert stack_variants(same)["layers"]["w"]["v"].value is subspace["layers/w"]


@pytest.mark.parametrize("count", [1, 3])
def test_variants_are_counted_without_the_base(count, states):
    assert num_variants(stack_variants(states[:1] * count)) == count
    assert num_variants({}) == 1  # the base model, alone
