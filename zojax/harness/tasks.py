"""Finds and loads lm-eval's tasks by name."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from zojax.errors import InputError, first_few
from zojax.text import plain


def load_tasks(names: Sequence[str], include_path: Path | None) -> tuple[TaskManager, list[Any]]:
    """Loads tasks and groups of tasks, with their data.

    Args:
        names: names of tasks, groups or tags, patterns such as ``mmlu_*``, or files that describe
            one.
        include_path: a directory with more tasks, whose Python files are run if a task names them.

    Returns:
        What knows the tasks, and the tasks and groups.

    Raises:
        InputError: there is no such task, it cannot be loaded, or it cannot be run here.
    """
    manager, chosen = _found(names, include_path)
    try:
        loaded = manager.load(chosen)
    except Exception as error:  # whatever its YAML, its functions and its data raise
        raise InputError(
            f"--tasks {','.join(names)}: cannot be loaded ({plain(_reason(error), 200)})"
        ) from error
    tasks, groups = loaded["tasks"], loaded.get("groups", {})
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise InputError(
                f"--tasks {name}: runs what a model writes, or shows it pictures, which this "
                "command does not; run lm-eval itself against zojax serve"
            )
    inner = {task.task_name for group in groups.values() for task in group.get_all_tasks()}
    inner |= {below.name for group in groups.values() for below in group.get_all_groups()}
    return manager, [one for name, one in {**groups, **tasks}.items() if name not in inner]


def _reason(error: Exception) -> str:
    """An error's first line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _found(names: Sequence[str], include_path: Path | None) -> tuple[TaskManager, list[str]]:
    """The first index that knows all names, and the names."""
    unknown, known = list(names), []
    for manager in _indices(include_path):
        matches = {name: _matches(manager, name) for name in names}
        unknown, known = [name for name in names if not matches[name]], manager.all_tasks
        if not unknown:
            return manager, list(dict.fromkeys(m for name in names for m in matches[name]))
    close = difflib.get_close_matches(unknown[0], known, 3, 0.6)
    hint = f"; did you mean {first_few(close)}?" if close else "; lm-eval ls tasks lists them"
    raise InputError(f"--tasks {unknown[0]}: there is no such task{hint}")


def _matches(manager: TaskManager, name: str) -> list[str]:
    is_file = Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()
    return [name] if is_file else manager.match_tasks([name])


def _indices(include_path: Path | None) -> Iterator[TaskManager]:
    """The directory's own tasks, and then all: reading lm-eval's 14,000 takes half a minute."""
    if include_path is not None:
        if not include_path.is_dir():
            raise InputError(f"--include-path {include_path}: there is no such directory")
        yield TaskManager(include_path=str(include_path), include_defaults=False)
    yield TaskManager(include_path=None if include_path is None else str(include_path))
