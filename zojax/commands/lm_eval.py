r"""Evaluate a run's best model, a base model or a PEFT LoRA on tasks of lm-eval.

Example:
  zojax lm-eval runs/demo --tasks hellaswag,arc_easy --limit 100
  zojax lm-eval --model facebook/opt-125m --tasks lambada_openai \
      --output results.json
  zojax lm-eval --model facebook/opt-125m --adapter DIR --include-path tasks \
      --tasks my_task --num-fewshot 4 --log-samples --output results.json
  zojax lm-eval --model HuggingFaceTB/SmolLM2-135M-Instruct \
      --apply-chat-template --tasks gsm8k --gen-kwargs max_gen_toks=200
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zojax.commands.options import COUNT, JSON, OVERWRITE, WEIGHT_DTYPES, add_model_arguments
from zojax.errors import InputError
from zojax.printing import make_console, say, say_json, warn

if TYPE_CHECKING:
    from zojax.engine import Engine
    from zojax.outputs import RowsFile

_FIELDS = ("results", "configs", "versions", "n-shot")
"""Fields of every file of results."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=WEIGHT_DTYPES,
        help="dtype of --model's weights on the device (default: float32)",
    )
    parser.add_argument(
        "--tasks",
        required=True,
        metavar="NAME,…",
        help="tasks, groups or patterns such as mmlu_*, separated by commas",
    )
    parser.add_argument(
        "--include-path",
        type=Path,
        metavar="DIR",
        help="a directory with tasks of yours; Python files there are run if a task names them",
    )
    parser.add_argument(
        "--num-fewshot", **COUNT, help="solved examples in each prompt (default: the task's)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="N",
        help="the first N examples of each task; below 1, a share of them",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="prompts in one call of the device (default: 16)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="the most tokens of a text; the first of longer ones are left out (default: the "
        "model's positions)",
    )
    parser.add_argument(
        "--gen-kwargs",
        metavar="K=V,…",
        help="settings of generation, in place of the tasks' own",
    )
    parser.add_argument(
        "--apply-chat-template",
        action=argparse.BooleanOptionalAction,
        help="write prompts as chats, with the model's own template (default: with RUN as it was "
        "trained, with --model not)",
    )
    parser.add_argument("--system-instruction", metavar="TEXT", help="what the system says first")
    parser.add_argument(
        "--seed", type=int, default=1234, metavar="N", help="seed of samples (default: 1234)"
    )
    parser.add_argument("--json", **JSON)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the results there, as JSON"
    )
    parser.add_argument(
        "--log-samples",
        action="store_true",
        help="with --output or --json: every example's prompt, answer and figures, too",
    )
    parser.add_argument("--overwrite", **OVERWRITE)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print or write the results."""
    _check(args)

    from zojax.outputs import RowsFile

    output = args.output and RowsFile("--output", args.output, _FIELDS, overwrite=args.overwrite)
    if output is not None:
        _spare(output, args)

    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs

    os.environ["DISABLE_MULTIPROC"] = "1"  # or it forks, which JAX's threads do not survive
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's own bars
    keep_programs()
    check_platforms()
    results = evaluate(args)
    if output is not None:
        output.write([results])
    if args.json:
        say_json(results)
        return 0

    from lm_eval.utils import make_table

    tell = warn if output is not None and output.is_stdout else say
    for column in ("results", "groups"):
        if results.get(column):
            for line in make_table(results, column).splitlines():
                tell(line)
    return 0


def _check(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "lm-eval: lm_eval is missing; install it with pip install 'zojax[lm-eval]'"
        )
    if (args.run is None) == (args.model is None):
        raise InputError("lm-eval: give RUN, or --model M")
    if args.run is not None and (args.adapter is not None or args.dtype is not None):
        raise InputError("lm-eval: --adapter and --dtype go with --model M")
    if args.run is None and args.step is not None:
        raise InputError("lm-eval: --step goes with RUN")
    if args.log_samples and not (args.output or args.json):
        raise InputError("lm-eval: --log-samples goes with --output FILE or --json")
    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: give 1 or more")
    if args.max_length is not None and args.max_length < 2:
        raise InputError(f"--max-length {args.max_length}: give 2 or more")
    if args.limit is not None and not args.limit > 0:
        raise InputError(f"--limit {args.limit:g}: give more than 0")
    if not 0 <= args.seed < 2**31:
        raise InputError(f"--seed {args.seed}: give 0 or more, below 2147483648")


def _spare(output: RowsFile, args: argparse.Namespace) -> None:
    output.spare_model(args.model, args.adapter)
    output.spare(args.include_path)
    if args.run is not None:
        from zojax.runs.run_dir import read_config

        output.spare_model(read_config(args.run).model.path)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Run lm-eval on the tasks that the arguments name.

    Returns:
        lm-eval's results, in types that JSON knows.

    Raises:
        InputError: a task or the model cannot be loaded, or a task asks for what there is not.
    """
    console = make_console(stderr=True)
    with console.status("loading lm-eval"):
        import lm_eval
        from lm_eval.utils import handle_non_serializable

        from zojax.harness.model import EngineLM
        from zojax.harness.tasks import load_tasks

    with console.status("loading the tasks"):
        names = [name.strip() for name in args.tasks.split(",") if name.strip()]
        manager, tasks = load_tasks(names, args.include_path)
    engine = _load(args)
    is_chat = engine.chat if args.apply_chat_template is None else args.apply_chat_template

    from zojax.reporting.bar import progress_bar

    simple_evaluate: Any = lm_eval.simple_evaluate  # whose decorator hides its arguments
    # It prints what it is doing, where only results belong.
    with contextlib.redirect_stdout(sys.stderr), progress_bar(console, "evaluate") as update:
        model = EngineLM(
            engine,
            batch_size=args.batch_size,
            max_length=args.max_length,
            seed=args.seed,
            on_progress=update,
        )
        results = simple_evaluate(
            model,
            tasks=tasks,
            task_manager=manager,
            num_fewshot=args.num_fewshot,
            batch_size=args.batch_size,
            limit=args.limit,
            log_samples=args.log_samples,
            gen_kwargs=args.gen_kwargs,
            apply_chat_template=is_chat,
            system_instruction=args.system_instruction or (engine.system if is_chat else None),
            fewshot_random_seed=args.seed,
        )
    if model.num_nonfinite:
        warn(
            f"note: the model's scores of {model.num_nonfinite:,} continuations are not finite; "
            "they count as impossible"
        )
    results["config"] |= {"model": "zojax", "model_args": _model_args(args)}
    return json.loads(json.dumps(results, default=handle_non_serializable))


def _model_args(args: argparse.Namespace) -> dict[str, Any]:
    """What was evaluated, as the results tell it."""
    names = ("run", "step", "model", "adapter", "dtype", "max_length")
    given = {name: getattr(args, name) for name in names}
    return {name: str(value) for name, value in given.items() if value is not None}


def _load(args: argparse.Namespace) -> Engine:
    from zojax.engine import load, load_run

    console = make_console(stderr=True)
    if args.run is not None:
        return load_run(args.run, step=args.step, console=console)
    with console.status("loading the model"):
        return load(args.model, adapter=args.adapter, dtype=args.dtype or "float32")
