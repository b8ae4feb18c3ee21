"""Loads configuration files: Python with one ``get_config()``, or several listed in ``NAMES``."""

import os
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from zojax.config import Config, apply_overrides
from zojax.config.foreign import trusted
from zojax.config.messages import closest, line_of
from zojax.config.schema import describe
from zojax.errors import InputError
from zojax.text import plain

_FIX = "give a Python file with get_config()"
_NOT_PYTHON = {
    ".yaml": "YAML",
    ".yml": "YAML",
    ".json": "JSON",
    ".toml": "TOML",
    ".ini": "INI",
    ".ipynb": "a notebook",
    ".sh": "a shell script",
}
_SHOWN, _LONGEST = 200, 1_000  # characters of a path, and of what a file's error says


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Runs a configuration file's ``get_config()`` and applies overrides.

    A file with several configurations lists their names in ``NAMES``, and ``get_config(name)``
    makes one of them. The file runs as your own code: it may import modules beside it, and name
    your own estimators and tasks as ``module:name``.

    Args:
        path: the file, or ``FILE:NAME`` for one of several configurations.
        overrides: settings as ``part.field=value``, such as ``train.steps=50``.

    Raises:
        zojax.InputError: there is no such file or name, an override is invalid, or the file raises
            an exception; the message names the line.

    Example:
        >>> import zojax
        >>> config = zojax.load_config(zojax.demo.__file__, ["train.steps=50"])
        >>> config.train.steps, config.estimator.name
        (50, 'lozo')
    """
    if isinstance(overrides, str):
        raise TypeError("overrides should be a list of texts, not one text")
    file, name = split_name(path)
    with trusted(file):
        config = _get_config(path, file, name)
    return apply_overrides(config, overrides)


def _get_config(path: str, file: str, name: str | None) -> Config:
    """Returns what a file's ``get_config`` returns."""
    module = _run(path, file)
    _check_name(path, file, name, _names(file, module))
    get_config = module.get("get_config")
    if not callable(get_config):
        raise InputError(f"{file}: has no get_config()")
    try:
        config = get_config() if name is None else get_config(name)
    except BaseException as error:
        raise _refusal(file, error) from error
    if not isinstance(config, Config):
        raise InputError(f"{file}: get_config() returned {type(config).__name__}, not a Config")
    return config


def config_names(path: str) -> tuple[str, ...]:
    """The names of a file's configurations; empty if it has a single one without a name.

    Raises:
        InputError: there is no such file, or it raises an exception.
    """
    with trusted(path):
        return _names(path, _run(path, path))


def split_name(path: str) -> tuple[str, str | None]:
    """Splits ``FILE:NAME``; the name is None without one. A file's own name may have a colon."""
    file, colon, name = path.rpartition(":")
    return (file, name) if colon and not os.path.isfile(path) else (path, None)


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
    """Runs a configuration file and returns the names that it defines."""
    if not os.path.isfile(file):  # also False for names that no file can have
        what = "is a directory" if os.path.isdir(file) else "no such file"
        raise InputError(f"--config {plain(path, _SHOWN)}: {what}; {_FIX}")
    if kind := _NOT_PYTHON.get(os.path.splitext(file)[1].lower()):
        raise InputError(f"--config {plain(path, _SHOWN)}: is {kind}, not Python; {_FIX}")
    try:
        return runpy.run_path(file)
    except BaseException as error:
        raise _refusal(file, error) from error


def _names(file: str, module: Mapping[str, Any]) -> tuple[str, ...]:
    names = module.get("NAMES", ())
    if type(names) not in (list, tuple) or not all(type(name) is str for name in names):
        raise InputError(f"{file}: NAMES should be a list of strings")
    return tuple(names)


def _refusal(file: str, error: BaseException) -> InputError:
    """An error that says what a file raised, and where; ``KeyboardInterrupt`` is re-raised."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    return InputError(f"{file}{line_of(file, error)}: {_what(error)}")


def _what(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return describe(error)
    if isinstance(error, InputError):
        return str(error)
    try:
        text = str(error.msg if isinstance(error, SyntaxError) else error)
        return plain(f"{type(error).__name__}: {text}", _LONGEST)
    except BaseException:  # the file's own exception class may raise anything
        return "an error that cannot be printed"
