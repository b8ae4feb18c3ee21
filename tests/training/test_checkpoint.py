"""Checkpoints: the run's bits from each of them, whatever has happened to their files."""

import dataclasses
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from zojax.adapters import Site, lowrank
from zojax.errors import InputError
from zojax.estimators import lozo
from zojax.models import content_hash
from zojax.training.checkpoint import CheckpointWriter, kept_steps, restore, saved_steps
from zojax.training.checkpoint_note import seal
from zojax.training.compiling import CompilationCounter
from zojax.training.journal import Journal, JournalWriter, read_journal
from zojax.training.replay import (
    Replay,
    header_key,
    is_folded,
    make_replay,
    restore_or_replay,
    step_keys,
)
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
        return self.replay(copied(self.base), header_key(self.journal), records)

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
        weights, state, source = restore_or_replay(
            self.replay,
            self.checkpoints,
            self.journal,
            self.method,
            copied(self.base),
            reload_base=lambda: copied(self.base),
            warn=warnings.append,
            steps=steps,
        )
        return weights, state, source, warnings

    def assert_rebuilt(self, source: int, steps: int | None = None) -> list[str]:
        """Asserts that a resume has the run's bits, from that checkpoint; gives the warnings."""
        weights, state, actual, warnings = self.rebuilt(steps)
        assert actual == source
        assert_same_bits((weights, state), self.reached(STEPS if steps is None else steps))
        return warnings

    def with_journal(self, **changes: Any) -> "Run":
        return dataclasses.replace(self, journal=dataclasses.replace(self.journal, **changes))


def copied(tree: Tree) -> Tree:
    return jax.tree.map(jnp.copy, tree)


def assert_same_bits(ours: Tree, theirs: Tree) -> None:
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        assert a.tobytes() == b.tobytes(), jax.tree_util.keystr(path)


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
    space = lowrank(sites, rank=2, fold_policy="nearest" if fold == "none" else fold)
    method = Method(lozo(space), optimizer, interval, rates)
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    header = {
        "config": {"train": {"batch_size": 4, "seed": seed}},
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
    return Run(directory, base, method, replay or make_replay(method), journal)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Run:
    """A run with checkpoints, to look at."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    run.save(*SAVED)
    assert run.told == []
    return run


@pytest.fixture
def run(saved, tmp_path) -> Iterator[Run]:
    """A copy of the run with its checkpoints, to lose."""
    directory = Path(shutil.copytree(saved.directory, tmp_path / "run"))
    journal = dataclasses.replace(saved.journal, path=directory / "journal.zj")
    run = dataclasses.replace(saved, directory=directory, journal=journal, told=[])
    yield run
    assert run.told == []


def warnings_of(run: Run) -> list[str]:
    """Those that its writers have told, which were expected."""
    told = run.told.copy()
    run.told.clear()
    return told


@pytest.fixture
def empty(run) -> Run:
    """A copy of the run without checkpoints."""
    shutil.rmtree(run.checkpoints)
    return run


# What is saved, and what a resume makes of it


def test_a_checkpoint_has_the_bits_although_its_arrays_were_donated_at_once(empty):
    writer, key, start, reached = empty.writer(), header_key(empty.journal), None, {}
    weights = copied(empty.base)
    for first, last in zip((0, *SAVED), SAVED, strict=False):
        records = empty.journal.records[first:last]
        weights, start = empty.replay(weights, key, records, start=start)
        reached[last] = jax.tree.map(lambda leaf: np.array(leaf, copy=True), (weights, start))
        writer.save(last, empty.weights_to_save(last, weights), start)
    writer.wait()
    for step, (then_weights, then_state) in reached.items():
        assert_same_bits(empty.reached(step), (then_weights, then_state))
        weights, state, source, warnings = empty.rebuilt(step)
        assert (source, warnings) == (step, [])
        assert_same_bits((weights, state), (then_weights, then_state))


@pytest.mark.parametrize("steps", [None, 35, 30, 29, 24, 12, 10, 7, 6, 0])
def test_a_resume_has_the_bits_of_the_uninterrupted_run(saved, steps):
    at_most = STEPS if steps is None else steps
    source = max((step for step in SAVED if step <= at_most), default=0)
    assert saved.assert_rebuilt(source, steps) == []


def test_a_resume_redoes_only_the_steps_behind_the_checkpoint(saved):
    told: list[int] = []
    restore_or_replay(
        saved.replay,
        saved.checkpoints,
        saved.journal,
        saved.method,
        copied(saved.base),
        reload_base=pytest.fail,
        warn=pytest.fail,
        steps=24,
        on_progress=told.append,
    )
    assert told == [20]  # from 11, and not from 0


def test_no_checkpoints_are_no_trouble(empty):
    assert empty.assert_rebuilt(0) == []
    empty.checkpoints.mkdir()
    assert empty.assert_rebuilt(0) == []
    assert list(empty.checkpoints.iterdir()) == []


def test_what_was_not_folded_is_not_stored(saved):
    stored = {step: (saved.checkpoints / str(step) / "weights").exists() for step in SAVED}
    assert stored == {7: False, 10: False, 11: True, 25: True, 30: True}


def test_an_optimizers_state_is_restored_in_a_run_that_never_folds(tmp_path):
    run = make_run(tmp_path / "run", optimizer=optax.adam, fold="none")
    run.save(25)
    moments = [leaf for leaf in jax.tree.leaves(run.reached(25)[1].opt_state) if leaf.ndim]
    assert moments
    assert all(np.abs(leaf).max() > 0 for leaf in moments)
    assert not (run.checkpoints / "25" / "weights").exists()
    assert run.assert_rebuilt(25) == run.told == []


def test_base_weights_that_nothing_replaces_are_returned_as_they_are(saved):
    weights = copied(saved.base)
    rebuilt, *_ = restore_or_replay(
        saved.replay,
        saved.checkpoints,
        saved.journal,
        saved.method,
        weights,
        reload_base=pytest.fail,
        warn=pytest.fail,
        steps=8,
    )
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (rebuilt, weights)), strict=True))


def test_base_weights_make_room_before_those_of_a_checkpoint_are_read(saved, monkeypatch):
    weights, deleted = copied(saved.base), []
    real = ocp.Checkpointer.restore

    def spy(*args: Any, **kwargs: Any) -> Any:
        deleted.append(all(leaf.is_deleted() for leaf in jax.tree.leaves(weights)))
        return real(*args, **kwargs)

    monkeypatch.setattr(ocp.Checkpointer, "restore", spy)
    restore_or_replay(
        saved.replay,
        saved.checkpoints,
        saved.journal,
        saved.method,
        weights,
        reload_base=pytest.fail,
        warn=pytest.fail,
    )
    assert deleted == [True]


def test_saving_compiles_nothing(empty):
    weights, state = empty.reached(25)
    writer = empty.writer()
    with CompilationCounter() as compilations:
        writer.save(25, weights, state)
        writer.wait()
    assert compilations.count == 0
    assert saved_steps(empty.checkpoints) == [25]


def test_the_files_are_what_the_document_says(saved):
    """With Orbax and numpy alone."""
    manager = ocp.CheckpointManager(saved.checkpoints)
    assert list(manager.all_steps()) == list(SAVED)
    read = ocp.args.Composite(
        state=ocp.args.StandardRestore(),
        weights=ocp.args.StandardRestore(),
        note=ocp.args.JsonRestore(),
    )
    stored = manager.restore(25, args=read)
    manager.close()
    note = stored["note"]
    assert {name: note[name] for name in ("format", "step", "examples", "dev_accuracy")} == {
        "format": 1,
        "step": 25,
        "examples": 100,
        "dev_accuracy": None,
    }
    assert note["base_hash"] == content_hash(saved.base)
    assert note["header"] == saved.journal.seed
    weights, state = saved.reached(25)
    assert_same_bits(stored["weights"], weights)
    named = traverse_util.flatten_dict({"params": state.params, "subspace": state.subspace})
    expected = {f"{kind}.{path}": leaf for (kind, path), leaf in named.items()}
    assert_same_bits(stored["state"], {**expected, "step": state.step})
    assert note["hashes"] == {
        "state": content_hash({**expected, "step": state.step}),
        "weights": content_hash(weights),
    }


# Which stay


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "expected"),
    [
        (1, 0, [{7}, {10}, {11}, {25}, {30}]),
        (2, 0, [{7}, {7, 10}, {10, 11}, {11, 25}, {25, 30}]),
        (1, 1, [{7}, {7, 10}, {7, 11}, {25}, {25, 30}]),
        (1, 2, [{7}, {7, 10}, {7, 11}, {7, 25}, {25, 30}]),
    ],
)
def test_the_newest_and_the_best_stay(empty, keep_last, keep_best, expected):
    accuracies = [0.6, None, 0.5, 0.8, 0.8]
    writer = empty.writer(keep_last=keep_last, keep_best=keep_best)
    for step, accuracy, kept in zip(SAVED, accuracies, expected, strict=True):
        weights, state = empty.reached(step)
        writer.save(step, empty.weights_to_save(step, weights), state, accuracy)
        writer.wait()
        assert set(saved_steps(empty.checkpoints)) == kept
        assert {path.name for path in empty.checkpoints.iterdir()} == set(map(str, kept))
    assert empty.assert_rebuilt(30) == []


def test_retention_keeps_the_newest_and_the_best_of_any_history():
    rng = random.Random(0)
    for _ in range(300):
        steps = rng.sample(range(1, 50), rng.randint(1, 8))
        accuracies = {step: rng.choice([None, 0.1, 0.2, 0.3]) for step in steps}
        last, best = rng.randint(1, 4), rng.randint(0, 4)
        kept = kept_steps(accuracies, last, best)
        assert max(steps) in kept
        for step in steps:
            newer = sum(other > step for other in steps)
            known = [s for s in steps if accuracies[s] is not None]
            better = sum(
                (accuracies[s], -s) > (accuracies[step], -step) for s in known if step in known
            )
            assert (step in kept) == (newer < last or (step in known and better < best))


def test_what_is_damaged_or_ahead_of_the_journal_takes_no_place(run):
    """The journal was torn at step 20, so that 25 and 30 are of a future that is gone."""
    (run.checkpoints / "11" / "note" / "metadata").write_text("{")
    torn = run.with_journal(records=run.journal.records[:20])
    warnings = torn.assert_rebuilt(10, 20)
    assert warnings == [
        f"{run.checkpoints}/11: is damaged or was never whole; going on without this checkpoint"
    ]
    run.save(24, keep_last=2)
    assert saved_steps(run.checkpoints) == [10, 24]
    assert run.assert_rebuilt(24) == []


def test_a_checkpoint_of_steps_that_are_done_again_is_replaced(run):
    records = run.journal.records.copy()
    records["projected_grad"][28:] *= 2
    again = run.with_journal(records=records)
    [warning] = again.rebuilt()[3]
    assert "/30: the journal tells of other steps than led to it; going on without" in warning
    rewrite_journal(run, records)
    writer = run.writer()
    writer.save(30, *again.reached(30))
    writer.wait()
    again = run.with_journal(records=read_journal(run.journal.path).records)
    weights, state, source, warnings = again.rebuilt()
    assert (source, warnings) == (30, [])
    assert_same_bits((weights, state), again.reached(STEPS))
    assert saved_steps(run.checkpoints) == list(SAVED)


def test_checkpoints_of_another_history_take_no_place(run):
    records = run.journal.records.copy()
    records["projected_grad"][8:] *= 2
    rewrite_journal(run, records)
    again = run.with_journal(records=read_journal(run.journal.path).records)
    again.save(28, keep_last=2)
    assert saved_steps(run.checkpoints) == [7, 28]
    assert again.assert_rebuilt(28) == []


def rewrite_journal(run: Run, records: np.ndarray) -> None:
    """The run's journal with other scalars."""
    path = run.journal.path
    path.unlink()
    writer = JournalWriter.create(path, run.journal.header)
    names = {"learning_rate": "learning_rates", "projected_grad": "projected_grads"}
    fields = ("key_data", "learning_rate", "projected_grad", "losses", "flags")
    writer.append(0, **{names.get(name, name): records[name] for name in fields})
    writer.close()


# Whose they are


def refusal(run: Run, step: int = 30) -> str:
    """Why the newest checkpoint is not used; what is used instead has the run's bits."""
    [warning] = run.assert_rebuilt(25 if step == 30 else 30)
    start, end = f"{run.checkpoints}/{step}: ", "; going on without this checkpoint"
    assert warning.startswith(start)
    assert warning.endswith(end)
    return warning.removeprefix(start).removesuffix(end)


def test_another_runs_checkpoint_is_refused(run, tmp_path):
    other = make_run(tmp_path / "other", seed=1, replay=run.replay)
    other.save(30)
    shutil.rmtree(run.checkpoints / "30")
    shutil.copytree(other.checkpoints / "30", run.checkpoints / "30")
    assert refusal(run) == "is a checkpoint of another run, with other settings"
    run.save(31, keep_last=1)
    assert saved_steps(run.checkpoints) == [30, 31]  # not ours to remove


def test_a_checkpoint_of_another_base_model_is_refused(run):
    change_note(run, 30, base_hash="0123")
    assert refusal(run) == "is a checkpoint of another run, with another base model"


def test_a_checkpoint_under_another_steps_name_is_refused(run):
    (run.checkpoints / "25").rename(run.checkpoints / "33")
    assert refusal(run, 33) == "is the checkpoint of step 25"


def test_a_checkpoint_of_a_later_format_is_refused_and_stays(run):
    change_note(run, 30, format=2)
    assert refusal(run) == "has format 2; this zojax reads 1"
    run.save(31, keep_last=1)
    assert saved_steps(run.checkpoints) == [30, 31]


def test_a_checkpoint_without_the_weights_that_were_folded_is_refused(run):
    path = run.checkpoints / "30" / "note" / "metadata"
    hashes = json.loads(path.read_text())["hashes"]
    change_note(run, 30, hashes={"state": hashes["state"]})
    assert refusal(run) == "holds no weights, unlike the run"


def test_a_state_of_another_step_is_refused(run):
    shutil.rmtree(run.checkpoints / "30" / "state")
    shutil.copytree(run.checkpoints / "25" / "state", run.checkpoints / "30" / "state")
    assert refusal(run) == "its state are not those that were saved"
    hashes = json.loads((run.checkpoints / "25" / "note" / "metadata").read_text())["hashes"]
    own = json.loads((run.checkpoints / "30" / "note" / "metadata").read_text())["hashes"]
    change_note(run, 30, hashes={**own, "state": hashes["state"]})
    assert refusal(run) == "holds the state after step 25"


def change_note(run: Run, step: int, **changes: Any) -> None:
    """Forges a note, checksum and all."""
    path = run.checkpoints / str(step) / "note" / "metadata"
    note = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(seal(note)))


def test_only_directories_named_like_steps_are_checkpoints(run):
    for name in ("007", "x", "-5", "٣", "31.orbax-checkpoint-tmp", ".32-removed", "33.0"):
        (run.checkpoints / name).mkdir()
    (run.checkpoints / "34").write_text("a file")
    assert saved_steps(run.checkpoints) == list(SAVED)
    assert saved_steps(run.checkpoints / "34") == saved_steps(run.checkpoints / "none") == []
    assert run.assert_rebuilt(30) == []


# Damage


def files_of(run: Run, step: int) -> list[Path]:
    return sorted(path for path in (run.checkpoints / str(step)).rglob("*") if path.is_file())


@functools.cache
def reached_in_the_end(run: Run) -> tuple[Tree, TrainState]:
    return run.reached(STEPS)


def assert_bits_or_fallback(run: Run) -> bool:
    """Asserts that a resume has the run's bits; gives whether it used the newest checkpoint."""
    weights, state, source, warnings = run.rebuilt()
    assert_same_bits((weights, state), reached_in_the_end(run))
    assert source == (25 if warnings else 30)
    assert all(f"{run.checkpoints}/30: " in warning for warning in warnings)
    return not warnings


@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_missing_or_cut_file_is_noticed_or_harmless(run, damage):
    used = []
    for path in files_of(run, 30):
        data = path.read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(data[: len(data) // 2] if damage == "half" else b"")
        used.append(assert_bits_or_fallback(run))
        path.write_bytes(data)
    assert len(used) > 10
    assert not all(used)
    assert assert_bits_or_fallback(run)


def test_a_flipped_byte_is_noticed_or_harmless(run):
    rng, used = random.Random(0), {}
    arrays = max(files_of(run, 30), key=lambda path: path.stat().st_size)
    for path in files_of(run, 30):
        data = path.read_bytes()
        for _ in range(20 if path == arrays else 2):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            used.setdefault(path, []).append(assert_bits_or_fallback(run))
        path.write_bytes(data)
    assert not any(used[run.checkpoints / "30" / "note" / "metadata"])
    assert sum(used[arrays]) < 4  # a few bytes are of headers that nobody reads


def test_arrays_with_other_bytes_are_refused_although_they_can_be_read(run):
    """What no checksum of a file format would find: whole files with a flipped bit of a weight."""
    weights, _ = run.reached(30)
    flat = traverse_util.flatten_dict(weights)
    flipped = np.array(flat["layers", "fc1", "weight"])
    flipped.view(np.uint16)[1, 2, 3] ^= 1
    flat["layers", "fc1", "weight"] = flipped
    shutil.rmtree(run.checkpoints / "30" / "weights")
    with ocp.StandardCheckpointer() as checkpointer:
        tree = traverse_util.unflatten_dict(flat)
        checkpointer.save(run.checkpoints.absolute() / "30" / "weights", tree)
    assert refusal(run) == "its weights are not those that were saved"


def test_with_no_good_checkpoint_the_base_is_read_again(run):
    for step in SAVED:
        for path in (run.checkpoints / str(step) / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    warnings = run.assert_rebuilt(0)
    assert [re.findall(r"/(\d+): cannot be read \(", warning) for warning in warnings] == [
        [str(step)] for step in reversed(SAVED)
    ]
    assert all("\n" not in warning for warning in warnings)


@pytest.fixture
def moments(run, tmp_path, monkeypatch) -> list[Path]:
    """Grows by a copy of the run's checkpoints before each call that changes a directory."""
    for step in SAVED[:-2]:  # fewer files
        shutil.rmtree(run.checkpoints / str(step))
    copies: list[Path] = []
    seen, lock, busy = set(), threading.Lock(), threading.local()

    def copy() -> None:
        names = frozenset(str(p.relative_to(run.directory)) for p in run.directory.rglob("*"))
        if names not in seen:
            seen.add(names)
            copies.append(tmp_path / f"killed{len(copies)}")
            shutil.copytree(run.checkpoints, copies[-1] / "checkpoints")

    def watch(real: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not getattr(busy, "copying", False):
                with lock, suppress(OSError):  # TensorStore's threads go on meanwhile
                    busy.copying = True
                    copy()
                busy.copying = False
            return real(*args, **kwargs)

        return watched

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
        monkeypatch.setattr(os, name, watch(getattr(os, name)))
    return copies


def test_whenever_a_kill_comes_the_files_it_leaves_restore_the_run(run, moments, monkeypatch):
    """While a checkpoint is written, one is replaced, and old ones are removed."""
    writer = run.writer(keep_last=1)
    reached = {step: run.reached(step) for step in (30, 33)}
    sources = []
    for step, (weights, state) in reached.items():
        writer.save(step, weights, state)
        writer.wait()
    monkeypatch.undo()
    for directory in moments:
        left = dataclasses.replace(run, directory=directory)
        weights, state, source, _ = left.rebuilt()
        assert_same_bits((weights, state), reached_in_the_end(run))
        left.writer()  # tidies up
        left_steps = saved_steps(left.checkpoints)
        assert {path.name for path in left.checkpoints.iterdir()} == set(map(str, left_steps))
        if source == 33:  # no older one is half removed
            assert left.rebuilt(left_steps[0])[2:] == (left_steps[0], [])
        sources.append((source, left_steps[-1]))
    assert len(moments) > 30
    # Only while 30 is replaced is it missed, and then the one that it replaces comes back.
    assert {(30, 30), (25, 30), (33, 33)} == set(sources)
    assert sources == sorted(sources, key=lambda pair: pair[1])


# When they cannot be written


def run_child(code: str, *arguments: object, **kwargs: Any) -> subprocess.Popen:
    """Another Python with ``here``, this module; its standard error and output are piped."""
    load = "import sys; sys.path.insert(0, sys.argv[1]); import test_checkpoint as here\n"
    code = code.replace("# import here\n", load)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


MESHES = """
import json, sys
import zojax.training.train, zojax.training.checkpoint
lazy = not any(name.split(".")[0] in ("orbax", "tensorstore") for name in sys.modules)
# import here
import resource
from pathlib import Path
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import numpy as np

run = here.make_run(Path(sys.argv[2]))
weights, state = run.reached(7)  # before the first fold, which need not be compiled then

def shardings(shape):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
    matrix, layers = NamedSharding(mesh, P("data", "model")), NamedSharding(mesh, P(None, "data"))
    of_weights = {"embed_tokens": {"weight": matrix}, "layers": {"fc1": dict.fromkeys(
        ("weight", "bias"), layers)}}
    return of_weights, jax.tree.map(lambda _: NamedSharding(mesh, P()), state)

writer = run.writer()
writer.save(7, *jax.device_put((weights, state), shardings((2, 2))))
writer.wait()
abstract = jax.tree.map(
    lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
    (weights, state), shardings((4, 1)))
restored = here.restore(run.checkpoints, 7, run.journal, *abstract)
here.assert_same_bits(restored, (weights, state))
shards = restored[0]["embed_tokens"]["weight"].addressable_shards

resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
writer.save(9, weights, state)
writer.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
failed = [run.told.copy(), here.saved_steps(run.checkpoints)]

damaged = []
for path in here.files_of(run, 7):
    data = path.read_bytes()
    for cut in (0, len(data) // 2):
        path.write_bytes(data[:cut])
        try:
            here.restore(run.checkpoints, 7, run.journal, *abstract)
        except here.InputError as error:
            damaged.append(str(error))
    path.write_bytes(data)
print(json.dumps([lazy, [shard.data.shape for shard in shards], failed, damaged]))
"""


@pytest.fixture(scope="module")
def on_meshes(tmp_path_factory) -> tuple[Path, list[Any], str]:
    """The directory of a run on four devices, what it found, and its standard error."""
    directory = tmp_path_factory.mktemp("meshes") / "run"
    flags = "--xla_force_host_platform_device_count=4"
    process = run_child(MESHES, directory, env={**os.environ, "XLA_FLAGS": flags})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return directory, json.loads(out), err


def test_a_checkpoint_of_one_mesh_is_restored_on_another(on_meshes):
    _, (_, shards, *_), _ = on_meshes
    assert shards == [[75, 16]] * 4  # all the bits were compared there


def test_files_that_the_system_refuses_are_a_warning(on_meshes):
    directory, (*_, failed, _), _ = on_meshes
    [warning], steps = failed
    assert f"{directory}/checkpoints/9: the checkpoint failed (" in warning
    assert "File too large); training goes on" in warning
    assert steps == [7]


def test_orbax_is_not_imported_without_need_and_says_nothing(on_meshes):
    """Not even when its files cannot be written or read."""
    directory, (lazy, *_, damaged), err = on_meshes
    assert lazy
    assert len(damaged) > 5
    assert all(warning.startswith(f"{directory}/checkpoints/7: ") for warning in damaged)
    assert err == ""


HANGING = """
# import here
import signal, threading
from pathlib import Path

run = here.make_run(Path(sys.argv[2]))
here.ocp.Checkpointer.save = lambda *args, **kwargs: threading.Event().wait()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
writer = run.writer()
writer.save(7, None, run.reached(0)[1])
assert not writer.wait(0.01)
print("saving", flush=True)
writer.wait()
"""


def test_a_disk_that_hangs_does_not_keep_a_terminated_run_alive(tmp_path):
    process = run_child(HANGING, tmp_path / "run")
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (75, "")


@pytest.fixture
def failing(monkeypatch) -> Iterator[list[str]]:
    """Orbax's disk is full, once half of a checkpoint is on it, as long as the list is not."""
    causes: list[str] = []
    real = ocp.StandardCheckpointHandler.finalize

    def finalize(self: Any, directory: Any) -> None:
        if causes:
            raise OSError(28, causes[0])
        real(self, directory)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", finalize)
    return causes


def test_a_checkpoint_that_fails_is_one_warning_and_costs_no_other(run, failing):
    writer = run.writer(keep_last=1)
    failing.append("No space left on device")
    for step in (31, 32, 30):  # the last of them is there already, and good
        writer.save(step, *run.reached(step))
        writer.wait()
        assert saved_steps(run.checkpoints) == list(SAVED)
        assert len(list(run.checkpoints.iterdir())) == len(SAVED)
    assert warnings_of(run) == [
        f"{run.checkpoints}/31: the checkpoint failed (No space left on device); "
        "training goes on, and the journal keeps every step"
    ]
    assert run.assert_rebuilt(30) == []
    failing.clear()
    writer.save(33, *run.reached(33))
    writer.wait()
    assert saved_steps(run.checkpoints) == [33]
    failing.append("again")
    writer.save(34, *run.reached(34))
    writer.wait()
    assert len(warnings_of(run)) == 1
    assert run.assert_rebuilt(33) == []


def only_warning(run: Run, step: int = 30) -> str:
    """What is told when a run without checkpoints cannot save this one."""
    writer = run.writer()
    writer.save(step, *run.reached(min(step, STEPS)))
    writer.wait()
    [warning] = warnings_of(run)
    assert saved_steps(run.checkpoints) == []
    return warning


def test_a_checkpoint_leaves_the_journal_room_on_the_disk(empty, monkeypatch):
    usage = shutil.disk_usage(empty.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16_000_000))
    room = "/30: the checkpoint failed (it takes 0 MB, and of the 16 MB that are free 17 are left"
    assert room in only_warning(empty)


def test_a_place_that_cannot_be_written_is_a_warning(empty):
    empty.checkpoints.write_text("a file")
    assert "/30: the checkpoint failed (File exists)" in only_warning(empty)
    assert empty.assert_rebuilt(0) == []


def test_a_step_without_its_record_gets_no_checkpoint(empty):
    reason = f"the checkpoint failed (the journal has {STEPS} steps only)"
    assert reason in only_warning(empty, STEPS + 1)


def test_an_unreadable_checkpoint_is_an_input_error(saved):
    _, state = saved.reached(0)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    with pytest.raises(InputError, match=r"/8: is damaged or was never whole"):
        restore(saved.checkpoints, 8, saved.journal, None, abstract)
