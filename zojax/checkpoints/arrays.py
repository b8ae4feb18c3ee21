"""Orbax as checkpoints use it: what writes and reads arrays, imported when it is needed, silent."""

import functools
import logging
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from zojax.distributed import processes

Tree = Any

_PIECE_BYTES = 256 << 20  # a layer's matrix, not the stack: what is compressed and read at once


def flatten(tree: Tree) -> dict[str, Any]:
    """A tree's leaves by name: ``params.layers/fc1/weight``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def write(path: Path, trees: Mapping[str, Tree], note: dict[str, Any]) -> None:
    """Writes a checkpoint whole, or not at all; all processes do it together.

    Args:
        path: absolute, of the checkpoint.
        trees: arrays, by the name of the item.
        note: what JSON can hold.
    """
    ocp = _orbax()
    pieces = ocp.SaveArgs(chunk_byte_size=_PIECE_BYTES)
    items = {
        name: ocp.args.StandardSave(tree, save_args=jax.tree.map(lambda _: pieces, tree))
        for name, tree in trees.items()
    }
    with _checkpointer(set(range(processes.count()))) as checkpointer:
        checkpointer.save(path, args=ocp.args.Composite(**items, note=ocp.args.JsonSave(note)))


def read(path: Path, wanted: Mapping[str, Tree]) -> dict[str, Tree]:
    """Reads a checkpoint's arrays; each process for itself, those of its devices.

    Args:
        path: of the checkpoint.
        wanted: ``jax.ShapeDtypeStruct`` with shardings, by the name of the item.
    """
    ocp = _orbax()
    items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
    with _checkpointer({processes.index()}) as checkpointer:
        restored = checkpointer.restore(path.resolve(), args=ocp.args.Composite(**items))
        return {name: restored[name] for name in wanted}


def reason(error: BaseException) -> str:
    """An error's cause in a few words; of TensorStore's chain of causes, the last."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = text.splitlines()[0]
    if re.match(r"[A-Z_]+: ", line):
        line = line.partition(" [")[0].rpartition(": ")[2]
    return line[:200]


def _checkpointer(indices: set[int]) -> Any:
    """Orbax's, of these processes, which wait for each other in the coordination service."""
    ocp = _orbax()
    options = ocp.options.MultiprocessingOptions(min(indices), indices)
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options)
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@functools.cache
def _orbax() -> Any:
    """Orbax, imported when it is first needed (it takes a third of a second), and silenced."""
    import orbax.checkpoint as ocp

    _silence()
    return ocp


def _silence() -> None:
    """Keeps from the user what Orbax logs for its developers; what fails is told by us, once.

    When a read or write fails, those beside it go on, and asyncio finds nobody to tell of them.
    """
    theirs = re.compile("orbax|OCDBT|tensorstore|Event loop is closed", re.IGNORECASE)
    logging.getLogger("absl").addFilter(lambda record: not theirs.search(record.pathname))
    logging.getLogger("asyncio").addFilter(lambda record: not theirs.search(record.getMessage()))
    warnings.filterwarnings("ignore", module="orbax")
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        source = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if not theirs.search(f"{source} {unraisable.exc_value}"):
            previous(unraisable)

    sys.unraisablehook = hook
