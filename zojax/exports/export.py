"""``zojax export``: a run's model as a PEFT or Hugging Face directory, or its journal to give away.

The model is rebuilt by :mod:`zojax.runs.rebuild`, as for every command that reads a run.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from zojax.config import Config
from zojax.errors import InputError
from zojax.exports.card import Exported, journal_card
from zojax.exports.model import export_hf, export_peft
from zojax.hub import read_config
from zojax.hub.stored import DTYPES
from zojax.hub.tensor_names import tensor_shapes
from zojax.journal.file import Journal, read_journal
from zojax.journal.replay import check_records
from zojax.models.precision import precision_of
from zojax.outputs import new_directory
from zojax.reporting.progress import read_progress
from zojax.runs import run_dir
from zojax.runs.rebuild import best_step
from zojax.runs.result import read_result

Format = Literal["peft", "hf", "journal"]


def export_run(
    directory: Path,
    format: Format,
    output: Path,
    console: Console,
    *,
    rank: int | None = None,
    step: int | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Write a run's model, or its journal, to a new directory; all of it or nothing.

    Args:
        directory: the run's directory.
        format: ``peft``: a LoRA directory for ``peft.PeftModel.from_pretrained``; ``hf``: a
            checkpoint for ``transformers.AutoModelForCausalLM``; ``journal``: what others need to
            replay the run.
        output: a directory that does not exist or is empty.
        console: where to show the progress.
        rank: the rank of a LoRA; None means the run's own rank if nothing was folded (which is
            exact), otherwise :data:`zojax.exports.model.DEFAULT_RANK`.
        step: the number of steps after which to export the model; None means the best on the dev
            set (all steps, if there is none). For a journal, None means all of it.
        dtype: the dtype of the file's numbers: ``float32``, ``bfloat16`` or ``float16``. None means
            the run's own for ``hf`` and float32 for ``peft``.

    Returns:
        ``format``, ``output`` and ``step``. For a LoRA also ``rank``, ``relative_error`` (of its
        ``U Vᵀ`` against the total update ΔW, in the Frobenius norm over all matrices),
        ``worst_matrix`` and ``worst_relative_error``. For a checkpoint also ``dtype`` and, if an
        adapter that was never folded is merged into 16-bit weights, the ``relative_error`` of that.

    Raises:
        InputError: there is no run, it is damaged or of another base model, the output is not
            empty, the format does not have an option, or it cannot hold the model.
    """
    for name, value, of in (("rank", rank, ("peft",)), ("dtype", dtype, ("peft", "hf"))):
        if value is not None and format not in of:
            raise InputError(f"--{name} {value}: --format {format} does not use it; leave it out")
    if rank is not None and rank < 1:
        raise InputError(f"--rank {rank}: give 1 or more")
    config = run_dir.read_config(directory)
    journal = read_journal(directory / run_dir.JOURNAL)
    check_records(journal, config.train)
    if step is None and format != "journal":
        step = best_step(journal, config, lambda line: console.print(line, markup=False))
        if not len(journal.records):
            raise InputError(
                f"{directory}: no step is done, so this would be the base model; train it first, "
                "or export the base model with --step 0"
            )
    steps = len(journal.records) if step is None else step
    if steps > len(journal.records):
        raise InputError(f"{journal.path}: holds {len(journal.records)} steps, not {steps}")
    if rank is not None:
        _check_rank(rank, config)
    exported = Exported(config, journal, steps, _figures(journal, config))
    with new_directory(output) as partial:
        if format == "journal":
            summary = _export_journal(exported, partial, output)
        elif format == "peft":
            summary = export_peft(
                exported, partial, output, console, rank=rank, dtype=DTYPES[dtype or "float32"]
            )
        else:
            out = DTYPES[dtype] if dtype else precision_of(config.model.dtype).dtype
            summary = export_hf(exported, partial, output, console, dtype=out)
    return {"format": format, "output": str(output), "step": steps, **summary}


def _check_rank(rank: int, config: Config) -> None:
    """Raise ``InputError`` if no matrix of the model can have this rank."""
    shapes = tensor_shapes(read_config(config.model.path)).values()
    highest = max(min(shape) for shape in shapes if len(shape) == 2)
    if rank > highest:
        raise InputError(f"--rank {rank}: no matrix of the model has a rank over {highest}")


def _figures(journal: Journal, config: Config) -> dict[str, Any]:
    """The ``result.json`` of a finished run, or the known figures of an unfinished one."""
    directory, steps = journal.path.parent, len(journal.records)
    result = read_result(directory, config, steps)
    if result is not None:
        return result
    progress = read_progress(directory, steps, config)
    return progress.as_dict() if progress.dev else {}


def _export_journal(exported: Exported, partial: Path, output: Path) -> dict[str, Any]:
    """Write a run directory with the journal's first steps and only what a replay needs."""
    journal = exported.journal
    size = journal.start + exported.step * journal.records.dtype.itemsize
    (partial / run_dir.JOURNAL).write_bytes(journal.path.read_bytes()[:size])
    kept = [run_dir.CONFIG]
    if exported.step == len(journal.records):
        kept += [run_dir.PROGRESS, run_dir.RESULT]
    else:
        exported = dataclasses.replace(exported, result={})
    for name in kept:
        if (journal.path.parent / name).exists():
            shutil.copyfile(journal.path.parent / name, partial / name)
    (partial / "README.md").write_text(journal_card(exported, output), encoding="utf-8")
    return {"lost_steps": journal.lost_steps}
