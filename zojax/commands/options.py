"""What commands share: how one is added to a parser, and the options of several."""

import argparse
from pathlib import Path
from typing import Any


def count(text: str) -> int:
    """A whole number from 0 on, as the value of an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


Option = dict[str, Any]
"""What ``add_argument`` takes beside the name."""

RUN: Option = {"type": Path, "metavar": "RUN", "help": "directory of a run"}
CONFIG: Option = {
    "metavar": "FILE",
    "help": "Python file with get_config(), or FILE:NAME (see zojax configs)",
}
SET: Option = {
    "action": "append",
    "default": [],
    "metavar": "FIELD=VALUE",
    "dest": "overrides",
    "help": "override a field, e.g. train.learning_rate=1e-6 (repeatable)",
}
SKIP_BAD: Option = {
    "action": "append_const",
    "const": "data.skip_bad=true",
    "dest": "overrides",
    "help": "leave out bad rows and count them (--set data.skip_bad=true)",
}
FRESH: Option = {
    "action": "store_true",
    "help": "start anew; a run that the directory holds is renamed to DIR.1, DIR.2, …",
}
COUNT: Option = {"type": count, "metavar": "N"}
JSON: Option = {"action": "store_true", "help": "print one JSON object"}
OVERWRITE: Option = {
    "action": "store_true",
    "help": "replace FILE even where it is no older output of this command",
}
WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""What the weights of a model may be on the device."""


def add_command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """Adds a command that a text explains: a sentence, and examples under ``Example:``.

    Args:
        commands: what ``add_subparsers`` has returned.
        name: of the command.
        about: such as its module's docstring.
    """
    sentence, _, examples = about.partition("\n\nExample:\n")
    parser = commands.add_parser(
        name,
        help=sentence[:1].lower() + sentence[1:].rstrip("."),
        description=sentence,
        epilog=f"example:\n{examples.rstrip()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        dest="modules",
        metavar="NAME",
        help="import a module of yours (or FILE.py) that a run's or a model's files name "
        "(repeatable)",
    )
    return parser
