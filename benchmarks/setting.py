"""What the speed benchmarks have in common: a checkpoint of random weights, SST-2, a method."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax

from zojax.config import Config, LinearConfig, apply_overrides
from zojax.config.loading import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "opt125m_lozo.py"
DOCS = ROOT / "docs" / "performance.md"
SMOLLM2 = ROOT / "data" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Where ``scripts/fetch_smollm2.py`` puts it."""

DEMO = ROOT / "configs" / "demo.py"

METHODS: dict[str, list[str]] = {
    "full": ["space.name=full"],
    "linear": [],
    "lora": ["space.name=lora"],
}
"""Settings of LoZO with r 2 and ν 50, by what is trained."""


def demo_of_all_matrices() -> Config:
    """The demo's configuration, but of all matrices and at a rate for these."""
    config = load_config(str(DEMO))
    config.space, config.train.learning_rate = LinearConfig(fold="nearest"), 1e-3
    return config


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every such benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="stanfordnlp/sst2", help="SST-2: a directory or a hub id")
    parser.add_argument("--tokenizer", help="directory of OPT's tokenizer (default: from the hub)")
    parser.add_argument("--shape", default="opt-125m", help="published size (default: opt-125m)")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/{DOCS.name}")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    return parser


@contextmanager
def random_checkpoint(shape: str, tokenizer: str | None) -> Iterator[Path]:
    """Make a checkpoint of random float32 weights, which exists while the context is open."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / shape
        command = [sys.executable, ROOT / "scripts" / "make_random_checkpoint.py"]
        options = ["--shape", shape, "--dtype", "float32", "--out", path]
        tokenizer = tokenizer or _download()
        subprocess.run([*command, *options, "--tokenizer", tokenizer], check=True)
        yield path


def _download() -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download("facebook/opt-125m", allow_patterns=["*.json", "merges.txt"])


def make_config(checkpoint: Path, data: str, steps: int, settings: Sequence[str] = ()) -> Config:
    """LoZO on SST-2 in batches of 16, r 2, ν 50, as in ``configs/opt125m_lozo.py``."""
    overrides = [f"model.path={checkpoint}", f"data.path={data}", f"train.steps={steps}"]
    return apply_overrides(load_config(str(CONFIG)), [*overrides, *settings])


def machine_name() -> str:
    """The name of the processor and the number of its cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, jax {jax.__version__}"
