"""Finds a user's own code, named in settings as ``module:name``, and imports it only if allowed.

A configuration may name an estimator, a task, an objective or a family of models that zojax does
not have. A configuration file is code that its user chose to run, so the modules that it names are
imported. A journal, a run directory or an exported file may come from somebody else, so the modules
that it names are never imported automatically: the user must allow them, with ``--allow-module`` or
:func:`allow_module`, or have imported them already.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from zojax.config.messages import joined
from zojax.errors import InputError
from zojax.text import plain

_T = TypeVar("_T")
_SHOWN = 100  # the most characters of a name, or of a module's error, in a message

_directory: ContextVar[str | None] = ContextVar("directory", default=None)
_modules: dict[str, ModuleType] = {}


def is_foreign(name: object) -> bool:
    """Whether a name refers to a user's own code: ``module:name``.

    >>> is_foreign("my_module:my_task"), is_foreign("sst2"), is_foreign(":"), is_foreign("a b:c")
    (True, False, False, False)
    """
    if not isinstance(name, str):
        return False
    module, colon, attribute = name.partition(":")
    pieces = [*module.split("."), attribute]
    return bool(colon) and all(piece.isidentifier() for piece in pieces)


def find(name: str, of_type: type[_T], what: str) -> _T:
    """Finds the object that a name refers to, if its module may be used.

    Args:
        name: the name, as ``module:name``.
        of_type: the type that the object must have.
        what: what messages call the object, such as ``an estimator``.

    Raises:
        InputError: the module is not allowed, cannot be imported, or has no such object.
    """
    module_name, _, attribute = name.partition(":")
    module = sys.modules.get(module_name) or _modules.get(module_name)
    if module is None:
        directory = _directory.get()
        if directory is None:
            raise InputError(
                f"{plain(name, _SHOWN)} is code from outside zojax, which is not run "
                f"automatically; if you trust it, allow it with --allow-module "
                f"{plain(module_name, _SHOWN)} (in Python: "
                f"zojax.allow_module({plain(module_name, _SHOWN)!r}))"
            )
        module = _import(module_name, directory)
    # Not getattr: a module's own __getattr__ may import whatever it is asked for.
    found = vars(module).get(attribute)
    if not isinstance(found, of_type):
        there = [key for key, value in vars(module).items() if isinstance(value, of_type)]
        has = f"it has {joined(there, 'and')}" if there else "it has none"
        raise InputError(
            f"{plain(name, _SHOWN)}: {module_name} has no {plain(attribute, _SHOWN)} that is "
            f"{what}; {has}"
        )
    return found


def allow_module(name: str) -> None:
    """Imports a module of yours, so that runs and models can use what they name in it.

    A run whose configuration names ``my_module:my_estimator`` cannot be evaluated, exported or
    replayed before this, since modules that a run's files name are never imported automatically.

    Args:
        name: a module's name, which is looked up as by ``import``, and last in the current
            directory; or the path of a ``.py`` file, which becomes a module with the file's name.

    Raises:
        zojax.InputError: there is no such module, or importing it fails.

    Example:
        >>> import zojax
        >>> zojax.allow_module("json")
        >>> zojax.allow_module("absent")
        Traceback (most recent call last):
        zojax.errors.InputError: absent: ModuleNotFoundError: No module named 'absent'
    """
    if name.endswith(".py"):
        _allow_file(Path(name))
    elif all(piece.isidentifier() for piece in name.split(".")):
        _import(name, os.getcwd(), comes_last=True)
    else:
        raise InputError(
            f"--allow-module {plain(name, _SHOWN)}: give a module's name, or the path of a .py file"
        )


def _allow_file(path: Path) -> None:
    place = f"--allow-module {plain(path, _SHOWN)}"
    if not path.is_file():
        raise InputError(f"{place}: no such file")
    if not path.stem.isidentifier():
        raise InputError(f"{place}: its name is not one that Python can import")
    found = _import(path.stem, str(path.parent)).__file__
    if found is None or not os.path.samefile(found, path):
        raise InputError(
            f"{place}: another module is imported as {path.stem} already ({found or 'built in'}); "
            "give the file another name"
        )


def allow_found(name: str) -> None:
    """Adds the module of a name that :func:`find` has found to the allowed ones."""
    module_name = name.partition(":")[0]
    _modules[module_name] = sys.modules[module_name]


def allowed_modules() -> list[ModuleType]:
    """The user's own modules that settings have named or that the user has allowed."""
    return list(_modules.values())


@contextmanager
def trusted(file: str) -> Iterator[None]:
    """A context in which modules that settings name are imported, also from beside a file.

    Args:
        file: the user's own configuration file.
    """
    directory = os.path.dirname(os.path.abspath(file))
    before = _directory.set(directory)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(directory)
        _directory.reset(before)


@contextmanager
def untrusted() -> Iterator[None]:
    """A context for settings from a file that is not the user's: nothing is imported in it."""
    before = _directory.set(None)
    try:
        yield
    finally:
        _directory.reset(before)


def _import(name: str, directory: str, *, comes_last: bool = False) -> ModuleType:
    """Imports a module, looking in a directory first, or last."""
    sys.path.insert(len(sys.path) if comes_last else 0, directory)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = plain(f"{type(error).__name__}: {error}", 10 * _SHOWN)
        raise InputError(f"{plain(name, _SHOWN)}: {text}") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(directory)
    _modules[name] = module
    return module
