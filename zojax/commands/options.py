"""What commands share: how one is added to a parser, the options of several, their values."""

import argparse
from pathlib import Path
from typing import Any

from zojax.errors import InputError

WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""What the weights of a model may be on the device."""

CONFIG = "Python file with get_config(), or FILE:NAME (see zojax configs)"
"""What ``--config`` takes, for its help."""


def add_command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """Adds a command that a text explains: a sentence, and examples under ``Example:``.

    Args:
        commands: what ``add_subparsers`` has returned.
        name: of the command.
        about: such as its module's docstring.
    """
    sentence, _, examples = about.partition("\n\nExample:\n")
    return commands.add_parser(
        name,
        help=sentence[:1].lower() + sentence[1:].rstrip("."),
        description=sentence,
        epilog=f"example:\n{examples.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_run(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Adds RUN."""
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run", **settings)


def add_step(parser: argparse.ArgumentParser, condition: str = "", more: str = "") -> None:
    """Adds ``--step``, with what it goes with and a further default in its help."""
    parser.add_argument(
        "--step",
        type=count,
        metavar="N",
        help=f"{condition}the model after N steps (default: the best on the dev set{more})",
    )


def add_overrides(
    parser: argparse.ArgumentParser, what: str = "override a field, e.g. train.learning_rate=1e-6"
) -> None:
    """Adds ``--set``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help=f"{what} (repeatable)",
    )


def add_alias(parser: argparse.ArgumentParser, name: str, override: str, what: str) -> None:
    """Adds an option that is short for a ``--set``."""
    parser.add_argument(name, action="append_const", const=override, dest="overrides", help=what)


def add_skip_bad(parser: argparse.ArgumentParser) -> None:
    """Adds ``--skip-bad``."""
    setting = "data.skip_bad=true"
    what = f"leave out bad rows and count them (--set {setting})"
    add_alias(parser, "--skip-bad", setting, what)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def count(text: str) -> int:
    """A whole number from 0 on, as the value of an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def check_output(option: str, file: Path | None) -> None:
    """Finds out before a model is loaded that a file cannot be written there."""
    if file is not None and not file.parent.is_dir():
        raise InputError(f"{option} {file}: no directory {file.parent}")
    if file is not None and file.is_dir():
        raise InputError(f"{option} {file}: is a directory; give a file")
