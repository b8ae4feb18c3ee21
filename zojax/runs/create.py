"""Finds a run in its directory, or creates it there."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from zojax.config import Config, to_dict
from zojax.distributed import processes
from zojax.errors import InputError
from zojax.files import write_json
from zojax.journal.file import MAX_BYTES, Journal, JournalWriter, read_journal
from zojax.journal.header import as_header, record_dtype
from zojax.programs.settings import chosen_settings
from zojax.runs import lock, run_dir
from zojax.runs.result import read_result
from zojax.runs.setup import Run
from zojax.text import plain
from zojax.version import __version__


def check_same_config(config: Config) -> None:
    """Raises ``InputError`` if another process has a different configuration."""
    given = processes.all_gather("configuration", to_dict(config))
    for index, theirs in enumerate(given):
        if theirs != given[0]:
            raise InputError(
                f"process {index} of {len(given)} has a different configuration from process 0; "
                "give all the same command and files"
            )


def find_run(
    directory: Path, config: Config, held: ExitStack
) -> tuple[bool, dict[str, Any] | None]:
    """Returns whether the directory has the run, and a finished run's result; locks it if so."""
    if not run_dir.holds_run(directory, config):
        return False, None
    held.enter_context(lock.hold(directory))
    journal = read_journal(directory / run_dir.JOURNAL)
    check_size(journal.header.as_dict(), config.train.steps, directory)
    check_whole(journal)
    run_dir.adopt_steps(directory, config.train.steps, len(journal.records))
    return True, read_result(directory, config, len(journal.records))


def create_run(directory: Path, run: Run, held: ExitStack) -> None:
    """Makes and locks the directory of a new run."""
    run_dir.make(directory)
    held.enter_context(lock.hold(directory))
    if not run_dir.holds_run(directory, run.config):
        _write_run(directory, run)


def _write_run(directory: Path, run: Run) -> None:
    """Writes a new run's files; the journal comes last, as a directory without one is free."""
    if run.config.train.learning_rate == "auto":
        raise InputError("train.learning_rate=auto is for zojax train; give a number")
    estimator = run.method.estimator
    header = {
        "zojax": __version__,
        "jax": jax.__version__,
        "config": to_dict(run.config),
        "base_hash": run.base_hash,
        "data_hash": run.data_hash,
        "key_impl": str(jax.random.key_impl(run.key)),
        "key_data": jax.random.key_data(run.key).tolist(),
        "num_queries": estimator.num_queries,
        "num_variants": estimator.num_variants,
        **({"settings": settings} if (settings := chosen_settings()) else {}),
    }
    check_size(header, run.config.train.steps, directory)
    try:
        write_json(directory / run_dir.CONFIG, to_dict(run.config))
        JournalWriter.create(directory / run_dir.JOURNAL, header).close()
    except OSError as error:
        raise InputError(f"run.dir {directory} cannot be written: {error.strerror}") from None


def check_whole(journal: Journal) -> None:
    """Raises ``InputError`` if a fork has lost steps of the run that it forks."""
    done, first = len(journal.records), journal.header.first_step
    if done < first:
        raise InputError(
            f"{journal.path}: holds {done} of the {first} steps that it took over from "
            f"{plain(journal.header.segments[-1].run)}; put a copy back, or fork that run again"
        )


def check_size(header: Mapping[str, Any], steps: int, directory: object) -> None:
    """Raises ``InputError`` if a journal of so many steps would be too large to be read."""
    size = steps * record_dtype(as_header(header, directory)).itemsize
    if size > MAX_BYTES:
        raise InputError(
            f"train.steps={steps}: the journal would have {size:,} bytes; use fewer steps, since "
            f"it can have {MAX_BYTES:,}"
        )
