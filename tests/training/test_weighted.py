"""Steps on weighted tokens, against gradients and torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import zojax
from zojax.adapters import draw_dense, stack_variants
from zojax.estimators import direction_key
from zojax.programs.pace import at_once
from zojax.training.weighted import Datum, LoraPrograms, _score, adam


def test_probes_tell_the_slope_along_the_directions(monkeypatch):
    monkeypatch.setattr("zojax.training.weighted.EPSILON", 1e-4)
    model = zojax.load(zojax.demo.MODEL).model
    key, rng = jax.random.key(5), np.random.default_rng(0)
    learner = LoraPrograms(model, 1, 2)
    state = dataclasses.replace(learner.begin(key), step=jnp.int32(4))
    data = [
        Datum(
            rng.integers(4, 400, n).astype(np.int32),
            rng.integers(4, 400, n).astype(np.int32),  # any target, not just the next token
            rng.normal(size=n).astype(np.float32),
        )
        for n in (7, 50, 60, 30)
    ]
    state = dataclasses.replace(  # where B is not 0
        state, params={path: leaf + 0.02 for path, leaf in state.params.items()}
    )
    found = learner.probe(at_once, state, key, data)

    def loss(params):
        total = 0.0
        for members, pages in learner._pages(data):
            variants = stack_variants([learner._space.adapter(params, {})])
            weight = np.concatenate([data[i].weight_t for i in members])
            [logprob] = _score(model.weights, variants, pages, graphdef=model.graphdef)
            total -= logprob[: len(weight)] @ weight
        return total

    slope = jax.jit(jax.grad(loss))(state.params)
    for query, projected_grad in enumerate(found.projected_grad_q):
        number = direction_key(key, state.step, query, 2)
        z = draw_dense(number, state.params, {}, jax.random.normal)
        expected = sum(jnp.vdot(slope[path], z[path]) for path in z)
        np.testing.assert_allclose(projected_grad, expected, rtol=0.1, atol=0.5)
    for at_state, at_probes in zip(
        learner.forward(at_once, state, data), found.logprobs, strict=True
    ):
        np.testing.assert_allclose(at_state, at_probes, atol=0.02)


@pytest.mark.parametrize("most", [0.0, 0.5])
def test_a_step_is_torchs_adamw(most):
    rng = np.random.default_rng(1)
    start, gradients = rng.normal(size=5), rng.normal(size=(4, 5))
    theirs = torch.nn.Parameter(torch.tensor(start))
    settings = 0.1, 0.8, 0.9, 1e-6, 0.05, most
    optimizer = torch.optim.AdamW([theirs], 0.1, (0.8, 0.9), 1e-6, 0.05)
    ours = {"w": jnp.float32(start)}
    moments = adam(0.0).init(ours)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        if most:
            torch.nn.utils.clip_grad_norm_([theirs], most)
        optimizer.step()
        updates, moments = adam(settings).update({"w": jnp.float32(gradient)}, moments, ours)
        ours = {"w": ours["w"] + updates["w"]}
    np.testing.assert_allclose(ours["w"], theirs.detach(), rtol=1e-4, atol=1e-5)
