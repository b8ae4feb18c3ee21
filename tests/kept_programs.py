"""Where compiled programs are kept while tests run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextmanager
def kept_programs(directory: Path, *, quickly: bool = True) -> Iterator[None]:
    """Compiles each program once, and keeps it there.

    Args:
        directory: where.
        quickly: whether without most of LLVM's optimisations, since most of the time is compiling.
    """
    ours = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": quickly,
    }
    before = {name: jax.config.values[name] for name in ours}
    compilation_cache.reset_cache()
    for name, value in ours.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
