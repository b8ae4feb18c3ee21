r"""Look at a table of your own, and propose a configuration for it.

Example:
  zojax init tickets.csv
  zojax init tickets.csv --label queue --text subject --text body \
      --model facebook/opt-1.3b --output tickets.py
"""

import argparse
import os
from pathlib import Path

from zojax.commands.options import OVERWRITE, Option
from zojax.errors import InputError
from zojax.files import write_atomically
from zojax.outputs import check_place
from zojax.printing import make_console
from zojax.text import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a .csv, .jsonl or .parquet file, or a directory with train as one of them",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("config.py"),
        metavar="FILE",
        help="the configuration to write (default: config.py)",
    )
    parser.add_argument(
        "--model", help="base model: directory or hub id (default: facebook/opt-125m)"
    )
    parser.add_argument(
        "--label", metavar="COLUMN", help="the column to learn: labels, or free answers"
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        dest="texts",
        metavar="COLUMN",
        help="a column to read (repeatable; default: those that hold texts)",
    )
    overwriting: Option = OVERWRITE | {"help": "replace FILE if it is there already"}
    parser.add_argument("--overwrite", **overwriting)


def run(args: argparse.Namespace) -> int:
    """Propose, write and say why."""
    if not os.path.lexists(args.data):
        raise InputError(f"{args.data}: no such file")
    _check_free(args.output, overwrite=args.overwrite)
    from pydantic import ValidationError

    from zojax.config.schema import describe
    from zojax.proposals.proposal import MODEL, propose
    from zojax.proposals.writing import as_python, next_commands, reasons

    try:
        proposal = propose(args.data, args.model or MODEL, args.label, args.texts)
    except ValidationError as error:  # a name that no configuration can hold
        raise InputError(describe(error)) from None
    _write(args.output, as_python(proposal, args.output), overwrite=args.overwrite)
    console = make_console(highlight=False)
    console.print(f"{plain(args.output)} is written. Decisions:", style="bold", soft_wrap=True)
    for about, why in reasons(proposal).items():
        if why:
            console.print(f"{about:<9} {why}", soft_wrap=True)
    console.print("next", style="bold")
    for command in next_commands(proposal, args.output):
        console.print(f"  {plain(command)}", soft_wrap=True)
    return 0


def _check_free(path: Path, *, overwrite: bool) -> None:
    """Raise ``InputError`` if a file cannot or must not be written there."""
    name = _named(path)
    check_place(name, path)
    if path.is_dir():
        raise InputError(f"{name}: is a directory; give a file")
    if path.exists() and not path.is_file():
        return  # a device or a FIFO, which is written to and not replaced
    if path.suffix != ".py":
        raise InputError(f"{name}: a configuration is a Python file; give a name that ends in .py")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{name}: is there already; give another, or --overwrite to replace it")


def _named(path: Path) -> str:
    return f"--output {plain(path, 200)}"


def _write(path: Path, text: str, *, overwrite: bool) -> None:
    """Write the configuration, unless a file has come to be there meanwhile."""
    _check_free(path, overwrite=overwrite)
    try:
        if path.exists() and not path.is_file():
            path.write_text(text)
        else:
            write_atomically(path, text.encode())
    except OSError as error:
        raise InputError(f"{_named(path)}: cannot be written ({error.strerror})") from None
