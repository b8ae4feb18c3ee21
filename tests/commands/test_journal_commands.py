"""``zojax journal``: what is shown of a journal, what is found wrong, and the model it gives."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from rich.console import Console

from zojax.commands.journal import verify
from zojax.commands.journal_replay import in_words, replay_to
from zojax.commands.journal_show import show
from zojax.config import (
    Config,
    FullConfig,
    LoraConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    to_dict,
)
from zojax.errors import InputError
from zojax.hub import load, load_tokenizer, save
from zojax.journal.file import SKIPPED, JournalWriter, read_journal
from zojax.journal.replay import check_run, make_replay, merge, step_keys
from zojax.journal.segments import header_key
from zojax.models import content_hash, random_model
from zojax.printing import make_console
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method
from zojax.training.schedules import learning_rates

STEPS = 13


class Run(NamedTuple):
    """A run's directory and its base model's, without any training: scalars are enough."""

    directory: Path
    base: Path

    @property
    def journal(self) -> Path:
        return self.directory / "journal.zj"


def write_journal(
    path: Path, config: Config, base_hash: str, saved: Any = None, **columns: np.ndarray
) -> None:
    """A journal of :data:`STEPS` steps with random scalars, or with those that are given.

    ``saved`` is what its header holds of the configuration, if that is spelt otherwise.
    """
    key = jax.random.key(config.train.seed)
    header = {
        "config": saved or to_dict(config),
        "base_hash": base_hash,
        "key_data": jax.random.key_data(key).tolist(),
        "key_impl": "threefry2x32",
        "num_queries": 1,
        "num_variants": 2,
        "zojax": "0.1.0",
        "jax": "0.10.2",
    }
    rng = np.random.default_rng(0)
    right = {
        "key_data": step_keys(key, STEPS),
        "learning_rates": learning_rates(config.train)[:STEPS],
        "projected_grads": rng.standard_normal((STEPS, 1)),
        "losses": rng.random((STEPS, 2)),
        "flags": np.zeros(STEPS),
    }
    writer = JournalWriter.create(path, header)
    writer.append(0, **(right | columns))
    writer.close()


def make_config(base: Path) -> Config:
    return Config(
        ModelConfig(str(base)),
        RunConfig("elsewhere"),
        train=TrainConfig(steps=20, learning_rate=1e-3),
        estimator=LozoConfig(interval=5),
    )


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("run")
    base_hash = content_hash(load(str(tiny_model)).weights)
    write_journal(directory / "journal.zj", make_config(tiny_model), base_hash)
    return Run(directory, tiny_model)


@pytest.fixture
def console() -> Console:
    return make_console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    return console.file.getvalue()


def copied(run: Run, tmp_path: Path) -> Path:
    path = tmp_path / "journal.zj"
    path.write_bytes(run.journal.read_bytes())
    return path


# show


def test_show_prints_the_run_and_both_ends(run, console):
    show(run.directory, console)
    text = printed(console)
    records = read_journal(run.journal).records
    for fact in (f"{STEPS} of 20", str(run.base), "lozo: epsilon 0.001", "interval 5", "0 42"):
        assert fact in text
    shown = [line.split()[0] for line in text.splitlines() if line.strip()][-11:]
    assert shown == ["0", "1", "2", "3", "4", "…", "8", "9", "10", "11", "12"]
    assert f"{records['losses'][12, 1]:.6f}" in text.splitlines()[-1]


def test_show_prints_what_a_journal_says_as_plain_text(console, tmp_path):
    path = tmp_path / "journal.zj"
    write_journal(path, make_config(Path("[bold]base[/]")), "0f")
    show(path, console)
    assert "[bold]base[/] (float32)" in printed(console)


def test_show_as_json_is_json_with_null_for_what_is_not_finite(run, console, tmp_path):
    path = tmp_path / "journal.zj"
    losses = np.ones((STEPS, 2))
    losses[3] = [np.nan, 0.25]
    flags = np.zeros(STEPS)
    flags[3] = SKIPPED
    write_journal(path, make_config(run.base), "0123", losses=losses, flags=flags)
    show(path, console, as_json=True)
    told = json.loads(printed(console))
    assert (told["steps"], told["skipped_steps"], told["lost_steps"]) == (STEPS, 1, 0)
    assert told["header"]["base_hash"] == "0123"
    assert [record["step"] for record in told["first"] + told["last"]] == [*range(5), *range(8, 13)]
    assert told["first"][3]["losses"] == [None, 0.25]
    assert told["first"][3]["key_data"] == step_keys(jax.random.key(42), 4)[3].tolist()


def test_show_of_a_run_that_has_just_begun(run, console, tmp_path):
    path = copied(run, tmp_path)
    path.write_bytes(path.read_bytes()[: -STEPS * 40])
    show(path, console)
    assert "0 of 20" in printed(console)


# verify


def test_verify_says_ok(run, console):
    assert verify(run.journal, console) == 0
    assert printed(console) == f"OK, {STEPS} steps ({run.journal.stat().st_size} bytes)\n"


def test_verify_tells_what_a_crash_took(run, console, tmp_path):
    path = copied(run, tmp_path)
    path.write_bytes(path.read_bytes()[:-41])
    assert verify(path, console) == 1
    assert "the first 11 steps are good, 1 after them are lost" in printed(console)


def test_verify_refuses_a_damaged_middle(run, console, tmp_path):
    path = copied(run, tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-90] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"record 10 .* is damaged and 2 good records follow"):
        verify(path, console)


def altered(right: np.ndarray, step: int, value: float) -> np.ndarray:
    wrong = np.array(right)
    wrong[step] = value
    return wrong


RATES = np.full(STEPS, 1e-3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"learning_rates": altered(RATES, 7, 1.001e-3)}, "the learning rate of step 7"),
        ({"learning_rates": altered(RATES, 7, np.nan)}, "the learning rate of step 7"),
        ({"key_data": altered(step_keys(jax.random.key(42), STEPS), 12, 0)}, "the key of step 12"),
        ({"key_data": step_keys(jax.random.key(1), STEPS)}, "the key of step 0"),
        ({"flags": altered(np.zeros(STEPS), 3, 2)}, "the flags of step 3"),
    ],
)
def test_verify_refuses_records_of_another_run(columns, message, run, console, tmp_path):
    write_journal(tmp_path / "journal.zj", make_config(run.base), "0123", **columns)
    with pytest.raises(InputError, match=rf"journal\.zj: {message} cannot come from the run"):
        verify(tmp_path, console)


def test_verify_refuses_more_steps_than_the_run_has(run, console, tmp_path):
    config = make_config(run.base)
    config.train.steps, config.train.schedule = STEPS - 1, "linear"
    every = {"learning_rates": RATES, "key_data": step_keys(jax.random.key(42), STEPS)}
    write_journal(tmp_path / "journal.zj", config, "0123", **every)
    with pytest.raises(InputError, match="holds 13 steps of a run of 12"):
        verify(tmp_path, console)


# what a replay may start from


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("estimator", "rank", 3),
        ("estimator", "scale", "rms"),
        ("space", "fold", "nearest"),
        ("train", "weight_decay", 0.5),
    ],
)
def test_another_way_to_train_is_refused(part, name, value, run):
    journal, config = read_journal(run.journal), make_config(run.base)
    config.run.dir, config.model.path, config.data.path = "a", "b", "c"  # may lie anywhere
    check_run(journal, config, journal.header.base_hash)
    setattr(getattr(config, part), name, value)
    with pytest.raises(InputError, match=rf"was made with {part}\.{name} .*, not '?{value}"):
        check_run(journal, config, journal.header.base_hash)


def test_another_base_model_is_refused_with_both_hashes(run):
    journal = read_journal(run.journal)
    with pytest.raises(InputError, match=rf"{journal.header.base_hash} there and 4567 here"):
        check_run(journal, make_config(run.base), "4567")


def test_a_journal_of_before_there_was_a_space_is_read_as_it_was_meant(run, console, tmp_path):
    old = to_dict(make_config(run.base))
    fold = old.pop("space")["fold"]
    old["estimator"] |= {"trainable": "linear", "fold": fold, "lora_rank": 8, "prefix_length": 5}
    base_hash = content_hash(load(str(run.base)).weights)
    write_journal(tmp_path / "journal.zj", make_config(run.base), base_hash, saved=old)
    journal = read_journal(tmp_path / "journal.zj")
    assert journal.header.config == old
    check_run(journal, make_config(run.base), base_hash)
    show(tmp_path, console)
    assert "linear: fold stochastic" in printed(console)
    of_old, of_new = (replay_to(path, console) for path in (tmp_path, run.directory))
    assert of_old["content_hash"] == of_new["content_hash"]


# replay


def test_replay_writes_the_models_weights(run, console, tmp_path):
    told = replay_to(run.directory, console, output=tmp_path / "out")
    base = load(str(run.base))
    method, journal = make_method(make_config(run.base), base), read_journal(run.journal)
    key = header_key(journal)
    replay, start = make_replay(method, base.weights), jax.tree.map(jnp.copy, base.weights)
    owned, state = replay(OwnedWeights(start), key, journal.records)
    # W + A Vᵀ of the interval that is not folded yet, in float64.
    expected = {
        path: np.float64(leaf)
        for path, leaf in traverse_util.flatten_dict(owned.weights, sep="/").items()
    }
    for path, v in state.subspace.items():
        expected[path] += np.float64(state.params[path]) @ np.float64(v).swapaxes(-1, -2)
    written = load(str(tmp_path / "out"))
    for path, leaf in traverse_util.flatten_dict(written.weights, sep="/").items():
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=1e-7, err_msg=path)
    assert told["steps"] == STEPS
    assert told["content_hash"] == content_hash(written.weights)
    assert told["content_hash"] == content_hash(merge(owned, state, method, key))
    assert told["content_hash"] != journal.header.base_hash
    assert "training_seconds" not in told


@pytest.mark.parametrize(
    ("last", "what"), [(None, "the model after step 4"), (2, "this mean")], ids=["model", "mean"]
)
def test_the_last_line_of_a_replay_says_what_was_written_where(
    last, what, trained, console, tmp_path
):
    output = tmp_path / "out"
    told = in_words(replay_to(trained, console, output=output, average_last=last)).splitlines()
    assert told[0].startswith("replayed 4 steps in ")
    assert told[1:] == [f"{output}: {what}"]
    assert (output / "model.safetensors").is_file()
    assert len(in_words(replay_to(trained, console)).splitlines()) == 1


def test_a_replayed_directory_has_its_tokenizer(trained, console, tiny_model, tmp_path):
    replay_to(trained, console, output=tmp_path / "out", steps=1)
    for text in ("a film . It was", "</s>"):
        ours, theirs = (
            load_tokenizer(str(d), None).ids(text) for d in (tmp_path / "out", tiny_model)
        )
        assert ours == theirs


def test_replay_of_no_steps_is_the_base_model(run, console):
    told = replay_to(run.journal, console, steps=0)
    assert told["content_hash"] == read_journal(run.journal).header.base_hash


def test_replay_with_everything_trained_moves_the_vectors(run, console, tmp_path):
    base = load(str(run.base))
    config = dataclasses.replace(
        make_config(run.base), estimator=LozoConfig(interval=5), space=FullConfig()
    )
    path = tmp_path / "journal.zj"
    write_journal(path, config, content_hash(base.weights))
    replay_to(path, console, output=tmp_path / "out", steps=3)
    method, journal = make_method(config, base), read_journal(path)
    start = OwnedWeights(jax.tree.map(jnp.copy, base.weights))
    _, state = make_replay(method, base.weights)(start, header_key(journal), journal.records[:3])
    moved = load(str(tmp_path / "out")).weights
    name = "final_layer_norm"
    expected = np.float64(base.weights[name]["bias"]) + np.float64(state.params[f"{name}/bias"])
    np.testing.assert_allclose(moved[name]["bias"], expected, rtol=0, atol=1e-7)
    assert np.abs(expected - np.float64(base.weights[name]["bias"])).max() > 1e-4


def test_replay_finds_the_base_model_where_it_is_told(run, console, tmp_path):
    path = tmp_path / "journal.zj"
    base_hash = read_journal(run.journal).header.base_hash
    write_journal(path, make_config(tmp_path / "moved away"), base_hash)
    with pytest.raises(InputError, match="moved away"):
        replay_to(path, console)
    told = replay_to(path, console, model=str(run.base))
    assert told["content_hash"] == replay_to(run.journal, console)["content_hash"]


def test_replay_refuses_another_base_model(run, console, tmp_path):
    save(random_model(load(str(run.base)).config, seed=9), tmp_path / "other")
    with pytest.raises(InputError, match=r"another base model than .*other"):
        replay_to(run.journal, console, model=str(tmp_path / "other"), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_replay_refuses_more_steps_than_there_are(run, console):
    with pytest.raises(InputError, match=f"holds {STEPS} steps, not {STEPS + 1}"):
        replay_to(run.journal, console, steps=STEPS + 1)


def test_replay_overwrites_nothing(run, console):
    before = {file: file.read_bytes() for file in run.base.iterdir()}
    with pytest.raises(InputError, match="already exists; give a new directory"):
        replay_to(run.journal, console, output=run.base)
    assert {file: file.read_bytes() for file in run.base.iterdir()} == before


def test_replay_tells_what_the_steps_took_in_training(run, console, tmp_path):
    copied(run, tmp_path)
    lines = [{"step": step, "loss": 1.0, "seconds": 0.5} for step in range(1, STEPS + 1)]
    lines[2:2] = [{"step": 3, "loss": 1.0, "seconds": 9.0}]  # done again after a crash
    lines[:0] = [{"step": 0, "dev_accuracy": 0.5}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 14, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    told = replay_to(tmp_path, console, steps=6)
    assert told["training_seconds"] == 6 * 0.5


# the mean of several models


@pytest.mark.parametrize("last", [1, 3])
def test_an_average_is_that_of_the_replayed_models(last, run, console, tmp_path):
    replay_to(run.directory, console, output=tmp_path / "mean", average_last=last, steps=11)
    models = []
    for step in range(12 - last, 12):  # over a fold, after step 10
        replay_to(run.directory, console, output=tmp_path / str(step), steps=step)
        models.append(traverse_util.flatten_dict(load(str(tmp_path / str(step))).weights, sep="/"))
    mean = traverse_util.flatten_dict(load(str(tmp_path / "mean")).weights, sep="/")
    for path, leaf in mean.items():
        expected = np.mean([np.float64(model[path]) for model in models], axis=0)
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-7, err_msg=path)


def test_the_average_of_a_lora_is_of_its_products_and_not_of_its_factors(run, console, tmp_path):
    base = load(str(run.base))
    config = dataclasses.replace(make_config(run.base), space=LoraConfig())
    config.train.learning_rate = 1.0
    rates = {"learning_rates": np.ones(STEPS)}
    write_journal(tmp_path / "journal.zj", config, content_hash(base.weights), **rates)
    replay_to(tmp_path, console, output=tmp_path / "mean", average_last=2, steps=2)
    for step in (1, 2):
        replay_to(tmp_path, console, output=tmp_path / str(step), steps=step)
    one, two, mean = (
        np.float64(load(str(tmp_path / of)).weights["layers"]["self_attn"]["q_proj"]["weight"])
        for of in ("1", "2", "mean")
    )
    assert np.abs(one - two).max() > 1e-2
    np.testing.assert_allclose(mean, (one + two) / 2, rtol=0, atol=1e-6)


def test_an_average_of_more_models_than_there_are_is_refused(run, console):
    with pytest.raises(InputError, match="--average-last 3: give 1 to 2"):
        replay_to(run.directory, console, average_last=3, steps=2)
