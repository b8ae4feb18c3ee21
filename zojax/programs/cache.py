"""Keep compiled programs on disk between processes."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from zojax.printing import warn

_LEAST = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
"""What makes JAX keep even the smallest program, and those that are compiled in no time."""


def keep_programs() -> None:
    """Keep compiled programs between runs, unless the user has chosen a directory for them.

    Even the shortest are kept: a run has dozens of them, and each takes longer to compile than to
    read.
    """
    if jax.config.values["jax_compilation_cache_dir"]:  # JAX treats an empty string as unset
        return
    directory = _cache_home() / "zojax" / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        warn(
            f"zojax: compiled programs are not kept, since {directory} cannot be written "
            f"({error.strerror}); every run compiles them anew"
        )
        return
    _keep_in(directory)


@contextlib.contextmanager
def kept_until_the_end() -> Iterator[None]:
    """Keep all compiled programs, in a temporary directory unless there is one for them already.

    It begins before anything is compiled, because JAX decides then whether it keeps programs. In a
    directory of the user's own JAX keeps only those that take long to compile, unless told so.
    """
    directory = jax.config.values["jax_compilation_cache_dir"]
    before = {name: jax.config.values[name] for name in ("jax_compilation_cache_dir", *_LEAST)}
    with tempfile.TemporaryDirectory(prefix="zojax-compiled-") as ours:
        _keep_in(Path(directory or ours))
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)


def _keep_in(directory: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(directory))
    for name, value in _LEAST.items():
        jax.config.update(name, value)


def _cache_home() -> Path:
    """The directory of caches by XDG's specification, which ignores empty and relative paths."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"
