"""Show how a configuration's data are rendered and tokenised.

Example:
  zojax data preview --config configs/demo.py
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.padding import Padding
from rich.text import Text

from zojax.commands.options import CONFIG, COUNT, JSON, SET, SKIP_BAD, add_command
from zojax.printing import make_console, say_json
from zojax.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from zojax.config import Config
    from zojax.hub.tokenizer import Tokenizer
    from zojax.scoring import Item
    from zojax.tasks import Example, Task

Split = Literal["train", "dev", "eval"]

_PREVIEW = """Print rendered examples token by token, and statistics of lengths and labels.

Example:
  zojax data preview --config configs/demo.py --split dev -n 5
"""

_BARS = "▁▂▃▄▅▆▇█"
_TOKENISED = 100_000
"""The most candidates whose tokens are counted; more would take minutes."""

_NUM_BARS = 24
_SHOWN_TOKENS = 300
"""The most tokens of a prompt on the screen: half from its beginning and half from its end."""

_SHOWN_CANDIDATES = _SHOWN_LABELS = 20
"""The most on the screen: the first candidates with the right one, or the most frequent labels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    preview = add_command(actions, "preview", _PREVIEW)
    preview.add_argument("--config", required=True, **CONFIG)
    preview.add_argument("--set", **SET)
    preview.add_argument("--skip-bad", **SKIP_BAD)
    preview.add_argument(
        "--split",
        default="train",
        choices=["train", "dev", "eval"],
        help="which examples (default: train)",
    )
    preview.add_argument(
        "-n", default=3, dest="count", **COUNT, help="number of examples to show (default: 3)"
    )
    preview.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Print the preview."""
    from zojax.config.loading import load_config

    summary = preview(load_config(args.config, args.overrides), args.split, args.count)
    if args.json:
        say_json(summary)
    else:
        show(summary, make_console(highlight=False))
    return 0


def preview(config: Config, split: Split, count: int) -> dict[str, Any]:
    """Read one of a run's splits as the run will.

    Args:
        config: the run's configuration, of which only the data and the model's tokenizer matter.
        split: which split to read.
        count: the number of examples to render.

    Returns:
        ``task``, ``split``, ``num_examples``, ``skipped``, ``notes``; ``shown``: the first
        examples with their tokens, and which candidates are scored (in ``train``, a task that
        learns only from the right candidate scores only that one); ``lengths``: statistics in
        tokens; ``labels``: how often each label occurs.

    Raises:
        InputError: something is wrong with the data or an example. An example that is too long is
            not an error here but counted, unless ``data.skip_bad`` leaves it out.
    """
    from zojax.hub import read_config
    from zojax.hub.turns import run_tokenizer
    from zojax.runs.setup import with_notes
    from zojax.tasks import load_splits, tokenise
    from zojax.tasks.dataset import get_task
    from zojax.tasks.tokenize import fit, frame_of, num_tokens
    from zojax.training.method import objective_name

    data = config.data
    task = get_task(data)
    positions = read_config(config.model.path).max_position_embeddings
    tokenizer = run_tokenizer(config)
    whole = functools.cache(functools.partial(tokenise, tokenizer))

    def shorten(example: Example, truncate: Literal["error", "left"]) -> Item:
        return fit(
            whole(example),
            max_length=data.max_length,
            max_positions=positions,
            truncate=truncate,
            frame=frame_of(tokenizer, example, whole(example)),
            max_new_tokens=task.max_new_tokens,
        )

    refuse_long = data.skip_bad and data.truncate == "error"

    checked = shortened = 0

    def check(example: Example) -> None:
        nonlocal checked, shortened
        checked += len(example.candidates)
        if checked <= _TOKENISED:
            item = shorten(example, "error" if refuse_long else "left")
            shortened += len(item.prompt) < len(whole(example).prompt)

    splits = load_splits(data, check)
    if data.truncate == "error":
        shortened = 0  # the line about lengths says that these are refused
    splits = with_notes(splits, tokenizer, data, shortened, positions)
    examples = {"train": splits.train, "dev": splits.dev, "eval": splits.eval}[split]
    num_texts = itertools.accumulate(len(example.candidates) for example in examples)
    measured = max(count, sum(total <= _TOKENISED for total in num_texts))
    items = [whole(example) for example in examples[:measured]]
    notes = list(splits.notes)
    if measured < len(examples):
        notes.append(
            f"there are so many candidates that lengths were measured for only {measured:,} of "
            f"the {len(examples):,} examples, and not all others were checked"
        )
    lengths = [num_tokens(item, task.max_new_tokens) for item in items]
    limit = min(data.max_length, positions)
    right_only = split == "train" and objective_name(config, splits.task) == "likelihood"
    shown = [
        _describe(example, item, shorten(example, "left"), length, tokenizer, right_only)
        for example, item, length in list(zip(examples, items, lengths, strict=False))[:count]
    ]
    return {
        "task": task.name,
        "split": split,
        "num_examples": len(examples),
        "skipped": splits.skipped,
        "notes": notes,
        "truncate": data.truncate,
        "shown": shown,
        "lengths": _statistics(lengths, limit),
        "labels": _count_labels(examples, task),
    }


def _describe(
    example: Example, whole: Item, item: Item, length: int, tokenizer: Tokenizer, right_only: bool
) -> dict[str, Any]:
    prompt, candidates = item.prompt.tolist(), [c.tolist() for c in item.candidates]
    return {
        "name": example.name,
        "prompt": example.prompt,
        "tokens": prompt,
        "pieces": tokenizer.pieces(prompt),
        "candidates": [
            {
                "text": text,
                "tokens": ids,
                "pieces": tokenizer.pieces(ids),
                "scored": i == example.label or not right_only,
            }
            for i, (text, ids) in enumerate(zip(example.candidates, candidates, strict=True))
        ],
        "label": example.label,
        "answers": list(example.answers),
        "length": length,
        "dropped": len(whole.prompt) - len(prompt),
    }


def _statistics(lengths: Sequence[int], limit: int) -> dict[str, Any]:
    """Statistics in tokens; the bins of ``histogram`` divide ``min`` to ``max`` equally."""
    import numpy as np

    shortest, longest = min(lengths), max(lengths)
    bins = min(_NUM_BARS, longest - shortest + 1)
    counts, _ = np.histogram(lengths, bins=bins, range=(shortest, longest + 1))
    return {
        "min": shortest,
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "max": longest,
        "total": sum(lengths),
        "limit": limit,
        "over": sum(length > limit for length in lengths),
        "histogram": counts.tolist(),
    }


def _count_labels(examples: Sequence[Example], task: Task) -> list[dict[str, Any]]:
    """How often each label is right; empty if the answers are texts."""
    if any(example.answers for example in examples):
        return []
    counts = collections.Counter(example.label for example in examples)
    labels = range(len(task.candidates)) if task.candidates else sorted(counts)
    words = task.candidates or dict.fromkeys(labels)
    return [{"label": i, "word": words[i], "count": counts[i]} for i in labels]


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Print the result of :func:`preview`."""

    def line(text: str | Text, style: str = "") -> None:
        told = plain(text) if isinstance(text, str) else text
        console.print(told, style=style, highlight=False)

    count, rendered = summary["num_examples"], len(summary["shown"])
    line(f"{summary['task']} · {summary['split']} · {rendered} of {count:,} examples", "bold")
    line("│ ends a token · ⏎ is a line break · ▶ the right candidate", "dim")
    for number, example in enumerate(summary["shown"], start=1):
        line("")
        line(f"{number}  {example['name']} · {example['length']:,} tokens", "bold")
        console.print(_prompt(example, summary["truncate"]))
        for index, candidate in _some(example["candidates"], example["label"]):
            console.print(_candidate(candidate, index == example["label"]))
        if (more := len(example["candidates"]) - _SHOWN_CANDIDATES) > 0:
            line(f"  … {more:,} candidates not shown …", "dim")
        if example["answers"]:
            line(f"  answers: {', '.join(map(repr, example['answers']))}")
    line("")
    line(_lengths_in_words(summary["lengths"], summary["truncate"]))
    most = sorted(summary["labels"], key=lambda label: -label["count"])[:_SHOWN_LABELS]
    kept = summary["labels"] if len(summary["labels"]) <= _SHOWN_LABELS else most
    for label in kept:
        word = "" if label["word"] is None else f" {label['word']!r}"
        share = label["count"] / count
        line(f"label {label['label']}{word}: {label['count']:,} ({100 * share:.1f} %)")
    if (more := len(summary["labels"]) - _SHOWN_LABELS) > 0:
        line(f"… {more:,} labels not shown, which are at most as frequent as the last …", "dim")
    for note in summary["notes"]:
        line(note, "yellow")


def _some(candidates: Sequence[Any], right: int) -> list[tuple[int, Any]]:
    """The first few candidates with their indices, always including the right one.

    >>> [place for place, _ in _some(range(3_000), right=2_000)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 2000]
    """
    few = range(min(len(candidates), _SHOWN_CANDIDATES))
    places = few if right in few else [*few[:-1], right]
    return [(place, candidates[place]) for place in places]


def _prompt(example: Mapping[str, Any], truncate: str) -> Padding:
    pieces, half = example["pieces"], _SHOWN_TOKENS // 2
    left_out = len(pieces) - _SHOWN_TOKENS
    text = Text()
    if example["dropped"]:
        fate = "dropped" if truncate == "left" else "too many"
        text.append(f"… {example['dropped']:,} tokens {fate} …", "red")
        text.append("\n")
    if left_out <= 0:
        _append(text, pieces, "")
    else:
        _append(text, pieces[:half], "")
        text.append(f"\n… {left_out:,} tokens not shown …\n", "dim")
        _append(text, pieces[-half:], "")
    text.rstrip()
    return Padding(text, (0, 0, 0, 2), expand=False)


def _candidate(candidate: Mapping[str, Any], is_right: bool) -> Padding:
    text = Text("▶ " if is_right else "  ", "bold green" if is_right else "")
    others = "black on yellow" if candidate["scored"] else "dim"
    _append(text, candidate["pieces"], "bold black on green" if is_right else others)
    text.rstrip()
    count = len(candidate["tokens"])
    fate = "scored" if candidate["scored"] else "not trained on"
    text.append(f"  {fate}, {count} token{'s' * (count > 1)}", "dim")
    return Padding(text, (0, 0, 0, 2), expand=False)


def _append(text: Text, pieces: Sequence[str], style: str) -> None:
    """Append tokens, each with a mark at its end."""
    for piece in pieces:
        visible = "⏎\n".join(plain(part) for part in piece.split("\n"))
        text.append(visible.removesuffix("\n"), style)
        text.append("│\n" if visible.endswith("\n") else "│", "dim")


def _lengths_in_words(lengths: Mapping[str, Any], truncate: str) -> Text:
    counts = lengths["histogram"]
    top = max(counts)
    bars = "".join(
        " " if count == 0 else _BARS[(len(_BARS) * count - 1) // top] for count in counts
    )
    text = Text(
        f"tokens: min {lengths['min']:,} · median {lengths['median']:,.0f} · "
        f"p95 {lengths['p95']:,.0f} · max {lengths['max']:,} · {lengths['total']:,} in all\n"
        f"{lengths['min']:>8,} {bars} {lengths['max']:,}\n"
    )
    over, limit = lengths["over"], lengths["limit"]
    if not over:
        return text.append(f"none is over the limit of {limit:,}")
    fate = "loses its oldest tokens" if truncate == "left" else "is refused"
    return text.append(f"{over:,} over the limit of {limit:,}: such an example {fate}", "red")
