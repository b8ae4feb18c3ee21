"""Answers requests on meshes of 4 virtual devices, and prints the answers as JSON.

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


def requests() -> list[Any]:
    rng = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        return rng.integers(3, 1000, length).astype(np.int32)

    made: list[Any] = []
    for i, length in enumerate(LENGTHS):
        adapter = (None, "lora")[i % 2]
        made.append(GenerateRequest(tokens(length), 8, adapter=adapter))
        made.append(ScoreRequest(Item(tokens(length), (tokens(2), tokens(3))), adapter))
    return made


def answers(model: str, lora: str, mesh: MeshConfig) -> dict[str, Any]:
    settings = Settings(model, "m", {"lora": Path(lora)}, rows=4, mesh=mesh)
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
        return {"devices": len(leaf.sharding.device_set), "texts": texts, "scores": scores}


if __name__ == "__main__":
    model, lora, *meshes = sys.argv[1:]
    told = {
        mesh: answers(model, lora, MeshConfig(*map(int, mesh.split("x"))))
        for mesh in ("1x1", *meshes)
    }
    print(json.dumps(told))
