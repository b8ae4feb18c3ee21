"""Proposes a whole configuration for a table: columns, words, numbers of rows, lengths, steps."""

import dataclasses
import heapq
import math
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

from zojax.config import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from zojax.errors import InputError
from zojax.hub import Tokenizer, load_tokenizer, read_config
from zojax.hub.gguf_file import is_gguf
from zojax.models.family import DecoderConfig
from zojax.models.registry import PUBLISHED
from zojax.proposals.choice import Choice, choose
from zojax.proposals.columns import look
from zojax.proposals.words import propose_words
from zojax.tasks.bad_rows import BadRows, Table, survey
from zojax.tasks.custom import custom_task
from zojax.tasks.data_files import find_files, is_table, missing
from zojax.tasks.example import Example
from zojax.tasks.row import Row
from zojax.tasks.tables import read_files
from zojax.tasks.task import Task, make_example
from zojax.tasks.tokenize import num_tokens, tokenise

MODEL = "facebook/opt-125m"
"""The model that is proposed: a small one, which learns on any machine."""

_LEAST_ROWS = 8  # to learn from and for dev
_SAMPLE = 1_000  # examples whose tokens are counted
_TOKENISED = 100_000  # candidates, of which an example may have a thousand
_MOST_TRAIN, _MOST_DEV, _MOST_EVAL = 100_000, 500, 2_000
_PASSES, _LEAST_STEPS, _MOST_STEPS = 30, 2_000, 20_000
_BATCH = 16
_LONG_ANSWERS = 20  # whose tokens are counted: the longest text need not have the most
_LONGEST_NAME = 100  # bytes
_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
_CHARACTERS_PER_TOKEN = 3  # about four in English; a longer estimate cuts nothing off
_UNINFORMATIVE = {"label", "labels", "class", "target", "y", "gold"}


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long prompts with their answers are.

    Attributes:
        longest: the longest that was seen, in tokens.
        limit: the proposed limit.
        is_counted: whether tokens were counted, and not estimated from bytes.
        looked_at: how many examples were looked at.
        over: how many of them are over the limit.
        room: the least limit that leaves room for the longest answer.
    """

    longest: int
    limit: int
    is_counted: bool
    looked_at: int
    over: int
    room: int


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A configuration for a table, and what it was made from.

    Attributes:
        config: the configuration.
        choice: what is learnt from which columns.
        rows: the number of rows of the table to learn from, bad ones included.
        held_out: the number of rows to evaluate on, bad ones included.
        has_validation: whether these are in a file of their own.
        bad: the number of bad rows among them.
        first_bad: what is wrong with the first bad row; empty if there is none.
        lengths: how long examples are.
    """

    config: Config
    choice: Choice
    rows: int
    held_out: int
    has_validation: bool
    bad: int
    first_bad: str
    lengths: Lengths


def propose(
    path: Path, model: str = MODEL, label: str | None = None, texts: Sequence[str] = ()
) -> Proposal:
    """Proposes a configuration.

    Args:
        path: a table, or a directory that has one named ``train``.
        model: the base model, of which at most the tokenizer is read, and nothing is fetched.
        label: the column with the labels or answers; None is chosen.
        texts: the columns to read; empty are chosen.

    Raises:
        InputError: the table cannot be read, or nothing can be learnt from it.
    """
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise InputError(f"{path}: no such file; give a .csv, .jsonl or .parquet file")
    if path.stem == "train" and is_table(path) and find_files(path.parent, "validation"):
        path = path.parent  # so that the file beside it is what a run evaluates on
    train, validation = _read(path, "train"), _read(path, "validation")
    if train is None:
        raise missing(path, "train")
    columns = look(row.record for row in train.rows if row.record is not None)
    choice = choose(train.where, columns, label, texts)
    data = _data(path, train.where, choice)
    task, bad = custom_task(data), BadRows(skip=True)
    survey([train, validation or Table("", [])], task, bad, labels=list(data.candidates or ()))
    count, num_bad = len(train.rows), len(bad.of(train))
    held_out = len(validation.rows) if validation else count // 5
    rest = count - num_bad - (0 if validation else held_out)  # if no held-out row is a bad one
    if rest < _LEAST_ROWS:
        raise InputError(
            f"{train.where}: has {count - num_bad:,} good rows{_also_bad(bad, train)}, which are "
            "too few to learn from and to hold some out"
        )
    tables = [train] if validation is None else [train, validation]
    good = [row for table in tables for row in table.rows if row.name not in bad.of(table)]
    sample = _draw([row for row in train.rows if row.name not in bad.of(train)], task)
    shape, tokenizer = _known(model)
    lengths = _measure(sample, _longest_answers(good, task), task, shape, tokenizer)
    data.num_dev = min(_MOST_DEV, max(1, rest // 5))
    data.num_train = min(_MOST_TRAIN, rest - data.num_dev)
    data.num_eval = min(_MOST_EVAL, held_out)
    data.max_length, data.truncate = lengths.limit, "left"
    data.calibration = "none" if data.candidates is None else "fitted"
    data.skip_bad = len(bad) > 0 or lengths.room > lengths.limit
    return Proposal(
        Config(
            ModelConfig(model),
            RunConfig(f"runs/{_run_name(path)}"),
            data=data,
            train=_train(data),
        ),
        choice,
        count,
        held_out,
        validation is not None,
        len(bad),
        next(
            (str(e) for table in (train, validation) if table for e in bad.of(table).values()), ""
        ),
        lengths,
    )


def _data(path: Path, where: str, choice: Choice) -> DataConfig:
    """The columns and the words, without numbers."""
    target, names = choice.target, [column.name for column in choice.texts]
    title = "Answer" if choice.is_answer else "Label"
    if target.name.lower() not in _UNINFORMATIVE:
        title = _title(target.name)
    parts = ["{" + name + "}" for name in names]
    if len(parts) > 1:
        titles = [_title(name).replace("{", "{{").replace("}", "}}") for name in names]
        parts = [f"{title}: {part}" for title, part in zip(titles, parts, strict=True)]
    prompt = "\n".join([*parts, title.replace("{", "{{").replace("}", "}}") + ":"])
    if choice.is_answer:
        return DataConfig("custom", str(path), prompt=prompt, answer=target.name)
    words = propose_words(where, target.values)
    return DataConfig("custom", str(path), prompt=prompt, candidates=words, label=target.name)


def _title(name: str) -> str:
    """A column's name as the beginning of a line.

    >>> _title("customer_message"), _title("queue")
    ('Customer message', 'Queue')
    """
    words = " ".join(name.replace("_", " ").split()) or name
    return words[:1].upper() + words[1:]


def _read(path: Path, split: str) -> Table | None:
    """The rows of a split; None if it has no file."""
    if is_table(path):
        return read_files([path], _accept) if split == "train" else None
    files = find_files(path, split)
    return read_files(files, _accept) if files else None


def _accept(error: InputError) -> None:
    """Accepts that a row is bad, which its error says later."""


def _also_bad(bad: BadRows, table: Table) -> str:
    errors = list(bad.of(table).values())
    return f" and {len(errors):,} bad ones (the first: {errors[0]})" if errors else ""


def _draw(rows: Sequence[Row], task: Task) -> list[Example]:
    """Some examples, the same every time."""
    drawn = random.Random(0).sample(rows, min(_SAMPLE, len(rows)))
    return [make_example(task, row.record or {}, row.name) for row in drawn]


def _known(model: str) -> tuple[DecoderConfig | None, Tokenizer | None]:
    """A model's shape and tokenizer, if they are on this machine."""
    if os.path.isdir(model) or is_gguf(model):
        return read_config(model), load_tokenizer(model, None)
    return PUBLISHED.get(model), None


def _longest_answers(rows: Sequence[Row], task: Task) -> list[Example]:
    """The examples with the longest free answers, or any one if all have the same candidates."""
    made = (make_example(task, row.record or {}, row.name) for row in rows)
    if task.candidates:
        return [next(made)]
    return heapq.nlargest(_LONG_ANSWERS, made, lambda example: len(example.candidates[0].encode()))


def _measure(
    sample: Sequence[Example],
    longest: Sequence[Example],
    task: Task,
    shape: DecoderConfig | None,
    tokenizer: Tokenizer | None,
) -> Lengths:
    """Chooses the least limit of the usual ones that 99 % of the examples and all answers keep."""
    room = 1 + max(_room(example, task, tokenizer) for example in longest)
    sample = sample[: max(1, _TOKENISED // len(sample[0].candidates))]
    if tokenizer is not None:
        counts = [num_tokens(tokenise(tokenizer, e), task.max_new_tokens) for e in sample]
    else:
        counts = [_estimate(example, task) for example in sample]
    counts.sort()
    most = shape.max_position_embeddings if shape else _LENGTHS[-1]
    usual = max(room, counts[math.ceil(0.99 * len(counts)) - 1])
    limit = next((length for length in _LENGTHS if length >= usual), _LENGTHS[-1])
    limit = min(limit, most)
    over = sum(length > limit for length in counts)
    return Lengths(counts[-1], limit, tokenizer is not None, len(counts), over, room)


def _room(example: Example, task: Task, tokenizer: Tokenizer | None) -> int:
    """The number of tokens of an example's longest candidate, or answer to generate."""
    if tokenizer is None:
        return max(task.max_new_tokens, *map(estimated_tokens, example.candidates))
    return max(task.max_new_tokens, *map(len, tokenise(tokenizer, example).candidates))


def _estimate(example: Example, task: Task) -> int:
    """About as many tokens as an example has at most, where no tokenizer is at hand."""
    return 1 + estimated_tokens(example.prompt) + _room(example, task, None)


def estimated_tokens(text: str) -> int:
    """A token for every three characters of ASCII, and for every byte of other characters.

    That is more than most texts have, so that no room is lacking for them.

    >>> estimated_tokens(" billing"), estimated_tokens("😀")
    (3, 4)
    """
    ascii_only = sum(character.isascii() for character in text)
    return -(-ascii_only // _CHARACTERS_PER_TOKEN) + len(text.encode()) - ascii_only


def usual_steps(num_train: int, batch_size: int) -> int:
    """How many steps to train on so many examples: some passes, but neither few nor endless.

    >>> usual_steps(100, 16), usual_steps(2_000, 16), usual_steps(100_000, 16)
    (2000, 4000, 20000)
    """
    passes = _PASSES * num_train // batch_size
    return min(max(500 * -(-passes // 500), _LEAST_STEPS), _MOST_STEPS)


def _train(data: DataConfig) -> TrainConfig:
    """Steps for a number of rows; and for labels, what learns them best of all that was tried."""
    steps = usual_steps(data.num_train or 1, _BATCH)
    train = TrainConfig(
        steps=steps,
        batch_size=_BATCH,
        learning_rate="auto",
        schedule="cosine",
        eval_every=steps // 10,
    )
    if data.candidates is None:
        return train
    return dataclasses.replace(train, objective="pairwise", batches="balanced")


def _run_name(path: Path) -> str:
    """A name for the run's directory."""
    name = path.resolve()
    stem = name.parent.name if name.stem == "train" else name.stem if is_table(path) else name.name
    short = re.sub(r"[^\w.-]+", "_", stem).encode()[:_LONGEST_NAME].decode(errors="ignore")
    return short.strip("._-") or "mine"
