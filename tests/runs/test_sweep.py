"""A sweep: which points there are, which go on, and that it goes on where it was stopped."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from zojax.cli import main
from zojax.config import Config, apply_overrides, to_dict
from zojax.errors import InputError
from zojax.journal.file import read_journal
from zojax.runs import sweep as module
from zojax.runs.compared import read_run
from zojax.runs.sweep import Point, points_of, rungs_of, sweep

GRID = [("train.learning_rate", ["1e-2", "1e-3", "1e-4"])]


@pytest.fixture(scope="module")
def config(short_config) -> Config:
    return apply_overrides(short_config, ["train.chunk=1"])


def done(directory: Path) -> int:
    return len(read_journal(directory / "journal.zj").records)


@pytest.fixture(scope="module")
def swept(config, tmp_path_factory) -> tuple[list[Point], list[Point], list[str]]:
    """The points, those that came to the end, and what was told."""
    told: list[str] = []
    points = points_of(config, GRID, tmp_path_factory.mktemp("sweep"))
    return points, sweep(points, [1, 2, 4], Console(quiet=True), told.append), told


def test_the_better_half_goes_on_each_time(swept):
    points, ended, told = swept
    runs = {point.name: read_run(Path(point.config.run.dir)) for point in points}
    assert sorted(run.steps for run in runs.values()) == [1, 2, 4]
    assert [run.result is not None for run in runs.values()].count(True) == 1
    [best] = ended
    assert runs[best.name].steps == 4
    first = {name: run.progress.dev[1] for name, run in runs.items()}
    assert first[next(name for name, run in runs.items() if run.steps == 1)] == min(first.values())
    assert len(told) == 3 + 2 + 1
    assert told[0] == "step 1 of 4, point 1 of 3: learning_rate=1e-2"


def test_a_sweep_that_is_done_trains_nothing_more_and_says_the_same(swept, monkeypatch):
    points, ended, _ = swept
    monkeypatch.setattr(module, "Training", None)
    assert sweep(points, [1, 2, 4], Console(quiet=True), lambda line: None) == ended


def test_a_larger_grid_goes_on_with_the_runs_that_there_are(swept, config):
    points, *_ = swept
    place = Path(points[0].config.run.dir).parent
    more = points_of(config, [("train.learning_rate", ["1e-2", "1e-3", "1e-4", "3e-2"])], place)
    ended = sweep(more, [2, 4], Console(quiet=True), lambda line: None)
    assert len(ended) == 2
    assert done(place / "learning_rate=3e-2") >= 2


def test_a_point_that_diverges_falls_behind_and_the_others_go_on(config, tmp_path):
    config = apply_overrides(config, ["train.nonfinite=stop"])
    grid = [("train.learning_rate", ["1e30", "1e-3"])]
    told: list[str] = []
    ended = sweep(points_of(config, grid, tmp_path), [4], Console(quiet=True), told.append)
    assert [point.name for point in ended] == ["learning_rate=1e-3", "learning_rate=1e30"]
    assert any("learning_rate=1e30 falls behind" in line for line in told)


def test_a_run_of_it_is_the_run_that_is_trained_alone(swept, config, tmp_path):
    _, [best], _ = swept
    alone = tmp_path / "alone"
    main_config = apply_overrides(best.config, [f"run.dir={alone}"])
    with module.Training(main_config) as training:
        for batch in training.batches():
            training.step(batch)
    ours, theirs = (read_journal(Path(d) / "journal.zj") for d in (best.config.run.dir, alone))
    assert len(ours.records) == 4
    for scalars in ("losses", "projected_grad", "learning_rate"):
        assert ours.records[scalars].tobytes() == theirs.records[scalars].tobytes()


def test_all_combinations_are_points_with_names_of_their_own(config, tmp_path):
    points = points_of(config, [*GRID, ("estimator.rank", ["1", "2"])], tmp_path)
    assert [point.name for point in points][:3] == [
        "learning_rate=1e-2,rank=1",
        "learning_rate=1e-2,rank=2",
        "learning_rate=1e-3,rank=1",
    ]
    assert len({point.config.run.dir for point in points}) == len(points) == 6
    assert to_dict(points[1].config)["estimator"]["rank"] == 2


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ([("train.learning_rte", ["1"])], "did you mean"),
        ([("train.learning_rate", ["fast"])], "train.learning_rate"),
        ([("train.seed", list(map(str, range(1001))))], "more than 1,000 points"),
        ([("train.steps", ["2", "4"])], "use --set train.steps"),
        ([("run.profile", ["true"])], "use --set run.profile"),
        ([("data.num_dev", ["2", "4"])], "compared on one dev set"),
    ],
)
def test_points_that_there_cannot_be_are_refused(grid, says, config, tmp_path):
    with pytest.raises(InputError, match=says):
        points_of(config, grid, tmp_path)


def test_every_halving_has_a_rung_as_far_as_there_are_steps():
    assert rungs_of(1000, 1) == [1000]
    assert rungs_of(1000, 2) == [500, 1000]
    assert rungs_of(1000, 8) == [125, 250, 500, 1000]
    assert rungs_of(1000, 9) == [125, 250, 500, 1000]  # and no shorter than an eighth
    assert rungs_of(3, 9, first=1) == [1, 3]


def test_the_command_prints_a_table_and_draws_and_the_other_compares(config_file, tmp_path, capsys):
    place = tmp_path / "swept"
    grid = ["--grid", "estimator.rank=1,2", "--set", "train.chunk=1", "--first", "2"]
    assert main(["sweep", "--config", str(config_file), "--output", str(place), *grid]) == 0
    told = capsys.readouterr().out
    written = json.loads((place / "sweep.json").read_text())
    assert written["rungs"] == [2, 4]
    assert f"the best on the dev set is {written['best']}" in told
    assert (place / "sweep.png").read_bytes().startswith(b"\x89PNG")
    runs = [str(place / name) for name in ("rank=1", "rank=2")]
    assert main(["compare", *runs, "--plot", str(tmp_path / "both.png")]) == 0
    table = capsys.readouterr().out
    assert "rank" in table
    assert "2 of 4" in table
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", *runs, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differing"] == {"estimator.rank": [1, 2]}
    assert sorted(run["steps"] for run in told["runs"]) == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "there-is-none"], "no such directory"),
        (["sweep", "--config", "c.py", "--output", "o", "--grid", "train.seed"], "FIELD=A,B,C"),
        (["sweep", "--config", "c.py", "--output", "o", "--grid", "a=1,1"], "has a value twice"),
        (["compare", "x", "--plot", "curves.jpg"], "ends with .png"),
    ],
)
def test_mistakes_are_one_line(arguments, says, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_no_file_but_a_picture_is_replaced(tmp_path, capsys):
    (tmp_path / "notes.png").write_text("mine")
    assert main(["compare", "x", "--plot", str(tmp_path / "notes.png")]) == 2
    assert "is no picture" in capsys.readouterr().err
    assert (tmp_path / "notes.png").read_text() == "mine"
