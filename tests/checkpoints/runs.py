"""A run whose checkpoints the tests spoil."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import traverse_util

from tests.bits import assert_same_bits, copied
from zojax.adapters import Site, lowrank, lowrank_fold
from zojax.checkpoints.writer import CheckpointWriter
from zojax.config import Config, ModelConfig, RunConfig, TrainConfig, to_dict
from zojax.estimators import lozo
from zojax.journal.file import Journal, JournalWriter, read_journal
from zojax.journal.replay import Replay, is_folded, make_replay, step_keys
from zojax.journal.segments import header_key
from zojax.models import content_hash
from zojax.runs.rebuild import Saved, rebuild
from zojax.training.interval import OwnedWeights
from zojax.training.step import Method, TrainState

Tree = Any

STEPS, INTERVAL = 36, 10
SAVED = (7, 10, 11, 25, 30)
"""Before the first fold (10 is: the fold comes with the step after it), and behind folds."""


@dataclasses.dataclass(eq=False)
class Run:
    """A run whose journal is there; what it reached is its replay's."""

    directory: Path
    base: Tree
    method: Method
    replay: Replay
    journal: Journal
    told: list[str] = dataclasses.field(default_factory=list)
    """Warnings of its writers; empty in the end, where a test expects none."""

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def reached(self, steps: int) -> tuple[Tree, TrainState]:
        """Weights and state after these steps of an uninterrupted run."""
        records = self.journal.records[:steps]
        owned = OwnedWeights(copied(self.base))
        owned, state = self.replay(owned, header_key(self.journal), records)
        return owned.weights, state

    def weights_to_save(self, step: int, weights: Tree) -> Tree | None:
        return weights if is_folded(self.method, step) else None

    def writer(self, **kwargs: int) -> CheckpointWriter:
        keep = {"keep_last": 99, "keep_best": 0, **kwargs}
        return CheckpointWriter(self.checkpoints, self.journal.path, warn=self.told.append, **keep)

    def save(self, *steps: int, **kwargs: Any) -> None:
        """Checkpoints of an uninterrupted run, written one by one."""
        writer = self.writer(**kwargs)
        for step in steps:
            weights, state = self.reached(step)
            writer.save(step, self.weights_to_save(step, weights), state)
            assert writer.wait()

    def rebuilt(self, steps: int | None = None) -> tuple[Tree, TrainState, int, list[str]]:
        """What a resume gives, and its warnings."""
        warnings: list[str] = []
        owned, state, source = rebuild(
            self.journal,
            self.method,
            OwnedWeights(copied(self.base)),
            Saved(self.checkpoints, lambda: copied(self.base), warnings.append),
            steps=steps,
            replay=self.replay,
        )
        return owned.weights, state, source, warnings

    def assert_rebuilt(self, source: int, steps: int | None = None) -> list[str]:
        """Asserts that a resume has the run's bits, from that checkpoint; gives the warnings."""
        weights, state, actual, warnings = self.rebuilt(steps)
        assert actual == source
        assert_same_bits((weights, state), self.reached(STEPS if steps is None else steps))
        return warnings

    def with_journal(self, **changes: Any) -> "Run":
        return dataclasses.replace(self, journal=dataclasses.replace(self.journal, **changes))


def make_weights() -> dict[str, Any]:
    """A model of one trained matrix a layer (fewer compile faster) and things beside it."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0, 0.02, shape), jnp.bfloat16)

    return {
        "embed_tokens": {"weight": normal(300, 16)},
        "layers": {"fc1": {"weight": normal(2, 12, 6), "bias": normal(2, 12)}},
    }


def make_run(
    directory: Path,
    *,
    optimizer: Any = optax.sgd,
    fold: Any = "stochastic",
    seed: int = 0,
    replay: Replay | None = None,
) -> Run:
    base = make_weights()
    rates = np.full(STEPS, 0.1, np.float32)
    sites = (Site("layers/fc1/weight", (2, 12, 6)),)
    interval = 0 if fold == "none" else INTERVAL
    estimator = lozo(lowrank(sites, rank=2))
    folding = None if fold == "none" else lowrank_fold(sites, fold)
    method = Method(estimator, optimizer, interval, rates, folding)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    train = TrainConfig(seed=seed, batch_size=4)
    header = {
        "config": to_dict(Config(ModelConfig("m"), RunConfig("r"), train=train)),
        "base_hash": content_hash(base),
        "key_data": jax.random.key_data(key).tolist(),
        "key_impl": str(jax.random.key_impl(key)),
        "num_queries": 1,
        "num_variants": 2,
    }
    directory.mkdir(exist_ok=True)
    writer = JournalWriter.create(directory / "journal.zj", header)
    writer.append(
        0,
        key_data=step_keys(key, STEPS),
        learning_rates=rates,
        projected_grads=rng.normal(size=(STEPS, 1)).astype(np.float32),
        losses=rng.normal(size=(STEPS, 2)).astype(np.float32),
        flags=np.zeros(STEPS, np.uint32),
    )
    writer.close()
    journal = read_journal(directory / "journal.zj")
    return Run(directory, base, method, replay or make_replay(method, base), journal)


def warnings_of(run: Run) -> list[str]:
    """Those that its writers have told, which were expected."""
    told = run.told.copy()
    run.told.clear()
    return told


def files_of(run: Run, step: int) -> list[Path]:
    return sorted(path for path in (run.checkpoints / str(step)).rglob("*") if path.is_file())


def flip(item: Path, *path: str) -> None:
    """Writes a checkpoint's item anew, with a flipped bit in one of its arrays."""
    with ocp.StandardCheckpointer() as checkpointer:
        flat = traverse_util.flatten_dict(checkpointer.restore(item.absolute()))
        flipped = np.array(flat[path])
        flipped.reshape(-1).view(np.uint8)[-1] ^= 1
        shutil.rmtree(item)
        checkpointer.save(item.absolute(), traverse_util.unflatten_dict({**flat, path: flipped}))


@functools.cache
def reached_in_the_end(run: Run) -> tuple[Tree, TrainState]:
    return run.reached(STEPS)


def refusal(run: Run, step: int = 30) -> str:
    """Why the newest checkpoint is not used; what is used instead has the run's bits."""
    [warning] = run.assert_rebuilt(25 if step == 30 else 30)
    start, end = f"{run.checkpoints}/{step}: ", "; continuing without this checkpoint"
    assert warning.startswith(start)
    assert warning.endswith(end)
    return warning.removeprefix(start).removesuffix(end)
