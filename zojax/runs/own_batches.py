"""Batches of examples that a user chooses, whose buckets are compiled when they are needed."""

from collections.abc import Sequence

import jax

from zojax.distributed import layout_of
from zojax.errors import InputError
from zojax.runs.chunks import Packed, compile_programs
from zojax.runs.open_run import OpenRun
from zojax.training.placement import put_batch


def pack_examples(training: OpenRun, indices: Sequence[int]) -> Packed:
    """Pack examples; return the bucket, the batch on its devices and its token counts.

    Args:
        training: the open run.
        indices: the indices of ``train.batch_size`` training examples.

    Raises:
        InputError: there are more or fewer indices, or one that no example has.
    """
    count, batch_size = len(training.run.data.train), training.run.config.train.batch_size
    if len(indices) != batch_size:
        raise InputError(f"{len(indices)} indices, but train.batch_size={batch_size}")
    for index in indices:
        if not 0 <= index < count:
            raise InputError(f"index {index}: there are {count} training examples, from 0 on")
    bucket, batch, tokens = training.source.pack([int(index) for index in indices])
    return bucket, put_batch(batch, layout_of(training.trainer.owned)), tokens


def compile_for(training: OpenRun, packed: Packed) -> None:
    """Begin to compile the step for a bucket, unless it is compiled or being compiled already."""
    trainer, run = training.trainer, training.run
    bucket, batch, _ = packed
    if bucket in trainer.programs.step.pending:
        return
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
    made = compile_programs(
        trainer.owned.weights,
        trainer.state,
        trainer.key,
        run.method,
        run.objective,
        {bucket: put_batch(shapes, layout_of(trainer.owned))},
        steps=0,
    )
    trainer.programs.step.pending.update(made.step.pending)
