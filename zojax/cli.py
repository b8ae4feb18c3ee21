"""The command line: ``zojax train | eval | journal | score``."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Set before JAX, transformers and tokenizers are imported, which read them then.
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

BAD_INPUT, INTERRUPTED = 2, 130

_EXAMPLES = """examples:
  zojax train --config configs/demo.py
  zojax train --config configs/opt13b_lozo.py --set train.learning_rate=1e-6 --set run.dir=runs/a
  zojax eval runs/demo
  zojax score --model facebook/opt-125m --text "A gripping film. It was" \\
      --candidate " great" --candidate " terrible"
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from zojax import __version__

    parser = argparse.ArgumentParser(
        prog="zojax",
        description="Fine-tune large language models with inference alone.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zojax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    train = command(
        "train",
        "train as a configuration says, or go on with the run in its directory",
        "zojax train --config configs/demo.py --set train.steps=500 --set run.dir=runs/short",
    )
    train.add_argument(
        "--config", required=True, metavar="FILE", help="Python file with get_config()"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="override a field, e.g. train.learning_rate=1e-6 (repeatable)",
    )
    train.add_argument(
        "--fresh",
        action="store_true",
        help="start anew; a run that the directory holds is renamed to DIR.1, DIR.2, …",
    )

    evaluate = command(
        "eval", "evaluate a run's best model on its held-out data", "zojax eval runs/demo --json"
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="directory of a run")
    evaluate.add_argument(
        "--step",
        type=_count,
        metavar="N",
        help="the model after N steps (default: the best by dev accuracy)",
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    journal = command(
        "journal", "show, verify or replay a run's journal", "zojax journal verify runs/demo"
    )
    _add_journal_actions(journal)

    score = command(
        "score",
        "print candidates' log-probabilities after a text",
        'zojax score --model demo/model --text "a gripping film . It was" \\\n'
        '      --candidate " great" --candidate " terrible"',
    )
    score.add_argument("--model", required=True, metavar="M", help="directory or hub id")
    score.add_argument("--text", required=True, help="what comes before the candidates")
    score.add_argument(
        "--candidate",
        action="append",
        required=True,
        dest="candidates",
        metavar="TEXT",
        help="what may follow, with its leading blank (repeatable)",
    )
    score.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="of the weights on the device (default: float32)",
    )
    score.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_journal_actions(journal: argparse.ArgumentParser) -> None:
    actions = journal.add_subparsers(dest="action", required=True, metavar="ACTION")
    summaries = {
        "show": "print the header and the first and last records",
        "verify": "check every byte; exit code 1 if the end is damaged",
        "replay": "rebuild the trained weights from the base model, without data",
    }
    parsers = {
        name: actions.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  zojax journal {name} runs/demo",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, summary in summaries.items()
    }
    for name, parser in parsers.items():
        parser.add_argument(
            "path", type=Path, metavar="RUN", help="directory of a run, or a journal"
        )
        if name != "verify":
            parser.add_argument("--json", action="store_true", help="print one JSON object")
    replay = parsers["replay"]
    replay.add_argument("--output", type=Path, metavar="DIR", help="write a Hugging Face directory")
    replay.add_argument("--model", metavar="M", help="base model (default: as in the header)")
    replay.add_argument("--steps", type=_count, metavar="N", help="steps to replay (default: all)")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    That is 0, or 2 on bad input, 130 when interrupted (Ctrl-C), 143 when terminated (SIGTERM).

    Arguments that cannot be parsed, ``--help`` and ``--version`` raise ``SystemExit``, as ever.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    from zojax.errors import InputError

    try:
        return _COMMANDS[args.command](args)
    except InputError as error:
        print(f"zojax: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nzojax: interrupted", file=sys.stderr)
        return INTERRUPTED


def _use_compile_cache() -> None:
    """Keeps compiled programs between runs, unless the user has set a place (or none) himself."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "zojax" / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _train(args: argparse.Namespace) -> int:
    from zojax.config import load_config

    # Read first: the imports below take seconds, and a slip in a --set need not wait for them.
    config = load_config(args.config, args.overrides)

    from rich.console import Console

    from zojax.training import Stopped, run_dir, train

    # Off a terminal there is no bar to keep within a width, and logs want whole lines.
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    _use_compile_cache()
    directory = Path(config.run.dir)
    try:
        with run_dir.set_aside(directory) if args.fresh else nullcontext() as aside:
            result = train(config, console)
    except Stopped as stopped:
        console.print(str(stopped), soft_wrap=True, markup=False)
        return stopped.exit_code
    if aside is not None:
        console.print(f"the run before is kept in {aside}", soft_wrap=True, markup=False)
    _print_result(console, directory, result)
    return 0


def _print_result(console: "Console", directory: Path, result: Mapping[str, Any]) -> None:
    from zojax.training import run_dir

    before, after = result["eval_accuracy_before"], result["eval_accuracy"]
    console.print(
        f"\n[bold]held-out accuracy {100 * before:.1f} % → {100 * after:.1f} %[/] "
        f"({result['eval_examples']} examples; best dev {100 * result['best_dev_accuracy']:.1f} % "
        f"at step {result['best_step']})"
    )
    if "median_step_seconds" in result:
        console.print(
            f"median step {1000 * result['median_step_seconds']:.1f} ms · "
            f"{result['tokens_per_second']:,.0f} tokens/s · "
            f"token efficiency {100 * result['token_efficiency']:.1f} %"
        )
    journal = directory / run_dir.JOURNAL
    console.print(f"curves   {directory / run_dir.CURVES}", soft_wrap=True, markup=False)
    console.print(
        f"adapter  {journal} ({journal.stat().st_size / 1000:.0f} kB; the base model and this "
        f"file are the trained model: zojax eval {directory})",
        soft_wrap=True,
        markup=False,
    )


def _eval(args: argparse.Namespace) -> int:
    from rich.console import Console

    from zojax.training import evaluate_run

    _use_compile_cache()
    result = evaluate_run(args.run, Console(stderr=True), args.step)
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"held-out accuracy {100 * result['eval_accuracy']:.1f} % "
            f"({result['eval_examples']} examples) after step {result['step']}"
        )
    return 0


def _journal(args: argparse.Namespace) -> int:
    from rich.console import Console

    from zojax.training import journal_commands

    if args.action == "show":
        journal_commands.show(args.path, Console(), as_json=args.json)
        return 0
    if args.action == "verify":
        return journal_commands.verify(args.path, Console())
    _use_compile_cache()
    told = journal_commands.replay_to(
        args.path, Console(stderr=True), output=args.output, model=args.model, steps=args.steps
    )
    print(json.dumps(told) if args.json else journal_commands.in_words(told))
    return 0


def _score(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from zojax.training.rank import rank_candidates

    _use_compile_cache()
    rows = rank_candidates(args.model, args.text, args.candidates, args.dtype)
    if args.json:
        print(json.dumps({"text": args.text, "candidates": rows}))
        return 0
    table = Table("candidate", "log-probability", "a token", "among these", box=None)
    for row in rows:
        table.add_row(
            escape(repr(row["candidate"])),
            f"{row['logprob']:.4f}",
            f"{row['mean_logprob']:.4f}",
            f"{100 * row['share']:.1f} %",
        )
    Console(highlight=False).print(table)
    return 0


_COMMANDS = {"train": _train, "eval": _eval, "journal": _journal, "score": _score}


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
