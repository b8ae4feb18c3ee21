"""Pages of one example each: their shapes say nothing of the data, and scores are the same."""

import runpy

import numpy as np
import pytest
from rich.console import Console

from zojax.config import apply_overrides
from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.runs.padding import padded_shape
from zojax.runs.setup import load_data, make_train_source, pack_eval_sets, prepare
from zojax.runs.train import train
from zojax.scoring import PageShape
from zojax.tasks import Splits
from zojax.tasks.dataset import get_task
from zojax.training.method import check_objective

QUIET = Console(quiet=True)
PADDED = ("train.padded_candidates=2", "data.max_length=24", "train.in_pieces=true")


@pytest.fixture
def configured(config_file, tmp_path):
    """A run by some overrides."""

    def make(*overrides: str):
        config = runpy.run_path(str(config_file))["get_config"]()
        own = [f"run.dir={tmp_path / 'run'}", "train.learning_rate=1e-2", "estimator.interval=2"]
        return apply_overrides(config, [*own, *overrides])

    return make


def test_other_data_have_the_same_shapes(configured, root):
    shapes, sizes = set(), set()
    for data in ((), (f"data.path={root}/zojax/demo/reviews", "data.truncate=left")):
        config = configured(*PADDED, *data)
        run = prepare(config, QUIET)
        source = make_train_source(config, run)
        sets = pack_eval_sets(config, run.data, run.model)
        of_sets = {(b, s.batch_size) for s in sets for p in s.packed for b, *_ in p.batches}
        shapes.add((tuple(source.abstract), *of_sets, run.scorer))
        sizes.add(max(item.num_computed for item in run.data.scored))
    assert len(sizes) == 2
    [(train_shapes, of_sets, scorer)] = shapes
    assert train_shapes == (PageShape(2, 24, 1, 2),)
    assert of_sets == (PageShape(4, 24, 1, 2), 4)
    assert (scorer.num_candidates, scorer.normalize) == (2, False)


def test_a_padded_run_learns_what_a_packed_one_does(configured, tmp_path):
    results, losses = [], []
    for name, overrides in (("packed", PADDED[-1:]), ("padded", PADDED)):
        config = configured(*overrides, f"run.dir={tmp_path / name}")
        results.append(train(config, QUIET))
        losses.append(read_journal(tmp_path / name / JOURNAL).records["losses"])
    np.testing.assert_allclose(*losses, atol=1e-5)
    for figure in ("eval_accuracy", "eval_loss", "eval_accuracy_before"):
        assert results[0][figure] == pytest.approx(results[1][figure], abs=1e-5)


def test_what_has_no_room_is_told(configured):
    with pytest.raises(InputError, match=r"has 2 candidates, but .*padded_candidates is 1"):
        load_data(configured(*PADDED, "train.padded_candidates=1"))
    config = configured(*PADDED, "data.task=squad")
    with pytest.raises(InputError, match="padded_candidates=2 is for candidates that are scored"):
        check_objective(config, Splits([], [], [], get_task(config.data)))


def test_a_candidate_that_is_too_long_is_told(configured):
    words = 'data.candidates={"0": " bad", "1": " quite unbelievably good"}'
    own = ("data.task=custom", "data.prompt={sentence}", "data.truncate=left", words)
    with pytest.raises(InputError, match=r"a candidate of 18 tokens, but .*_tokens is 1"):
        load_data(configured(*PADDED, *own))
    longer = "train.padded_candidate_tokens=18"
    items = load_data(configured(*PADDED, *own, longer)).train
    shape = padded_shape(configured(*PADDED, longer), max_positions=64, num_pages=2)
    assert shape == PageShape(2, 40, 35, 36)
    assert max(item.num_computed for item in items) <= 24 - 1 + 17


def test_pages_are_shared_evenly(configured):
    with pytest.raises(InputError, match=r"3 examples .* mesh.data=2 does not divide"):
        padded_shape(configured(*PADDED), max_positions=64, num_pages=3, multiple_of=2)
