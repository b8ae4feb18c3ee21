"""Loads engines from checkpoints and from runs."""

import dataclasses
from pathlib import Path
from typing import get_args

import jax.numpy as jnp
from rich.console import Console

from zojax.adapters import stack_variants
from zojax.adapters.lora import load_lora
from zojax.config import ModelConfig
from zojax.engine.engine import Engine
from zojax.errors import InputError
from zojax.hub import load as load_model
from zojax.hub import load_tokenizer
from zojax.journal.file import read_journal
from zojax.journal.replay import is_folded
from zojax.printing import make_console
from zojax.runs import rebuild, run_dir


def load(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "float32",
    bos_token_id: int | None = None,
    allow_nonfinite: bool = False,
) -> Engine:
    """Loads a model that scores and generates.

    Args:
        path: a directory in Hugging Face's format, or a hub id such as ``facebook/opt-125m``.
        adapter: the directory of a LoRA in PEFT's format to apply to the model.
        dtype: the weights' dtype on the device: ``float32``, ``bfloat16``, ``float16``, or
            ``int8`` or ``int4`` for the layers' matrices and bfloat16 for the rest.
        bos_token_id: the token that prompts start with; None for the tokenizer's own. Chats start
            with what the model's chat template writes.
        allow_nonfinite: whether to accept weights that are NaN or infinite, or become so in
            ``dtype``; they are then described in ``engine.model.notes``.

    Raises:
        zojax.InputError: the model, its tokenizer or the adapter is bad; the message says how.

    Example:
        >>> import zojax
        >>> engine = zojax.load(zojax.demo.MODEL)
        >>> engine.model.config.num_hidden_layers
        4
    """
    dtypes = get_args(ModelConfig.__annotations__["dtype"])
    if dtype not in dtypes:
        raise InputError(f"dtype={dtype!r}: give one of {', '.join(dtypes)}")
    tokenizer = load_tokenizer(str(path), bos_token_id)
    model = load_model(str(path), dtype=jnp.dtype(dtype), allow_nonfinite=allow_nonfinite)
    pool = {} if adapter is None else stack_variants([load_lora(Path(adapter), model)])
    return Engine(model, tokenizer, pool)


def load_run(
    directory: str | Path, *, step: int | None = None, console: Console | None = None
) -> Engine:
    """Loads the model that a run has trained, by replaying its journal on its base model.

    The run's data are not needed. Prompts are chats if those of the run are (``data.chat``).

    Args:
        directory: the run's directory.
        step: the model after this many steps; None for the best on the dev set, or the last if the
            run was never evaluated.
        console: where progress is printed; None prints nothing.

    Raises:
        zojax.InputError: there is no run, one of its files is damaged, the base model is a
            different one, or the run has fewer steps.

    Example:
        >>> import zojax
        >>> zojax.load_run("no/such/run")
        Traceback (most recent call last):
        zojax.errors.InputError: no/such/run: no such directory, so no run
    """
    directory, console = Path(directory), console or make_console(quiet=True)
    config = run_dir.read_config(directory)
    tokenizer = load_tokenizer(config.model.path, config.model.bos_token_id)
    journal = read_journal(directory / run_dir.JOURNAL)
    trained = rebuild.load_run(journal, config, console, step)
    pool = stack_variants([trained.adapter(trained.state)])
    model = trained.model
    if is_folded(trained.method, trained.steps):  # these weights are in no checkpoint
        model = dataclasses.replace(model, path="")
    return Engine(model, tokenizer, pool, config.data.chat, config.data.system)
