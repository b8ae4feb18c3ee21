"""Steps up to the next time when the host waits for the device, and their batches."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing

from zojax.distributed import layout_of
from zojax.programs import stopping
from zojax.runs.chunks import Packed, Trainer, finished, send_step, write_down
from zojax.runs.prefetch import prefetch
from zojax.training.interval import OwnedWeights
from zojax.training.placement import put_batch


def placed_ahead(
    source: Callable[[int], Packed], owned: OwnedWeights, steps: range
) -> AbstractContextManager[Iterator[Packed]]:
    """Packs the batches of steps, and places them on devices, in a thread ahead of whoever asks.

    Args:
        source: ``step -> (bucket, batch, tokens)`` on the host.
        owned: the weights that the steps use, by which batches are laid out.
        steps: the numbers of the steps.
    """
    layout = layout_of(owned)

    def packed(step: int) -> Packed:
        bucket, batch, tokens = source(step)
        return bucket, put_batch(batch, layout), tokens

    return closing(prefetch(packed, steps))


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
