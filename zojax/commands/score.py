r"""Print the log-probabilities of candidates after a text.

Example:
  zojax score runs/demo --text "a gripping film . It was" \
      --candidate " great" --candidate " terrible"
  zojax score --model facebook/opt-125m --text "A gripping film. It was" \
      --candidate " great" --candidate " terrible" --json
  zojax score --model HuggingFaceTB/SmolLM2-135M-Instruct --chat \
      --text "Is 'a gripping film' praise?" --candidate Yes --candidate No
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from zojax.commands.options import CHAT, JSON, WEIGHT_DTYPES, add_model_arguments
from zojax.commands.prompts import blank_note
from zojax.errors import InputError
from zojax.printing import make_console, say_json, warn

if TYPE_CHECKING:
    from zojax.engine import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--text", required=True, help="the text before the candidates")
    parser.add_argument(
        "--candidate",
        action="append",
        required=True,
        dest="candidates",
        metavar="TEXT",
        help="a text that may follow, with its leading space (repeatable)",
    )
    parser.add_argument(
        "--dtype",
        choices=WEIGHT_DTYPES,
        help="dtype of --model's weights on the device; int8 and int4 are for the layers' "
        "matrices only (default: float32)",
    )
    parser.add_argument("--chat", **CHAT)
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Score, and print a table."""
    if (args.run is None) == (args.model is None):
        raise InputError("score: give RUN, or --model M")
    if args.run is not None and (args.adapter is not None or args.dtype is not None):
        raise InputError("score: --adapter and --dtype go with --model M")
    if args.run is None and args.step is not None:
        raise InputError("score: --step goes with RUN")

    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs

    keep_programs()
    check_platforms()
    engine = _load(args)
    rows = rank_candidates(engine, args.text, args.candidates, chat=args.chat)
    is_chat = engine.chat if args.chat is None else args.chat
    if not is_chat and (note := blank_note([args.text])):
        warn(f"{note} and begin the candidates with it")
    if broken := sum(row["logprob"] is None for row in rows):
        warn(f"note: the scores of {broken} of {len(rows)} candidates are not finite")
    if args.json:
        say_json({"text": args.text, "candidates": rows})
        return 0
    table = Table("candidate", "log-probability", "per token", "among these", box=None)
    for row in rows:
        logprob, mean, share = row["logprob"], row["mean_logprob"], row["share"]
        table.add_row(
            repr(row["candidate"]),
            _UNKNOWN if logprob is None else f"{logprob:.4f}",
            _UNKNOWN if mean is None else f"{mean:.4f}",
            _UNKNOWN if share is None else f"{100 * share:.1f} %",
        )
    make_console(highlight=False).print(table)
    return 0


_UNKNOWN = "not finite"


def _load(args: argparse.Namespace) -> Engine:
    """Load the model; one with broken weights too, since its scores show what is broken."""
    from zojax.engine import load, load_run

    console = make_console(stderr=True)
    if args.run is not None:
        return load_run(args.run, step=args.step, console=console)
    with console.status("loading the model"):
        engine = load(
            args.model,
            adapter=args.adapter,
            dtype=args.dtype or "float32",
            allow_nonfinite=True,
        )
    for note in engine.model.notes:
        warn(f"note: {note}")
    return engine


def rank_candidates(
    engine: Engine, text: str, candidates: Sequence[str], *, chat: bool | None = None
) -> list[dict[str, Any]]:
    """Score candidates after a text.

    Args:
        engine: the model.
        text: the text.
        candidates: what may follow.
        chat: as for :meth:`zojax.Engine.score`.

    Returns:
        For each candidate, in the order given: ``candidate``, ``logprob`` (sum over its tokens,
        nats), ``mean_logprob``, ``share`` (softmax of the means over the candidates), ``tokens``.
        A value that is not finite is None, and then every share is None, too.

    Raises:
        InputError: a candidate cannot be scored, or there are more tokens than the model has
            positions.
    """
    import numpy as np

    item = engine.encode(text, candidates, "--text", chat=chat)
    [found] = engine.score_items([item])
    sums = np.array([logprobs.sum() for logprobs in found])
    finite = np.isfinite(sums)
    means = sums / [len(logprobs) for logprobs in found]
    shares = np.exp(means - np.logaddexp.reduce(means)) if finite.all() else None
    return [
        {
            "candidate": candidate,
            "logprob": float(sums[i]) if finite[i] else None,
            "mean_logprob": float(means[i]) if finite[i] else None,
            "share": None if shares is None else float(shares[i]),
            "tokens": item.candidates[i].tolist(),
        }
        for i, candidate in enumerate(candidates)
    ]
