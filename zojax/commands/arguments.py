"""What the command line takes: a parser for every command, with help and examples."""

import argparse
from pathlib import Path

_EXAMPLES = """examples:
  zojax train --config configs/demo.py
  zojax train --config configs/opt13b_lozo.py --set train.learning_rate=1e-6 \\
      --set run.dir=runs/a
  zojax eval runs/demo
  zojax export runs/demo --format hf --output out
  zojax configs --filter sst2
  zojax data preview --config configs/demo.py
  zojax journal show runs/demo
  zojax score --model facebook/opt-125m --text "A gripping film. It was" \\
      --candidate " great" --candidate " terrible"
  zojax generate --model facebook/opt-125m --prompt "The film was"
  zojax plan --model facebook/opt-13b --target h100x1
"""

WEIGHT_DTYPES = ("float32", "bfloat16", "float16", "int8")
"""What the weights of a model may be on the device."""

_CONFIG = "Python file with get_config(), or FILE:NAME (see zojax configs)"


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
        "zojax train --config configs/demo.py --set train.steps=500 \\\n"
        "      --set run.dir=runs/short\n"
        "  zojax train --config configs/demo.py --set run.dir=runs/traced --profile",
    )
    train.add_argument("--config", required=True, metavar="FILE", help=_CONFIG)
    _add_overrides(train)
    _add_skip_bad(train)
    train.add_argument(
        "--fresh",
        action="store_true",
        help="start anew; a run that the directory holds is renamed to DIR.1, DIR.2, …",
    )
    train.add_argument(
        "--profile",
        action="append_const",
        const="run.profile=true",
        dest="overrides",
        help="trace a few steps into DIR/profile, and tell what takes longest in one",
    )

    evaluate = command(
        "eval",
        "evaluate a run's best model, a base model or a PEFT LoRA on held-out data",
        "zojax eval runs/demo --json\n"
        "  zojax eval runs/demo --set data.path=DIR --predictions answers.jsonl\n"
        "  zojax eval --config configs/opt125m_lozo.py                # zero-shot\n"
        "  zojax eval --config configs/opt125m_lozo.py \\\n"
        "      --set data.num_demos=32                                # in context\n"
        "  zojax eval --config configs/opt125m_lozo.py --adapter DIR  # a PEFT LoRA",
    )
    evaluate.add_argument("run", type=Path, nargs="?", metavar="RUN", help="directory of a run")
    evaluate.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="a PEFT LoRA on the base model, in place of the run's",
    )
    evaluate.add_argument(
        "--config", metavar="FILE", help="base model and data, in place of RUN: FILE or FILE:NAME"
    )
    _add_overrides(evaluate, "override a field; with RUN, data.*, mesh.* or run.eval_batch_size")
    _add_skip_bad(evaluate)
    evaluate.add_argument(
        "--step",
        type=_count,
        metavar="N",
        help="the model after N steps (default: the best on the dev set)",
    )
    evaluate.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write what is answered on each example there, one JSON object a line",
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    export = command(
        "export",
        "write a run's model for PEFT or transformers, or its journal to give away",
        "zojax export runs/demo --format hf --output out",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="directory of a run")
    export.add_argument(
        "--format",
        required=True,
        choices=["peft", "hf", "journal"],
        help="a LoRA, a checkpoint, or what another needs to replay the run",
    )
    export.add_argument("--output", required=True, type=Path, metavar="DIR", help="new directory")
    export.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help="of a LoRA (default: the run's own if nothing was folded, else 16)",
    )
    export.add_argument(
        "--step",
        type=_count,
        metavar="N",
        help="the model after N steps (default: the best on the dev set; of a journal: all)",
    )
    export.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the file (default: of hf the run's own, of peft float32)",
    )
    export.add_argument("--json", action="store_true", help="print one JSON object")

    configs = command(
        "configs",
        "list configurations: what to give to --config, and what each does",
        "zojax configs --filter sst2\n  zojax configs configs/opt13b_table.py --filter icl --json",
    )
    configs.add_argument(
        "paths",
        nargs="*",
        default=["configs"],
        metavar="PATH",
        help="files, or directories of them (default: configs)",
    )
    configs.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="TEXT",
        dest="filters",
        help="only those with it in name, task, method or model (repeatable: all must fit)",
    )
    configs.add_argument("--json", action="store_true", help="print one JSON object")

    data = command(
        "data",
        "look at what a configuration's data become",
        "zojax data preview --config configs/demo.py",
    )
    _add_data_actions(data)

    journal = command(
        "journal", "show, verify or replay a run's journal", "zojax journal verify runs/demo"
    )
    _add_journal_actions(journal)

    generate = command(
        "generate",
        "go on from prompts with a base model, a run's best model or a PEFT LoRA",
        'zojax generate runs/demo --prompt "a gripping film" --prompt "a dull film"\n'
        '  zojax generate runs/demo --step 500 --prompt "a gripping film"\n'
        "  zojax generate --model facebook/opt-125m --prompts prompts.txt --stop '\\n' \\\n"
        "      --temperature 0.7 --top-p 0.9 --num-samples 4 --output texts.jsonl\n"
        '  zojax generate --model facebook/opt-125m --adapter DIR --prompt "Once upon"',
    )
    _add_generate(generate)

    plan = command(
        "plan",
        "compile a run's step for a machine that is not here: memory, exchanges, time",
        "zojax plan --model facebook/opt-13b --target h100x1\n"
        "  zojax plan --config configs/opt13b_lozo.py --target v5e-4,v6e-4 --json\n"
        "  zojax plan --model facebook/opt-66b --target v5p-8 --set mesh.model=4",
    )
    _add_plan(plan)

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
        choices=WEIGHT_DTYPES,
        help="of the weights on the device; int8 is of the layers' matrices (default: float32)",
    )
    score.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument(
        "--model",
        metavar="M",
        help="directory with a config.json, or a published OPT by its name (default: the "
        "configuration's, or facebook/opt-13b); nothing is downloaded",
    )
    plan.add_argument(
        "--config", metavar="FILE", help=f"{_CONFIG} (default: LoZO on SST-2 in bfloat16)"
    )
    _add_overrides(plan)
    plan.add_argument(
        "--target",
        action="append",
        required=True,
        dest="targets",
        metavar="T",
        help="h100x8, h200x8, a100x8: so many GPUs; v5e-8, v6e-8: so many TPU chips; v5p-8: so "
        "many cores, two a chip (repeatable, or with commas)",
    )
    plan.add_argument(
        "--tokens",
        type=_count,
        metavar="N",
        help="distinct tokens of a batch (default: SST-2's, 14.5 an example)",
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object")


def _add_generate(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("run", type=Path, nargs="?", metavar="RUN", help="directory of a run")
    generate.add_argument("--model", metavar="M", help="directory or hub id, in place of RUN")
    generate.add_argument(
        "--adapter", type=Path, metavar="DIR", help="with --model: a PEFT LoRA on it"
    )
    generate.add_argument(
        "--step",
        type=_count,
        metavar="N",
        help="with RUN: the model after N steps (default: the best on the dev set)",
    )
    generate.add_argument(
        "--prompt",
        action="append",
        default=[],
        dest="texts",
        metavar="TEXT",
        help="what to go on from (repeatable)",
    )
    generate.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=".txt with a prompt a line, or .jsonl, .csv or .parquet with a field 'prompt'",
    )
    numbers = [
        ("--max-new-tokens", int, 50, "of each prompt, at most"),
        ("--temperature", float, 0.0, "0 takes the most probable token, 1 samples"),
        ("--top-k", int, 0, "sample from the K most probable tokens; 0: from all"),
        ("--top-p", float, 1.0, "sample from the fewest that have this probability together"),
        ("--seed", int, 0, "of the samples"),
        ("--num-samples", int, 1, "texts of each prompt"),
        ("--batch-size", int, 16, "texts that are made together"),
    ]
    for name, kind, default, what in numbers:
        generate.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    generate.add_argument(
        "--stop",
        action="append",
        default=[],
        type=lambda text: text.replace("\\n", "\n").replace("\\t", "\t"),
        metavar="TEXT",
        help="what ends a text and is cut off; \\n is a line break (repeatable)",
    )
    generate.add_argument(
        "--dtype",
        choices=WEIGHT_DTYPES,
        help="of --model's weights on the device (default: float32)",
    )
    generate.add_argument(
        "--bos-token-id",
        type=_count,
        metavar="ID",
        help="with --model: what prompts start with (default: the tokenizer's own)",
    )
    generate.add_argument("--json", action="store_true", help="print one JSON object")
    generate.add_argument(
        "--output", type=Path, metavar="FILE", help="write the texts there, one JSON object a line"
    )


def _add_overrides(
    command: argparse.ArgumentParser,
    what: str = "override a field, e.g. train.learning_rate=1e-6",
) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help=f"{what} (repeatable)",
    )


def _add_skip_bad(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--skip-bad",
        action="append_const",
        const="data.skip_bad=true",
        dest="overrides",
        help="leave out bad rows and count them (--set data.skip_bad=true)",
    )


def _add_data_actions(data: argparse.ArgumentParser) -> None:
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    summary = "print rendered examples token by token, and statistics of lengths and labels"
    preview = actions.add_parser(
        "preview",
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="example:\n  zojax data preview --config configs/demo.py --split dev -n 5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    preview.add_argument("--config", required=True, metavar="FILE", help=_CONFIG)
    _add_overrides(preview)
    _add_skip_bad(preview)
    preview.add_argument(
        "--split",
        default="train",
        choices=["train", "dev", "eval"],
        help="which examples (default: train)",
    )
    preview.add_argument(
        "-n", type=_count, default=3, metavar="N", dest="count", help="to render (default: 3)"
    )
    preview.add_argument("--json", action="store_true", help="print one JSON object")


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
