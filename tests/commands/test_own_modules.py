"""An estimator, a task, an objective and a family of one's own, through the commands."""

import json
import shutil
import sys

import pytest

from tests.models import rotary
from zojax.config import foreign
from zojax.config.estimators import ESTIMATORS
from zojax.hub import load_tokenizer, save
from zojax.models import random_model, registry

MINE = """
import dataclasses
import jax.numpy as jnp
import zojax

@dataclasses.dataclass
class Settings:
    epsilon: float = 1e-3
    rank: int = 2
    interval: int = 2

@zojax.estimator(Settings)
def signs(settings, trainable):
    space, draw = trainable.low_rank(settings.rank)
    base = zojax.two_point(space, draw, epsilon=settings.epsilon)
    return base._replace(projected_grad=lambda losses_v: jnp.sign(base.projected_grad(losses_v)))

@zojax.objective
def margin(scores_bk, batch):
    right_bk = jnp.arange(scores_bk.shape[1]) == batch.labels_b[:, None]
    right_b = jnp.where(right_bk, scores_bk, 0).sum(-1)
    others_bk = jnp.where(right_bk, -jnp.inf, scores_bk)
    return jnp.maximum(0, 1 - right_b + others_bk.max(-1)).mean()

def render(record, name):
    return zojax.Example(record["sentence"] + " So", (" bad", " good"), record["label"], name)

mood = zojax.Task(
    "mood",
    fields={"sentence": str, "label": int},
    render=render,
    kind="classification",
    candidates=(" bad", " good"),
)
"""

CONFIG = """
from zojax.config import *
def get_config():
    return Config(
        ModelConfig({model!r}),
        RunConfig("runs/mine"),
        data=DataConfig("mine:mood", {reviews!r}, 40, 12, 12),
        train=TrainConfig(steps=4, batch_size=2, eval_every=2, chunk=2, objective="mine:margin"),
        estimator={{"name": "mine:signs", "epsilon": 0.01}},
    )
"""


@pytest.fixture
def forget(monkeypatch):
    """Forgets the modules that were imported, as another process would not know them."""

    def forget() -> None:
        foreign._modules.clear()
        for name in ("mine", "rotary"):
            sys.modules.pop(name, None)
        for name in [name for name in ESTIMATORS.classes if foreign.is_foreign(name)]:
            del ESTIMATORS.classes[name]

    yield forget
    forget()


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model, tiny_reviews):
    """The directory of a module and a configuration that names what is in it."""
    directory = tmp_path_factory.mktemp("mine")
    (directory / "mine.py").write_text(MINE)
    config = CONFIG.format(model=str(tiny_model), reviews=str(tiny_reviews))
    (directory / "config.py").write_text(config)
    return directory


def test_a_run_of_ones_own_estimator_task_and_objective_is_like_any_other(
    files, tmp_path, run, refusal, forget, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "runs" / "mine"
    code, out, err = run("train", "--config", files / "config.py")
    assert (code, err) == (0, "")
    assert "held-out accuracy" in out
    config = json.loads((directory / "config.json").read_text())
    assert config["estimator"] == {
        "name": "mine:signs",
        "epsilon": 0.01,
        "rank": 2,
        "interval": 2,
    }

    commands = [
        ["eval", directory],
        ["export", directory, "--format", "journal", "--output", "given"],
        ["journal", "replay", directory],
    ]
    for command in commands:
        forget()
        line = refusal(run(*command))
        assert "is code from outside zojax, which is not run automatically" in line
        assert "--allow-module mine" in line
        assert "mine" not in sys.modules
    for command in commands:
        forget()
        code, out, err = run(*command, "--allow-module", files / "mine.py")
        assert code == 0, err
    forget()
    code, out, _ = run("journal", "show", directory, "--allow-module", files / "mine.py")
    assert "mine:signs" in out
    forget()
    shutil.copy(files / "mine.py", tmp_path)  # found by its name in the current directory
    assert run("eval", directory, "--allow-module", "mine")[0] == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("estimator.rank=two", "estimator.rank should be an integer"),
        ("estimator.rnk=3", "no field 'estimator.rnk'; did you mean estimator.rank?"),
        ("estimator.interval=-1", "estimator.interval=-1: should be a number of steps, 0 or more"),
        ("estimator.name=mine:mood", "mine has no mood that is an estimator; it has signs"),
        ("train.objective=mine:mood", "mine has no mood that is an objective"),
        ("data.task=mine:margin", "mine has no margin that is a zojax.Task; it has mood"),
    ],
)
def test_a_slip_in_ones_own_settings_is_one_line(
    files, tmp_path, run, refusal, forget, setting, says
):
    overrides = ["--set", f"run.dir={tmp_path / 'run'}", "--set", setting]
    assert says in refusal(run("train", "--config", files / "config.py", *overrides))


def test_a_family_of_ones_own_is_used_where_its_module_is_allowed(
    tmp_path, run, refusal, forget, monkeypatch, tiny_model
):
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, rotary.FAMILY))
    config = rotary.Config(
        vocab_size=1024,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=64,
        sliding_window=8,
        rope_theta=10_000.0,
    )
    model = tmp_path / "model"
    save(random_model(config, seed=2), model)
    monkeypatch.undo()
    load_tokenizer(str(tiny_model), None).tokens.backend_tokenizer.save(
        str(model / "tokenizer.json")
    )
    special = {"bos_token": "</s>", "eos_token": "</s>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (model / "tokenizer_config.json").write_text(json.dumps(kind))
    shutil.copy(rotary.__file__, tmp_path / "rotary.py")
    command = ["score", "--model", model, "--text", "a film", "--candidate", " a", "--json"]
    assert "zojax knows 'opt'" in refusal(run(*command))
    code, out, err = run(*command, "--allow-module", tmp_path / "rotary.py")
    assert code == 0, err
    assert len(json.loads(out)["candidates"]) == 1
