"""The run's bits from each of its checkpoints, and what is in them."""

from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from tests.bits import assert_same_bits, copied
from tests.checkpoints.runs import SAVED, STEPS, make_run
from zojax.checkpoints import note as checkpoint_note
from zojax.checkpoints.arrays import saved_steps
from zojax.checkpoints.reader import checked_note
from zojax.errors import InputError
from zojax.journal.file import Journal
from zojax.journal.segments import header_key
from zojax.models import content_hash
from zojax.programs.compiling import CompilationCounter
from zojax.runs.rebuild import Saved, rebuild
from zojax.training.interval import OwnedWeights

# The bits of users' programs.
pytestmark = pytest.mark.usefixtures("compiled_once")


def test_a_checkpoint_has_the_bits_although_its_arrays_were_donated_at_once(empty):
    writer, key, start, reached = empty.writer(), header_key(empty.journal), None, {}
    owned = OwnedWeights(copied(empty.base))
    for first, last in zip((0, *SAVED), SAVED, strict=False):
        records = empty.journal.records[first:last]
        owned, start = empty.replay(owned, key, records, start=start)
        weights = owned.weights
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
    rebuild(
        saved.journal,
        saved.method,
        OwnedWeights(copied(saved.base)),
        Saved(saved.checkpoints, pytest.fail, pytest.fail),
        replay=saved.replay,
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
    assert stored == {7: False, 10: True, 11: True, 25: True, 30: True}


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
    rebuilt, *_ = rebuild(
        saved.journal,
        saved.method,
        OwnedWeights(weights),
        Saved(saved.checkpoints, pytest.fail, pytest.fail),
        replay=saved.replay,
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
    rebuild(
        saved.journal,
        saved.method,
        OwnedWeights(weights),
        Saved(saved.checkpoints, pytest.fail, pytest.fail),
        replay=saved.replay,
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
        "format": 2,
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


def test_an_unreadable_checkpoint_is_an_input_error(saved):
    with pytest.raises(InputError, match=r"/8: is damaged or incomplete"):
        checked_note(saved.checkpoints, 8, saved.journal, False)


def test_the_journal_is_digested_once_for_a_checkpoint(saved, monkeypatch):
    digested = []
    real = checkpoint_note.digest

    def spy(journal: Journal, steps: int) -> str:
        digested.append(steps)
        return real(journal, steps)

    monkeypatch.setattr(checkpoint_note, "digest", spy)
    assert saved.assert_rebuilt(30) == []
    assert digested == [30]
