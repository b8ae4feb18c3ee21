"""One of several processes that restore checkpoints, each from directories of its own.

    … python tests/checkpoints/restoring.py STEP SCRATCH CHECKPOINTS [CHECKPOINTS …]

The arguments hold ``{}`` where the process has its number. Of each directory it prints a line:
``restored``, or why not.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.checkpoints.runs import make_run
from zojax.checkpoints.reader import checked_note, restore
from zojax.distributed import processes
from zojax.errors import InputError


def main(step: int, scratch: Path, directories: list[Path]) -> None:
    run = make_run(scratch)
    mesh = Mesh(np.array(jax.devices()).reshape(processes.count(), -1), ("data", "model"))

    def shape(leaf: jax.Array, *axes: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    abstract = jax.tree.map(shape, run.reached(0))
    embedding, fc1 = abstract[0]["embed_tokens"], abstract[0]["layers"]["fc1"]
    embedding["weight"] = shape(embedding["weight"], ("data", "model"))
    fc1["weight"] = shape(fc1["weight"], None, "model")  # whole in each process, on no device
    for directory in directories:
        try:
            restore(directory, checked_note(directory, step, run.journal, True), *abstract)
            print("restored")
        except InputError as error:
            print(error)


if __name__ == "__main__":
    with processes.connected():
        places = [Path(place.format(processes.index())) for place in sys.argv[2:]]
        main(int(sys.argv[1]), places[0], places[1:])
