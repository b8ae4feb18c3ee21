"""The run directory: which run it holds, and how it makes place for another."""

import dataclasses
import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zojax.config import Config, from_dict, to_dict
from zojax.errors import InputError
from zojax.files import write_json
from zojax.journal.file import JOURNAL
from zojax.outputs import check_place
from zojax.reading import read_json
from zojax.reporting.confusion import CONFUSION
from zojax.reporting.curves import CURVES
from zojax.reporting.metrics import METRICS
from zojax.reporting.progress import PROGRESS
from zojax.runs import lock
from zojax.runs.result import RESULT
from zojax.text import plain
from zojax.training.schedules import depends_on_steps

CONFIG = "config.json"
TRIALS = "rate_trials"
"""The directory of the trials from which a run's learning rate is chosen, in the run's own."""
FOUND = "learning_rate.json"
"""The file that says how the learning rate was found."""
_WRITTEN = (CONFIG, FOUND, JOURNAL, METRICS, PROGRESS, RESULT, CURVES, CONFUSION)


def remove_partials(directory: Path) -> None:
    """Remove the half-written files of killed processes; the directory must be locked."""
    for path in directory.glob(".*"):
        if re.fullmatch(rf"\.({'|'.join(map(re.escape, _WRITTEN))})-\d+", path.name):
            path.unlink(missing_ok=True)


def read_config(directory: Path) -> Config:
    """Read the configuration of the run in a directory, without the mesh it was trained on."""
    path = directory / CONFIG
    if not os.path.exists(path):
        raise InputError(f"{directory}: {_what_is_there(directory)}")
    try:
        tree = read_json(path)
        if "model_type" in tree or "architectures" in tree:
            raise InputError(
                f"{directory}: is a model, not a run; zojax generate and zojax score take it as "
                "--model"
            )
        return from_dict({**tree, "mesh": {}})
    except InputError as error:
        raise InputError(
            str(error) if str(directory) in str(error) else f"{path}: {error}"
        ) from None


def _what_is_there(directory: Path) -> str:
    if not os.path.exists(directory):
        return f"no such directory, so no run{_similar_run(directory)}"
    if not directory.is_dir():
        return "is a file; give the directory of a run"
    return f"no run here (it has no {CONFIG})"


def _similar_run(directory: Path) -> str:
    """A suggestion of a run in the same place whose name is similar, or an empty string."""
    with suppress(OSError, ValueError):
        beside = {run.name: run for run in directory.parent.iterdir() if (run / JOURNAL).exists()}
        if close := difflib.get_close_matches(directory.name, beside, n=1):
            return f"; did you mean {plain(beside[close[0]])}?"
    return ""


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def holds_run(directory: Path, config: Config) -> bool:
    """Whether the directory holds this very run, so that it can be resumed; False if it is free.

    A directory is free if it can be created, is empty, or was left by a run that was killed before
    it began.

    Raises:
        InputError: it holds another run or something else, or cannot be written.
    """
    _check_writable(directory)
    if not directory.exists() or _is_free(directory):
        return False
    if not all((directory / name).exists() for name in (CONFIG, JOURNAL)):
        raise InputError(f"run.dir {directory} holds files but no run; {_ELSEWHERE}")
    theirs, ours = (
        _flatten(to_dict(with_whole_paths(of))) for of in (read_config(directory), config)
    )
    differing = [
        f"{name} (there {theirs.get(name)!r}, now {ours.get(name)!r})"
        for name in sorted(theirs | ours)
        if not name.startswith(_MAY_CHANGE) and theirs.get(name) != ours.get(name)
    ]
    if config.train.learning_rate == "auto":  # which the run there has found
        differing = [name for name in differing if not name.startswith("train.learning_rate ")]
    if [name.partition(" ")[0] for name in differing] == ["train.steps"]:
        if not depends_on_steps(config.train):
            return True
        raise InputError(
            f"run.dir {directory} holds this run with {differing[0]}, on which its learning rates "
            f"depend (train.schedule={config.train.schedule}); only a run with "
            f"train.schedule=constant can be continued for longer; zojax fork {plain(directory)} "
            "--step latest --output DIR begins a longer run where it is"
        )
    if differing:
        raise InputError(
            f"run.dir {directory} already holds another run, which differs in "
            f"{', '.join(differing)}; {_ELSEWHERE}, or start anew with --fresh"
        )
    return True


def adopt_steps(directory: Path, steps: int, done: int) -> None:
    """Set the number of steps of a run that is to be continued for longer, or ended earlier.

    A result of the run with another number of steps is removed; its evaluations are kept.

    Args:
        directory: the run's locked directory.
        steps: the new ``train.steps``.
        done: the number of steps in the journal.

    Raises:
        InputError: more steps are done already, or the directory cannot be written.
    """
    tree = read_json(directory / CONFIG)
    if tree["train"]["steps"] == steps:
        return
    if done > steps:
        raise InputError(
            f"run.dir {directory}: {done} steps are done, more than train.steps={steps}"
        )
    try:
        (directory / RESULT).unlink(missing_ok=True)  # before it would be of another run
        write_json(directory / CONFIG, {**tree, "train": {**tree["train"], "steps": steps}})
    except OSError as error:
        raise InputError(f"run.dir {directory} cannot be written: {error.strerror}") from None


def with_whole_paths(config: Config) -> Config:
    """A configuration whose paths of model and data hold from any directory.

    A path that is not there is the name of a repository on the hub, and stays as it is.
    """
    model, data = config.model, config.data
    return dataclasses.replace(
        config,
        model=dataclasses.replace(model, path=_whole(model.path)),
        data=dataclasses.replace(data, path=data.path and _whole(data.path)),
    )


def _whole(path: str) -> str:
    return os.path.abspath(path) if os.path.exists(path) else path


def _entries(directory: Path) -> list[Path]:
    """What is in a directory, without what a new disk has in it."""
    return [path for path in directory.iterdir() if path.name != "lost+found"]


_MAY_CHANGE = ("run.", "mesh.")
_ELSEWHERE = "choose another with --set run.dir=DIR"


def _check_writable(directory: Path) -> None:
    """Raise ``InputError`` if the directory cannot be written, before a large model is read."""
    check_place(f"run.dir {plain(directory, 1_000)}", directory)
    place = directory
    while not os.path.exists(place):
        place = place.parent
    if not place.is_dir():
        what = "is a file" if place == directory else f"cannot be made, {place} is a file"
        raise InputError(f"run.dir {directory} {what}; {_ELSEWHERE}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"run.dir {directory}: {place} is not writable; {_ELSEWHERE}")


def _is_free(directory: Path) -> bool:
    """Whether no run has begun there: there are at most remnants and trials for its rate."""
    entries = _entries(directory)
    return all(_is_remnant(path) or path.name in (TRIALS, FOUND) for path in entries)


def _is_remnant(path: Path) -> bool:
    """Whether a file may be lost: the configuration of a run without journal, or half written."""
    partial = (f".{JOURNAL}-", f".{CONFIG}-")
    return path.name in (CONFIG, lock.LOCK) or path.name.startswith(partial)


def make(directory: Path) -> None:
    """Make a directory for a run, or raise ``InputError``."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"run.dir {directory} cannot be made: {error.strerror}") from None


@contextmanager
def set_aside(directory: Path, tell: Callable[[str], None]) -> Iterator[Path | None]:
    """Rename a run's directory to the first free ``NAME.1``, ``NAME.2``, …, if it holds a run.

    If no other run has begun there at the end, it gets its name back.

    Args:
        directory: the run's directory.
        tell: called at once with a line that has the run's new name.

    Yields:
        The new name, or None if there was no run.

    Raises:
        InputError: it is in use, or cannot be renamed.
    """
    # A config.json alone may be a model's, for example.
    written = any((directory / name).exists() for name in _WRITTEN if name != CONFIG)
    is_searching = (directory / TRIALS).exists() and _is_free(directory)
    if not written and not is_searching:
        yield None
        return
    directory = Path(os.path.abspath(directory))  # "." has no name to which to add a number
    number = 1
    while (aside := directory.with_name(f"{directory.name}.{number}")).exists():
        number += 1
    try:
        with lock.hold(directory):
            directory.rename(aside)
    except OSError as error:
        raise InputError(f"run.dir {directory} cannot be renamed: {error.strerror}") from None
    has_failed = False
    try:
        tell(f"the previous run is kept in {aside}")
        yield aside
    except InputError:
        has_failed = True
        raise
    finally:
        if _put_back(aside, directory, with_trials=has_failed):
            tell(f"no new run began; the previous run is in {directory} again")


def _put_back(aside: Path, directory: Path, *, with_trials: bool) -> bool:
    """Give a run its name back unless another has begun there; return whether it has it.

    Trials for a learning rate are another's beginning, unless they came to nothing.
    """
    with suppress(OSError, InputError):  # then the run stays where `tell` said
        if directory.exists():
            with lock.hold(directory):
                is_left = all(map(_is_remnant, directory.iterdir()))
                if not is_left and not (with_trials and _is_free(directory)):
                    return False
                shutil.rmtree(directory)
        aside.rename(directory)
        return True
    return False
