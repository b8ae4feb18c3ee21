"""A configuration's file: Python with a ``get_config()``, or with many by their ``NAMES``."""

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zojax.config import Config, apply_overrides
from zojax.config.messages import closest, line_of
from zojax.config.schema import describe
from zojax.errors import InputError


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Runs a configuration file's ``get_config()`` and applies overrides.

    A file with many configurations lists them as ``NAMES`` and makes one by ``get_config(name)``.

    Args:
        path: the file, or ``FILE:NAME`` for one of many.
        overrides: see :func:`zojax.config.apply_overrides`.

    Raises:
        InputError: no such file or name, what went wrong in it (and in which line), or a bad
            override.
    """
    file, name = _split(path)
    module = _run(path, file)
    _check_name(path, file, name, _names(file, module))
    get_config = module.get("get_config")
    if not callable(get_config):
        raise InputError(f"{file}: has no get_config()")
    try:
        config = get_config() if name is None else get_config(name)
    except (Exception, SystemExit) as error:
        raise InputError(f"{file}{line_of(file, error)}: {_what(error)}") from error
    if not isinstance(config, Config):
        raise InputError(f"{file}: get_config() returned {type(config).__name__}, not a Config")
    return apply_overrides(config, overrides)


def config_names(path: str) -> tuple[str, ...]:
    """The names of a file's configurations; none where it has one, without a name.

    Raises:
        InputError: no such file, or what went wrong in it.
    """
    return _names(path, _run(path, path))


def _split(path: str) -> tuple[str, str | None]:
    """File and name; a colon may be part of a file's own name."""
    file, colon, name = path.rpartition(":")
    return (file, name) if colon and not Path(path).is_file() else (path, None)


def _check_name(path: str, file: str, name: str | None, names: Sequence[str]) -> None:
    if name is None and names:
        raise InputError(
            f"--config {path}: holds {len(names)} configurations ({', '.join(names[:3])}, …); give "
            f"one as --config {file}:{names[0]}; zojax configs {file} lists all"
        )
    if name is not None and not names:
        raise InputError(f"--config {path}: that file has one configuration; give --config {file}")
    if name is not None and name not in names:
        close = closest(name, names)
        fix = f"did you mean {close!r}?" if close else f"zojax configs {file} lists all"
        raise InputError(f"--config {path}: no configuration {name!r}; {fix}")


def _run(path: str, file: str) -> dict[str, Any]:
    """What a configuration file defines."""
    if not Path(file).is_file():
        what = "is a directory" if Path(file).is_dir() else "no such file"
        raise InputError(f"--config {path}: {what}; give a Python file with get_config()")
    try:
        return runpy.run_path(file)
    except (Exception, SystemExit) as error:
        raise InputError(f"{file}{line_of(file, error)}: {_what(error)}") from error


def _names(file: str, module: Mapping[str, Any]) -> tuple[str, ...]:
    names = module.get("NAMES", ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: NAMES should be a list of texts")
    return tuple(names)


def _what(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return describe(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
