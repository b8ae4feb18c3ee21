"""Answers requests on meshes of 4 virtual devices, and prints the answers as JSON.

On all but one device the adapter, which begins at layer 2, shares the cache of the layers below.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 \
        python tests/distributed/serving_on_meshes.py MODEL LORA DATAxMODEL …

In a process of its own, since the number of virtual devices is set before JAX starts.
"""

import json
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jax
import numpy as np

from zojax.config import MeshConfig
from zojax.engine.requests import GenerateRequest, ScoreRequest, Scores
from zojax.scoring import Item
from zojax.serving.start import Settings, started

LENGTHS = (3, 9, 20, 31, 12, 5)
LONG = np.arange(100, 145, dtype=np.int32)


def requests() -> list[Any]:
    rng = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        return rng.integers(3, 1000, length).astype(np.int32)

    made: list[Any] = [GenerateRequest(LONG, 8)]
    for i, length in enumerate(LENGTHS):
        adapter = (None, "lora")[i % 2]
        made.append(GenerateRequest(tokens(length), 8, adapter=adapter))
        made.append(ScoreRequest(Item(tokens(length), (tokens(2), tokens(3))), adapter))
    made.insert(1, GenerateRequest(LONG, 8, adapter="lora"))  # it waits for its adapter
    return made


def answers(model: str, lora: str, mesh: MeshConfig) -> dict[str, Any]:
    shared = 2 if mesh != MeshConfig(1, 1) else 0
    settings = Settings(model, "m", {"lora": Path(lora)}, rows=4, mesh=mesh, shared_layers=shared)
    texts, scores = [], []
    with started(settings) as service:
        leaf = jax.tree.leaves(service.runtime._device._weights)[0]
        news: list[SimpleQueue] = [SimpleQueue() for _ in requests()]
        for request, queue in zip(requests(), news, strict=True):
            service.runtime.submit(request, queue.put)
        for queue in news:
            ids = []
            while True:
                answer = queue.get(timeout=120)
                if isinstance(answer, Exception):
                    raise answer
                if isinstance(answer, Scores):
                    scores.append([float(logprobs.sum()) for logprobs in answer.logprobs])
                    break
                ids += [token.id for token in answer.tokens]
                if answer.finish_reason is not None:
                    texts.append(ids)
                    break
        devices, counts = len(leaf.sharding.device_set), service.runtime.core.counts
        found = {"devices": devices, "texts": texts, "scores": scores}
        return {**found, "shared": counts.shared_tokens}


if __name__ == "__main__":
    model, lora, *meshes = sys.argv[1:]
    told = {
        mesh: answers(model, lora, MeshConfig(*map(int, mesh.split("x"))))
        for mesh in ("1x1", *meshes)
    }
    print(json.dumps(told))
