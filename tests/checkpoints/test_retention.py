"""Which checkpoints stay, and which go when a newer one is safe."""

import random

import numpy as np
import pytest

from tests.bits import assert_same_bits
from tests.checkpoints.runs import SAVED, STEPS, Run
from zojax.checkpoints.arrays import saved_steps
from zojax.checkpoints.disk import kept_steps
from zojax.journal.file import JournalWriter, read_journal


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
        f"{run.checkpoints}/11: is damaged or incomplete; continuing without this checkpoint"
    ]
    run.save(24, keep_last=2)
    assert saved_steps(run.checkpoints) == [10, 24]
    assert run.assert_rebuilt(24) == []


def test_a_checkpoint_of_steps_that_are_done_again_is_replaced(run):
    records = run.journal.records.copy()
    records["projected_grad"][28:] *= 2
    again = run.with_journal(records=records)
    [warning] = again.rebuilt()[3]
    assert "/30: the journal has other steps than those that led to it; continuing" in warning
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
    writer = JournalWriter.create(path, run.journal.header.as_dict())
    names = {"learning_rate": "learning_rates", "projected_grad": "projected_grads"}
    fields = ("key_data", "learning_rate", "projected_grad", "losses", "flags")
    writer.append(0, **{names.get(name, name): records[name] for name in fields})
    writer.close()
