"""Orbax as checkpoints use it: what writes, reads and removes them, imported when it is needed.

Its ``CheckpointManager`` finds checkpoints, writes one whole or not at all, removes others when
that is done, and has processes wait for each other. (The newer ``training.Checkpointer`` is a
wrapper of it under ``experimental`` that always writes by the manager's threads.) One lives as long
as a checkpoint takes to write, so that what is on the disk is all that it knows.

Not left to it, as the tests show, are:

- *Not to outlive the run.* The threads of its asynchronous saves keep a process alive until a
  hanging disk answers; :mod:`zojax.checkpoints.writer` has a thread of its own.
- *To be on the disk.* It syncs neither the small files nor the directories before older
  checkpoints go; :func:`zojax.checkpoints.disk.sync` does.
- *To know what is good.* Its policies count damaged and foreign checkpoints in, and a damaged file
  of metrics keeps a manager from being made; :func:`zojax.checkpoints.disk.kept_steps` asks notes.
- *To tidy up at once.* It does so in a thread for which a save alone waits, and not after one has
  failed on a full disk: :func:`tidy`.
- *To leave room for the journal*: :func:`zojax.checkpoints.disk.check_space`.
- *To read where another fails.* Processes that restore together wait for one that could not; here
  each reads for itself.
"""

import dataclasses
import errno
import functools
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from zojax.distributed import processes

Tree = Any

_PIECE_BYTES = 256 << 20  # a layer's matrix, not the stack: what is compressed and read at once
_REPLACED = "-replaced"
_REMOVED = ".removed"  # what goes is renamed first, so that none is ever half there


def flatten(tree: Tree) -> dict[str, Any]:
    """A tree's leaves by name: ``params.layers/fc1/weight``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def saved_steps(directory: Path) -> list[int]:
    """The steps after which there are checkpoints, ascending; half-written ones do not count.

    Args:
        directory: of a run's checkpoints; need not exist.
    """
    if not directory.is_dir():
        return []  # without Orbax
    found = _orbax().path.step.standard_name_format().find_all(directory)
    return sorted(checkpoint.step for checkpoint in found)


def tidy(directory: Path) -> None:
    """Removes what a crash or a failure has left half written or half removed; never fails.

    A checkpoint that was set aside for one that is not there gets its name back.
    """
    if not directory.is_dir():
        return
    with suppress(OSError):
        for aside in directory.glob(f".*{_REPLACED}"):
            path = directory / aside.name[1:].removesuffix(_REPLACED)
            if not path.exists():
                aside.rename(path)
    unfinished = f"*{_orbax().path.atomicity_types.TMP_DIR_SUFFIX}*"
    for pattern in (_REMOVED, ".*-removed", f".*{_REPLACED}", unfinished):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(directory: Path, step: int) -> None:
    """Makes room for the checkpoint of a step that has one: a bad one, or of another history.

    :func:`tidy` gives it its name back if the new one fails.
    """
    path = directory / str(step)
    if path.exists():
        path.rename(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{_REPLACED}")


def write(
    directory: Path,
    step: int,
    trees: Mapping[str, Tree],
    note: dict[str, Any],
    choose_kept: Callable[[], Collection[int]],
) -> None:
    """Writes a checkpoint whole, or not at all, and removes old ones; all processes together.

    Args:
        directory: absolute, of the run's checkpoints.
        step: after which this one is.
        trees: arrays, by the name of the item.
        note: what JSON can hold.
        choose_kept: gives the steps whose checkpoints stay; called when this one has its name,
            before any other goes.
    """
    ocp = _orbax()
    pieces = ocp.SaveArgs(chunk_byte_size=_PIECE_BYTES)
    items = {
        name: ocp.args.StandardSave(tree, save_args=jax.tree.map(lambda _: pieces, tree))
        for name, tree in trees.items()
    }
    with _manager(directory, set(range(processes.count())), choose_kept) as manager:
        args = ocp.args.Composite(**items, note=ocp.args.JsonSave(note))
        manager.save(step, args=args, force=True)
    for path in (directory / _REMOVED, _aside(directory / str(step))):
        shutil.rmtree(path, ignore_errors=True)


def read(directory: Path, step: int, wanted: Mapping[str, Tree]) -> dict[str, Tree]:
    """Reads a checkpoint's arrays; each process for itself, those of its devices.

    Args:
        directory: of the run's checkpoints.
        step: after which it was saved.
        wanted: ``jax.ShapeDtypeStruct`` with shardings, by the name of the item.
    """
    path = directory.resolve() / str(step)
    _check_regular(path)
    ocp = _orbax()
    items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
    alone = ocp.options.MultiprocessingOptions(processes.index(), {processes.index()})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        restored = checkpointer.restore(path, args=ocp.args.Composite(**items))
        return {name: restored[name] for name in wanted}


def _check_regular(directory: Path) -> None:
    """Raises ``OSError`` for what is neither a file nor a directory: a FIFO would wait for ever."""
    for path in directory.rglob("*"):
        if not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, f"{path.name} is not a regular file")


def reason(error: BaseException) -> str:
    """An error's cause in a few words; of TensorStore's chain of causes, the last."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = text.splitlines()[0]
    if re.match(r"[A-Z_]+: ", line):
        line = line.partition(" [")[0].rpartition(": ")[2]
    return line[:200]


@dataclasses.dataclass(frozen=True)
class _Policy:
    """Which checkpoints stay, as Orbax asks for it."""

    choose_kept: Callable[[], Collection[int]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.choose_kept()
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _manager(directory: Path, indices: set[int], choose_kept: Callable[[], Collection[int]]) -> Any:
    """Orbax's, of these processes, which wait for each other in the coordination service."""
    ocp = _orbax()
    options = ocp.CheckpointManagerOptions(
        create=False,
        enable_async_checkpointing=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(min(indices), indices),
        preservation_policy=_Policy(choose_kept),
        todelete_subdir=_REMOVED,
    )
    return ocp.CheckpointManager(directory, options=options)


@functools.cache
def _orbax() -> Any:
    """Orbax, imported when it is first needed (it takes a third of a second), and silenced."""
    import orbax.checkpoint as ocp

    _silence()
    return ocp


def _silence() -> None:
    """Keeps from the user what Orbax logs for its developers; what fails is told by us, once.

    When a read or write fails, those beside it go on, or never begin, and asyncio finds nobody to
    tell of them. Python warns of the latter wherever it happens to collect them, in any module:
    they are known by their names alone.
    """
    theirs = re.compile("orbax|OCDBT|tensorstore|Event loop is closed", re.IGNORECASE)
    logging.getLogger("absl").addFilter(lambda record: not theirs.search(record.pathname))
    logging.getLogger("asyncio").addFilter(lambda record: not theirs.search(record.getMessage()))
    warnings.filterwarnings("ignore", module="orbax")
    never_begun = r"coroutine '.*(read|write|serialize|open|create).*' was never awaited"
    warnings.filterwarnings("ignore", never_begun, RuntimeWarning)
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        source = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if not theirs.search(f"{source} {unraisable.exc_value}"):
            previous(unraisable)

    sys.unraisablehook = hook
