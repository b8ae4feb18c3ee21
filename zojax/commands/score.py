r"""Print the log-probabilities of candidates after a text.

Example:
  zojax score --model zojax/demo/model --text "a gripping film . It was" \
      --candidate " great" --candidate " terrible"
"""

import argparse
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from zojax.commands.options import JSON, WEIGHT_DTYPES
from zojax.commands.prompts import blank_note
from zojax.errors import InputError
from zojax.printing import make_console, say_json, warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--model", required=True, metavar="M", help="directory or hub id")
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
        default="float32",
        choices=WEIGHT_DTYPES,
        help="dtype of the weights on the device; int8 and int4 are for the layers' matrices only "
        "(default: float32)",
    )
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Score, and print a table."""
    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs

    keep_programs()
    check_platforms()
    rows = rank_candidates(args.model, args.text, args.candidates, args.dtype)
    if note := blank_note([args.text]):
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


def rank_candidates(
    model_path: str, text: str, candidates: Sequence[str], dtype: str = "float32"
) -> list[dict[str, Any]]:
    """Score candidates after a text.

    Returns:
        For each candidate, in the order given: ``candidate``, ``logprob`` (sum over its tokens,
        nats), ``mean_logprob``, ``share`` (softmax of the means over the candidates), ``tokens``.
        A value that is not finite is None, and then every share is None, too.

    Raises:
        InputError: there is no such model, a candidate cannot be scored, there are more tokens than
            the model has positions, or no score is finite.
    """
    import numpy as np

    from zojax.engine import load

    engine = load(model_path, dtype=dtype)
    item = engine.encode(text, candidates, "--text")
    [found] = engine.score_items([item])
    sums = np.array([logprobs.sum() for logprobs in found])
    finite = np.isfinite(sums)
    if not finite.any():
        raise InputError(
            f"{model_path}: its scores are not finite: its weights contain numbers that are not, "
            "or overflow --dtype (float32 has the widest range)"
        )
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
