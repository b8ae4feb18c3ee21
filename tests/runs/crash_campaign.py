"""Kills training at random moments and lets it go on, until it has had enough; then compares.

    python tests/runs/crash_campaign.py --kills 300

A training process is forked, killed with SIGKILL, and started again on the same directory, until
the run is finished; then a new run begins. Every other kill comes after a random part of an
undisturbed run's life, and so often while it is being set up; the others come at a random moment of
the training itself.
Every finished run must have the journal, the evaluations and the metrics of the undisturbed one,
and have ended with its weights and its state, bit for bit.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

# All that a child needs is imported before it is forked; JAX starts its threads in the child.
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import orbax.checkpoint  # noqa: F401
import transformers.models.auto.tokenization_auto
import transformers.models.gpt2.tokenization_gpt2  # noqa: F401
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.random_weights import numpy_model
from tests.runs.outcomes import outcome
from zojax.config import (
    Config,
    DataConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
)
from zojax.files import write_json
from zojax.hub import save
from zojax.models import content_hash
from zojax.models.opt import OPTConfig
from zojax.reading import read_json
from zojax.runs import run_dir
from zojax.runs import train as training

ROOT = Path(__file__).resolve().parents[2]
STEPS = 200
_SENTENCES = ("the acting is superb.", "the script is awful.")


def make_config(directory: Path) -> Config:
    """A small run with many chunks, folds and evaluations."""
    return Config(
        ModelConfig(str(directory / "model"), dtype="bfloat16"),
        RunConfig(str(directory / "run"), checkpoint_every=30, keep_last=2),
        DataConfig("sst2", str(directory / "data"), num_train=32, num_dev=8, num_eval=8),
        TrainConfig(steps=STEPS, batch_size=4, learning_rate=1e-2, eval_every=25, chunk=4),
        LozoConfig(interval=7),
    )


def make_inputs(directory: Path) -> None:
    """A tiny OPT with the demo's tokenizer, and sentences of one length (few programs)."""
    config = OPTConfig(1024, 16, 2, 2, 32, 64, 16)
    save(numpy_model(config, seed=1), directory / "model")
    for file in (ROOT / "zojax" / "demo" / "model").glob("*.*"):
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, directory / "model")
    lines = [json.dumps({"sentence": _SENTENCES[i % 2], "label": 1 - i % 2}) for i in range(40)]
    (directory / "data").mkdir()
    for split in ("train", "validation"):
        (directory / "data" / f"{split}.jsonl").write_text("\n".join(lines))


def in_child(action, *arguments) -> int:
    """Forks a process that does something and ends; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        warnings.filterwarnings("ignore")
        action(*arguments)
        code = 0
    except BaseException as error:
        print(f"crash campaign: a run ended with {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def run_to_its_end(config: Config, cache: Path) -> None:
    """What ``zojax train`` does; leaves the hashes of its weights and state after the last step.

    Not a replay's, which follow from the journal: those that were trained, or restored from a
    checkpoint and trained on.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    train_chunks = training._train_chunks

    def train_and_hash(run: training.OpenRun, console: Console) -> None:
        train_chunks(run, console)
        trainer = run.trainer
        leaves = jax.tree_util.tree_leaves_with_path(trainer.state)
        state = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        hashes = {"weights": content_hash(trainer.owned.weights), "state": content_hash(state)}
        write_json(hashes_path(Path(config.run.dir)), hashes)

    training._train_chunks = train_and_hash
    training.train(config, Console(quiet=True))


def hashes_path(directory: Path) -> Path:
    """Beside a run's directory: the hashes of its last weights and state."""
    return directory.with_name(f"{directory.name}-hashes.json")


def outcome_and_hashes(directory: Path) -> dict:
    """What must not depend on how often a run was killed."""
    return {**outcome(directory), **read_json(hashes_path(directory))}


def campaign(kills: int, seed: int, directory: Path, overrides: list[str]) -> dict[str, int]:
    """Runs the campaign; raises ``AssertionError`` where a run differs, or fails."""
    waiting = in_child(make_inputs, directory)
    assert os.waitpid(waiting, 0)[1] == 0
    rng, cache = random.Random(seed), directory / "cache"
    base = apply_overrides(make_config(directory), overrides)

    def start(name: str) -> tuple[Path, int]:
        config = apply_overrides(base, [f"run.dir={directory / name}"])
        return directory / name, in_child(run_to_its_end, config, cache)

    for name in ("warm-up", "undisturbed"):  # the first one fills the compile cache
        began = time.monotonic()
        undisturbed, child = start(name)
        assert os.waitpid(child, 0)[1] == 0
        life = time.monotonic() - began
    expected = outcome_and_hashes(undisturbed)
    speeds = json.loads((undisturbed / run_dir.RESULT).read_text())
    training_time = STEPS * speeds["median_step_seconds"]

    killed = finished = kills_of_this_run = 0
    while killed < kills or kills_of_this_run:
        path, child = start(f"run{finished}")
        journal = path / run_dir.JOURNAL
        without_step = max(size_of(journal), size_of(undisturbed / run_dir.JOURNAL) - STEPS * 40)
        deadline = time.monotonic() + rng.uniform(0, life) if killed % 2 == 0 else math.inf
        while not is_over(child) and (killed >= kills or time.monotonic() < deadline):
            time.sleep(0.001)
            if deadline == math.inf and size_of(journal) > without_step:
                deadline = time.monotonic() + rng.uniform(0, training_time / 3)
        if not is_over(child):
            os.kill(child, signal.SIGKILL)
            killed, kills_of_this_run = killed + 1, kills_of_this_run + 1
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            continue
        assert status == 0, f"a run in {path} ended with status {status}"
        found = outcome_and_hashes(path)
        for name, value in expected.items():
            assert found[name] == value, f"{name} differs after {kills_of_this_run} kills: {path}"
        finished, kills_of_this_run = finished + 1, 0
    return {"kills": killed, "finished": finished}


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def is_over(child: int) -> bool:
    """Whether a child has ended; it still has to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40, help="default: 40")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="FIELD=VALUE"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        counts = campaign(args.kills, args.seed, Path(directory), args.overrides)
    print(
        f"{counts['kills']} kills; {counts['finished']} runs finished, "
        "each as if it had never been disturbed"
    )


if __name__ == "__main__":
    main()
