"""What commands share: adding a command to a parser, and the options that several have."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zojax.errors import InputError

if TYPE_CHECKING:
    from zojax.config import Config
    from zojax.journal.file import Journal
    from zojax.outputs import RowsFile


def count(text: str) -> int:
    """Parses a whole number, 0 or more, from the value of an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


Option = dict[str, Any]
"""The arguments of ``add_argument`` besides the option's name."""

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
    "help": "start a new run; a run in the directory is renamed to DIR.1, DIR.2, …",
}
COUNT: Option = {"type": count, "metavar": "N"}
JSON: Option = {"action": "store_true", "help": "print one JSON object"}
OVERWRITE: Option = {
    "action": "store_true",
    "help": "replace FILE even if it is not an older output of this command",
}
CHAT: Option = {
    "action": argparse.BooleanOptionalAction,
    "help": "texts are what the user says in a chat, with the model's own chat template around it "
    "(default: with RUN as it was trained, with --model not)",
}
WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
"""The dtypes that a model's weights may have on the device."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which model is asked: a run's, or a base model with a LoRA."""
    parser.add_argument("run", nargs="?", **RUN)
    parser.add_argument("--model", metavar="M", help="directory or hub id, instead of RUN")
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="with --model: a PEFT LoRA for it"
    )
    parser.add_argument(
        "--step",
        **COUNT,
        help="with RUN: the model after N steps (default: the best on the dev set)",
    )


def read_run_journal(path: Path) -> "Journal":
    """Reads the journal in a run's directory, or the file that is one."""
    from zojax.journal.file import JOURNAL, read_journal

    return read_journal(path / JOURNAL if path.is_dir() else path)


def override_run(config: "Config", overrides: Sequence[str]) -> "Config":
    """Applies overrides that change a run's data, or the batches or devices of its evaluation.

    Args:
        config: the run's configuration.
        overrides: as for :func:`zojax.config.apply_overrides`.

    Raises:
        InputError: an override is invalid, would mean another model, or changes nothing here.
    """
    from zojax.config import apply_overrides

    overridden = apply_overrides(config, overrides)
    for override in overrides:
        name = override.partition("=")[0].strip()
        part = name.partition(".")[0]
        if part in ("data", "mesh") or name == "run.eval_batch_size":
            continue
        of_model = part in ("model", "train", "estimator", "space")
        why = "would mean another model than the run's" if of_model else "changes nothing here"
        raise InputError(
            f"--set {override}: {why}; with RUN, give only data.*, mesh.* and run.eval_batch_size"
        )
    return overridden


def spare_inputs(output: "RowsFile | None", config: "Config", adapter: Path | None = None) -> None:
    """Raises ``InputError`` if an output would replace a file that the command reads.

    Args:
        output: the output; None if there is none.
        config: the model and the data.
        adapter: the directory of an adapter that is read, too.
    """
    if output is None:
        return
    from zojax.tasks.data_files import possible_files
    from zojax.tasks.dataset import get_task

    output.spare_model(config.model.path, adapter)
    output.spare(config.data.path)
    if config.data.path is not None:
        hub = get_task(config.data).hub
        output.spare(*possible_files(Path(config.data.path), hub[1] if hub else None))


def add_command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """Adds a command, with its help.

    Args:
        commands: the object that ``add_subparsers`` returned.
        name: the command's name.
        about: the help, usually the docstring of the command's module: a sentence, and examples
            under ``Example:``.

    Returns:
        The command's parser.
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
