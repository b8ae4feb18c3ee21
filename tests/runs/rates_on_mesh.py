"""Finds a learning rate on a mesh of two virtual devices, and trains the run with its number.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 \
        python tests/runs/rates_on_mesh.py CONFIG DIRECTORY SETTING…

The runs are in DIRECTORY: ``found`` and ``number``.
"""

import sys
from pathlib import Path

import jax
from rich.console import Console

from zojax.config.loading import load_config
from zojax.runs import run_dir
from zojax.runs.layout import choose_layout
from zojax.runs.train import train


def main(config_file: str, directory: Path, settings: list[str]) -> None:
    rate = "auto"
    for name in ("found", "number"):
        own = [f"run.dir={directory / name}", "mesh.data=2", f"train.learning_rate={rate}"]
        config = load_config(config_file, [*settings, *own])
        assert choose_layout(config).mesh.size == jax.device_count() == 2
        train(config, Console(quiet=True))
        rate = str(run_dir.read_config(directory / name).train.learning_rate)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
