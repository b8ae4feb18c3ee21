"""A run that trains some of the layers: the same model, less work, and nothing else is moved."""

import dataclasses
import functools
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from zojax.adapters import own_arrays, stack_variants
from zojax.config import Config, ModelConfig, RunConfig, TrainConfig
from zojax.config.overrides import apply_overrides
from zojax.errors import InputError
from zojax.models import Model, random_model
from zojax.models.branches import LayerRange, Layers
from zojax.models.model import with_scanned_layers
from zojax.models.opt import OPTConfig
from zojax.scoring import Item, repeat_for_slots, score
from zojax.scoring.pages import Pages, pack, shape_needed
from zojax.training.interval import OwnedWeights, next_interval
from zojax.training.method import make_method
from zojax.training.step import Method, TrainState, init_state, perturb

LAYERS, FIRST = 5, 2
CONFIG = OPTConfig(50, 8, LAYERS, 2, 16, 32, 8)
KEY = jax.random.key(3)
KINDS = {
    "LoZO": ("estimator.name=lozo",),
    "LoZO on vectors too": ("estimator.name=lozo", "space.name=full"),
    "LoZO on down alone": ("estimator.name=lozo", "space.targets=fc2"),
    "LoZO into an adapter": ("estimator.name=lozo", "space.fold=adapter"),
    "MeZO": ("estimator.name=mezo",),
    "MeZO on vectors too": ("estimator.name=mezo", "space.name=full"),
    "MeZO on a LoRA": ("estimator.name=mezo", "space.name=lora"),
}
RANGES = {"2-": (2, 5), "-1": (0, 2), "2-3": (2, 4), "2": (2, 3)}


@pytest.fixture(scope="module")
def model() -> Model:
    made = random_model(CONFIG, seed=1)
    return dataclasses.replace(made, weights=jax.tree.map(lambda w: 20 * w, made.weights))


@pytest.fixture(scope="module")
def pages() -> Pages:
    random = np.random.default_rng(0)
    tails = tuple(np.array([t], np.int32) for t in (5, 11))
    items = [Item(random.integers(3, 50, n).astype(np.int32), tails) for n in (4, 9, 6)]
    return pack(items, shape_needed(items, 2))


def by_path(weights: Any) -> dict[str, np.ndarray]:
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    return {path: np.asarray(leaf) for path, leaf in flat.items()}


def method_of(model: Model, *settings: str) -> Method:
    config = Config(ModelConfig("none"), RunConfig("none"), train=TrainConfig(steps=2))
    return make_method(apply_overrides(config, [*settings, "estimator.epsilon=0.05"]), model)


def started(model: Model, method: Method) -> TrainState:
    """A state whose params are not zero, as in the midst of an interval."""
    state = init_state(method, model.weights, KEY)
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(8), len(leaves))
    noise = [0.1 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    return dataclasses.replace(state, params=jax.tree.unflatten(structure, noise))


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_below_is_computed_once_and_scores_are_those_of_each_variant_alone(
    kind, model, pages
):
    method = method_of(model, *KINDS[kind], f"space.layers={FIRST}-")
    [variants] = perturb(method, KEY, started(model, method))
    assert variants["layers"].layers == Layers(FIRST, LAYERS, LAYERS)
    once = functools.partial(score, graphdef=model.graphdef, variants=2)
    together = jax.jit(once)(model.weights, variants, repeat_for_slots(pages, 1, 2))
    by_page = np.asarray(together).reshape(-1, 2, together.shape[-1])
    alone = jax.jit(functools.partial(score, graphdef=model.graphdef))
    for slot in (1, 2):
        in_slot = dataclasses.replace(pages, slot_p=np.full_like(pages.slot_p, slot))
        expected = alone(model.weights, variants, in_slot)
        np.testing.assert_allclose(by_page[:, slot - 1], expected, atol=1e-5)
    assert np.abs(np.diff(by_page, axis=1)).max() > 1e-3, "says nothing"


@pytest.mark.parametrize("layers", RANGES)
def test_a_range_scores_as_an_adapter_of_all_layers_with_zeros_around_it(layers, model, pages):
    first, stop = RANGES[layers]
    method = method_of(model, *KINDS["LoZO on vectors too"], f"space.layers={layers}")
    state = started(model, method)
    adapter: Any = method.estimator.space.adapter(state.params, state.subspace)
    assert adapter["layers"].layers == Layers(first, stop, LAYERS)
    whole = own_arrays(adapter)
    for leaf in jax.tree.leaves(whole):
        assert leaf.shape[0] == LAYERS
        assert not leaf[:first].any()
        assert leaf[first:stop].any()
        assert not leaf[stop:].any()
    in_slot = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    scored = jax.jit(functools.partial(score, graphdef=model.graphdef))
    ours, padded, base = (
        scored(model.weights, pool, in_slot)
        for pool in (stack_variants([adapter]), stack_variants([whole]), {})
    )
    np.testing.assert_allclose(ours, padded, atol=1e-5)
    assert np.abs(ours - base).max() > 1e-3, "says nothing"


@pytest.mark.parametrize("kind", ["LoZO", "LoZO on vectors too", "MeZO on vectors too"])
def test_a_fold_moves_these_layers_alone_and_by_what_was_probed(kind, model, pages):
    method = method_of(model, *KINDS[kind], f"space.layers={FIRST}-3", "space.fold=nearest")
    state = started(model, method)
    copy = jax.tree.map(jnp.copy, model.weights)
    owned, _ = next_interval(OwnedWeights(copy), state, KEY, method=method)
    before, after = by_path(model.weights), by_path(owned.weights)
    assert method.fold is not None
    for path, now in after.items():
        moved = np.abs(now - before[path])
        if path in method.fold.paths:
            by_layer = moved.reshape(LAYERS, -1).max(1) > 0
            assert by_layer.tolist() == [False, False, True, True, False], path
        else:
            assert not moved.any(), path
    if kind.startswith("LoZO"):
        for path, v in state.subspace.items():
            product = np.einsum("lmk,lnk->lmn", np.float64(state.params[path]), np.float64(v))
            expected = before[path].astype(np.float64)
            expected[FIRST:4] += product
            np.testing.assert_allclose(after[path], expected, atol=1e-5)


def test_mezo_scores_what_its_fold_puts_into_the_weights(model, pages):
    method = method_of(model, *KINDS["MeZO on vectors too"], f"space.layers={FIRST}-")
    state = init_state(method, model.weights, KEY)
    [variants] = perturb(method, KEY, state)
    scored = jax.jit(functools.partial(score, graphdef=model.graphdef))
    in_slot = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    probed = scored(model.weights, variants, in_slot)
    moved = jax.tree.map(lambda c: c + 0.05, state.params)
    assert method.fold is not None
    copy = jax.tree.map(jnp.copy, model.weights)
    weights, _ = method.fold.apply(copy, moved, state.subspace, KEY)
    np.testing.assert_allclose(probed, scored(weights, {}, in_slot), atol=1e-5)


def test_a_layer_below_is_multiplied_for_one_variant_and_one_above_for_both(model, pages):
    """A layer that is no longer probed, with none below it, is multiplied half as often."""

    def products(*settings: str) -> int:
        method = method_of(model, "estimator.name=lozo", "space.targets=fc2", *settings)
        [variants] = perturb(method, KEY, init_state(method, model.weights, KEY))
        graphdef = with_scanned_layers(model).graphdef  # one loop, and not one for each platform
        once = functools.partial(score, graphdef=graphdef, normalize=False, variants=2)
        traced = jax.make_jaxpr(once)(model.weights, variants, repeat_for_slots(pages, 1, 2))
        return rows_multiplied(traced.jaxpr)

    tokens = pages.tokens_pt.size
    below = products("space.layers=1-") - products("space.layers=2-")
    # Each layer's six matrices take every token under two variants, or under one.
    assert below == 6 * tokens


def rows_multiplied(jaxpr: Any) -> int:
    """How many rows meet a matrix of the layers, in all iterations of all loops."""
    total = 0
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        inner = [*map(rows_multiplied, jex.core.jaxprs_in_params(equation.params))]
        if kind == "scan":
            total += equation.params["length"] * sum(inner)
        else:
            total += max(inner, default=0) if kind == "cond" else sum(inner)
        if kind == "dot_general":
            x, weight = (variable.aval for variable in equation.invars)
            if weight.shape in [(8, 8), (16, 8), (8, 16)]:
                total += x.size // x.shape[-1]
    return total


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("space.layers=5", "space.layers=5: the model's layers are 0-4"),
        ("space.layers=3-2", "the model's layers are 0-4"),
        ("space.layers=-7", "the model's layers are 0-4"),
        ("space.layers=top", "should be numbers of layers, such as 24-29, 24-, -5 or 7"),
        ("space.targets=down", "space.targets: no linear layer 'down'; there are fc1, fc2"),
    ],
)
def test_layers_that_there_are_not_are_refused(setting, says, model):
    with pytest.raises(InputError, match=says):
        method_of(model, setting)


def test_all_layers_by_number_are_all_layers(model):
    method = method_of(model, "estimator.name=lozo", "space.layers=0-4")
    state = init_state(method, model.weights, KEY)
    adapter: Any = method.estimator.space.adapter(state.params, state.subspace)
    assert not isinstance(adapter["layers"], LayerRange)
