"""The table of OPT-13B: its values against the papers, and the commands that take its rows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from zojax.config import from_dict, to_dict
from zojax.config.loading import config_names, load_config
from zojax.hub import load
from zojax.runs.setup import load_data
from zojax.tasks.dataset import TASKS, get_sizes
from zojax.training.method import make_method, objective_name
from zojax.training.step import init_state

TABLE = Path(__file__).parents[2] / "configs" / "opt13b_table.py"
METHODS = ("lozo", "mezo", "mezo-lora", "mezo-prefix", "zero-shot", "icl")
TRAINED = METHODS[:4]

# MeZO's paper, table 16 (the second grid is that of SQuAD and DROP), and the README of LoZO's code.
LEARNING_RATES = {
    "lozo": ({1e-6, 1e-7}, {1e-6, 1e-7}),
    "mezo": ({1e-6, 1e-7}, {1e-6, 5e-7, 1e-7}),
    "mezo-lora": ({1e-4, 5e-5}, {1e-4, 5e-5, 1e-5}),
    "mezo-prefix": ({1e-2, 1e-3}, {5e-2, 1e-2, 5e-3}),
}
EPSILON = {"lozo": 1e-3, "mezo": 1e-3, "mezo-lora": 1e-2, "mezo-prefix": 1e-1}


@pytest.fixture(scope="module")
def table():
    return {name: load_config(f"{TABLE}:{name}") for name in config_names(str(TABLE))}


# --- The table


def test_the_table_has_every_task_under_every_method(table):
    assert set(table) == {f"{task}-{method}" for task in TASKS for method in METHODS}
    assert len(table) == 66
    for name, config in table.items():
        assert config.data.task == name.partition("-")[0]


def test_its_file_is_short_and_says_how_to_run_it_and_how_long_that_takes():
    text = TABLE.read_text()
    assert len(text.splitlines()) < 80
    docstring = text.split('"""')[1]
    references = re.findall(rf"--config configs/{TABLE.name}:(\S+)", docstring)
    assert references
    assert set(references) <= set(config_names(str(TABLE)))
    assert "hours" in docstring


def test_its_configurations_survive_json_and_have_a_directory_each(table):
    for config in table.values():
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert len({config.run.dir for config in table.values()}) == len(table)


def test_what_all_rows_share_is_as_in_the_authors_scripts(table):
    for name, config in table.items():
        assert (config.model.path, config.model.bos_token_id) == ("facebook/opt-13b", 0)
        assert config.model.dtype == ("float16" if name.endswith("-mezo") else "bfloat16")
        data = config.data
        assert (data.seed, data.truncate, data.max_length) == (0, "left", 2048)
        assert (data.path, data.calibration, data.shuffle_labels) == (None, "none", False)


@pytest.mark.parametrize("method", TRAINED)
def test_training_is_within_the_published_grids(table, method):
    for task in TASKS:
        config = table[f"{task}-{method}"]
        train, estimator = config.train, config.estimator
        assert (train.steps, train.batch_size, train.eval_every) == (20_000, 16, 4_000)
        assert (train.schedule, train.optimizer, train.weight_decay) == ("constant", "sgd", 0)
        grid = LEARNING_RATES[method][task in ("squad", "drop")]
        assert train.learning_rate in grid
        assert (estimator.epsilon, estimator.num_queries) == (EPSILON[method], 1)
        assert config.data.num_demos == 0
        if method == "lozo":
            assert (estimator.rank, estimator.interval) in {(1, 50), (1, 100), (2, 50), (2, 100)}
            assert (config.space.name, estimator.scale) == ("full", "none")


def test_rows_whose_settings_the_authors_name_have_them(table):
    assert table["wsc-mezo"].train.learning_rate == 1e-7
    assert table["wic-mezo"].train.learning_rate == 1e-6
    lozo = table["drop-lozo"]  # the values that lozo.sh stands at
    assert (lozo.train.learning_rate, lozo.estimator.rank, lozo.estimator.interval) == (
        1e-7,
        1,
        100,
    )
    lozo = table["sst2-lozo"]  # its README's command
    assert (lozo.train.learning_rate, lozo.estimator.rank, lozo.estimator.interval) == (1e-7, 2, 50)


def test_zero_shot_and_icl_train_nothing_and_show_none_or_32_demonstrations(table):
    for task in TASKS:
        for method, demonstrations in (("zero-shot", 0), ("icl", 32)):
            config = table[f"{task}-{method}"]
            assert (config.train.steps, config.data.num_demos) == (0, demonstrations)


def test_tasks_are_trained_and_measured_as_in_the_authors_scripts(table):
    """mezo.sh turns cross-entropy off for four tasks; tasks.py has F1 for the last two alone."""
    for task in TASKS:
        config = table[f"{task}-mezo"]
        by_likelihood = task in ("copa", "record", "squad", "drop")
        expected = "likelihood" if by_likelihood else "classification"
        assert objective_name(config, TASKS[task]) == expected
        metric = config.data.metric or TASKS[task].metric
        assert metric == ("f1" if task in ("squad", "drop") else "accuracy")


def test_sizes_are_those_of_the_authors_scripts(table):
    for name, config in table.items():
        task = name.partition("-")[0]
        sizes = get_sizes(config.data, TASKS[task])
        assert (sizes.train, sizes.eval) == (1000, 1000)
        assert sizes.dev == (100 if task in ("cb", "copa") else 500)


@pytest.mark.parametrize("method", TRAINED)
def test_each_way_to_train_moves_what_its_paper_says(table, tiny_model, method):
    """On 2 layers of width 16 with 1024 tokens and 64 positions."""
    model = load(str(tiny_model), dtype=jnp.float32)
    built = make_method(table[f"sst2-{method}"], model)
    state = jax.eval_shape(lambda: init_state(built, model.weights, jax.random.key(0)))
    shapes = [leaf.shape for leaf in jax.tree.leaves((state.params, state.subspace))]
    assert built.learning_rates.shape == (20_000,)
    if method == "lozo":  # U and V, for the six matrices of the layers and two tables of embeddings
        assert built.interval == 50
        matrices = [shape for shape in shapes if shape[-1] == 2]
        assert len(matrices) == 2 * (6 + 2)
    elif method == "mezo":  # a direction is redrawn, scored and folded every step
        assert built.interval == 1
    elif method == "mezo-lora":  # A and B, r = 8, on q and v
        assert built.interval == 0
        assert len(shapes) == 4
        assert all(8 in shape for shape in shapes)
    else:  # 5 keys and 5 values a layer, of width 16
        assert built.interval == 0
        assert sum(jnp.prod(jnp.array(shape)).item() for shape in shapes) == 2 * 2 * 5 * 16


# --- Commands that take one of many


@pytest.fixture
def tiny(tiny_model, tiny_reviews) -> list[str]:
    """Arguments that put the tiny model and tiny reviews into a row of the table."""
    sizes = [f"data.num_{split}=4" for split in ("train", "dev", "eval")]
    settings = [f"model.path={tiny_model}", "model.dtype=float32", f"data.path={tiny_reviews}"]
    return [piece for setting in (*settings, *sizes) for piece in ("--set", setting)]


def test_a_preview_takes_one_of_many(run, tiny):
    code, out, err = run(
        "data", "preview", "--config", f"{TABLE}:sst2-icl", "--json", "-n", 1, *tiny
    )
    assert (code, err) == (0, "")
    [example] = json.loads(out)["shown"]
    assert example["dropped"] > 0, "32 demonstrations are more than the 64 tokens that fit"


def test_what_trains_nothing_is_evaluated(run, tiny, tiny_model):
    """Against transformers' ranking, one candidate at a time."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    arguments = [*tiny, "--set", "data.num_eval=24"]
    code, out, _ = run("eval", "--config", f"{TABLE}:sst2-icl", "--json", *arguments)
    assert code == 0
    told = json.loads(out)
    assert (told["metric"], told["eval_examples"]) == ("accuracy", 24)
    config = load_config(f"{TABLE}:sst2-icl", [text for text in arguments if text != "--set"])
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model).eval()

    def mean_logprob(prompt, candidate) -> float:
        ids = torch.tensor([[*prompt.tolist(), *candidate.tolist()]])
        with torch.no_grad():
            logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return logprobs[range(len(candidate)), candidate.tolist()].mean().item()

    items = load_data(config).eval
    ranked = [[mean_logprob(item.prompt, c) for c in item.candidates] for item in items]
    right = [
        scores.index(max(scores)) == item.label for scores, item in zip(ranked, items, strict=True)
    ]
    assert told["eval_accuracy"] == pytest.approx(sum(right) / 24)
    assert min(abs(one - other) for one, other in ranked) > 1e-3, "or rounding would decide"


def test_training_refuses_what_trains_nothing(run, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(run("train", "--config", f"{TABLE}:cb-zero-shot"))
    assert message.startswith("train.steps=0 trains nothing: zojax eval --config")
    assert list(tmp_path.iterdir()) == []


def test_the_training_script_takes_one_of_many(root):
    command = [sys.executable, "scripts/train.py", "--config", f"{TABLE}:sst2-loso"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.endswith("no configuration 'sst2-loso'; did you mean 'sst2-lozo'?\n")
