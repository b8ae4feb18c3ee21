"""A step may be cut at its seams: perturb, score and update apart leave what one program leaves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scaled_step import make_batch, method_of, objective_of

from tests.random_weights import numpy_model
from zojax.adapters import num_variants
from zojax.errors import INTERRUPTED
from zojax.models.opt import OPTConfig
from zojax.programs.stopping import Halted, Stop
from zojax.training.batches import stack
from zojax.training.generated import GeneratedObjective, Questions
from zojax.training.objective import InMicroBatches
from zojax.training.step import Batch, estimate, init_state, perturb, score_variants, update
from zojax.training.step_programs import step_program

CONFIG = OPTConfig(64, 32, 2, 4, 64, 64, 32)
KEY, RATE = jax.random.key(1), np.float32(0.1)
METHODS = {
    "LoZO": [],
    "MeZO, one query after the other": [
        "estimator.name=mezo",
        "estimator.num_queries=2",
    ],
    "MeZO on LoRA": ["estimator.name=mezo", "space.name=lora"],
}


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_a_step_in_three_programs_leaves_what_it_leaves_in_one(settings):
    model = numpy_model(CONFIG)
    method, objective = method_of(model, settings), objective_of(model)
    batch = make_batch(CONFIG, 4, 7)
    state = init_state(method, model.weights, KEY)
    start = jax.device_get(state.params)
    variants = jax.jit(functools.partial(perturb, method))(KEY, state)
    losses_v = jax.jit(functools.partial(score_variants, objective))(model.weights, variants, batch)
    ours = jax.jit(functools.partial(estimate, method))(losses_v)
    after = jax.jit(functools.partial(update, method))(
        state, KEY, ours.projected_grad_q, RATE, ours.skipped
    )
    fused, record = step_program(method, objective)(model.weights, state, KEY, RATE, batch)
    # A loss near 1 in float32 is off by 1e-7, and its difference over 2 ε (of 1e-3) by 1e-4.
    np.testing.assert_allclose(ours.losses_v, record.losses_v, atol=1e-6)
    np.testing.assert_allclose(ours.projected_grad_q, record.projected_grad_q, atol=1e-3)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(fused), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert after.step == fused.step == 1
    assert np.abs(record.projected_grad_q).min() > 1e-2
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params, start)
    assert max(jax.tree.leaves(moved)) > 4e-3


class Counting:
    """A pace that counts the calls of each program."""

    def __init__(self):
        self.calls = 0

    def __call__(self, program, *args):
        self.calls += 1
        return program(*args)


def shifted(batch: Batch, by: int) -> Batch:
    """A batch of other tokens."""
    tokens_pt = (batch.pages.tokens_pt + by) % CONFIG.vocab_size
    return dataclasses.replace(batch, pages=dataclasses.replace(batch.pages, tokens_pt=tokens_pt))


PIECES = {
    "whole batches": (METHODS["LoZO"], 1, 1),
    "micro-batches": (METHODS["MeZO on LoRA"], 3, 3),
    "a query at a time, on micro-batches": (METHODS["MeZO, one query after the other"], 3, 6),
}


@pytest.mark.parametrize(("settings", "parts", "calls"), PIECES.values(), ids=PIECES)
def test_a_step_in_pieces_leaves_what_one_program_leaves(settings, parts, calls):
    model = numpy_model(CONFIG)
    method, objective = method_of(model, settings), objective_of(model)
    batch = stack([shifted(make_batch(CONFIG, 4, 7), part) for part in range(parts)])
    if parts > 1:  # of which each weighs another
        objective = InMicroBatches(objective, lambda batch: jnp.arange(1.0, 1 + parts))
    pace = Counting()
    pieces = step_program(method, objective, pace=pace)
    begin = (model.weights, init_state(method, model.weights, KEY), KEY, RATE, batch)
    state, record = pieces.trace(*begin)()(*begin)
    assert pace.calls == calls
    begin = (model.weights, init_state(method, model.weights, KEY), KEY, RATE, batch)
    fused, expected = step_program(method, objective)(*begin)
    np.testing.assert_allclose(record.losses_v, expected.losses_v, atol=1e-6)
    np.testing.assert_allclose(record.projected_grad_q, expected.projected_grad_q, atol=1e-3)
    assert np.abs(expected.projected_grad_q).max() > 5e-3
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(fused), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def counting() -> GeneratedObjective:
    """Variant v answers question i with the one token v + i, and loses as much."""

    def generate(weights, variants, batch):
        number_v = jnp.arange(num_variants(variants))
        return number_v[:, None, None, None] + batch.example_b[None, :, :, None]

    def losses(new_vpbm, example_pb):
        assert isinstance(new_vpbm, np.ndarray)
        assert example_pb.tolist() == [[0, 1], [2, 7]]
        return new_vpbm.mean(axis=(2, 3)).T.astype(np.float32)

    return GeneratedObjective(generate, losses)


def test_a_stop_is_heard_while_answers_are_waited_for_and_uses_nothing_up():
    model, batch = numpy_model(CONFIG), Questions((), np.array([[0, 1], [2, 7]]))  # pyright: ignore[reportArgumentType]
    method = method_of(model, [])
    stop = Stop()
    stop.exit_code = INTERRUPTED
    step = step_program(method, counting(), check=stop.check)
    state = init_state(method, model.weights, KEY)
    with pytest.raises(Halted):
        step(model.weights, state, KEY, RATE, batch)
    stop.exit_code = 0
    assert step(model.weights, state, KEY, RATE, batch)[0].step == 1


def test_the_host_makes_losses_of_answers_between_two_programs():
    model = numpy_model(CONFIG)
    method = method_of(model, ["estimator.epsilon=0.25"])
    step, batch = step_program(method, counting()), Questions((), np.array([[0, 1], [2, 7]]))  # pyright: ignore[reportArgumentType]

    def begin():
        return model.weights, init_state(method, model.weights, KEY), KEY, RATE, batch

    state, record = step(*begin())
    assert record.losses_v.tolist() == [2.5, 3.5]
    assert record.projected_grad_q.tolist() == [(2.5 - 3.5) / (2 * 0.25)]
    assert not record.skipped
    assert state.step == 1
    ahead, again = step.trace(*begin())()(*begin())
    assert again.losses_v.tolist() == record.losses_v.tolist()
    for one, other in zip(jax.tree.leaves(ahead), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
