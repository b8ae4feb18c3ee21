r"""List the settings of a configuration: what each takes, its default, its meaning.

Example:
  zojax settings
  zojax settings train.learning_rate
  zojax settings fold --json
"""

import argparse

from rich.table import Table

from zojax.commands.options import JSON
from zojax.errors import InputError
from zojax.printing import make_console, say_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "filter",
        nargs="?",
        default="",
        metavar="TEXT",
        help="only settings whose name has TEXT",
    )
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Print the settings."""
    from zojax.config.messages import hint
    from zojax.config.reference import settings

    found = [setting for setting in settings() if args.filter in setting.name]
    if not found:
        names = list(dict.fromkeys(setting.name for setting in settings()))
        raise InputError(f"settings: no setting {args.filter!r}{hint(args.filter, names)}")
    if args.json:
        say_json({"settings": [setting._asdict() for setting in found]})
        return 0
    console = make_console(highlight=False)
    for setting in found:
        of_kind = f" ({setting.kind})" if setting.kind else ""
        console.print(f"{setting.name}{of_kind}", style="bold")
        grid = Table.grid(padding=(0, 1))
        grid.add_row("   takes", setting.takes)
        grid.add_row("   default", setting.default)
        grid.add_row("", setting.meaning.replace("``", ""))
        console.print(grid)
    return 0
