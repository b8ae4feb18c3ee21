"""The command line: a table of commands, and the one place where errors become exit codes."""

import argparse
import difflib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from zojax.commands import (
    compare,
    configs,
    data,
    demo,
    export,
    fork,
    generate,
    init,
    journal,
    lm_eval,
    plan,
    predict,
    probe,
    score,
    serve,
    settings,
    sweep,
    train,
)
from zojax.commands import eval as evaluate
from zojax.commands.options import add_command
from zojax.errors import BAD_INPUT, BROKEN_PIPE, INTERRUPTED, InputError, as_line
from zojax.printing import OutputLost, end_output, warn
from zojax.programs.settings import ignore_environment, is_of_environment
from zojax.text import half_character, plain, plain_lines

# Each module has a docstring, which is its help, and the functions add_arguments and run. It
# imports little before it runs, so that help and errors appear at once.
_COMMANDS = {
    "demo": demo,
    "init": init,
    "train": train,
    "fork": fork,
    "sweep": sweep,
    "compare": compare,
    "probe": probe,
    "eval": evaluate,
    "lm-eval": lm_eval,
    "predict": predict,
    "export": export,
    "configs": configs,
    "settings": settings,
    "data": data,
    "journal": journal,
    "generate": generate,
    "plan": plan,
    "score": score,
    "serve": serve,
}

_EXAMPLES = """examples:
  zojax demo
  zojax init tickets.csv
  zojax train --config configs/opt13b_lozo.py --set train.learning_rate=1e-6 \\
      --set run.dir=runs/a
  zojax fork runs/demo --output runs/slower --set train.learning_rate=1e-4 \\
      --set train.steps=4000
  zojax sweep --config configs/demo.py --output runs/rates \\
      --grid train.learning_rate=3e-3,1e-2,3e-2
  zojax compare runs/demo runs/slower --plot both.png
  zojax probe --config configs/demo.py --gradients
  zojax eval runs/demo
  zojax lm-eval runs/demo --tasks hellaswag,arc_easy
  zojax predict runs/demo --data reviews.csv --output answers.csv
  zojax export runs/demo --format hf --output out
  zojax configs --filter sst2
  zojax settings train
  zojax data preview --config configs/demo.py
  zojax journal show runs/demo
  zojax score runs/demo --text "a gripping film . It was" \\
      --candidate " great" --candidate " terrible"
  zojax generate --model facebook/opt-125m --prompt "The film was"
  zojax serve --model facebook/opt-125m
  zojax plan --model facebook/opt-13b --target h100x1
"""

# Set before JAX, transformers and tokenizers are imported, because they read these then.
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    The exit code is 0, or 2 on bad input, 3 for a plan that does not fit, 130 when interrupted
    (Ctrl-C), 141 when nobody reads the output any more, and 143 when terminated (SIGTERM).

    Arguments that cannot be parsed, ``--help`` and ``--version`` raise ``SystemExit``, as argparse
    does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may be ASCII, for example
            stream.reconfigure(errors="backslashreplace")
    args = _parse(parser := make_parser(), sys.argv[1:] if argv is None else argv)
    if args.command is None:
        parser.print_help()
        return 0
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    ignore_environment()
    warnings.filterwarnings("ignore")
    try:
        _check_texts(args)
        _expand_homes(args)
        _allow(args.modules)
        return _COMMANDS[args.command].run(args)
    except InputError as error:
        warn(f"zojax: error: {as_line(error)}")
        return BAD_INPUT
    except OutputLost as lost:
        if lost.exit_code != BROKEN_PIPE:
            warn(f"zojax: error: {lost}")
        return lost.exit_code
    except ValueError as error:
        if not is_of_environment(error):
            raise
        warn(f"zojax: error: in the environment: {as_line(error)}")
        return BAD_INPUT
    except KeyboardInterrupt:
        warn("")
        warn("zojax: interrupted")
        return INTERRUPTED


def _check_texts(args: argparse.Namespace) -> None:
    """Raises for an argument that is not Unicode, which tokenizers, JSON and YAML need.

    Paths are excepted.
    """
    for value in vars(args).values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and half_character(text):
                raise InputError(f"{plain(text, 200)}: this argument is not UTF-8")


def _expand_homes(args: argparse.Namespace) -> None:
    """Replaces ``~`` at the beginning of paths, which shells leave alone in ``--output=~/a``."""
    for name, value in vars(args).items():
        if isinstance(value, Path) or (name in ("config", "model") and value is not None):
            setattr(args, name, type(value)(os.path.expanduser(value)))


def _allow(modules: Sequence[str]) -> None:
    """Imports the modules that the user allows; see :mod:`zojax.config.foreign`."""
    if modules:
        from zojax.config.foreign import allow_module

        for name in modules:
            allow_module(name)


class _Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors may quote any argument, with plain text in its errors."""

    def error(self, message: str) -> NoReturn:
        option = message.removeprefix("argument ").removesuffix(": expected one argument")
        if option.startswith("--") and message.endswith(": expected one argument"):
            message += f"; write a value that begins with - as {option.split('/')[-1]}=VALUE"
        super().error(plain_lines(message))


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands."""
    from zojax.version import __version__

    parser = _Parser(
        prog="zojax",
        description="Fine-tune large language models with inference alone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zojax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        module.add_arguments(add_command(commands, name, module.__doc__ or ""))
    return parser


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parses arguments, and suggests what was meant by a misspelt one."""
    name = next((argument for argument in argv if not argument.startswith("-")), "")
    if name not in _COMMANDS and (close := difflib.get_close_matches(name, _COMMANDS, n=1)):
        parser.error(f"no command {name!r}; did you mean {close[0]}?")
    if slip := _slip(parser, argv):
        parser.error(slip)
    return parser.parse_args(argv)


def _slip(parser: argparse.ArgumentParser, argv: Sequence[str]) -> str:
    """What is wrong with an option that the command does not have, or an empty string."""
    known, given = _options(parser, argv), argv[: argv.index("--")] if "--" in argv else argv
    unknown = [i for i, argument in enumerate(given) if _is_unknown(argument, known)]
    if not unknown:
        return _bare_file(given) if "--config" in known else ""
    texts = [" ".join((given[i], *_values(given[i + 1 :]))) for i in unknown]
    first = given[unknown[0]]
    meant = _settings(*texts[0].split(" ")) if "--set" in known else ""
    if not meant and (close := difflib.get_close_matches(first.partition("=")[0], known, 1, 0.7)):
        meant = f"; did you mean {close[0]}?"
    return f"unrecognized arguments: {' '.join(texts)}{meant}"


def _bare_file(given: Sequence[str]) -> str:
    """What is wrong with a configuration that is given without ``--config``."""
    before = ["", *given[:-1]]
    file = next((a for a, b in zip(given, before, strict=True) if _is_file(a, behind=b)), None)
    if file is None or any(argument.startswith("--config") for argument in given):
        return ""
    return f"unrecognized arguments: {file}; did you mean --config {file}?"


def _is_file(argument: str, behind: str) -> bool:
    """Whether an argument is a Python file, or ``FILE:NAME``, that is no option's value."""
    return bool(re.search(r"\.py(:|$)", argument)) and not behind.startswith("-")


def _is_unknown(argument: str, known: Sequence[str]) -> bool:
    """Whether an argument is an option that there is not; with a blank in it, it is a value."""
    is_option = re.match(r"--\w", argument) and " " not in argument
    return bool(is_option) and argument.partition("=")[0] not in known


def _values(behind: Sequence[str]) -> list[str]:
    return [value for value in behind[:1] if not value.startswith("-")]


def _options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The options of the command, or of its action, that arguments name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            name = next((argument for argument in argv if not argument.startswith("-")), None)
            if name in action.choices:
                return _options(action.choices[name], argv[argv.index(name) + 1 :])
    return list(parser._option_string_actions)


def _settings(option: str, *values: str) -> str:
    """A hint if an unknown option is a setting of the configuration, such as ``--steps 5``."""
    from zojax.config.schema import field_names
    from zojax.config.upgrade import MOVED

    name, _, value = option.partition("=")
    name = name.removeprefix("--").replace("-", "_")
    value = value or next(iter(values), "VALUE")
    old = {before.partition(".")[2]: now for before, now in MOVED.items()}
    names = [n for n in field_names() if name in (n, n.partition(".")[2])]
    meant = [f"--set {n}={value}" for n in dict.fromkeys(names or [old.get(name)]) if n]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def run() -> None:
    """The console script."""
    try:
        code = main()
    except SystemExit as stop:  # how argparse ends after its help or an error
        code = int(stop.code or 0)
    sys.exit(end_output(code))


if __name__ == "__main__":
    run()
