"""Trees of arrays to the bit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def copied(tree: Tree) -> Tree:
    return jax.tree.map(jnp.copy, tree)


def assert_same_bits(ours: Tree, theirs: Tree) -> None:
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        assert a.tobytes() == b.tobytes(), jax.tree_util.keystr(path)
