"""What a run's folds into an adapter have dropped: reported after each, and kept in the result."""

from typing import Any

from zojax.adapters import truncation
from zojax.runs.chunks import Trainer


def reported_interval(trainer: Trainer) -> int:
    """The interval whose end must end a chunk, so that each fold is reported; 0 if there is none.

    A state holds only the figures of its last fold.
    """
    return 0 if truncation(trainer.state.subspace) is None else trainer.method.interval


def report_truncation(trainer: Trainer, first: int) -> None:
    """Report what the last fold dropped of the steps that were done after ``first`` steps, if any.

    Every one of them must be finished, since this waits for the device.
    """
    told = truncation(trainer.state.subspace) if _last_fold(trainer) > first else None
    if told is not None:
        trainer.reporter.truncation(_last_fold(trainer), told.last, told.total)


def truncation_result(trainer: Trainer) -> dict[str, Any]:
    """What ``result.json`` says of it; empty for a run that does not fold into an adapter."""
    told = truncation(trainer.state.subspace)
    return {} if told is None else {"truncated": told.total}


def _last_fold(trainer: Trainer) -> int:
    """The step after which the last interval ended; 0 if none did."""
    interval = trainer.method.interval
    return trainer.step - trainer.step % interval if interval else 0
