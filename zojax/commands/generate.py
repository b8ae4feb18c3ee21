r"""Continue prompts with a base model, a run's best model or a PEFT LoRA.

Example:
  zojax generate runs/demo --prompt "a gripping film" --prompt "a dull film"
  zojax generate runs/demo --step 500 --prompt "a gripping film"
  zojax generate --model facebook/opt-125m --prompts prompts.txt --stop '\n' \
      --temperature 0.7 --top-p 0.9 --num-samples 4 --output texts.jsonl
  zojax generate --model facebook/opt-125m --adapter DIR --prompt "Once upon"
  zojax generate --model HuggingFaceTB/SmolLM2-135M-Instruct \
      --chat --prompt "Who was Bach?"
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from zojax.commands.options import (
    CHAT,
    JSON,
    OVERWRITE,
    WEIGHT_DTYPES,
    add_model_arguments,
    count,
)
from zojax.commands.prompts import Prompt, blank_note, read_prompts
from zojax.errors import InputError
from zojax.printing import make_console, say, say_json, warn

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.engine import Engine
    from zojax.generation import Generation, Sampling

_MOST_TEXTS = 1_000_000

_GENERATED = ("prompt", "sample", "text", "finish_reason", "tokens")
"""The fields of every row of ``--output``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        dest="texts",
        metavar="TEXT",
        help="a text to continue (repeatable)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=".txt or /dev/stdin with one prompt per line, or .jsonl, .csv or .parquet with a "
        "field 'prompt'",
    )
    numbers = [
        ("--max-new-tokens", int, 50, "the most tokens to generate for each prompt"),
        ("--temperature", float, 0.0, "0 takes the most probable token, 1 samples"),
        ("--top-k", int, 0, "sample from the K most probable tokens; 0: from all"),
        ("--top-p", float, 1.0, "sample from the fewest tokens with this total probability"),
        ("--seed", int, 0, "seed of the samples"),
        ("--num-samples", int, 1, "texts for each prompt"),
        ("--batch-size", int, 16, "texts to generate together"),
    ]
    for name, kind, default, what in numbers:
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{what} (default: {default})"
        )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        type=lambda text: text.replace("\\n", "\n").replace("\\t", "\t"),
        metavar="TEXT",
        help="a string that ends a text and is cut off; \\n is a line break (repeatable)",
    )
    parser.add_argument(
        "--dtype",
        choices=WEIGHT_DTYPES,
        help="dtype of --model's weights on the device (default: float32)",
    )
    parser.add_argument(
        "--bos-token-id",
        type=count,
        metavar="ID",
        help="with --model: the token that prompts start with (default: the tokenizer's own)",
    )
    parser.add_argument("--chat", **CHAT)
    parser.add_argument("--json", **JSON)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the texts there, a JSON object per line",
    )
    parser.add_argument("--overwrite", **OVERWRITE)


def run(args: argparse.Namespace) -> int:
    """Generate, and print or write the texts."""
    if (args.run is None) == (args.model is None):
        raise InputError("generate: give RUN, or --model M")
    for_model = (args.adapter, args.dtype, args.bos_token_id)
    if args.run is not None and any(value is not None for value in for_model):
        raise InputError("generate: --adapter, --dtype and --bos-token-id go with --model M")
    if args.run is None and args.step is not None:
        raise InputError("generate: --step goes with RUN")
    if args.chat and args.bos_token_id is not None:
        raise InputError(
            "generate: --bos-token-id is for texts; a chat starts as its template says"
        )

    from zojax.outputs import RowsFile

    output = args.output and RowsFile("--output", args.output, _GENERATED, overwrite=args.overwrite)
    if output is not None:
        output.spare(args.prompts)
        output.spare_model(args.model, args.adapter)
        if args.run is not None:
            from zojax.runs.run_dir import read_config

            output.spare_model(read_config(args.run).model.path)

    from zojax.distributed.platforms import check_platforms
    from zojax.engine import load, load_run
    from zojax.generation import Sampling
    from zojax.programs.cache import keep_programs

    keep_programs()
    check_platforms()
    console = make_console(stderr=True)
    prompts = read_prompts(args.texts, args.prompts)
    if args.run is not None:
        engine = load_run(args.run, step=args.step, console=console)
    else:
        with console.status("loading the model"):
            engine = load(
                args.model,
                adapter=args.adapter,
                dtype=args.dtype or "float32",
                bos_token_id=args.bos_token_id,
            )
    is_chat = engine.chat if args.chat is None else args.chat
    if not is_chat and (note := blank_note([text for _, text in prompts])):
        warn(note)
    summary = generate_texts(
        dataclasses.replace(engine, chat=is_chat),
        prompts,
        console,
        max_new_tokens=args.max_new_tokens,
        sampling=Sampling(args.temperature, args.top_k, args.top_p),
        seed=args.seed,
        stop_strings=args.stop,
        num_samples=args.num_samples,
        batch_size=args.batch_size,
    )
    if output is not None:
        output.write(summary["generations"])
    if args.json:
        say_json(summary)
    elif output is not None:
        (warn if output.is_stdout else say)(f"{args.output}: {in_words(summary)}")
    else:
        show(summary, make_console(highlight=False), between="\n" if is_chat else "")
    return 0


def generate_texts(
    engine: Engine,
    prompts: Sequence[Prompt],
    console: Console,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    stop_strings: Sequence[str],
    num_samples: int,
    batch_size: int,
) -> dict[str, Any]:
    """Continue every prompt, ``num_samples`` times.

    Returns:
        ``generations``, in the prompts' order, each with ``prompt``, ``sample`` (from 0), ``text``,
        ``finish_reason`` and ``tokens``; and ``seconds``, including compilation.

    Raises:
        InputError: an argument is invalid, a prompt does not fit the model, or the model's scores
            are not finite after any prompt.
    """
    if num_samples < 1:
        raise InputError(f"--num-samples {num_samples}: give 1 or more")
    if num_samples * len(prompts) > _MOST_TEXTS:
        raise InputError(
            f"--num-samples {num_samples} of {len(prompts)} prompts: ask for at most "
            f"{_MOST_TEXTS:,} texts, since all are kept in memory until the last is done"
        )
    if not 0 <= seed < 2**31:
        raise InputError(f"--seed {seed}: give 0 or more, below 2147483648")
    if num_samples > 1 and sampling.temperature == 0:
        raise InputError(
            f"--num-samples {num_samples}: all samples would be the same text; give --temperature, "
            "too"
        )

    from zojax.reporting.bar import progress_bar

    asked = [prompt for prompt in prompts for _ in range(num_samples)]
    started = time.perf_counter()
    with progress_bar(console, "generate") as update:
        found = engine.generate(
            [text for _, text in asked],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop_strings,
            seed=seed,
            batch_size=batch_size,
            names=[name for name, _ in asked],
            on_progress=lambda done: update(done, len(asked)),
        )
    broken = sum(generation.finish_reason == "nonfinite" for generation in found)
    if broken == len(found):
        raise InputError(
            "no text could be finished: the model's scores are not finite, because its weights "
            "contain numbers that are not, or overflow their dtype"
        )
    return {
        "generations": [
            _row(text, i % num_samples, generation)
            for i, ((_, text), generation) in enumerate(zip(asked, found, strict=True))
        ],
        "seconds": time.perf_counter() - started,
    }


def _row(prompt: str, sample: int, generation: Generation) -> dict[str, Any]:
    return {"prompt": prompt, "sample": sample, **dataclasses.asdict(generation)}


def show(summary: Mapping[str, Any], console: Console, *, between: str = "") -> None:
    """Print each text after its prompt, with a text between them, and how it ended."""
    rows = summary["generations"]
    for row in rows:
        text = Text.assemble((row["prompt"], "dim"), between, (row["text"], "bold"))
        console.print(text, soft_wrap=True)
        count = len(row["tokens"])
        what = f"{count} token{'s' if count > 1 else ''}, {row['finish_reason']}"
        sample = f"sample {row['sample'] + 1}, " if rows[-1]["sample"] else ""
        console.print(Text(f"— {sample}{what}\n", "dim"))
    console.print(in_words(summary))


def in_words(summary: Mapping[str, Any]) -> str:
    """How much was generated, and how fast.

    >>> in_words({"generations": [{"tokens": [5, 6]}, {"tokens": [7]}], "seconds": 0.5})
    '2 texts, 3 tokens in 0.5 s'
    """
    rows = summary["generations"]
    count = sum(len(row["tokens"]) for row in rows)
    texts = f"{len(rows)} text{'s' if len(rows) > 1 else ''}"
    broken = sum(row.get("finish_reason") == "nonfinite" for row in rows)
    cut = f"; {broken} cut short where the model's scores are not finite" if broken else ""
    return f"{texts}, {count} token{'s' if count > 1 else ''} in {summary['seconds']:.1f} s{cut}"
