"""How programs are compiled while tests run, and where they are kept.

Tests compile more than they compute, so they do it quickly (``jax_disable_most_optimizations``);
without XLA's fusion emitters too, which take half of the time, and in one piece: programs that LLVM
gets in parts, for as many threads, take a tenth more of it. There is no public setting for these
two but ``XLA_FLAGS``, which holds for a whole process, as those in :data:`QUICK_FLAGS`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax._src import compiler, lru_cache
from jax.experimental.compilation_cache import compilation_cache

QUICK_FLAGS = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
).strip()
"""XLA_FLAGS of processes that compile more than they compute."""

_compile_options = compiler.get_compile_options


def _quick_options(*args: Any, **kwargs: Any) -> Any:
    options = _compile_options(*args, **kwargs)
    if jax.config.values["jax_disable_most_optimizations"]:
        options.env_option_overrides += [
            ("xla_cpu_use_fusion_emitters", False),
            ("xla_cpu_parallel_codegen_split_count", 1),
        ]
    return options


compiler.get_compile_options = _quick_options

# Before it writes a program, JAX reads the times of all that are there, to remove the oldest. Of
# some thousands of programs that takes longer than most need to be compiled, and none is removed.
assert hasattr(lru_cache.LRUCache, "_evict_if_needed"), "JAX has renamed what costs so much"
lru_cache.LRUCache._evict_if_needed = lambda *_, **__: None  # pyright: ignore


@contextmanager
def kept_programs(directory: Path, *, quickly: bool = True) -> Iterator[None]:
    """Compiles each program once, and keeps it there.

    Args:
        directory: where.
        quickly: whether without most of LLVM's optimisations.
    """
    ours = {
        "jax_compilation_cache_dir": str(directory),
        "jax_compilation_cache_max_size": 10**11,  # any, and JAX locks: others read and write too
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
