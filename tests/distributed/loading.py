"""Loads checkpoints into the shards of several processes, and prints what it read, as JSON.

And what it generates with them, and which pages of a batch it packs.

… python tests/distributed/loading.py DATA MODEL DIRECTORY [DIRECTORY …]
"""

import json
import sys
from typing import Any

import jax
import numpy as np

from zojax.distributed import Layout, local_pages, make_layout, processes
from zojax.generation import generate
from zojax.hub import load, read_config
from zojax.hub.checkpoint_files import SafetensorsFile
from zojax.models import Model, content_hash
from zojax.models.model import weight_sharding
from zojax.scoring import Item, shape_needed
from zojax.training.batches import BatchSource, shape_of_all
from zojax.training.placement import put_batch


def held(array: jax.Array) -> int:
    """Bytes of an array that this process holds, those on several of its devices once."""
    shards = {str(shard.index): shard.data.nbytes for shard in array.addressable_shards}
    return sum(shards.values())


def generated(model: Model) -> list[list[int]]:
    """New tokens of two prompts, chosen greedily."""
    prompts = [np.array(prompt, np.int32) for prompt in ([2, 7, 9], [2, 5])]
    texts = generate(model, prompts, lambda ids: "", max_new_tokens=6)
    return [text.tokens for text in texts]


def fed(layout: Layout) -> list[int]:
    """The pages that this process packs, if its devices have them as if it packed all."""
    items = [Item(np.arange(1, n, dtype=np.int32), (np.array([n]),)) for n in range(3, 19)]
    halves = [items[:8], items[8:]]
    own, bucket = local_pages(layout, 4), shape_of_all([shape_needed(half, 4) for half in halves])
    (packed, whole), order = ([], []), lambda step: list(range(16))
    for only, made in ((own, packed), (None, whole)):
        made.append(BatchSource(items, order, 16, [bucket], num_micro_batches=2, only=only)(0)[1])

    def check(leaf: jax.Array, expected: np.ndarray) -> None:
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, expected[shard.index])

    assert {page for page in range(4) if packed[0].pages.tokens_pt[:, page].any()} == own
    jax.tree.map(check, put_batch(packed[0], layout), whole[0])
    return sorted(own)


def told(data: int, model: int, directory: str) -> dict[str, Any]:
    read = []
    read_box = SafetensorsFile.read_box

    def counted(file: SafetensorsFile, *part: Any) -> Any:
        values = read_box(file, *part)
        read.append(values.nbytes)
        return values

    SafetensorsFile.read_box = counted
    layout = make_layout(data, model)
    loaded = load(directory, sharding=weight_sharding(layout, read_config(directory)))
    weights = loaded.weights
    SafetensorsFile.read_box = read_box
    return {
        "read": sum(read),
        "held": sum(map(held, jax.tree.leaves(weights))),
        "whole": sum(leaf.nbytes for leaf in jax.tree.leaves(weights)),
        "hash": content_hash(weights),
        "generated": generated(loaded),
        "pages": fed(layout),
    }


def main(data: int, model: int, directories: list[str]) -> None:
    with processes.connected():
        print(json.dumps([told(data, model, directory) for directory in directories]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
