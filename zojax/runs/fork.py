"""Begins a run from a step of another one, with other settings from there on."""

import os
from pathlib import Path

import jax
from rich.console import Console

from zojax.config import Config, apply_overrides, to_dict
from zojax.errors import InputError
from zojax.files import write_json
from zojax.journal.file import JOURNAL, Journal, JournalWriter, read_journal
from zojax.journal.replay import check_records
from zojax.journal.segments import check_fork, records_hash, segments_at
from zojax.models import content_hash
from zojax.programs.settings import check_chosen
from zojax.reporting.progress import Progress, read_progress
from zojax.runs import lock, run_dir
from zojax.runs.create import check_size
from zojax.runs.rebuild import best_step
from zojax.runs.setup import load_data, load_model, run_data_hash
from zojax.text import plain
from zojax.training.method import check_method, check_objective
from zojax.version import __version__

LATEST = "latest"
"""In the place of a step: all steps that the run has done."""


def fork_config(parent: Path, output: Path, overrides: list[str], *, fresh: bool = False) -> Config:
    """The configuration of a fork: that of its parent, or its own once it exists, with overrides.

    Args:
        parent: the directory of the run to fork.
        output: the fork's directory.
        overrides: settings as ``part.field=value``.
        fresh: whether a run in ``output`` is about to be set aside.

    Raises:
        InputError: there is no run, or an override is invalid or of ``run.dir``.
    """
    exists = os.path.exists(output / JOURNAL) and not fresh
    config = apply_overrides(run_dir.read_config(output if exists else parent), overrides)
    if any(override.strip().startswith("run.dir") for override in overrides):
        raise InputError("--set run.dir: the fork's directory is given as --output DIR")
    config.run.dir = str(output)
    return run_dir.with_whole_paths(config)


def begin_fork(parent: Path, step: int | str | None, config: Config, console: Console) -> int:
    """Write the directory of a fork, unless it is there already; training goes on from it.

    Args:
        parent: the directory of the run to fork.
        step: the number of its steps that the fork takes over; :data:`LATEST` for all, None for
            those up to the best on its dev set.
        config: the fork's configuration, from :func:`fork_config`.
        console: where to show the progress.

    Returns:
        The number of steps that it took over.

    Raises:
        InputError: there is no such step, the settings change what was trained, or the directory
            holds another run. Nothing is written then.
    """
    output = Path(config.run.dir)
    if config.train.learning_rate == "auto":
        raise InputError("train.learning_rate=auto: a fork goes on from a step; give a number")
    if os.path.exists(output / JOURNAL):
        return _same_fork(read_journal(output / JOURNAL), parent, step)
    run_dir.holds_run(output, config)
    journal = read_journal(parent / JOURNAL)
    theirs = run_dir.read_config(parent)
    check_records(journal, theirs.train)
    check_chosen(journal.header.settings, journal.path)
    step = _chosen_step(journal, theirs, step, console)
    check_fork(theirs, config, "--set")
    if config.train.steps <= step:
        raise InputError(
            f"train.steps={config.train.steps}: this fork begins after step {step}, and counts on "
            f"from there: give it more, such as --set train.steps={2 * step}"
        )
    check_method(config)
    with console.status("reading data"):
        data = load_data(config)
    check_objective(config, data.splits)
    _check_base(journal, theirs, config, console)
    data_hash = run_data_hash(config, data)
    header = _header(journal, step, config, data_hash)
    is_of_same_data = data_hash == journal.header.data_hash and _data(config) == _data(theirs)
    progress = read_progress(parent, step, theirs) if is_of_same_data else None
    _write(output, config, journal, step, header, progress)
    console.print(f"{plain(output)}: forks {plain(parent)} after step {step}", markup=False)
    return step


def _same_fork(journal: Journal, parent: Path, step: int | str | None) -> int:
    """The step that a fork begins after; ``InputError`` if it is of another run or step."""
    directory, header = journal.path.parent, journal.header
    if not header.segments:
        raise InputError(f"--output {directory}: holds a run that is no fork; choose another")
    last = header.segments[-1]
    is_same = os.path.abspath(parent) == last.run
    if os.path.exists(parent / JOURNAL):  # it may have been moved, or begun anew in its place
        records = read_journal(parent / JOURNAL).records[: last.steps]
        is_same = len(records) == last.steps and records_hash(records) == last.records
    if not is_same or (isinstance(step, int) and step != last.steps):
        raise InputError(
            f"--output {directory}: holds a fork of {plain(last.run)} after step {last.steps}; "
            "choose another"
        )
    return last.steps


def _check_base(journal: Journal, theirs: Config, config: Config, console: Console) -> None:
    """Refuses a base model in another place whose weights are others.

    Several processes check this later, once all of them can load it together.
    """
    if config.model.path == theirs.model.path or jax.process_count() > 1:
        return
    with console.status("loading the model"):
        found = content_hash(load_model(config).weights)
    if found != journal.header.base_hash:
        raise InputError(
            f"--set model.path={plain(config.model.path)}: is another base model than that of "
            f"{plain(journal.path.parent)}, {plain(theirs.model.path)}; a fork keeps it"
        )


def _chosen_step(journal: Journal, config: Config, step: int | str | None, console: Console) -> int:
    steps, directory = len(journal.records), journal.path.parent
    if step is None:
        step = best_step(journal, config, lambda line: console.print(line, markup=False))
        if step == 0:
            raise InputError(
                f"{directory}: its best step is 0, the base model; choose another with --step N, "
                "or train anew with zojax train"
            )
    chosen = steps if step is None or step == LATEST else int(step)
    if chosen > steps:
        raise InputError(f"{journal.path}: holds {steps} steps, not {chosen}")
    if chosen == 0:
        raise InputError(
            f"--step 0: {directory} is at the base model there; zojax train begins from it"
        )
    return chosen


def _data(config: Config) -> dict[str, object]:
    """The settings of the data, wherever they are."""
    return {**to_dict(config)["data"], "path": None}


def _header(journal: Journal, step: int, config: Config, data_hash: str) -> dict[str, object]:
    key, parent = jax.random.key(config.train.seed), os.path.abspath(journal.path.parent)
    theirs = journal.header.as_dict()
    kept = ("base_hash", "num_queries", "num_variants", "settings")
    header = {
        "zojax": __version__,
        "jax": jax.__version__,
        "config": to_dict(config),
        "data_hash": data_hash,
        "key_impl": str(jax.random.key_impl(key)),
        "key_data": jax.random.key_data(key).tolist(),
        "segments": [segment.as_dict() for segment in segments_at(journal, step, parent)],
        **{name: theirs[name] for name in kept if name in theirs},
    }
    check_size(header, config.train.steps, config.run.dir)
    return header


def _write(
    output: Path,
    config: Config,
    journal: Journal,
    step: int,
    header: dict[str, object],
    progress: Progress | None,
) -> None:
    """Write a fork's files; the evaluations, which can be made again, come after the journal."""
    run_dir.make(output)
    with lock.hold(output):
        run_dir.holds_run(output, config)
        try:
            write_json(output / run_dir.CONFIG, to_dict(config))
            JournalWriter.create(output / JOURNAL, header, journal.records[:step]).close()
            if progress is not None:
                progress.write(output)
        except OSError as error:
            raise InputError(f"run.dir {output} cannot be written: {error.strerror}") from None
