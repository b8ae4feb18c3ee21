"""Loads checkpoints into the shards of several processes, and prints what it read, as JSON.

And what it generates with them.

… python tests/distributed/loading.py DATA MODEL DIRECTORY [DIRECTORY …]
"""

import json
import sys
from typing import Any

import jax
import numpy as np

from zojax.distributed import make_layout, processes
from zojax.models import Model, checkpoint_files, content_hash, load
from zojax.scoring import generate
from zojax.training.placement import weight_sharding


def held(array: jax.Array) -> int:
    """Bytes of an array that this process holds, those on several of its devices once."""
    shards = {str(shard.index): shard.data.nbytes for shard in array.addressable_shards}
    return sum(shards.values())


def generated(model: Model) -> list[list[int]]:
    """New tokens of two prompts, chosen greedily."""
    prompts = [np.array(prompt, np.int32) for prompt in ([2, 7, 9], [2, 5])]
    texts = generate(model, prompts, lambda ids: "", max_new_tokens=6)
    return [text.tokens for text in texts]


def told(data: int, model: int, directory: str) -> dict[str, Any]:
    read = []
    read_into = checkpoint_files._read_into

    def counted(file: Any, run: Any) -> int:
        read.append(run.size)
        return read_into(file, run)

    checkpoint_files._read_into = counted
    loaded = load(directory, sharding=weight_sharding(make_layout(data, model)))
    weights = loaded.weights
    checkpoint_files._read_into = read_into
    return {
        "read": sum(read),
        "runs": len(read),
        "held": sum(map(held, jax.tree.leaves(weights))),
        "whole": sum(leaf.nbytes for leaf in jax.tree.leaves(weights)),
        "hash": content_hash(weights),
        "generated": generated(loaded),
    }


def main(data: int, model: int, directories: list[str]) -> None:
    with processes.together():
        print(json.dumps([told(data, model, directory) for directory in directories]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
