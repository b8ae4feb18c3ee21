"""What a job has learnt, in files: an adapter for every step that was evaluated."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save

from zojax.files import write_atomically
from zojax.serving.arrays import read_arrays

Tree = Any

_FILE = re.compile(r"step-(\d{1,18})\.safetensors")


class Learnt:
    """The adapters of a job.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for partial in directory.glob(".*"):  # a crash left it before it was whole
            partial.unlink()

    def steps(self) -> list[int]:
        """The steps whose adapters there are, in order."""
        try:
            names = [_FILE.fullmatch(path.name) for path in self._directory.iterdir()]
        except FileNotFoundError:  # it has just been deleted
            return []
        return sorted(int(name[1]) for name in names if name)

    def time(self, step: int) -> int:
        """When the adapter of a step was written, in seconds since 1970."""
        with contextlib.suppress(FileNotFoundError):
            return int(self._path(step).stat().st_mtime)
        return 0

    def keep(self, adapter: Tree, step: int) -> None:
        """Writes the adapter of a step."""
        flat = traverse_util.flatten_dict(adapter, sep="/")
        arrays = {path: np.ascontiguousarray(leaf) for path, leaf in flat.items()}
        write_atomically(self._path(step), save(arrays))

    def load(self, step: int) -> Tree:
        """Reads the adapter of a step; ``InputError`` if it is not one of ours."""
        return traverse_util.unflatten_dict(read_arrays(self._path(step)), sep="/")

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step}.safetensors"
