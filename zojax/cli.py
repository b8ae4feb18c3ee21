"""The command line: ``zojax train | eval | score``."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# Set before JAX, transformers and tokenizers are imported, which read them then.
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
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
    )
    parser.add_argument("--version", action="version", version=f"zojax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    train = command(
        "train",
        "train as a configuration says, or go on with the run in its directory",
        "zojax train --config configs/demo.py --set train.steps=500 --set run.dir=runs/short",
    )
    train.add_argument("--config", required=True, metavar="FILE", help="Python file: get_config()")
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
        "--step", type=int, help="steps to replay (default: best by dev accuracy)"
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    score = command(
        "score",
        "print candidates' log-probabilities after a text",
        'zojax score --model demo/model --text "A great cast. It was" --candidate " great"',
    )
    score.add_argument("--model", required=True, metavar="M", help="directory or hub id")
    score.add_argument("--text", required=True, help="what comes before the candidates")
    score.add_argument(
        "--candidate", action="append", required=True, dest="candidates", help="(repeatable)"
    )
    score.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    score.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 on bad input, 130 when interrupted."""
    args = make_parser().parse_args(argv)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    from zojax.errors import InputError

    try:
        return {"train": _train, "eval": _eval, "score": _score}[args.command](args)
    except InputError as error:
        print(f"zojax: error: {error}", file=sys.stderr)
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
    from rich.console import Console

    from zojax.config import load_config
    from zojax.training import run_dir, train

    console = Console(highlight=False)
    config = load_config(args.config, args.overrides)
    _use_compile_cache()
    if args.fresh and (aside := run_dir.set_aside(Path(config.run.dir))):
        console.print(f"the run before is kept in {aside}")
    result = train(config, console)
    if result is None:
        return INTERRUPTED
    directory = Path(config.run.dir)
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
    console.print(f"curves   {directory / run_dir.CURVES}")
    console.print(
        f"adapter  {journal} ({journal.stat().st_size / 1000:.0f} kB; the base model and this "
        f"file are the trained model: zojax eval {directory})"
    )
    return 0


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


def _score(args: argparse.Namespace) -> int:
    from rich.console import Console
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
            repr(row["candidate"]),
            f"{row['logprob']:.4f}",
            f"{row['mean_logprob']:.4f}",
            f"{100 * row['share']:.1f} %",
        )
    Console(highlight=False).print(table)
    return 0


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
