"""Run a benchmark as a command, and write its figures."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from docs_table import write_docs

from zojax.errors import InputError
from zojax.files import write_atomically


def run(main: Callable[[], None]) -> None:
    """Run a command line; bad input ends in one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def tell(
    args: argparse.Namespace, text: str, figures: Any, docs: Path, markers: tuple[str, str]
) -> None:
    """Print a table, and write it where ``--json`` and ``--write-docs`` say.

    Args:
        args: the arguments, with ``json`` and ``write_docs``.
        text: the table, as Markdown.
        figures: the figures in the table, for JSON.
        docs: the document.
        markers: the lines before and after the table in the document.
    """
    tell_tables(args, [(text, markers)], figures, docs)


def tell_tables(
    args: argparse.Namespace,
    tables: Sequence[tuple[str, tuple[str, str]]],
    figures: Any,
    docs: Path,
) -> None:
    """Print tables of the same figures, and write them where ``--json`` and ``--write-docs`` say.

    Args:
        args: as for :func:`tell`.
        tables: each table, and its markers in the document.
        figures: the figures in all of them, which are written once.
        docs: the document.
    """
    for text, _ in tables:
        print(text)
    if args.json:
        write_atomically(args.json, f"{json.dumps(figures, indent=1)}\n".encode())
    if args.write_docs:
        for text, markers in tables:
            write_docs(docs, *markers, text)
