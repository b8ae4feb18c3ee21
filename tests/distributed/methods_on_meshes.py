"""Trains by several kinds of method, and generates, on one device and on meshes of 8 virtual ones.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python tests/distributed/methods_on_meshes.py MODEL DATA DIRECTORY

Prints what came out as JSON.
"""

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

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
from zojax.generation import Sampling, generate, rows
from zojax.hub import load_tokenizer, save
from zojax.hub.saving import copy_beside_weights
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model, content_hash, random_model
from zojax.models.family import DecoderConfig
from zojax.models.registry import parse_config
from zojax.runs.chunks import compile_programs
from zojax.runs.setup import load_model, make_train_source, prepare
from zojax.training.interval import OwnedWeights, ends_interval
from zojax.training.placement import put_batch, state_shardings
from zojax.training.step import Method, TrainState, init_state

MESHES = {
    "device": MeshConfig(1, 1),
    "2x4": MeshConfig(2, 4),
    "4x2": MeshConfig(4, 2),
    "4x2 fsdp": MeshConfig(4, 2, fsdp=True),
}


class Kind(NamedTuple):
    """A method, and the meshes that it is tried on beside one device; a base of another family."""

    meshes: tuple[str, ...]
    estimator: dict[str, Any]
    training: dict[str, Any]
    dtype: str = "float32"
    base: DecoderConfig | None = None


_SIZES = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
}
LLAMA = parse_config(
    {"model_type": "llama", **_SIZES, "num_attention_heads": 8, "num_key_value_heads": 4}
)
GEMMA_3 = parse_config(
    {
        "model_type": "gemma3_text",
        **_SIZES,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "sliding_window": 4,
        "sliding_window_pattern": 2,
    }
)


METHODS = {
    "LoZO-M on all of a Llama, in micro-batches": Kind(
        ("2x4",),
        {"trainable": "full", "interval": 3},
        {"optimizer": "momentum", "micro_batches": 2},
        base=LLAMA,
    ),
    "LoZO on a Gemma 3's LoRA by Adam": Kind(
        ("4x2 fsdp",), {"trainable": "lora", "interval": 3}, {"optimizer": "adam"}, base=GEMMA_3
    ),
    "MeZO on a prefix of an int4 model": Kind(
        ("2x4",), {"name": "mezo", "trainable": "prefix"}, {"learning_rate": 0.1}, dtype="int4"
    ),
    "LoZO into an adapter beside int8": Kind(
        ("4x2 fsdp",),
        {"fold": "adapter", "adapter_rank": 3, "interval": 3},
        {"learning_rate": 1e-3},
        dtype="int8",
    ),
}
if os.environ.get("ZOJAX_LONG"):  # of tests/campaigns.py, which is not found from here
    METHODS |= {
        "MeZO on a prefix": Kind(
            ("2x4",), {"name": "mezo", "trainable": "prefix"}, {"learning_rate": 0.1}
        ),
        "LoZO on int4": Kind(("2x4",), {"fold": "none"}, {"learning_rate": 1e-3}, dtype="int4"),
    }
ANSWERS = "LoZO by generated answers, in micro-batches"
BY_ANSWERS = Kind(
    ("4x2",),
    {"epsilon": 1e-3, "interval": 3},
    {"objective": "f1", "micro_batches": 2, "learning_rate": 1e-5},
)
STEPS = 10
GENERATED_ON = ["device", "4x2"]
QUIET = Console(quiet=True)
AS_USUAL = {"xla_cpu_use_fusion_emitters": True}
"""How a program is compiled that draws: without, one method's bits on a mesh are not a device's."""


def base_of(kind: Kind, model: str, directory: Path) -> str:
    """The model that a method trains: the given one, or random weights of its own family."""
    if kind.base is None:
        return model
    own = directory / type(kind.base).__name__
    if not own.is_dir():
        save(random_model(kind.base, seed=3), own)
        copy_beside_weights(model, own)
    return str(own)


def configure(kind: Kind, model: str, data: str, directory: Path, mesh: MeshConfig) -> Config:
    of_task = DataConfig("sst2", data)
    if "objective" in kind.training:
        of_task = DataConfig(
            "custom", str(directory / "questions"), prompt="{sentence}", answer="answer"
        )
    of_task.num_train, of_task.num_dev, of_task.num_eval = 16, 4, 4
    return Config(
        ModelConfig(
            base_of(kind, model, directory),
            dtype=kind.dtype,
            activations=None if kind.dtype == "float32" else "float32",
        ),
        RunConfig(str(directory / "run")),
        of_task,
        TrainConfig(
            **{"steps": STEPS, "batch_size": 8, "eval_every": STEPS, "chunk": STEPS},
            **{"learning_rate": 1e-2, **kind.training},
        ),
        EstimatorConfig(**{"epsilon": 1e-2, **kind.estimator}),
        mesh,
    )


def losses(config: Config) -> dict[str, Any]:
    """Of every step and variant, as configured, and of one device's if nothing is learnt from them.

    Without what a run evaluates and writes beside its steps; with a hash of what is drawn first.
    """
    run = prepare(config, QUIET)
    key, method = run.key, run.method
    source, layout = make_train_source(config, run), layout_of(run.model.weights)
    init = functools.partial(init_state, method)
    shardings = state_shardings(method, run.model.weights)
    init = jax.jit(init, out_shardings=shardings, compiler_options=AS_USUAL)
    programs = compile_programs(
        run.model.weights,
        init(run.model.weights, key),
        key,
        method,
        run.objective,
        put_batch(source.abstract, layout),
        steps=STEPS,
    )

    def trained(rates: np.ndarray) -> list[list[float]]:
        weights, found = jax.tree.map(jnp.copy, run.model.weights), []
        state = init(weights, key)
        for step, rate in enumerate(rates):
            bucket, batch, _ = source(step)
            state, record = programs.step[bucket](
                weights, state, key, rate, put_batch(batch, layout)
            )
            if ends_interval(method, step + 1):
                assert programs.fold is not None
                owned, state = programs.fold.get()(OwnedWeights(weights), state, key)
                weights = owned.weights
            found.append(record.losses_v.tolist())
        return found

    rates = method.learning_rates
    is_reference = layout.mesh.size == 1
    return {
        "trained": trained(rates),
        "untrained": trained(np.zeros_like(rates)) if is_reference else None,
        "directions": first_directions(method, init(run.model.weights, key), key),
    }


def first_directions(method: Method, state: TrainState, key: jax.Array) -> str:
    """The content of the first variants of params that are all zero.

    What a prefix starts from are activations, which different meshes round differently.
    """
    zeros = jax.tree.map(lambda param: 0 * param, state.params)
    perturb = jax.jit(method.estimator.perturb, compiler_options=AS_USUAL)
    variants = perturb(key, state.step, zeros, state.subspace)
    return content_hash({str(i): leaf for i, leaf in enumerate(jax.tree.leaves(variants))})


def load_on(model: str, where: str) -> Model:
    return load_model(Config(ModelConfig(model), RunConfig("none"), mesh=MESHES[where]))


def read_sentences(data: str) -> list[str]:
    """Some that are trained on."""
    lines = (Path(data) / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["sentence"] for line in lines[:20]]


def write_questions(
    model: str, tokenizer: Tokenizer, sentences: list[str], directory: Path
) -> None:
    """Questions whose answers begin as those of the base model do, so that some are right."""
    prompts = [np.array([tokenizer.bos, *tokenizer.ids(text)]) for text in sentences]
    found = generate(load_on(model, "device"), prompts, tokenizer.text, max_new_tokens=12)
    rows = [
        {"sentence": sentence, "answer": " ".join(one.text.split()) or "none"}
        for sentence, one in zip(sentences, found, strict=True)
    ]
    directory.mkdir()
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{split}.jsonl").write_text(text)


def generated(model: str, prompts: list[np.ndarray], where: str) -> dict[str, Any]:
    """What is sampled, in batches of no multiple of the mesh; and where it lies meanwhile."""
    loaded = load_on(model, where)
    sampling = Sampling(1.0, top_k=20, top_p=0.9)
    found = generate(
        loaded, prompts, lambda ids: "", max_new_tokens=8, sampling=sampling, batch_size=3
    )
    batch = rows.Rows(loaded, {}, jax.random.key(0), num_rows=3, length=32)
    batch.insert([rows.Request(prompt, i, 8) for i, prompt in enumerate(prompts[:3])])
    decoding = batch._decoding
    of_host = (decoding.rows.tokens_pt, decoding.count_p, decoding.done_p)
    return {
        "tokens": [one.tokens for one in found],
        "whole": [array.sharding.is_fully_replicated for array in of_host],
        "cache": decoding.cache.k_ypgsd.addressable_shards[0].data.shape,
    }


def main(model: str, data: str, directory: Path) -> None:
    tokenizer, sentences = load_tokenizer(model, None), read_sentences(data)
    write_questions(model, tokenizer, sentences, directory / "questions")
    told: dict[str, Any] = {
        name: {
            where: losses(configure(kind, model, data, directory, MESHES[where]))
            for where in ("device", *kind.meshes)
        }
        for name, kind in {**METHODS, ANSWERS: BY_ANSWERS}.items()
    }
    prompts = [np.array(tokenizer.ids(sentence)) for sentence in sentences[:6]]
    told["generated"] = {where: generated(model, prompts, where) for where in GENERATED_ON}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
