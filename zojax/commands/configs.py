"""List configurations: how to name each with --config, and what it does.

Example:
  zojax configs --filter sst2
  zojax configs configs/opt13b_table.py --filter icl --json
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table

from zojax.commands.options import JSON
from zojax.errors import InputError
from zojax.printing import make_console, say_json

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.config import Config

_MADE_BY = b"get_config"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "paths",
        nargs="*",
        default=["configs"],
        metavar="PATH",
        help="configuration files, or directories of them (default: configs)",
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="TEXT",
        dest="filters",
        help="only those with TEXT in name, task, method or model (repeatable: all must match)",
    )
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    listed = list_configs(args.paths, args.filters)
    if args.json:
        say_json({"configs": [dataclasses.asdict(item) for item in listed]})
    else:
        show(listed, make_console(highlight=False))
    return 0


@dataclasses.dataclass(frozen=True)
class Listed:
    """A configuration in a list.

    Attributes:
        config: the value for ``--config``: a file, or ``FILE:NAME``.
        file: the file.
        name: the configuration's name in the file; empty if it is the only one.
        task: the task's name.
        method: the method; see :func:`method_of`.
        model: the path or hub id of the base model.
        steps: the number of training steps; 0 for none.
        about: the first line of the file's docstring.
    """

    config: str
    file: str
    name: str
    task: str
    method: str
    model: str
    steps: int
    about: str


def method_of(config: Config) -> str:
    """Return ``zero-shot`` or ``icl`` if nothing is trained, else ``estimator/space``.

    >>> from zojax.config import Config, ModelConfig, RunConfig
    >>> method_of(Config(ModelConfig("facebook/opt-125m"), RunConfig("runs/a")))
    'lozo/linear'
    """
    if config.train.steps == 0:
        return "icl" if config.data.num_demos else "zero-shot"
    return f"{config.estimator.name}/{config.space.name}"


def list_configs(paths: Sequence[str], filters: Sequence[str] = ()) -> list[Listed]:
    """List the configurations of files and directories, in the files' order.

    Args:
        paths: configuration files, or directories of them.
        filters: texts that must all occur in what is listed, in upper or lower case.

    Raises:
        InputError: there is no such path, nothing to list, or a broken file.
    """
    listed = [item for file in _files(paths) for item in _list_file(file)]
    chosen = [item for item in listed if all(_has(item, text) for text in filters)]
    if not chosen:
        wanted = " ".join(f"--filter {text}" for text in filters)
        raise InputError(
            f"{wanted}: matches none of {len(listed)} configurations; zojax configs lists all"
        )
    return chosen


def show(listed: Sequence[Listed], console: Console) -> None:
    """Print a table for every file."""
    for file, items in itertools.groupby(listed, lambda item: item.file):
        _show_file(file, list(items), console)
    for line in (
        "zojax train --config FILE:NAME trains one; one without steps is evaluated by",
        "zojax eval --config FILE:NAME",
    ):
        console.print(line, style="dim")


def _files(paths: Sequence[str]) -> list[str]:
    """The files that are named, and those in named directories that make a configuration."""
    files = []
    for path in paths:
        if Path(path).is_dir():
            inside = [str(p) for p in sorted(Path(path).glob("*.py")) if _MADE_BY in p.read_bytes()]
            if not inside:
                raise InputError(f"{path}: no *.py file in it has get_config()")
            files += inside
        elif Path(path).is_file():
            files.append(path)
        else:
            raise InputError(
                f"{path}: no such file or directory; give configuration files, or directories of "
                "them, as zojax configs PATH …"
            )
    return files


def _list_file(file: str) -> list[Listed]:
    from zojax.config.loading import config_names, load_config

    names = config_names(file)  # raises if anything is wrong with the file
    docstring = ast.get_docstring(ast.parse(Path(file).read_bytes())) or ""
    listed = []
    for name in names or ("",):
        config = load_config(reference := f"{file}:{name}" if name else file)
        what = config.data.task, method_of(config), config.model.path, config.train.steps
        listed.append(Listed(reference, file, name, *what, docstring.partition("\n")[0]))
    return listed


def _has(item: Listed, text: str) -> bool:
    return any(
        text.lower() in field.lower() for field in (item.config, item.task, item.method, item.model)
    )


def _show_file(file: str, items: Sequence[Listed], console: Console) -> None:
    heading = f"{file}:NAME" if items[0].name else file
    console.print(heading, style="bold", soft_wrap=True)
    if items[0].about:
        console.print(items[0].about)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    if items[0].name:
        table.add_column("NAME", no_wrap=True)
    for column in ("task", "method"):
        table.add_column(column, no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    for item in items:
        steps = f"{item.steps:,}" if item.steps else "–"
        cells = (item.task, item.method, steps, _shorter(item.model))
        table.add_row(*((item.name, *cells) if item.name else cells))
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def _shorter(model: str) -> str:
    """Shorten a path below the current directory to a relative one."""
    inside = os.path.isabs(model) and Path(model).is_relative_to(Path.cwd())
    return os.path.relpath(model) if inside else model
