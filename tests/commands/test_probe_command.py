"""``zojax probe``: a map of the tiny model, by gradients and by forward passes."""

import json

import pytest

ARGUMENTS = ("--batches", "4", "--bands", "2", "--set", "train.batch_size=4")


@pytest.mark.parametrize("how", [["--gradients"], ["--directions", "2"]])
def test_the_map_has_every_matrix_in_every_band(run, config_file, tmp_path, how):
    output = tmp_path / "probe"
    code, out, err = run("probe", "--config", config_file, *ARGUMENTS, *how, "--output", output)
    assert code == 0, err
    told = json.loads((output / "probe.json").read_text())
    names = ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj", "all of them"]
    assert list(told["sites"]) == names
    assert told["bands"] == ["0", "1", "0-1"]
    assert all(len(cells) == 3 for cells in told["sites"].values())
    assert told["sites"]["all of them"][-1]["relative"] in (1.0, -1.0)
    assert told["suggested"] is None
    assert len(told["offsets"]) == 2
    assert (output / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert ("all together = 1.00" in out) == told["all"]["agrees"]
    assert ("this map is noise" in out) != told["all"]["agrees"]
    assert "out_proj" in out


def test_what_is_told_as_json_is_what_is_written(run, config_file, tmp_path):
    arguments = ("probe", "--config", config_file, *ARGUMENTS, "--gradients", "--json")
    _, out, _ = run(*arguments, "--output", tmp_path / "probe")
    assert json.loads(out) == json.loads((tmp_path / "probe" / "probe.json").read_text())


@pytest.mark.parametrize(
    "setting",
    ["estimator.name=mezo", "estimator.name=fzoo", "space.fold=adapter", "space.targets=[fc1]"],
)
def test_all_matrices_are_measured_whatever_method_trains_which(run, config_file, setting):
    arguments = ("probe", "--config", config_file, *ARGUMENTS, "--gradients", "--json")
    code, out, err = run(*arguments, "--set", setting)
    assert code == 0, err
    assert len(json.loads(out)["sites"]) == 7


NORMS = ["final_layer_norm", "final_layer_norm bias"]
SPACES = {
    "full": ["fc1", "fc1 bias", *NORMS, "q_proj", "q_proj bias"],
    "lora": ["q_proj lora_A", "q_proj lora_B", "v_proj lora_A", "v_proj lora_B"],
    "prefix": ["prefix k", "prefix v"],
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("how", ["--gradients", "--directions=2"])
def test_every_space_has_a_map_without_a_learning_rate(run, config_file, space, how):
    arguments = ("probe", "--config", config_file, *ARGUMENTS, how, "--json")
    code, out, err = run(*arguments, "--set", f"space.name={space}")
    assert code == 0, err
    told = json.loads(out)
    assert set(SPACES[space]) <= set(told["sites"])
    assert told["suggested"] is told["all"]["learning_rate"] is None
    for name, cells in told["sites"].items():
        is_moving = any(cell["c_squared"] for cell in cells)
        # B is zero, so that nothing of A matters yet, and a softmax does not see keys' bias.
        assert is_moving or name.endswith("lora_A") or name == "k_proj bias", name
        assert not (is_moving and name.endswith("lora_A")), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "3"], "--batches 3: give 4 or more"),
        (["--batches", "900"], "are needed where there are"),
        (["--bands", "0"], "--bands 0: give 1 or more"),
        (["--directions", "1"], "--directions 1: give 2 or more"),
        (["--set", "train.objective=accuracy"], "has no gradient"),
        (["--gradients"], "tokens cannot be differentiated"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line_before_a_model_is_loaded(
    run, refusal, config_file, arguments, message, monkeypatch
):
    monkeypatch.setattr("zojax.runs.setup.load_model", lambda config: pytest.fail("loads a model"))
    monkeypatch.setattr("zojax.runs.probe._LONGEST_PAGE", 8)
    done = run("probe", "--config", config_file, *ARGUMENTS, *arguments)
    assert message in refusal(done)
