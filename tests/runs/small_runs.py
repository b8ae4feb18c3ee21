"""Real runs of small models, trained by the programs, the chunks and the journal of a run."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tests.bits import copied
from tests.random_weights import numpy_model
from zojax.config import Config, EstimatorConfig, ModelConfig, RunConfig, TrainConfig, to_dict
from zojax.journal.file import Journal, JournalWriter, read_journal
from zojax.journal.replay import Replay, make_replay
from zojax.journal.segments import header_key
from zojax.models import Model
from zojax.models.opt import OPTConfig
from zojax.programs.stopping import Stop
from zojax.runs.chunks import Programs, Trainer, compile_programs
from zojax.runs.train import run_chunk
from zojax.runs.training import Training
from zojax.scoring import Item, shape_needed
from zojax.scoring.buckets import choose_buckets
from zojax.training.batches import BatchSource
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method
from zojax.training.objective import CandidateScorer, classification_loss, of_candidates
from zojax.training.step import Batch, Method, TrainState, init_state

Tree = Any


def leave_after(steps: int, config: Config) -> None:
    """Do the first steps of a run in a loop of one's own, and leave it."""
    with Training(config) as training:
        for batch in training.batches():
            training.step(batch)
            if training.num_steps == steps:
                break


class Silence:
    """A reporter that tells nobody."""

    def chunk(self, *_: Any, **__: Any) -> None:
        pass

    def is_silent(self) -> bool:
        return False  # nobody waits for a line


@dataclasses.dataclass(frozen=True)
class Case:
    """A model's shape, how it is trained, what of it, and for how many buckets.

    Fewer sites and fewer buckets compile faster.
    """

    steps: int = 150
    hidden: int = 16
    ffn: int = 33
    layers: int = 2
    heads: int = 2
    tied: bool = True
    dtype: Any = jnp.float32
    decay: float = 0.0
    schedule: Any = "constant"
    estimator: dict[str, Any] = dataclasses.field(default_factory=dict)
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    sites: str = "."
    buckets: int = 1


SNAPSHOT = 64
"""The step, a chunk's end, after which a run's weights and state are kept for comparison."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run was and what it reached."""

    config: Config
    base: Model
    method: Method
    replay: Replay
    programs: Programs
    batch: Batch
    journal: Journal
    reached: dict[int, tuple[Tree, TrainState]]
    """Weights and state after :data:`SNAPSHOT` steps and after all."""


def make_model(case: Case, seed: int = 0) -> Model:
    config = OPTConfig(
        vocab_size=53,
        hidden_size=case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        ffn_dim=case.ffn,
        max_position_embeddings=24,
        word_embed_proj_dim=case.hidden,
        tie_word_embeddings=case.tied,
    )
    return numpy_model(config, seed, case.dtype)


def make_items(seed: int) -> list[Item]:
    """Short ones and long ones, so that batches fall into several buckets."""
    rng = np.random.default_rng(seed)
    lengths = [2, 3, 4, 3, 14, 17, 15, 16, 3, 17]
    return [
        Item(
            rng.integers(3, 50, length).astype(np.int32),
            tuple(np.array([token], np.int32) for token in rng.choice(50, 2, replace=False)),
            int(rng.integers(2)),
        )
        for length in lengths
    ]


def make_config(case: Case) -> Config:
    return Config(
        ModelConfig("base", dtype=jnp.dtype(case.dtype).name),
        RunConfig("run"),
        train=TrainConfig(
            steps=case.steps,
            schedule=case.schedule,
            warmup_steps=0 if case.schedule == "constant" else 7,
            weight_decay=case.decay,
            **{"learning_rate": 1e-3, **case.train},
        ),
        estimator=EstimatorConfig(**{"interval": 20, **case.estimator}),
    )


def train(case: Case, directory: Path, seed: int = 0) -> Trained:
    """Trains with the programs, the chunks and the journal of ``zojax train``."""
    model, key, config = make_model(case, seed), jax.random.key(seed), make_config(case)
    flat = traverse_util.flatten_dict(model.weights, sep="/")
    seen = {path: leaf for path, leaf in flat.items() if re.search(case.sites, path)}
    seen_model = dataclasses.replace(model, weights=traverse_util.unflatten_dict(seen, sep="/"))
    method = make_method(config, seen_model)
    items = make_items(seed)
    order = [[2 * (step * 7 % 5), 2 * (step * 7 % 5) + 1] for step in range(case.steps)]
    buckets = choose_buckets(
        [shape_needed([items[i] for i in order[s]], 1) for s in range(5)], case.buckets
    )
    assert len(buckets) == case.buckets
    source = BatchSource(items, order.__getitem__, 2, buckets)
    weights, state = (
        copied(model.weights),
        jax.jit(functools.partial(init_state, method))(model.weights, key),
    )
    programs = compile_programs(
        weights,
        state,
        key,
        method,
        of_candidates(CandidateScorer(model.graphdef, 2, False), classification_loss),
        source.abstract,
        steps=case.steps,
    )
    header = {
        "config": to_dict(config),
        "base_hash": "0123",
        "key_data": jax.random.key_data(key).tolist(),
        "key_impl": str(jax.random.key_impl(key)),
        "num_queries": method.estimator.num_queries,
        "num_variants": method.estimator.num_variants,
    }
    path = directory / "journal.zj"
    writer = JournalWriter.create(path, header)
    trainer = Trainer(
        OwnedWeights(weights),
        state,
        0,
        key,
        method,
        programs,
        writer,
        Silence(),  # pyright: ignore[reportArgumentType]
    )
    reached = {}
    batches = map(source, range(case.steps))
    for end in [*range(32, case.steps, 32), case.steps]:
        run_chunk(trainer, batches, end, Stop())
        if trainer.step in (SNAPSHOT, case.steps):
            reached[trainer.step] = copied((trainer.owned.weights, trainer.state))
    writer.close()
    journal = read_journal(path)
    replay = make_replay(method, model.weights)
    return Trained(
        config,
        model,
        method,
        replay,
        programs,
        source(0)[1],
        journal,
        reached,
    )


def replayed(run: Trained, records: np.ndarray, **kwargs: Any) -> tuple[Tree, TrainState]:
    owned = OwnedWeights(copied(run.base.weights))
    owned, state = run.replay(owned, header_key(run.journal), records, **kwargs)
    return owned.weights, state
