"""Trains one run on many meshes of 8 virtual devices, and prints what came out as JSON.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python tests/distributed/on_meshes.py MODEL DATA DIRECTORY

In a process of its own, since the number of virtual devices is set before JAX starts.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from zojax.config import (
    Config,
    DataConfig,
    LozoConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.distributed import make_layout
from zojax.hub import load
from zojax.journal.file import JOURNAL, read_journal
from zojax.models import content_hash
from zojax.planning import hlo, traffic
from zojax.runs import chunks, open_run
from zojax.runs.rebuild import load_run
from zojax.runs.train import train
from zojax.scoring import attention_kernel
from zojax.scoring.visibility import causal_visibility

MESHES = {
    "1x1": MeshConfig(1, 1),
    "8x1": MeshConfig(8, 1),
    "4x2": MeshConfig(4, 2),
    "1x8": MeshConfig(1, 8),
    "4x2 fsdp": MeshConfig(4, 2, fsdp=True),
}
STEPS, CHECKPOINT = 40, 16
QUIET = Console(quiet=True)


def configure(model: str, data: str, directory: Path, mesh: MeshConfig) -> Config:
    return Config(
        ModelConfig(model),
        RunConfig(str(directory), checkpoint_every=CHECKPOINT),
        DataConfig("sst2", data, num_train=32, num_dev=8, num_eval=8),
        TrainConfig(steps=STEPS, batch_size=16, eval_every=STEPS, chunk=20, learning_rate=1e-5),
        LozoConfig(interval=12),
        mesh,
    )


def collectives(text: str) -> list[tuple[str, int]]:
    """Every collective of an optimised program, and the bytes that it moves."""
    found = traffic.collectives(hlo.parse(text), jax.device_count())
    return [(one.kind, one.num_bytes) for one in found]


def by_name(tree: Any) -> dict[str, jax.Array]:
    """A tree's leaves by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def watched(config: Config) -> dict[str, Any]:
    """A run: its losses, its step's collectives, and what it drew and probed first."""
    told: dict[str, Any] = {}
    compile_programs = chunks.compile_programs

    def compile_and_look(weights, state, key, method, *args, **kwargs):
        programs = compile_programs(weights, state, key, method, *args, **kwargs)
        text = programs.step[min(programs.step)].as_text()
        perturb = jax.jit(method.estimator.perturb)
        variants = perturb(key, state.step, state.params, state.subspace)
        told["collectives"] = collectives(text)
        told["subspace"] = content_hash(state.subspace)
        told["variants"] = [content_hash(by_name(variant)) for variant in variants]
        q_proj = weights["layers"]["self_attn"]["q_proj"]["weight"]
        told["shard"] = q_proj.addressable_shards[0].data.shape
        return programs

    open_run.compile_programs = compile_and_look
    result = train(config, QUIET)
    told["losses"] = read_journal(Path(config.run.dir) / JOURNAL).records["losses"].tolist()
    told["compilations_after_start"] = result["compilations_after_start"]
    return told


def rebuilt(config: Config, mesh: MeshConfig, step: int) -> dict[str, np.ndarray]:
    """A run's weights after a step, rebuilt on another mesh."""
    journal = read_journal(Path(config.run.dir) / JOURNAL)
    run = load_run(journal, Config(**{**vars(config), "mesh": mesh}), QUIET, step)
    assert next(iter(jax.tree.leaves(run.model.weights))).sharding.mesh.shape["data"] == mesh.data
    return {path: np.asarray(leaf) for path, leaf in by_name(run.model.weights).items()}


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Between two sets of weights."""
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[path] - theirs[path]).max()) for path in ours)


def attended(pages: int, heads: int) -> dict[str, Any]:
    """The kernel of long pages, interpreted: what splitting it exchanges, and changes."""
    backend = attention_kernel.interpreted(attention_kernel.for_gpu())
    attend = functools.partial(attention_kernel.attend, backend=backend)
    qkv = jax.random.normal(jax.random.key(0), (3, pages, 100, heads, 16))
    visibility = causal_visibility(pages, 100)
    places = make_layout(2, 4).sharding(("pages", None, "heads", None), qkv.shape[1:])
    arguments = (*jax.device_put(tuple(qkv), places), visibility)
    program = jax.jit(attend).lower(*arguments).compile()
    split = program(*arguments)
    return {
        "collectives": collectives(program.as_text()),
        "shard": split.addressable_shards[0].data.shape,
        "error": float(abs(split - jax.jit(attend)(*qkv, visibility)).max()),
    }


def main(model: str, data: str, directory: Path) -> None:
    configs = {
        name: configure(model, data, directory / name, mesh) for name, mesh in MESHES.items()
    }
    told: dict[str, Any] = {name: watched(config) for name, config in configs.items()}
    told["attended"] = [attended(2, 4), attended(3, 6)]
    there = configs["4x2"]
    base = by_name(load(model).weights)
    restored = rebuilt(there, MeshConfig(2, 4), CHECKPOINT)
    for path in (Path(there.run.dir) / "checkpoints").iterdir():
        path.rename(path.with_name(f"no-{path.name}"))
    replayed = rebuilt(there, MeshConfig(1, 8), CHECKPOINT)
    told["moved"] = largest_difference(restored, {p: np.asarray(w) for p, w in base.items()})
    told["replay_off"] = largest_difference(restored, replayed)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
