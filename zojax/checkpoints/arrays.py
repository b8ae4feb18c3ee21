"""Orbax, as checkpoints use it: it writes, reads and removes them, and is imported when needed.

Its ``CheckpointManager`` finds checkpoints, writes one whole or not at all, removes others
afterwards, and makes processes wait for each other. (The newer ``training.Checkpointer`` is a
wrapper of it under ``experimental`` that always writes with the manager's threads.) A manager lives
only while a checkpoint is written, so it knows nothing but what is on the disk.

As the tests show, these things cannot be left to it:

- *Not to outlive the run.* The threads of its asynchronous saves keep a process alive until a
  hanging disk answers; :mod:`zojax.checkpoints.writer` has a thread of its own.
- *To be on the disk.* It syncs neither the small files nor the directories before it removes older
  checkpoints; :func:`zojax.checkpoints.disk.sync` does.
- *To know what is good.* Its policies also count damaged and foreign checkpoints, and a damaged
  file of metrics prevents a manager from being made; :func:`zojax.checkpoints.disk.choose_kept`
  reads the notes instead.
- *To tidy up at once.* It does so in a thread that only a save waits for, and not after a save has
  failed on a full disk; :func:`tidy` does.
- *To leave room for the journal.* :func:`zojax.checkpoints.disk.check_space` does.
- *To read when another process fails.* Processes that restore together wait for one that could
  not; here each reads for itself.
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

_PIECE_BYTES = 256 << 20  # compressed and read at once: a layer's matrix, not the whole stack
_REPLACED = "-replaced"
_REMOVED = ".removed"  # checkpoints are renamed before removal, so that none is ever half there


def flatten(tree: Tree) -> dict[str, Any]:
    """A tree's leaves by name: ``params.layers/fc1/weight``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def saved_steps(directory: Path) -> list[int]:
    """The steps that have checkpoints, in ascending order; half-written ones do not count.

    Args:
        directory: the directory of a run's checkpoints; need not exist.
    """
    if not directory.is_dir():
        return []  # without importing Orbax
    found = _orbax().path.step.standard_name_format().find_all(directory)
    return sorted(checkpoint.step for checkpoint in found)


def tidy(directory: Path) -> None:
    """Remove what a crash or a failure has left half written or half removed; never fail.

    A checkpoint that was set aside for one that does not exist gets its name back.
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
    """Rename a step's existing checkpoint, which is bad or of another history, for a new one.

    :func:`tidy` restores its name if the new one fails.
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
    """Write a checkpoint whole or not at all, and remove old ones; all processes together.

    Args:
        directory: the absolute path of the run's checkpoints.
        step: the step after which the checkpoint is made.
        trees: the arrays to save, by item name.
        note: the checkpoint's note, in JSON's types.
        choose_kept: returns the steps whose checkpoints stay; called once this checkpoint has its
            final name, before any other is removed.
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
    """Read a checkpoint's arrays; each process reads those of its own devices.

    Args:
        directory: the directory of the run's checkpoints.
        step: the step after which the checkpoint was saved.
        wanted: ``jax.ShapeDtypeStruct`` with shardings, by item name.
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
    """Raise ``OSError`` for anything but files and directories: reading a FIFO would never end."""
    for path in directory.rglob("*"):
        if not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, f"{path.name} is not a regular file")


def reason(error: BaseException) -> str:
    """An error's cause in a few words: the last one in TensorStore's chain of causes."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = text.splitlines()[0]
    if re.match(r"[A-Z_]+: ", line):
        line = line.partition(" [")[0].rpartition(": ")[2]
    return line[:200]


@dataclasses.dataclass(frozen=True)
class _Policy:
    """Orbax's interface for choosing which checkpoints stay."""

    choose_kept: Callable[[], Collection[int]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.choose_kept()
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _manager(directory: Path, indices: set[int], choose_kept: Callable[[], Collection[int]]) -> Any:
    """Orbax's manager; these processes wait for each other in the coordination service."""
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
    """Import Orbax when it is first needed (it takes a third of a second), and silence it."""
    import orbax.checkpoint as ocp

    _silence()
    return ocp


def _silence() -> None:
    """Hide from the user what Orbax logs for its developers; zojax reports a failure itself, once.

    When a read or write fails, others continue or never begin, and asyncio complains that nobody
    awaits them. Python warns of the latter in whichever module it happens to collect them, so they
    can only be recognised by their names.
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
