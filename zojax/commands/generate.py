"""``zojax generate``: texts that a base model, a run's model or a published LoRA goes on with."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.text import Text

from zojax.adapters import stack_variants
from zojax.adapters.lora import load_lora
from zojax.errors import InputError
from zojax.generation import Generation, Sampling, generate
from zojax.hub import load, load_tokenizer
from zojax.hub.tokenizer import Tokenizer
from zojax.models import Model
from zojax.reporting.bar import progress_bar
from zojax.runs import run_dir
from zojax.runs.rebuild import load_run
from zojax.tasks.records import read_file

Tree = Any
Prompt = tuple[str, str]
"""Where it comes from, and its text."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What generates.

    Attributes:
        model: weights that an adapter state goes with.
        pool: the adapter state in slot 1, or empty for the base model.
        tokenizer: the model's.
    """

    model: Model
    pool: Tree
    tokenizer: Tokenizer


def read_prompts(texts: Sequence[str], file: Path | None) -> list[Prompt]:
    """The prompts of the command line, and then those of a file.

    Args:
        texts: of ``--prompt``.
        file: ``.txt`` with a prompt a line, or ``.jsonl`` (``.csv``, ``.parquet``) with a field
            ``prompt``.

    Raises:
        InputError: there is none, or the file cannot be read.
    """
    prompts = [(f"--prompt {i}", text) for i, text in enumerate(texts, start=1)]
    if file is not None:
        prompts += _read_text(file) if file.suffix == ".txt" else _read_records(file)
    if not prompts:
        raise InputError("no prompt; give --prompt TEXT or --prompts FILE")
    return prompts


def _read_text(file: Path) -> list[Prompt]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 (byte {error.start})") from None
    return [(f"{file}:{i}", line) for i, line in enumerate(lines, start=1) if line.strip()]


def _read_records(file: Path) -> list[Prompt]:
    if file.suffix not in (".jsonl", ".csv", ".parquet"):
        raise InputError(f"{file}: give a .txt with a prompt a line, or a .jsonl, .csv or .parquet")

    def refuse(error: InputError) -> None:
        raise error

    prompts = []
    for row in read_file(file, refuse):
        text = (row.record or {}).get("prompt")
        if not isinstance(text, str):
            raise InputError(f"{row.name}: has no text in a field 'prompt'")
        prompts.append((row.name, text))
    return prompts


def open_model(
    path: str,
    adapter: Path | None,
    dtype: str,
    console: Console,
    bos_token_id: int | None = None,
) -> Source:
    """A base model (a directory or a hub id), with a LoRA that PEFT has saved if one is given.

    Args:
        path: of the model.
        adapter: directory of the LoRA.
        dtype: of the weights on the device.
        console: where the progress is shown.
        bos_token_id: what prompts start with, in place of the tokenizer's own.

    Raises:
        InputError: what is wrong with the model, its tokenizer or the adapter.
    """
    tokenizer = load_tokenizer(path, bos_token_id)
    with console.status("loading the model"):
        model = load(path, dtype=jnp.dtype(dtype))
        pool = {} if adapter is None else stack_variants([load_lora(adapter, model)])
    return Source(model, pool, tokenizer)


def open_run(directory: Path, console: Console, step: int | None = None) -> Source:
    """A run's model, without the run's data.

    Args:
        directory: of the run.
        console: where the progress is shown.
        step: the model after so many steps; None for the best on the dev set (the last, if it has
            none).

    Raises:
        InputError: no run there, a damaged one, another base model, or fewer steps.
    """
    config = run_dir.read_config(directory)
    tokenizer = load_tokenizer(config.model.path, config.model.bos_token_id)
    run = load_run(directory, config, console, step)
    return Source(run.model, stack_variants([run.adapter(run.state)]), tokenizer)


def generate_texts(
    source: Source,
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
    """Goes on from every prompt, ``num_samples`` times.

    Returns:
        ``generations``, in the prompts' order: ``prompt``, ``sample`` (from 0), ``text``,
        ``finish_reason``, ``tokens``; and ``seconds``, the compiling included.

    Raises:
        InputError: an argument that means nothing, or a prompt that does not fit the model.
    """
    if num_samples < 1:
        raise InputError(f"--num-samples {num_samples}: give 1 or more")
    if num_samples > 1 and sampling.temperature == 0:
        raise InputError(f"--num-samples {num_samples} would be one text; give --temperature too")
    tokenizer = source.tokenizer
    asked = [prompt for prompt in prompts for _ in range(num_samples)]
    started = time.perf_counter()
    with progress_bar(console, "generate") as update:
        found = generate(
            source.model,
            [_tokenise(tokenizer, prompt) for prompt in asked],
            tokenizer.text,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            key=jax.random.key(seed),
            stop_ids=tokenizer.stop_ids,
            stop_strings=stop_strings,
            pool=source.pool,
            slots=[1 if source.pool else 0] * len(asked),
            names=[name for name, _ in asked],
            batch_size=batch_size,
            on_progress=lambda done: update(done, len(asked)),
        )
    return {
        "generations": [
            _row(text, i % num_samples, generation)
            for i, ((_, text), generation) in enumerate(zip(asked, found, strict=True))
        ],
        "seconds": time.perf_counter() - started,
    }


def _tokenise(tokenizer: Tokenizer, prompt: Prompt) -> np.ndarray:
    name, text = prompt
    ids = [tokenizer.bos, *tokenizer.ids(text)]
    if max(ids) >= tokenizer.vocab_size:
        raise InputError(
            f"{name}: has token {max(ids)}, but the model's vocabulary has "
            f"{tokenizer.vocab_size}; this is another model's tokenizer"
        )
    return np.array(ids, np.int32)


def _row(prompt: str, sample: int, generation: Generation) -> dict[str, Any]:
    return {"prompt": prompt, "sample": sample, **dataclasses.asdict(generation)}


def show(told: Mapping[str, Any], console: Console) -> None:
    """Prints each text behind its prompt, and how it ended."""
    rows = told["generations"]
    for row in rows:
        text = Text.assemble((row["prompt"], "dim"), (row["text"], "bold"))
        console.print(text, soft_wrap=True)
        count = len(row["tokens"])
        what = f"{count} token{'s' if count > 1 else ''}, {row['finish_reason']}"
        sample = f"sample {row['sample'] + 1}, " if rows[-1]["sample"] else ""
        console.print(Text(f"— {sample}{what}\n", "dim"))
    console.print(in_words(told))


def in_words(told: Mapping[str, Any]) -> str:
    """How much was generated, and how fast.

    >>> in_words({"generations": [{"tokens": [5, 6]}, {"tokens": [7]}], "seconds": 0.5})
    '2 texts, 3 tokens in 0.5 s'
    """
    rows = told["generations"]
    count = sum(len(row["tokens"]) for row in rows)
    texts = f"{len(rows)} text{'s' if len(rows) > 1 else ''}"
    return f"{texts}, {count} token{'s' if count > 1 else ''} in {told['seconds']:.1f} s"
