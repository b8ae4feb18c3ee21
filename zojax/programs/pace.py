"""When a run may send work to its device, which others may use at the same time."""

from collections.abc import Callable
from typing import Any

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
