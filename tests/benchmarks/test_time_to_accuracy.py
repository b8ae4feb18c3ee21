"""The curves are of the same passes for every method, can be resumed, and are read as made."""

import dataclasses
import itertools

import accuracy_runs
import numpy as np
import pytest
import time_to_accuracy
from accuracy_record import Accuracies, Record, Run, Speed, read_record, write_record
from accuracy_report import chosen, difference, draw, table
from accuracy_runs import CONTENDERS, Scored, Sizes, Study, accuracies, advance

from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.training.method import check_method


@pytest.fixture
def study(tmp_path) -> Study:
    return Study("no/model", "sst2", "no/data", tmp_path, tmp_path / "record.json", passes=2000)


def same(accuracy: float, *, diverged: bool = False) -> Accuracies:
    return Accuracies(accuracy, accuracy, accuracy, accuracy, diverged)


def write(study, method, rate, seed, mark, accuracy, *, diverged=False):
    record, found = study.read(), same(accuracy, diverged=diverged)
    run = record.run(method, rate, seed)
    write_record(study.record, record.with_mark(run, mark, found))


def write_quarter(study, method, rate):
    """A run of the first seed that is a little better after a quarter of its passes."""
    write(study, method, rate, 0, 0, 0.5)
    write(study, method, rate, 0, study.marks[1], 0.51)


def test_every_method_has_the_same_passes_examples_and_number_of_rates(study):
    for method, contender in CONTENDERS.items():
        config = study.config(method, contender.rates[0], seed=1)
        check_method(config)
        assert abs(config.train.steps * contender.passes - 2000) < contender.passes
        assert (config.train.batch_size, config.train.seed, config.data.seed) == (16, 1, 1)
        assert len(contender.rates) == 3
        assert np.ptp(np.diff(np.log(contender.rates))) < 0.2
    assert study.marks == (0, 500, 1000, 2000)


def test_a_run_that_was_left_goes_on_and_a_mark_is_scored_once(
    tiny_model, tiny_reviews, tmp_path, monkeypatch
):
    monkeypatch.setitem(accuracy_runs.SIZES, "sst2", Sizes(20, 12, 12))
    scored = []
    monkeypatch.setattr(
        accuracy_runs, "accuracies", lambda *args: scored.append(args) or accuracies(*args)
    )
    path = tmp_path / "record.json"
    study = Study(str(tiny_model), "sst2", str(tiny_reviews), tmp_path, path, 8)
    key = ("lozo", 1e-2, 0)
    advance(study, *key, 4)
    assert list(study.read().run(*key).marks) == [0, 2, 4]
    for _ in range(2):
        advance(study, *key, 8)
        assert list(study.read().run(*key).marks) == [0, 2, 4, 8]
    assert len(read_journal(study.directory(*key) / JOURNAL).records) == 4
    assert [(len(dev.scores), len(held_out.scores)) for dev, held_out in scored] == [(12, 12)] * 4
    devs = [dev.scores for dev, _ in scored]
    assert min(np.abs(a - b).max() for a, b in itertools.pairwise(devs)) > 1e-4


def test_the_untrained_model_of_a_seed_is_scored_once_for_all_methods(study):
    write(study, "lozo", 1e-5, 0, 0, 0.5)
    write(study, "lozo", 1e-5, 0, 500, 0.6)
    record = study.read()
    assert record.run("fzoo", 1e-4, 0).marks == {0: same(0.5)}
    assert record.run("fzoo", 1e-4, 1).marks == {}
    assert [run.method for run in record.trained(["lozo", "fzoo"])] == ["lozo"]
    assert record.trained(["lozo"])[0].marks == {0: same(0.5), 500: same(0.6)}


def test_a_bias_towards_one_candidate_is_subtracted():
    scores = np.array([[0.0, -3.0], [0.0, -2.0], [0.0, -1.0]], np.float32)
    dev = Scored(scores, np.array([0, 0, 1]))
    found = accuracies(dev, dev)
    assert found.dev == pytest.approx(2 / 3)  # without the bias, the middle one is a tie
    assert found.dev_calibrated == 1.0
    lost = dataclasses.replace(dev, scores=np.full_like(scores, np.nan))
    assert accuracies(lost, dev).diverged
    assert not found.diverged


def test_a_record_of_another_setting_or_no_record_is_refused(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, Record("a model on sst2, 8 passes", []))
    with pytest.raises(InputError, match="is of a model on sst2, 8 passes, not of another"):
        read_record(path, "another")
    path.write_text('{"runs": 3}')
    with pytest.raises(InputError, match="is not a record"):
        read_record(path, "another")


def test_rates_far_behind_the_best_are_stopped_and_the_best_gets_the_other_seeds(study):
    slow, good, lost = CONTENDERS["lozo"].rates
    plan = time_to_accuracy.pieces(study, ["lozo"])
    right = {slow: 0.69, good: 0.7, lost: 0.6}
    for rate in (slow, good, lost):
        assert next(plan) == ("lozo", rate, 0, 500)
        write_quarter(study, "lozo", rate)
        assert next(plan) == ("lozo", rate, 0, 1000)
        write(study, "lozo", rate, 0, 1000, right[rate])
    for rate, accuracy in ((good, 0.8), (slow, 0.7)):
        assert next(plan) == ("lozo", rate, 0, 2000)
        write(study, "lozo", rate, 0, 2000, accuracy)
    assert list(plan) == [("lozo", good, seed, 2000) for seed in (1, 2)]


def test_a_rate_that_makes_the_model_worse_is_stopped_after_a_quarter_of_the_passes(study):
    slow, good, lost = CONTENDERS["lozo"].rates
    plan = time_to_accuracy.pieces(study, ["lozo"])
    for rate in (slow, good):
        assert next(plan) == ("lozo", rate, 0, 500)
        write_quarter(study, "lozo", rate)
        assert next(plan) == ("lozo", rate, 0, 1000)
        write(study, "lozo", rate, 0, 1000, 0.6)
    assert next(plan) == ("lozo", lost, 0, 500)
    write(study, "lozo", lost, 0, 500, 0.47)
    assert next(plan)[1:] in [(rate, 0, 2000) for rate in (slow, good)]
    assert time_to_accuracy.survivors(study, "lozo") == [slow, good]


def test_a_model_whose_scores_are_not_finite_is_behind_all_others(study):
    first, *others = CONTENDERS["lozo"].rates
    for rate in (first, *others):
        write_quarter(study, "lozo", rate)
    write(study, "lozo", first, 0, 1000, 1.0, diverged=True)
    for rate in others:
        write(study, "lozo", rate, 0, 1000, 0.5)
    assert time_to_accuracy.survivors(study, "lozo") == others


def made_run(method: str, rate: float, seed: int, *accuracies: float) -> Run:
    marks = zip((0, 2000, 4000), map(same, accuracies), strict=False)
    return Run(method, rate, seed, dict(marks))


RUNS = [
    made_run("lozo", 1e-5, 0, 0.5, 0.55),
    made_run("lozo", 3e-5, 0, 0.5, 0.6, 0.7),
    made_run("lozo", 3e-5, 1, 0.5, 0.6, 0.74),
    made_run("fzoo", 3e-4, 0, 0.5, 0.7, 0.8),
    made_run("fzoo", 3e-4, 1, 0.5, 0.7, 0.82),
]


def test_a_method_stands_with_its_best_rate_and_its_paired_difference():
    assert chosen(RUNS, "lozo") == RUNS[1:3]
    assert difference(RUNS[3:], RUNS[1:3]) == "+9.0 ± 1.0"  # 10 and 8 points
    lines = table(RUNS, None).splitlines()
    [lozo] = [line for line in lines if line.startswith("| LoZO | 2 ")]
    assert lozo.startswith("| LoZO | 2 | 4,000 | 72.0 ± 2.8 | 72.0 ± 2.8 |")


def test_times_are_those_to_the_accuracy_with_which_lozo_ends(tmp_path):
    speed = Speed("a machine", {"lozo": 0.3, "fzoo": 0.9}, 2.4, 1e-6)
    lines = table(RUNS, speed).splitlines()
    assert "| LoZO | 300 | 150 | 10.0 |" in lines  # 2,000 steps
    assert "| LoZO, PyTorch | 2400 | 1200 | 80.0 |" in lines
    # FZOO is at 0.72, a fifth of the way from 0.7 to 0.81, after 2,000 + 2,000 · 2/11 passes.
    [fzoo] = [line for line in lines if line.startswith("| FZOO | 900 | 100 |")]
    assert float(fzoo.split("|")[4]) == pytest.approx((2000 + 4000 / 11) / 9 * 0.9 / 60, abs=0.06)
    draw(RUNS, speed, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--passes", "7"], "give a multiple of 4"), (["--report"], "leave out --report")],
)
def test_bad_arguments_are_refused(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        time_to_accuracy.main([*arguments, "--record", str(tmp_path / "record.json")])


def test_a_method_that_is_hopeless_beside_the_others_has_one_seed(study):
    for method, figure in (("lozo", 0.8), ("mezo", 0.7)):
        for rate in CONTENDERS[method].rates:
            write_quarter(study, method, rate)
            write(study, method, rate, 0, study.screen, figure - rate)
            write(study, method, rate, 0, study.passes, figure - rate)
    planned = list(time_to_accuracy.pieces(study, ["lozo", "mezo"]))
    assert {piece.seed for piece in planned if piece.method == "mezo"} == {0}
    assert {piece.seed for piece in planned if piece.method == "lozo"} == {0, 1, 2}
    assert [p.rate for p in planned if p[0] == "mezo" and p.until == study.passes] == [1e-5]
