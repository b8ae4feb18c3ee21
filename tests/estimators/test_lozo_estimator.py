"""LoZO against a plain transcription: transformers in float64, its weights set to W ± ε U Vᵀ."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from zojax.adapters import Sites, lowrank, trainable_sites
from zojax.config import Config, EstimatorConfig, ModelConfig, RunConfig, TrainConfig
from zojax.estimators import SUBSPACE, lozo, stream_key
from zojax.models import Model
from zojax.models.model import abstract
from zojax.models.opt import OPTConfig
from zojax.scoring import Item, pack, shape_needed
from zojax.training.interval import OwnedWeights, ends_interval, next_interval
from zojax.training.method import make_method
from zojax.training.objective import CandidateScorer, classification_loss, of_candidates
from zojax.training.step import Batch, Method, TrainState, init_state, train_step

Arrays = dict[str, np.ndarray]
"""Float64 arrays by site: the parameter's path, with the layers stacked on the first axis."""

LOSS_TOLERANCE = 1e-4  # relative
WEIGHT_TOLERANCE = 1e-5  # absolute
KEY = jax.random.key(3)

PRE_LN = OPTConfig(
    vocab_size=61,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    ffn_dim=20,
    max_position_embeddings=24,
    word_embed_proj_dim=12,
)
UNTIED = dataclasses.replace(PRE_LN, tie_word_embeddings=False)
AS_350M = dataclasses.replace(PRE_LN, word_embed_proj_dim=8, do_layer_norm_before=False)

# Candidates' lengths of each example of a batch; one example has fewer of them than the others.
MULTI_TOKEN = [(1, 3, 2), (2, 2), (3, 1, 1), (1, 2, 4)]
SINGLE_TOKEN = [(1, 1), (1, 1), (1, 1), (1, 1)]
PROMPTS = (9, 1, 5, 12)


def rough_model(config: OPTConfig) -> Model:
    """Weights large enough that every parameter matters to the loss."""
    graphdef, shapes = abstract(config)
    random = np.random.default_rng(0)
    weights = {path: jnp.float32(random.normal(0, 0.2, n)) for path, n in shapes.items()}
    for path in weights:
        if path[-2].endswith("layer_norm") and path[-1] == "weight":
            weights[path] += 1.0
    return Model(config, graphdef, traverse_util.unflatten_dict(weights))


def make_batches(candidates: list[tuple[int, ...]], steps: int) -> list[list[Item]]:
    """Random examples, each batch of the same lengths, so that one executable takes them all."""
    random = np.random.default_rng(1)

    def tokens(length: int) -> np.ndarray:
        return random.integers(3, PRE_LN.vocab_size, length).astype(np.int32)

    return [
        [
            Item(tokens(prompt), tuple(map(tokens, lengths)), int(random.integers(len(lengths))))
            for prompt, lengths in zip(PROMPTS, candidates, strict=True)
        ]
        for _ in range(steps)
    ]


# The transcription. It shares nothing with zojax but the draws and the tokens.


class Rule(NamedTuple):
    """What the paper leaves to be chosen; ``rates`` has the learning rate of every step."""

    rates: list[float]
    interval: float = 7
    rank: int = 2
    probe_scale: float = 1.0  # of U Vᵀ, wherever it stands
    estimate_scale: float = 1.0  # of c, in the update of matrices
    weight_decay: float = 0.0
    epsilon: float = 1e-3


class Draws(NamedTuple):
    """The random numbers of a step: ``u(step)`` has U and z, ``v(step)`` has V."""

    u: Callable[[int], Arrays]
    v: Callable[[int], Arrays]


def torch_model(config: OPTConfig) -> Any:
    settings = transformers.OPTConfig(**dataclasses.asdict(config), attn_implementation="eager")
    return transformers.OPTForCausalLM(settings).double().eval()


def set_weights(theirs: Any, weights: Arrays) -> None:
    """Writes every parameter; a tied head has none of its own."""
    by_name = {}
    for path, value in weights.items():
        first, _, rest = path.replace("/", ".").partition(".")
        if first == "layers":
            for layer, part in enumerate(value):
                by_name[f"model.decoder.layers.{layer}.{rest}"] = part
        else:
            prefix = "" if first == "lm_head" else "model.decoder."
            by_name[f"{prefix}{first}.{rest}"] = value
    parameters = dict(theirs.named_parameters())
    assert parameters.keys() == by_name.keys()
    for name, parameter in parameters.items():
        parameter.data = torch.from_numpy(np.ascontiguousarray(by_name[name]))


def plain_loss(theirs: Any, items: list[Item]) -> float:
    """Cross-entropy over the candidates' mean token log-probabilities, each sequence by itself."""
    sequences = [(item.prompt, tail) for item in items for tail in item.candidates]
    longest = max(len(prompt) + len(tail) for prompt, tail in sequences)
    tokens = torch.ones((len(sequences), longest), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, (prompt, tail) in enumerate(sequences):
        length = len(prompt) + len(tail)
        tokens[row, :length] = torch.from_numpy(np.concatenate([prompt, tail]))
        mask[row, :length] = 1
    with torch.no_grad():
        logprobs = theirs(tokens, attention_mask=mask).logits.log_softmax(-1).numpy()
    means = iter(
        logprobs[row, np.arange(len(prompt) - 1, len(prompt) + len(tail) - 1), tail].mean()
        for row, (prompt, tail) in enumerate(sequences)
    )
    losses = []
    for item in items:
        scores = np.array([next(means) for _ in item.candidates])
        losses.append(math.log(np.exp(scores).sum()) - scores[item.label])
    return float(np.mean(losses))


def losses_along(
    theirs: Any, weights: Arrays, direction: Arrays, epsilon: float, items: list[Item]
) -> tuple[float, float]:
    """The losses at the weights ± ε times the direction."""

    def at(length: float) -> float:
        set_weights(theirs, {p: w + length * direction.get(p, 0.0) for p, w in weights.items()})
        return plain_loss(theirs, items)

    return at(epsilon), at(-epsilon)


def plain_lozo(
    config: OPTConfig, weights: Arrays, draws: Draws, batches: list[list[Item]], rule: Rule
) -> tuple[np.ndarray, Arrays]:
    """Losses ``(steps, 2)`` and final weights of LoZO as it is written down."""
    theirs = torch_model(config)
    weights, losses = dict(weights), []
    v: Arrays = {}
    moved: Arrays = {}  # in this interval; of vectors, in all
    for step, (items, rate) in enumerate(zip(batches, rule.rates, strict=True)):
        if step % rule.interval == 0:
            v = draws.v(step)
            moved = {path: value for path, value in moved.items() if path not in v}
        u = draws.u(step)
        z = {p: u[p] @ np.swapaxes(v[p], -1, -2) * rule.probe_scale if p in v else u[p] for p in u}
        plus, minus = losses_along(theirs, weights, z, rule.epsilon, items)
        c = (plus - minus) / (2 * rule.epsilon)
        for path, direction in z.items():
            estimate = c * rule.estimate_scale if path in v else c
            before = moved.get(path, np.zeros_like(direction))
            change = -rate * (estimate * direction + rule.weight_decay * before)
            moved[path] = before + change
            weights[path] = weights[path] + change
        losses.append((plus, minus))
    return np.array(losses), weights


# zojax's own, compiled.


def wide(flat: dict[str, Any]) -> Arrays:
    return {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}


def as_arrays(tree: Any) -> Arrays:
    return wide(traverse_util.flatten_dict(tree, sep="/"))


def total_weights(weights: Any, state: Any) -> Arrays:
    """Base and folded weights, with the outstanding A Vᵀ and the deltas added in float64."""
    total, params, v = as_arrays(weights), wide(state.params), wide(state.subspace)
    for path, a in params.items():
        total[path] = total[path] + (a @ np.swapaxes(v[path], -1, -2) if path in v else a)
    return total


def zojax_draws(sites: Sites, rank: int) -> Draws:
    """The run's random numbers, as they come: of an estimator without any scale."""
    space = lowrank(sites, rank=rank)
    estimator, a = lozo(space, rank=rank), space.init({}, KEY)
    return Draws(
        lambda step: wide(estimator.gradient(KEY, jnp.int32(step), a, {}, jnp.ones(1))),
        lambda step: wide(space.redraw(stream_key(KEY, SUBSPACE, step))),
    )


class Programs(NamedTuple):
    """What zojax compiles of a method."""

    step: Callable[..., Any]
    fold: Callable[..., Any]


def compiled(model: Model, method: Method, batches: list[list[Item]]) -> Programs:
    end = jax.jit(functools.partial(next_interval, method=method))

    def folded(weights: Any, state: TrainState, key: jax.Array) -> tuple[Any, TrainState]:
        owned, state = end(OwnedWeights(weights), state, key)
        return owned.weights, state

    single = all(len(c) == 1 for item in batches[0] for c in item.candidates)
    num_candidates = max(len(item.candidates) for item in batches[0])
    scorer = CandidateScorer(model.graphdef, num_candidates, normalize=not single)
    objective = of_candidates(scorer, classification_loss)
    return Programs(
        jax.jit(functools.partial(train_step, method=method, objective=objective)),
        folded,
    )


def packed(items: list[Item]) -> Batch:
    labels_b = np.array([item.label for item in items], np.int32)
    lengths_b = np.array([len(item.candidates[item.label]) for item in items], np.float32)
    return Batch(pack(items, shape_needed(items, num_pages=2)), labels_b, lengths_b)


def train(model: Model, method: Method, batches: list[list[Item]]) -> tuple[np.ndarray, Arrays]:
    """Losses ``(steps, 2)`` and final weights of zojax."""
    programs = compiled(model, method, batches)
    weights, state, losses = model.weights, init_state(method, model.weights, KEY), []
    for step, items in enumerate(batches):
        state, record = programs.step(
            weights, state, KEY, method.learning_rates[step], packed(items)
        )
        if ends_interval(method, step + 1):
            weights, state = programs.fold(weights, state, KEY)
        losses.append(np.asarray(record.losses_v))
    return np.array(losses), total_weights(weights, state)


def make(model: Model, training: TrainConfig, **estimator: Any) -> Method:
    settings = EstimatorConfig(**{"interval": 7, "fold": "nearest", **estimator})
    config = Config(ModelConfig("none"), RunConfig("none"), train=training, estimator=settings)
    return make_method(config, model)


def trained_sites(model: Model, method: Method) -> Sites:
    params = init_state(method, model.weights, KEY).params
    return tuple(s for s in trainable_sites(model.weights, "full") if s.path in params)


def assert_same_training(
    model: Model, method: Method, batches: list[list[Item]], rule: Rule
) -> None:
    """Runs both and compares; every trained tensor must have moved far, the others not at all."""
    before = as_arrays(model.weights)
    sites = trained_sites(model, method)
    draws = zojax_draws(sites, rule.rank)
    expected_losses, expected = plain_lozo(model.config, before, draws, batches, rule)
    losses, after = train(model, method, batches)
    np.testing.assert_allclose(losses, expected_losses, rtol=LOSS_TOLERANCE)
    trained = {site.path for site in sites}
    assert after.keys() == expected.keys()
    for path, weight in after.items():
        np.testing.assert_allclose(
            weight, expected[path], rtol=0, atol=WEIGHT_TOLERANCE, err_msg=path
        )
        movement = np.abs(weight - before[path]).max()
        assert movement > 100 * WEIGHT_TOLERANCE if path in trained else movement == 0, path


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread():
    """Matrices this small are slower on many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pre_ln() -> Model:
    return rough_model(PRE_LN)


@pytest.mark.parametrize(
    ("trainable", "candidates"),
    [("linear", SINGLE_TOKEN), ("full", MULTI_TOKEN)],
    ids=["linear", "full"],
)
def test_sixty_steps_are_those_of_the_transcription(trainable, candidates, pre_ln):
    steps, rate = 60, 2e-4
    method = make(pre_ln, TrainConfig(steps=steps, learning_rate=rate), trainable=trainable)
    assert_same_training(pre_ln, method, make_batches(candidates, steps), Rule([rate] * steps))


# Few steps from here on, and few trained tensors, since compiling is what takes the time.


def only(
    model: Model, method: Method, paths: Sequence[str], rank: int = 2, **estimator: Any
) -> Method:
    """The same method, where these sites alone are trained."""
    sites = tuple(s for s in trainable_sites(model.weights, "full") if s.path in paths)
    assert len(sites) == len(paths)
    return method._replace(estimator=lozo(lowrank(sites, rank=rank), rank=rank, **estimator))


RATE, STEPS, FEW = 1e-3, 9, 5  # a redraw lies within STEPS, none within FEW
MATRIX_AND_VECTOR = ("layers/fc1/weight", "layers/fc1/bias")


@pytest.fixture(scope="module")
def short(pre_ln) -> Method:
    return make(pre_ln, TrainConfig(steps=STEPS, learning_rate=RATE), trainable="full")


@pytest.mark.parametrize(
    ("scale", "probe_scale", "estimate_scale"), [("rms", 3**-0.5, 1.0), ("paper", 1.0, 1 / 3)]
)
def test_scales(scale, probe_scale, estimate_scale, pre_ln, short):
    method = only(pre_ln, short, MATRIX_AND_VECTOR, rank=3, scale=scale)
    rule = Rule([RATE] * FEW, rank=3, probe_scale=probe_scale, estimate_scale=estimate_scale)
    assert_same_training(pre_ln, method, make_batches(SINGLE_TOKEN, FEW), rule)


@pytest.mark.parametrize("candidates", [MULTI_TOKEN, SINGLE_TOKEN], ids=["multi", "single"])
def test_embedding_and_tied_head_see_the_same_variant(candidates, pre_ln, short):
    method = only(pre_ln, short, ["embed_tokens/weight"])
    assert_same_training(pre_ln, method, make_batches(candidates, FEW), Rule([RATE] * FEW))


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        (UNTIED, ["embed_tokens/weight", "lm_head/weight"]),
        (AS_350M, ["embed_tokens/weight", "project_in/weight", "project_out/weight"]),
    ],
    ids=["untied head", "as 350M"],
)
def test_other_architectures(config, paths):
    model = rough_model(config)
    method = make(model, TrainConfig(steps=FEW, learning_rate=RATE), trainable="full")
    batches = make_batches(MULTI_TOKEN, FEW)
    assert_same_training(model, only(model, method, paths), batches, Rule([RATE] * FEW))


def test_without_a_fold_the_first_subspace_stays(pre_ln, short):
    method = only(pre_ln, short, MATRIX_AND_VECTOR)._replace(interval=0)
    rule = Rule([RATE] * STEPS, interval=math.inf)
    assert_same_training(pre_ln, method, make_batches(SINGLE_TOKEN, STEPS), rule)


def test_weight_decay_and_schedule(pre_ln):
    warmup, peak, decay = 4, 3e-3, 50.0
    training = TrainConfig(STEPS, 4, peak, "cosine", warmup_steps=warmup, weight_decay=decay)
    method = only(pre_ln, make(pre_ln, training, trainable="full"), MATRIX_AND_VECTOR)
    after = STEPS - warmup
    rates = [peak * step / warmup for step in range(warmup)]
    rates += [peak * (1 + math.cos(math.pi * step / after)) / 2 for step in range(after)]
    rule = Rule(rates, weight_decay=decay)
    assert_same_training(pre_ln, method, make_batches(SINGLE_TOKEN, STEPS), rule)


def test_every_step_moves_along_the_direction_that_it_scored(pre_ln, short):
    """Also on the steps where V is redrawn, where the authors' code moves along another U."""
    epsilon = 0.1  # long, so that the losses tell one direction from another
    method = only(pre_ln, short, ["layers/fc1/weight", "layers/fc2/weight"], epsilon=epsilon)
    batches = make_batches(MULTI_TOKEN, STEPS)
    programs = compiled(pre_ln, method, batches)
    theirs = torch_model(PRE_LN)
    weights, state = pre_ln.weights, init_state(method, pre_ln.weights, KEY)
    redraws = 0
    for step, items in enumerate(batches):
        before = total_weights(weights, state)
        state, record = programs.step(
            weights, state, KEY, method.learning_rates[step], packed(items)
        )
        after = total_weights(weights, state)
        if ends_interval(method, step + 1):
            weights, state = programs.fold(weights, state, KEY)
            redraws += 1
        c = float(record.projected_grad_q[0])
        direction = {path: (before[path] - after[path]) / (RATE * c) for path in before}
        along = losses_along(theirs, before, direction, epsilon, items)
        np.testing.assert_allclose(record.losses_v, along, rtol=LOSS_TOLERANCE)
        assert abs(along[0] - along[1]) > 20 * LOSS_TOLERANCE * along[0], "says nothing"
    assert redraws == 1
