"""A job of a class, on rows that are made up: it compiles what all jobs of the class need."""

import dataclasses
import json
import tempfile
from pathlib import Path

from zojax.config import Config, FzooConfig, LozoConfig
from zojax.engine.jobs import Jobs
from zojax.errors import InputError
from zojax.serving.fine_tuning.classes import JobClass
from zojax.serving.fine_tuning.configuration import configuration
from zojax.serving.fine_tuning.rows import LABEL, TEXT, check_rows
from zojax.serving.fine_tuning.settings import (
    Base,
    Hyperparameters,
    choose,
    count_rows,
    words_of,
)

_INTERVAL = 2
"""Steps between redraws, which are in no program: an interval's end is rehearsed early."""


def rehearse(job_class: JobClass, base: Base, jobs: Jobs) -> None:
    """Trains a run of a class to its end, and drops it.

    Args:
        job_class: the class.
        base: the model.
        jobs: trains it.

    Raises:
        InputError: such a run cannot be trained.
    """
    with tempfile.TemporaryDirectory() as directory:
        try:
            jobs.rehearse(_run(job_class, base, Path(directory)), _INTERVAL)
        except InputError as error:
            raise InputError(f"--train-class {job_class}: {error}") from None


def _run(job_class: JobClass, base: Base, directory: Path) -> Config:
    """The configuration of a run of a class, on rows in a directory."""
    has_labels = job_class.padding.candidates > 1
    fields = (TEXT, LABEL) if has_labels else ("prompt", "completion")
    pair = [json.dumps(dict(zip(fields, words, strict=True))) for words in ("ab", "ba")]
    path = directory / "data" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(pair * max(10, job_class.batch_size)))
    rows = check_rows(path)
    words = words_of([rows], None, None)
    own = job_class.model_dump(exclude={"padding"})
    asked = Hyperparameters(**own, steps=_INTERVAL + 1, learning_rate=1e-6)
    chosen = choose(asked, rows, count_rows(rows, None), words, base, job_class.padding)
    run = directory / "run"
    config = configuration(chosen, rows.kind, words, base, data=path.parent, run=run, seed=0)
    if isinstance(config.estimator, LozoConfig | FzooConfig):
        config.estimator = dataclasses.replace(config.estimator, interval=_INTERVAL)
    return config
