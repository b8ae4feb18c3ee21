"""``zojax export``: a run's model as a PEFT or Hugging Face directory, or its journal to give away.

The model is rebuilt as for everything that reads a run (:mod:`zojax.runs.rebuild`).
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
    """Writes a run's model, or its journal, to a new directory; all of it or nothing.

    Args:
        directory: of the run.
        format: ``peft``: a LoRA directory for ``peft.PeftModel.from_pretrained``; ``hf``: a
            checkpoint for ``transformers.AutoModelForCausalLM``; ``journal``: what another needs
            to replay the run.
        output: a directory that does not exist or is empty.
        console: where the progress is shown.
        rank: of a LoRA; None is the run's own where nothing was folded (that is exact), else
            :data:`zojax.exports.model.DEFAULT_RANK`.
        step: the model after so many steps; None is the best on the dev set (all, if there is
            none). Of a journal, None is the whole.
        dtype: of the file's numbers: ``float32``, ``bfloat16`` or ``float16``. None is the run's
            own for ``hf`` and float32 for ``peft``.

    Returns:
        ``format``, ``output``, ``step``; of a LoRA also ``rank``, ``relative_error`` (of its
        ``U Vᵀ`` against the total update ΔW, in the Frobenius norm over all matrices),
        ``worst_matrix`` and ``worst_relative_error``; of a checkpoint ``dtype`` and, where an
        adapter that was never folded is now in 16-bit weights, ``relative_error`` likewise.

    Raises:
        InputError: no run there, a damaged one, another base model, an output that holds
            something, an option that the format does not have, or a model that it cannot hold.
    """
    for name, value, of in (("rank", rank, ("peft",)), ("dtype", dtype, ("peft", "hf"))):
        if value is not None and format not in of:
            raise InputError(f"--{name} {value} means nothing with --format {format}")
    if rank is not None and rank < 1:
        raise InputError(f"--rank {rank}: give 1 or more")
    config = run_dir.read_config(directory)
    journal = read_journal(directory / run_dir.JOURNAL)
    check_records(journal, config.train)
    if step is None and format != "journal":
        step = best_step(journal, config, lambda line: console.print(line, markup=False))
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
    """Raises ``InputError`` if no matrix of the model has this rank."""
    shapes = tensor_shapes(read_config(config.model.path)).values()
    highest = max(min(shape) for shape in shapes if len(shape) == 2)
    if rank > highest:
        raise InputError(f"--rank {rank}: no matrix of the model has a rank over {highest}")


def _figures(journal: Journal, config: Config) -> dict[str, Any]:
    """What a finished run's ``result.json`` says, or what is known of another so far."""
    directory, steps = journal.path.parent, len(journal.records)
    result = read_result(directory, config, steps)
    if result is not None:
        return result
    progress = read_progress(directory, steps, config)
    return progress.as_dict() if progress.dev else {}


def _export_journal(exported: Exported, partial: Path, output: Path) -> dict[str, Any]:
    """A run directory with the journal's first steps and without what a replay does not need."""
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
