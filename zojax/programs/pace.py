"""When a run may send work to its device, which others may use at the same time."""

import threading
from collections.abc import Callable
from typing import Any

import jax

Pace = Callable[..., Any]
"""``pace(program, *args) -> program(*args)``: calls a program of bounded size when its turn comes.

An exception from it abandons what the call is part of.
"""


def at_once(program: Callable[..., Any], *args: Any) -> Any:
    """The pace of a run that has the device to itself.

    >>> at_once(max, 1, 2)
    2
    """
    return program(*args)


class PacedProgram:
    """A function that is called in turns, and compiled before them; for several threads.

    Args:
        function: the function, whose first argument always has the same shapes.
        most: the most shapes of the others whose programs are kept: those that were used last.

    Example:
        >>> import jax.numpy as jnp
        >>> double = PacedProgram(lambda weights, x: weights * x)
        >>> [double(at_once, jnp.float32(2), jnp.ones(n)).tolist() for n in (1, 2)]
        [[2.0], [2.0, 2.0]]
    """

    def __init__(self, function: Callable[..., Any], most: int = 16):
        self._function, self._most = jax.jit(function), most
        self._lock = threading.Lock()
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(self, pace: Pace, *args: Any) -> Any:
        """Calls it when its turn comes."""
        return pace(self._compiled(*args), *args)

    def _compiled(self, *args: Any) -> Callable[..., Any]:
        leaves, structure = jax.tree.flatten(args[1:])
        shapes = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        with self._lock:
            found = self._programs.pop(shapes, None) or self._function.lower(*args).compile()
            self._programs[shapes] = found  # behind all others
            while len(self._programs) > self._most:
                del self._programs[next(iter(self._programs))]
            return found
