"""What has come of a job, for whoever asks."""

import threading
from collections.abc import Callable
from typing import Any, Protocol

from zojax.errors import InputError
from zojax.programs.stopping import Stopped

Outcome = dict[str, Any] | BaseException | None
"""A job's result, or the error that ended it; None as long as there is neither."""


class Named(Protocol):
    """A job, as messages name it."""

    name: str
    num_steps: int


def wait_for(
    job: Named, ended: threading.Event, outcome: Callable[[], Outcome], timeout: float | None
) -> dict[str, Any]:
    """Waits until a job has ended, and returns its result.

    Args:
        job: the job.
        ended: is set at its end.
        outcome: what has come of it by then.
        timeout: the most seconds to wait; None for as long as it takes.

    Raises:
        InputError: it was cancelled, or has failed so.
        TimeoutError: it has not ended yet.
    """
    if not ended.wait(timeout):
        raise TimeoutError(f"the job {job.name} is at step {job.num_steps} after {timeout} s")
    found = outcome()
    if isinstance(found, Stopped):
        raise InputError(f"the job {job.name} was cancelled: {found}")
    if isinstance(found, BaseException):
        raise found
    assert found is not None, "it has ended"
    return found
