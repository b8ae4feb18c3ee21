"""What the losses of a step's variants differ by survives 16-bit products, however it is scored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scaled_step import make_batch, method_of, objective_of

from tests.campaigns import some_of
from tests.random_weights import numpy_model
from zojax.models import Model
from zojax.models.opt import OPTConfig
from zojax.training.batches import stack
from zojax.training.objective import InMicroBatches
from zojax.training.step import init_state, perturb, score_variants

CONFIG = OPTConfig(64, 32, 3, 4, 64, 64, 32)
EPSILON = "estimator.epsilon=1e-4"
QUERIES = ["estimator.num_queries=2"]
MEZO = ["estimator.name=mezo", *QUERIES]


@pytest.fixture(scope="module")
def model() -> Model:
    """Of 16-bit numbers, in float32; with logits that differ."""
    model = numpy_model(CONFIG)
    weights = jax.tree.map(lambda w: (4 * w).astype(jnp.bfloat16).astype(w.dtype), model.weights)
    return dataclasses.replace(model, weights=weights)


def projected_grads(model: Model, settings: list[str], micro_batches: int) -> np.ndarray:
    method = method_of(model, [EPSILON, *settings])
    objective = objective_of(model)
    if micro_batches > 1:
        objective = InMicroBatches(objective)
    batch = stack([make_batch(CONFIG, 4, 7) for _ in range(micro_batches)])
    key = jax.random.key(1)

    @jax.jit
    def ask(weights):
        state = init_state(method, weights, key)
        losses_v = score_variants(objective, weights, perturb(method, key, state), batch)
        return method.estimator.projected_grad(losses_v)

    return np.asarray(ask(model.weights))


# A sample has each method once, and one micro-batch and two.
CASES = [([], 2), ([], 1), (QUERIES, 1), (QUERIES, 2), (MEZO, 1), (MEZO, 2)]


@pytest.mark.parametrize(("settings", "micro_batches"), some_of(CASES, 3), ids=str)
def test_projected_gradients_in_bfloat16_are_those_in_float32(model, settings, micro_batches):
    halved = jax.tree.map(lambda w: w.astype(jnp.bfloat16), model.weights)
    right = projected_grads(model, settings, micro_batches)
    found = projected_grads(dataclasses.replace(model, weights=halved), settings, micro_batches)
    # Rounded one by one, c errs by more than itself; what is left is of the base point's rounding.
    np.testing.assert_allclose(found, right, atol=0.15 * np.abs(right).max())
