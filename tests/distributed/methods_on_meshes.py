"""Trains by several kinds of method on one device and on a mesh of 8 virtual ones, as JSON.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python tests/distributed/methods_on_meshes.py MODEL DATA DIRECTORY
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from zojax.config import (
    Config,
    DataConfig,
    EstimatorConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.distributed import layout_of
from zojax.training.loop import compile_programs
from zojax.training.placement import place, state_shardings
from zojax.training.setup import make_train_source, prepare
from zojax.training.step import ends_interval, init_state

METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "LoZO-M on everything, in micro-batches": (
        "float32",
        {"trainable": "full", "interval": 3},
        {"optimizer": "momentum", "micro_batches": 2},
    ),
    "MeZO on LoRA by Adam": (
        "float32",
        {"name": "mezo", "trainable": "lora"},
        {"optimizer": "adam"},
    ),
    "MeZO on a prefix": (
        "float32",
        {"name": "mezo", "trainable": "prefix"},
        {"learning_rate": 0.1},
    ),
    "LoZO on int8": ("int8", {"fold": "none"}, {"learning_rate": 1e-3}),
}
MESHES = {"device": MeshConfig(1, 1), "mesh": MeshConfig(2, 4)}
STEPS = 10


def configure(name: str, model: str, data: str, directory: Path, mesh: MeshConfig) -> Config:
    dtype, estimator, training = METHODS[name]
    return Config(
        ModelConfig(model, dtype=dtype, activations="float32" if dtype == "int8" else None),
        RunConfig(str(directory)),
        DataConfig("sst2", data, num_train=16, num_dev=4, num_eval=4),
        TrainConfig(
            **{"steps": STEPS, "batch_size": 8, "eval_every": STEPS, "chunk": STEPS},
            **{"learning_rate": 1e-2, **training},
        ),
        EstimatorConfig(**{"epsilon": 1e-2, **estimator}),
        mesh,
    )


def losses(config: Config) -> dict[str, list[list[float]]]:
    """Of every step and variant, as configured and if nothing is learnt from them.

    Without what a run evaluates and writes beside its steps.
    """
    run = prepare(config, Console(quiet=True))
    key, method = run.key, run.method
    source, layout = make_train_source(config, run), layout_of(run.model.weights)
    init = functools.partial(init_state, method)
    init = jax.jit(init, out_shardings=state_shardings(method, run.model.weights))
    programs = compile_programs(
        run.model.weights,
        init(run.model.weights, key),
        key,
        method,
        run.objective,
        place(source.abstract, layout),
        steps=STEPS,
    )

    def trained(rates: np.ndarray) -> list[list[float]]:
        weights, found = jax.tree.map(jnp.copy, run.model.weights), []
        state = init(weights, key)
        for step, rate in enumerate(rates):
            bucket, batch, _ = source(step)
            state, record = programs.step[bucket](weights, state, key, rate, place(batch, layout))
            if ends_interval(method, step + 1):
                assert programs.fold is not None
                weights, state = programs.fold.get()(weights, state, key)
            found.append(record.losses_v.tolist())
        return found

    rates = method.learning_rates
    return {"trained": trained(rates), "untrained": trained(np.zeros_like(rates))}


def main(model: str, data: str, directory: Path) -> None:
    told = {
        name: {
            where: losses(configure(name, model, data, directory / name / where, mesh))
            for where, mesh in MESHES.items()
        }
        for name in METHODS
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
