"""One of several processes that restore checkpoints, each from directories of its own.

    … python tests/training/checkpoint/restoring.py STEP SCRATCH CHECKPOINTS [CHECKPOINTS …]

The arguments hold ``{}`` where the process has its number. Of each directory it prints a line:
``restored``, or why not.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.training.checkpoint.runs import make_run
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.training.checkpoint import checked_note, restore


def main(step: int, scratch: Path, directories: list[Path]) -> None:
    run = make_run(scratch)
    mesh = Mesh(np.array(jax.devices()), ("model",))

    def shape(leaf: jax.Array, *axes: str) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    abstract = jax.tree.map(shape, run.reached(0))
    embedding = abstract[0]["embed_tokens"]
    embedding["weight"] = shape(embedding["weight"], "model")  # the others are on both processes
    for directory in directories:
        try:
            restore(directory, checked_note(directory, step, run.journal, True), *abstract)
            print("restored")
        except InputError as error:
            print(error)


if __name__ == "__main__":
    with processes.together():
        places = [Path(place.format(processes.index())) for place in sys.argv[2:]]
        main(int(sys.argv[1]), places[0], places[1:])
