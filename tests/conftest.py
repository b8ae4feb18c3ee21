"""What several test files need: a tiny checkpoint, tiny reviews, and the real data if there."""

import contextlib
import gc
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kept_programs import QUICK_FLAGS, kept_programs
from tests.rough_models import rough_model, rough_models  # noqa: F401 - fixtures
from tests.run_fixtures import (  # noqa: F401 - fixtures
    export_runs,
    folded_run,
    short_config,
    undisturbed,
)
from zojax import cli
from zojax.hub import load_tokenizer, save
from zojax.models import random_model
from zojax.models.opt import OPTConfig

with contextlib.suppress(ModuleNotFoundError):  # Hypothesis, which plan-test does without
    import tests.campaigns  # noqa: F401 - sets how many examples are made, whatever file is run

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def pytest_collection_finish() -> None:
    """Collects garbage seldom, and none of what was imported: it took a sixth of all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real data beside the repository."""
    directory = ROOT.parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("needs ../shared/data/…")
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """An OPT of 20 thousand random weights in Hugging Face's format, with the demo's tokenizer."""
    directory = tmp_path_factory.mktemp("tiny") / "model"
    config = OPTConfig(
        vocab_size=1024,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    )
    save(random_model(config, seed=5), directory)
    for name in TOKENIZER_FILES:
        shutil.copy(ROOT / "zojax" / "demo" / "model" / name, directory)
    return directory


@pytest.fixture(scope="session")
def tiny_reviews(tmp_path_factory, tiny_model) -> Path:
    """60 training and 24 held-out reviews of one length, so that runs compile for few shapes."""
    tokenizer = load_tokenizer(str(tiny_model), None)
    directory = tmp_path_factory.mktemp("tiny") / "reviews"
    directory.mkdir()
    for split, count in (("train", 60), ("validation", 24)):
        lines = (ROOT / "zojax" / "demo" / "reviews" / f"{split}.jsonl").read_text().splitlines()
        lines = [line for line in lines if len(tokenizer.ids(json.loads(line)["sentence"])) == 6]
        assert len(lines) >= count
        (directory / f"{split}.jsonl").write_text("\n".join(lines[:count]) + "\n")
    return directory


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory) -> Iterator[None]:
    """Compiles all programs quickly, and each but once for all workers of pytest-xdist.

    Those have their directories beside each other.
    """
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    directory.mkdir(exist_ok=True)
    with kept_programs(directory):
        yield


@pytest.fixture(scope="session")
def compiled_as_here(tmp_path_factory) -> dict[str, str]:
    """The environment in which a command compiles as quickly as ``run``, and keeps it too.

    In another directory: JAX would find neither's programs for the other.
    """
    directory = tmp_path_factory.mktemp("compiled-by-commands")
    return {"JAX_COMPILATION_CACHE_DIR": str(directory), "XLA_FLAGS": QUICK_FLAGS}


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory) -> Iterator[None]:
    """For modules whose programs must be as fast, cost as much or round as a user's.

    Those that are compiled before, such as what single operations compile to, stay as they are.
    """
    with kept_programs(tmp_path_factory.mktemp("compiled-once"), quickly=False):
        yield


Outcome = tuple[int, str, str]
"""Exit code, stdout, stderr."""


@pytest.fixture
def run(capsys, monkeypatch) -> Callable[..., Outcome]:
    """``run("train", "--config", path)``: a command in this process."""
    for name, value in cli._QUIET.items():  # which the command would leave in the environment
        monkeypatch.setenv(name, value)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's way to end
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refusal() -> Callable[[Outcome], str]:
    """Asserts that a command ended as bad input must, and gives its one line."""

    def refusal(outcome: Outcome) -> str:
        code, out, err = outcome
        assert code == 2
        assert out == ""
        assert err.startswith("zojax: error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        return err.removeprefix("zojax: error: ").strip()

    return refusal


@pytest.fixture(scope="session")
def config_file(tmp_path_factory, tiny_model, tiny_reviews) -> Path:
    """Four steps of LoZO on the tiny model."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(
        "from zojax.config import *\n"
        "def get_config():\n"
        f"    model = ModelConfig({str(tiny_model)!r})\n"
        f"    data = DataConfig('sst2', {str(tiny_reviews)!r}, 40, 12, 12)\n"
        "    train = TrainConfig(steps=4, batch_size=2, eval_every=2, chunk=2)\n"
        "    return Config(model, RunConfig('runs/tiny'), data=data, train=train)\n"
    )
    return path


@pytest.fixture(scope="session")
def first_run(config_file, tmp_path_factory) -> tuple[Path, str]:
    """The directory of a finished run, and what it printed."""
    directory = tmp_path_factory.mktemp("runs") / "deep" / "tiny"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main(["train", "--config", str(config_file), "--set", f"run.dir={directory}"])
    assert code == 0
    return directory, out.getvalue()


@pytest.fixture(scope="session")
def trained(first_run) -> Path:
    """The directory of a finished run, to look at."""
    return first_run[0]


@pytest.fixture
def another(trained, tmp_path) -> Path:
    """A copy of the finished run, to lose."""
    return shutil.copytree(trained, tmp_path / "another")
