"""The command line: ``zojax train | eval | export | configs | data | journal | …``."""

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zojax.commands.arguments import make_parser
from zojax.errors import BAD_INPUT, DOES_NOT_FIT, INTERRUPTED, InputError, as_line
from zojax.files import write_rows

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

# To compile for devices that are not here. What is here is left alone.
_WITHOUT_DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # only so that libtpu does not ask
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at a time, which share no TPU
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    That is 0, or 2 on bad input, 3 for a plan that does not fit, 130 when interrupted (Ctrl-C),
    143 when terminated (SIGTERM).

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
    try:
        return _COMMANDS[args.command](args)
    except InputError as error:
        print(f"zojax: error: {as_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nzojax: interrupted", file=sys.stderr)
        return INTERRUPTED


def _use_compile_cache() -> None:
    """Keeps compiled programs between runs, unless the user has set a place (or none) himself.

    The shortest too: of a run's dozens of them, each takes longer to compile than to read.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    directory = home / "zojax" / "compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        print(
            f"zojax: compiled programs are not kept, since {directory} cannot be written "
            f"({error.strerror}); every run compiles them anew",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _train(args: argparse.Namespace) -> int:
    from zojax.config.loading import load_config

    # Read first: the imports below take seconds, and a slip in a --set need not wait for them.
    config = load_config(args.config, args.overrides)

    from rich.console import Console

    from zojax.distributed import processes
    from zojax.programs.stopping import Stopped
    from zojax.runs import run_dir
    from zojax.runs.train import train

    _use_compile_cache()
    with processes.connected():
        tells = processes.is_leader()
        # Off a terminal there is no bar to keep within a width, and logs want whole lines.
        console = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), quiet=not tells)
        directory = Path(config.run.dir)

        def tell(line: str) -> None:
            console.print(line, soft_wrap=True, markup=False)

        try:
            with run_dir.set_aside(directory, tell) if args.fresh and tells else nullcontext():
                result = train(config, console)
        except Stopped as stopped:
            tell(str(stopped))
            processes.exit_together(stopped.exit_code)
            return stopped.exit_code
        if tells:
            _print_result(console, directory, result)
    return 0


def _print_result(console: "Console", directory: Path, result: Mapping[str, Any]) -> None:
    from zojax.runs import run_dir

    metric = result.get("metric", "accuracy")
    before, after = result[f"eval_{metric}_before"], result[f"eval_{metric}"]
    was = "?" if before is None else f"{100 * before:.1f} %"
    console.print(
        f"\n[bold]held-out {metric} {was} → {100 * after:.1f} %[/] "
        f"({result['eval_examples']} examples; best dev {100 * result[f'best_dev_{metric}']:.1f} % "
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

    from zojax.commands.eval import evaluate_config, evaluate_run, override_run
    from zojax.config.loading import load_config
    from zojax.runs import run_dir

    _use_compile_cache()
    console = Console(stderr=True)
    if (args.run is None) == (args.config is None):
        raise InputError("eval: give either RUN, or --config FILE")
    if args.step is not None and (args.run is None or args.adapter):
        raise InputError("eval: --step goes with RUN alone")
    _check_place("--predictions", args.predictions)
    if args.run and args.adapter is None:
        result = evaluate_run(
            args.run, console, args.step, overrides=args.overrides, predictions=args.predictions
        )
        what = f"after step {result['step']}"
    else:
        config = (
            override_run(run_dir.read_config(args.run), args.overrides)
            if args.run
            else load_config(args.config, args.overrides)
        )
        result = evaluate_config(config, console, args.adapter, predictions=args.predictions)
        what = f"with {args.adapter}" if args.adapter else f"of {config.model.path}"
    if args.json:
        print(json.dumps(result))
    else:
        metric = result["metric"]
        print(
            f"held-out {metric} {100 * result[f'eval_{metric}']:.1f} % "
            f"({result['eval_examples']} examples) {what}"
        )
    return 0


def _check_place(option: str, file: Path | None) -> None:
    """Finds out before a model is loaded that there is no place for what will be written."""
    if file is not None and not file.parent.is_dir():
        raise InputError(f"{option} {file}: no directory {file.parent}")
    if file is not None and file.is_dir():
        raise InputError(f"{option} {file}: is a directory; give a file")


def _export(args: argparse.Namespace) -> int:
    from rich.console import Console

    from zojax.exports.export import export_run, in_words

    _use_compile_cache()
    told = export_run(
        args.run,
        args.format,
        args.output,
        Console(stderr=True),
        rank=args.rank,
        step=args.step,
        dtype=args.dtype,
    )
    print(json.dumps(told) if args.json else in_words(told))
    return 0


def _configs(args: argparse.Namespace) -> int:
    from rich.console import Console

    from zojax.commands import configs as config_list

    listed = config_list.list_configs(args.paths, args.filters)
    if args.json:
        print(json.dumps(config_list.to_json(listed)))
    else:
        config_list.show(listed, Console(highlight=False))
    return 0


def _data(args: argparse.Namespace) -> int:
    from zojax.config.loading import load_config

    config = load_config(args.config, args.overrides)

    from rich.console import Console

    from zojax.commands import data as preview

    told = preview.preview(config, args.split, args.count)
    if args.json:
        print(json.dumps(told))
    else:
        preview.show(told, Console(highlight=False))
    return 0


def _journal(args: argparse.Namespace) -> int:
    from rich.console import Console

    from zojax.commands import journal as journal_commands

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


def _generate(args: argparse.Namespace) -> int:
    if (args.run is None) == (args.model is None):
        raise InputError("generate: give RUN, or --model M")
    for_model = (args.adapter, args.dtype, args.bos_token_id)
    if args.run is not None and any(value is not None for value in for_model):
        raise InputError("generate: --adapter, --dtype and --bos-token-id go with --model M")
    if args.run is None and args.step is not None:
        raise InputError("generate: --step goes with RUN")
    _check_place("--output", args.output)

    from rich.console import Console

    from zojax.commands import generate as command
    from zojax.generation import Sampling

    _use_compile_cache()
    console = Console(stderr=True)
    prompts = command.read_prompts(args.texts, args.prompts)
    if args.run is not None:
        source = command.open_run(args.run, console, args.step)
    else:
        source = command.open_model(
            args.model, args.adapter, args.dtype or "float32", console, args.bos_token_id
        )
    told = command.generate_texts(
        source,
        prompts,
        console,
        max_new_tokens=args.max_new_tokens,
        sampling=Sampling(args.temperature, args.top_k, args.top_p),
        seed=args.seed,
        stop_strings=args.stop,
        num_samples=args.num_samples,
        batch_size=args.batch_size,
    )
    if args.output is not None:
        write_rows(args.output, told["generations"])
    if args.json:
        print(json.dumps(told))
    elif args.output is not None:
        print(f"{args.output}: {command.in_words(told)}")
    else:
        command.show(told, Console(highlight=False))
    return 0


def _plan(args: argparse.Namespace) -> int:
    for name, value in _WITHOUT_DEVICES.items():
        os.environ.setdefault(name, value)

    from rich.console import Console

    from zojax.commands.plan import read_plan_config
    from zojax.planning import report as plan_report
    from zojax.planning.answer import plan_targets

    config = read_plan_config(args.config, args.model, args.overrides)
    console = Console(highlight=False)
    answers = plan_targets(config, args.targets, args.tokens, Console(stderr=True))
    if args.json:
        print(json.dumps({"plans": [plan_report.to_json(answer) for answer in answers]}))
    else:
        for number, answer in enumerate(answers):
            console.print("\n" * bool(number), end="")
            plan_report.show(answer, console)
    return 0 if all(answer.plan.fits for answer in answers) else DOES_NOT_FIT


def _score(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from zojax.commands.score import rank_candidates

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


_COMMANDS = {
    "train": _train,
    "eval": _eval,
    "export": _export,
    "configs": _configs,
    "data": _data,
    "journal": _journal,
    "generate": _generate,
    "plan": _plan,
    "score": _score,
}


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
