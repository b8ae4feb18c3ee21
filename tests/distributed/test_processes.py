"""A run of several processes is the run of one; one of them killed, it goes on with any number."""

import io
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.campaigns import LONG
from tests.distributed import jobs
from tests.random_weights import numpy_model
from tests.runs.outcomes import outcome
from zojax.checkpoints.arrays import saved_steps
from zojax.commands.journal import verify
from zojax.config import (
    Config,
    DataConfig,
    LozoConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.errors import LOST
from zojax.hub import save
from zojax.journal.file import JOURNAL, read_journal
from zojax.models.opt import OPTConfig
from zojax.reporting.metrics import METRICS
from zojax.runs.train import train

STEPS, CHECKPOINT = 80, 20
FIRST = 4 if LONG else 2
"""How many processes train until one is killed; two go on."""
QUIET = Console(quiet=True)
ARCHITECTURE = OPTConfig(
    vocab_size=1024,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    ffn_dim=64,
    max_position_embeddings=64,
    word_embed_proj_dim=32,
)

pytestmark = pytest.mark.slow


class Location:
    """Where the runs of this module are."""

    def __init__(self, directory: Path, reviews: Path):
        self.directory, self.model, self.reviews = directory, directory / "model", reviews
        self.file = directory / "config.py"

    def config(self, name: str) -> Config:
        return Config(
            ModelConfig(str(self.model)),
            RunConfig(str(self.directory / name), checkpoint_every=CHECKPOINT, keep_last=9),
            DataConfig("sst2", str(self.reviews), num_train=32, num_dev=8, num_eval=8),
            TrainConfig(steps=STEPS, batch_size=16, eval_every=40, chunk=10, learning_rate=1e-5),
            LozoConfig(interval=15),
        )

    def start(self, name: str, count: int, devices: int):
        """Processes that train on two shards of the pages and of the weights."""
        self.file.write_text(
            f"from zojax.config import *\n\n\ndef get_config():\n    return {self.config(name)!r}\n"
        )
        settings = {
            "JAX_COMPILATION_CACHE_DIR": str(self.directory / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = ["-m", "zojax.cli", "train", "--config", self.file]
        mesh = ["--set", "mesh.data=2", "--set", "mesh.model=2"]
        return jobs.start(count, [*command, *mesh], devices=devices, settings=settings)


@pytest.fixture(scope="module")
def place(root, tiny_reviews, tmp_path_factory) -> Location:
    place = Location(tmp_path_factory.mktemp("processes"), tiny_reviews)
    save(numpy_model(ARCHITECTURE, seed=3), place.model)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(root / "zojax" / "demo" / "model" / name, place.model)
    return place


@pytest.fixture(scope="module")
def undisturbed(place) -> Path:
    """The run of one process with four devices."""
    with place.start("undisturbed", 1, devices=4) as started:
        assert [(code, err) for code, _, err in jobs.finish(started)] == [(0, "")]
    return place.directory / "undisturbed"


@pytest.fixture(scope="module")
def killed(place) -> tuple[Path, list[jobs.Outcome], float]:
    """The run of four devices' processes, the last of which is killed after a checkpoint."""
    directory = place.directory / "killed"
    metrics = directory / METRICS
    with place.start("killed", FIRST, devices=4 // FIRST) as started:
        jobs.wait_until(
            lambda: metrics.exists() and metrics.read_text().count('"loss"') > CHECKPOINT, started
        )
        began = time.monotonic()
        started[-1].send_signal(signal.SIGKILL)
        outcomes = jobs.finish(started, 60)
    return directory, outcomes, time.monotonic() - began


def losses(directory: Path) -> np.ndarray:
    return read_journal(directory / JOURNAL).records["losses"]


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_killed_process_ends_the_others_in_time_with_one_line(killed):
    directory, outcomes, seconds = killed
    assert seconds < jobs.LOST_AFTER + 15
    assert [code for code, _, _ in outcomes] == [*[LOST] * (FIRST - 1), -signal.SIGKILL]
    line = f"zojax: error: process {FIRST - 1} of {FIRST} was lost; give the same command again"
    for _, _, err in outcomes[:-1]:
        assert err.startswith(line)
        assert err.count("\n") == 1
    assert CHECKPOINT < len(losses(directory)) < STEPS
    assert saved_steps(directory / "checkpoints")[0] == CHECKPOINT


@pytest.fixture(scope="module")
def on_two(killed, place) -> tuple[Path, list[jobs.Outcome]]:
    """The same run, gone on with by two processes of two devices."""
    copy = shutil.copytree(killed[0], place.directory / "on-two")
    with place.start(copy.name, 2, devices=2) as started:
        return copy, jobs.finish(started)


def test_several_processes_train_as_one_does_to_the_bit(killed, on_two, undisturbed):
    """The mesh is the same, and so is every sum."""
    directory, [(code, told, err), other] = on_two
    assert (code, err) == (0, "")
    assert (other[0], other[2]) == (0, "")
    assert f"resuming after step {len(losses(killed[0]))} of {STEPS}" in told
    assert "without this checkpoint" not in told
    assert outcome(directory) == outcome(undisturbed)
    assert verify(directory, QUIET) == 0


def test_only_the_leader_writes_and_tells(on_two, undisturbed):
    directory, [(_, told, _), (_, silence, _)] = on_two
    assert f"step {STEPS}/{STEPS}" in told
    assert silence == ""
    assert files(directory) == files(undisturbed)
    # Of the first processes, of two, and of the finished run's settings.
    assert len(list((directory / "tb").iterdir())) == 3


def test_one_process_goes_on_with_a_run_of_several_from_its_checkpoint(killed, undisturbed, place):
    config = place.config("on-one")
    shutil.copytree(killed[0], config.run.dir)
    told = io.StringIO()
    train(replace(config, mesh=MeshConfig(1, 1)), Console(file=told, width=200))
    assert "without this checkpoint" not in told.getvalue()
    np.testing.assert_allclose(losses(Path(config.run.dir)), losses(undisturbed), rtol=1e-5)
