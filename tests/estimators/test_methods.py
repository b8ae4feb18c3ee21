"""Every method against a plain NumPy transcription of its formula, on a loss that is cheap.

The transcriptions share nothing with zojax but the draws. Losses are taken in float64 of the very
adapter states that zojax would score, so that what differs is the rounding of float32 alone.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from zojax.adapters import own_arrays, trainable_sites
from zojax.adapters.sites import site_key
from zojax.config import Config, EstimatorConfig, ModelConfig, RunConfig, TrainConfig
from zojax.estimators import SUBSPACE, direction_key, stream_key
from zojax.models import Model
from zojax.models.branches import Seeded, draw_rows
from zojax.training.interval import OwnedWeights, ends_interval, next_interval
from zojax.training.method import make_method
from zojax.training.step import Method, init_state, update

Arrays = dict[str, np.ndarray]

KEY = jax.random.key(11)
STEPS, RATE, EPSILON, BETA, DECAY = 7, 0.02, 0.05, 0.8, 0.3
TOLERANCE = 2e-5
"""Absolute, of weights of the order of 1: a loss of float32 near 1 is off by 6e-8, its difference
over 2 ε by 1e-6, and STEPS such steps of U Vᵀ with entries up to 10 by some 1e-5."""

SHAPES = {"layers/q_proj/weight": (2, 5, 4), "layers/v_proj/weight": (2, 3, 4)}
VECTORS = {"layers/q_proj/bias": (2, 5)}


def arrays(seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {path: random.normal(size=shape) for path, shape in {**SHAPES, **VECTORS}.items()}


START, TARGET = arrays(0), arrays(1)


def loss(weights: Arrays) -> float:
    """Not quadratic, so that both sides of a probe matter; of the order of 1."""
    error = {path: weights[path] - TARGET[path] for path in weights}
    return float(sum(0.02 * (e**2).sum() + 0.05 * np.sin(3 * e).sum() for e in error.values()))


# zojax.


def model() -> Model:
    nested = traverse_util.unflatten_dict({p: jnp.float32(w) for p, w in START.items()}, sep="/")
    return Model(None, None, nested)  # pyright: ignore[reportArgumentType]


def make(**settings: Any) -> Method:
    names = ("optimizer", "beta1", "weight_decay")
    train = {name: settings.pop(name) for name in names if name in settings}
    estimator = {"epsilon": EPSILON, "interval": 3, "fold": "nearest", "rank": 2, **settings}
    config = Config(
        ModelConfig("none"),
        RunConfig("none"),
        train=TrainConfig(steps=STEPS, learning_rate=RATE, **train),
        estimator=EstimatorConfig(**estimator),
    )
    return make_method(config, model())


def moved(weights: Any, state: Any) -> Arrays:
    """Weights with an adapter state added, in float64."""
    flat = {p: np.float64(w) for p, w in traverse_util.flatten_dict(weights, sep="/").items()}
    added = traverse_util.flatten_dict(own_arrays(state), sep="/")
    for path, value in added.items():
        if isinstance(value, Seeded):
            flat[path] = flat[path] + np.einsum(
                "...d,...dmn->...mn",
                np.float64(value.scale),
                dense(value.seed.value, flat[path].shape),
            )
        elif path.endswith("/u"):
            v = np.float64(added[path[:-1] + "v"])
            flat[path[:-2]] = flat[path[:-2]] + np.float64(value) @ v.swapaxes(-1, -2)
        elif not path.endswith("/v"):
            flat[path] = flat[path] + np.float64(value)
    return flat


def dense(seeds: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """The directions ``(l, d, m, n)`` that seeds name."""
    m, n = shape[-2:]
    drawn = [[draw_rows(seed, jnp.arange(m), n) for seed in of_layer] for of_layer in seeds]
    return np.float64(drawn)


def train(method: Method) -> tuple[np.ndarray, Arrays]:
    """Losses ``(steps, variants)`` and final weights."""
    owned, losses = OwnedWeights(model().weights), []
    state = init_state(method, owned.weights, KEY)
    perturb = jax.jit(method.estimator.perturb)
    advance = jax.jit(functools.partial(update, method))
    fold = jax.jit(functools.partial(next_interval, method=method))
    for step in range(STEPS):
        variants = perturb(KEY, state.step, state.params, state.subspace)
        losses.append([loss(moved(owned.weights, variant)) for variant in variants])
        projected_grad_q = method.estimator.projected_grad(jnp.float32(losses[-1]))
        state = advance(state, KEY, projected_grad_q, jnp.float32(RATE), jnp.bool_(False))
        if ends_interval(method, step + 1):
            owned, state = fold(owned, state, KEY)
    return np.array(losses), moved(
        owned.weights, method.estimator.space.adapter(state.params, state.subspace)
    )


# The draws, and the formulas.


def normal(key: jax.Array, path: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.float64(jax.random.normal(site_key(key, path), shape))


def signs(key: jax.Array, path: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.float64(jax.random.rademacher(site_key(key, path), shape))


def factors(step: int, query: int, n: int, rank: int, interval: int, draw=normal) -> Any:
    """U of a query and V of the interval, of every matrix."""
    key = direction_key(KEY, step, query, n)
    u = {p: draw(key, p, (*s[:-1], rank)) for p, s in SHAPES.items()}
    v_key = stream_key(KEY, SUBSPACE, step - step % interval)
    return u, {p: normal(v_key, p, (*s[:-2], s[-1], rank)) for p, s in SHAPES.items()}


def times(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u @ v.swapaxes(-1, -2)


def plus(weights: Arrays, scale: float, direction: Arrays) -> Arrays:
    return {p: w + scale * direction[p] if p in direction else w for p, w in weights.items()}


def both_sides(at: Callable[[Arrays], float], weights: Arrays, z: Arrays) -> tuple[float, float]:
    return at(plus(weights, EPSILON, z)), at(plus(weights, -EPSILON, z))


class Step(NamedTuple):
    losses: list[float]
    weights: Arrays


def lozo_queries(n: int) -> Iterator[Step]:
    """W ← W − η mean_q c_q U_q Vᵀ."""
    weights = START
    for step in range(STEPS):
        losses, total = [], {p: np.zeros(s) for p, s in SHAPES.items()}
        for query in range(n):
            u, v = factors(step, query, n, 2, 3)
            z = {p: times(u[p], v[p]) for p in SHAPES}
            sides = both_sides(loss, weights, z)
            losses += sides
            total = plus(total, (sides[0] - sides[1]) / (2 * EPSILON) / n, z)
        weights = plus(weights, -RATE, total)
        yield Step(losses, weights)


def lozo_m() -> Iterator[Step]:
    """N ← β N + (1 − β) c U, carried over a redraw as N V_oldᵀ V_new / n; W ← W − η N Vᵀ.

    Vectors keep their momentum, with a dense z in the place of U.
    """
    weights, v_old = START, None
    momentum = {p: np.zeros((*s[:-1], 2)) for p, s in SHAPES.items()}
    momentum |= {p: np.zeros(s) for p, s in VECTORS.items()}
    for step in range(STEPS):
        u, v = factors(step, 0, 1, 2, 3)
        key = direction_key(KEY, step, 0, 1)
        u |= {p: normal(key, p, s) for p, s in VECTORS.items()}

        def wide(a: Arrays, v: Arrays = v) -> Arrays:
            return {p: times(a[p], v[p]) if p in v else a[p] for p in a}

        if v_old is not None and step % 3 == 0:
            momentum |= {
                p: momentum[p] @ v_old[p].swapaxes(-1, -2) @ v[p] / v[p].shape[-2] for p in SHAPES
            }
        sides = both_sides(loss, weights, wide(u))
        c = (sides[0] - sides[1]) / (2 * EPSILON)
        momentum = {p: BETA * momentum[p] + (1 - BETA) * c * u[p] for p in momentum}
        weights = plus(weights, -RATE, wide(momentum))
        v_old = v
        yield Step(list(sides), weights)


def factorized() -> Iterator[Step]:
    """z = U Vᵀ / √r, both drawn every step."""
    weights = START
    for step in range(STEPS):
        u, v = factors(step, 0, 1, 16, 1)
        z = {p: times(u[p], v[p]) / 4.0 for p in SHAPES}
        sides = both_sides(loss, weights, z)
        weights = plus(weights, -RATE * (sides[0] - sides[1]) / (2 * EPSILON), z)
        yield Step(list(sides), weights)


def fzoo(n: int) -> Iterator[Step]:
    """W ← W − η / (n σ) Σ_q (l_q − l₀) U_q Vᵀ with U of entries ±1."""
    weights = START
    for step in range(STEPS):
        losses, directions = [loss(weights)], []
        for query in range(n):
            u, v = factors(step, query, n, 2, 3, signs)
            directions.append({p: times(u[p], v[p]) for p in SHAPES})
            losses.append(loss(plus(weights, EPSILON, directions[-1])))
        sigma = np.std(losses[1:])
        for one, z in zip(losses[1:], directions, strict=True):
            weights = plus(weights, -RATE * (one - losses[0]) / (n * sigma), z)
        yield Step(losses, weights)


def population(n: int) -> Iterator[Step]:
    """W ← W − η / n Σ_q (l_q − mean of the other losses) / ε U_q Vᵀ."""
    weights = START
    for step in range(STEPS):
        drawn = (factors(step, query, n, 2, 3) for query in range(n))
        directions = [{p: times(u[p], v[p]) for p in SHAPES} for u, v in drawn]
        losses = [loss(plus(weights, EPSILON, z)) for z in directions]
        for q, z in enumerate(directions):
            others = np.mean(losses[:q] + losses[q + 1 :])
            weights = plus(weights, -RATE * (losses[q] - others) / (n * EPSILON), z)
        yield Step(losses, weights)


def mezo(n: int) -> Iterator[Step]:
    """θ ← θ − η mean_q c_q z_q with a dense z over all weights and vectors."""
    weights = START
    for step in range(STEPS):
        losses, before = [], weights
        seeds = jax.random.split(stream_key(KEY, SUBSPACE, step), n)
        for query in range(n):
            z = {}
            for path, start in START.items():
                site = site_key(seeds[query], path)
                of_layers = [jax.random.key_data(jax.random.fold_in(site, i)) for i in range(2)]
                z[path] = dense(
                    jnp.stack(of_layers)[None], (*start.shape[:1], 1, *start.shape)[-2:]
                )[0]
                z[path] = z[path].reshape(start.shape) if path in SHAPES else z[path][:, 0]
            sides = both_sides(loss, before, z)
            losses += sides
            weights = plus(weights, -RATE * (sides[0] - sides[1]) / (2 * EPSILON) / n, z)
        yield Step(losses, weights)


def lora_start() -> Arrays:
    """A uniform in ±1/√n, B zero."""
    params, key = {}, stream_key(KEY, 3, 0)
    for path, (layers, m, n) in SHAPES.items():
        a = f"{path}/lora_A"
        uniform = jax.random.uniform(site_key(key, a), (layers, 3, n))
        params[a] = (2 * np.float64(uniform) - 1) / np.sqrt(n)
        params[f"{path}/lora_B"] = np.zeros((layers, m, 3))
    return params


def with_lora(params: Arrays) -> Arrays:
    """W + (16 / r) B A."""
    return plus(START, 16 / 3, {p: params[f"{p}/lora_B"] @ params[f"{p}/lora_A"] for p in SHAPES})


def on_lora(lozo: bool, adam: bool) -> Iterator[Step]:
    """MeZO's dense z, or LoZO's U Vᵀ, over A and B; by SGD, or by Adam with weight decay."""
    theta = lora_start()
    first, second = ({p: np.zeros_like(x) for p, x in theta.items()} for _ in range(2))
    for step in range(STEPS):
        key, v_key = direction_key(KEY, step, 0, 1), stream_key(KEY, SUBSPACE, step - step % 3)
        z = {}
        for p, x in theta.items():
            if lozo:
                u = normal(key, p, (*x.shape[:-1], 2))
                z[p] = times(u, normal(v_key, p, (*x.shape[:-2], x.shape[-1], 2)))
            else:
                z[p] = normal(key, p, x.shape)
        sides = both_sides(lambda params: loss(with_lora(params)), theta, z)
        g = {p: (sides[0] - sides[1]) / (2 * EPSILON) * z[p] for p in z}
        if adam:
            first = {p: 0.9 * first[p] + 0.1 * g[p] for p in g}
            second = {p: 0.999 * second[p] + 0.001 * g[p] ** 2 for p in g}
            hat, square = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
            g = {p: first[p] / hat / (np.sqrt(second[p] / square) + 1e-8) for p in g}
            g = {p: g[p] + DECAY * theta[p] for p in g}
        theta = plus(theta, -RATE, g)
        yield Step(list(sides), with_lora(theta))


CASES: dict[str, tuple[dict[str, Any], Callable[[], Iterator[Step]]]] = {
    "LoZO": ({}, lambda: lozo_queries(1)),
    "LoZO, 3 queries": ({"num_queries": 3}, lambda: lozo_queries(3)),
    "LoZO-M": ({"optimizer": "momentum", "beta1": BETA, "trainable": "full"}, lozo_m),
    "high-rank factorized MeZO": ({"name": "mezo_factorized", "rank": 16}, factorized),
    "FZOO": ({"name": "fzoo", "num_queries": 4}, lambda: fzoo(4)),
    "a population": ({"name": "population", "num_queries": 5}, lambda: population(5)),
    "MeZO": ({"name": "mezo", "trainable": "full"}, lambda: mezo(1)),
    "MeZO, 2 queries": ({"name": "mezo", "trainable": "full", "num_queries": 2}, lambda: mezo(2)),
    "MeZO on LoRA": (
        {"name": "mezo", "trainable": "lora", "lora_rank": 3},
        lambda: on_lora(lozo=False, adam=False),
    ),
    "MeZO on LoRA by Adam": (
        {
            "name": "mezo",
            "trainable": "lora",
            "lora_rank": 3,
            "optimizer": "adam",
            "weight_decay": DECAY,
        },
        lambda: on_lora(lozo=False, adam=True),
    ),
    "LoZO on LoRA": (
        {"trainable": "lora", "lora_rank": 3},
        lambda: on_lora(lozo=True, adam=False),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_steps_are_those_of_the_formula(name):
    settings, transcription = CASES[name]
    expected = list(transcription())
    losses, weights = train(make(**settings))
    np.testing.assert_allclose(losses, [step.losses for step in expected], atol=TOLERANCE)
    for path, weight in expected[-1].weights.items():
        np.testing.assert_allclose(weights[path], weight, rtol=0, atol=TOLERANCE, err_msg=path)
    furthest = max(np.abs(expected[-1].weights[p] - START[p]).max() for p in SHAPES)
    assert furthest > 1000 * TOLERANCE  # or agreement would say little


# Unbiased: on L(W) = <G, W> + ½ ‖W‖² a central difference is exact, so the mean is the gradient. So
# it is of one-sided differences, since z and −z are equally likely.


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "mezo", "trainable": "lora"},
        {"scale": "paper"},
        {"name": "mezo_factorized", "rank": 16},
        {"num_queries": 3, "scale": "paper"},
        {"name": "population", "trainable": "lora", "num_queries": 4},
    ],
    ids=["MeZO", "LoZO", "factorized", "LoZO, 3 queries", "a population"],
)
def test_the_mean_of_many_estimates_is_the_gradient(settings):
    method, draws = make(**settings), 16_000
    space, estimator = method.estimator.space, method.estimator
    params = space.init(model().weights, KEY)
    random = np.random.default_rng(5)

    def dot(a: Any, b: Any) -> jax.Array:
        return sum(jnp.vdot(x, y) for x, y in zip(map_leaves(a), map_leaves(b), strict=True))

    def map_leaves(tree: Any) -> list[jax.Array]:
        return jax.tree.leaves(tree)

    on_weights = settings.get("trainable") != "lora"
    at = (
        {p: jnp.float32(START[p]) for p in SHAPES}
        if on_weights
        else {p: jnp.float32(random.normal(size=x.shape)) for p, x in params.items()}
    )
    slope = {p: jnp.float32(random.normal(size=x.shape)) for p, x in at.items()}
    true = {p: np.float64(slope[p]) + np.float64(at[p]) for p in at}

    def value(point: Any) -> jax.Array:
        return dot(slope, point) + dot(point, point) / 2

    def point_of(state: Any) -> Any:
        """What a variant's state says that the trained arrays are."""
        flat = traverse_util.flatten_dict(own_arrays(state), sep="/")
        if on_weights:
            return {p: at[p] + flat[f"{p}/u"] @ flat[f"{p}/v"].swapaxes(-1, -2) for p in SHAPES}
        alpha = 16.0 / 8
        a = {f"{p}/lora_A": flat[f"{p}/v"].swapaxes(-1, -2) for p in SHAPES}
        return a | {f"{p}/lora_B": flat[f"{p}/u"] / alpha for p in SHAPES}

    @jax.jit
    @functools.partial(jax.vmap, in_axes=0)
    def estimate(step: jax.Array) -> Any:
        subspace = space.redraw(stream_key(KEY, SUBSPACE, step))
        here = params if on_weights else at
        variants = estimator.perturb(KEY, step, here, subspace)
        losses_v = jnp.stack([value(point_of(state)) for state in variants])
        c_q = estimator.projected_grad(losses_v)
        gradient = estimator.gradient(KEY, step, here, subspace, c_q)
        if not on_weights:
            return gradient
        return {p: gradient[p] @ subspace[p].swapaxes(-1, -2) for p in SHAPES}

    drawn = {p: np.float64(g) for p, g in estimate(jnp.arange(draws)).items()}
    deviations = np.concatenate(
        [((drawn[p].mean(0) - true[p]) / (drawn[p].std(0) / np.sqrt(draws))).ravel() for p in drawn]
    )
    # 3 standard errors hold 99.7 % of the entries, and all of them hold 4.5.
    assert (np.abs(deviations) < 3).mean() > 0.98
    assert np.abs(deviations).max() < 4.5
    assert all(np.abs(true[p]).max() > 10 * drawn[p].std(0).max() / np.sqrt(draws) for p in drawn)


def test_sites_of_the_toy_are_what_the_cases_say():
    assert {s.path for s in trainable_sites(model().weights, "linear")} == set(SHAPES)
