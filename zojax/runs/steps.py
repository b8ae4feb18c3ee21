"""Steps up to the next time when the host waits for the device."""

import time
from collections.abc import Iterator

from zojax.programs import stopping
from zojax.runs.chunks import Packed, Trainer, finished, send_step, write_down


def run_chunk(trainer: Trainer, batches: Iterator[Packed], end: int, stop: stopping.Stop) -> None:
    """Trains up to a step, and journals the steps' scalars.

    All steps are sent to the device before the host waits for any of them. If a stop is requested,
    the chunk ends early, with every step up to ``trainer.step`` journaled.

    Args:
        trainer: the run's trainer.
        batches: the steps' batches, in order, on their devices.
        end: the number of steps that are done after the chunk.
        stop: a request to end early.

    Raises:
        InputError: the journal cannot be written, or a loss is not finite and that stops the run.
    """
    started, sent = time.perf_counter(), []
    for step in range(trainer.step, end):
        if stop.is_asked:
            break
        try:
            sent.append(send_step(trainer, step, next(batches), stop))
        except stopping.Halted:
            break
    write_down(trainer, finished(trainer, sent, stop), started)
