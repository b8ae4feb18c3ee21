"""Classes of jobs: their programs are compiled when a server starts, and never after that.

A program is compiled for shapes and constants. Those of a class are all known: the estimator with
its space, matrices and length of a probe, the adapter's rank, how many rows are scored together,
and the room that a row has, whatever it holds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zojax.config.messages import hint, reason
from zojax.errors import InputError
from zojax.serving.fine_tuning.rows import Rows
from zojax.serving.fine_tuning.settings import (
    BATCH,
    EPSILONS,
    Base,
    Chosen,
    EstimatorName,
    Hyperparameters,
    Padding,
    Positive,
    Size,
    Words,
    choose,
    choose_rank,
    count_rows,
    num_tokens,
)
from zojax.text import plain

_TOKENS, _LABEL_TOKENS = 128, 4


class AskedClass(BaseModel):
    """What the server's owner says of a class.

    Attributes:
        estimator: as jobs name it.
        rank: the rank of what is learnt.
        batch_size: the examples of a step.
        epsilon: how far from the adapter losses are looked at.
        num_layers: how many of the upper layers learn.
        candidates: the most labels; 1 is for completions and conversations.
        candidate_tokens: the most tokens of a label's word, or of an answer.
        tokens: the room of a row with all of its candidates.
    """

    model_config = ConfigDict(extra="forbid")

    estimator: EstimatorName = "mezo"
    rank: Annotated[int, Field(ge=1, le=4096)] | None = None
    batch_size: Size = BATCH
    epsilon: Positive | None = None
    num_layers: Size | None = None
    candidates: Annotated[int, Field(ge=1, le=64)] = 2
    candidate_tokens: Size | None = None
    tokens: Annotated[int, Field(ge=8, le=1 << 20)] | None = None


class JobClass(BaseModel):
    """The same, of which nothing is left out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    estimator: EstimatorName
    rank: int
    batch_size: int
    epsilon: float
    num_layers: int
    padding: Padding

    def __str__(self) -> str:
        """As the option has it."""
        own = self.model_dump(exclude={"padding"}) | self.padding.model_dump()
        return ",".join(f"{name}={value}" for name, value in own.items())


def read_class(text: str, max_rank: int) -> AskedClass:
    """Reads ``KEY=VALUE,…``; ``InputError`` says what is wrong with it.

    Args:
        text: what was given.
        max_rank: the largest rank of an adapter.

    >>> read_class("rank=4,tokens=64", max_rank=16).rank
    4
    """
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if name not in AskedClass.model_fields:
            raise InputError(
                f"{_named(text)}: no {plain(name, 60)!r}{hint(name, [*AskedClass.model_fields])}"
            )
        if not (equals and value) or name in given:
            raise InputError(f"{_named(text)}: give KEY=VALUE, each once, with commas between")
        given[name] = value
    try:
        asked = AskedClass.model_validate_strings(given)
        choose_rank(asked.rank or "auto", asked.estimator, max_rank)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        raise InputError(f"{_named(text)}: {name} {reason(error)}") from None
    except InputError as error:
        raise InputError(f"{_named(text)}: {error}") from None
    return asked


def choose_class(asked: AskedClass, max_rank: int, max_length: int, depth: int) -> JobClass:
    """Chooses what was left out of a class.

    Args:
        asked: the class.
        max_rank: the largest rank of an adapter.
        max_length: the most tokens of a prompt with an answer.
        depth: the number of the model's layers.

    Raises:
        InputError: there is no room for such rows, or there are not so many layers.
    """
    if asked.num_layers is not None and asked.num_layers > depth:
        raise InputError(f"--train-class num_layers={asked.num_layers}: the model has {depth}")
    count, longest = asked.candidates, asked.candidate_tokens
    if longest is None and count > 1:
        longest = _LABEL_TOKENS
    most = max_length + (0 if longest is None else (count - 1) * (longest - 1))
    tokens = min(_TOKENS, most) if asked.tokens is None else asked.tokens
    padding = Padding(tokens=tokens, candidates=count, candidate_tokens=longest or tokens)
    if tokens > most:
        raise InputError(f"--train-class tokens={tokens}: rows have at most {most} here")
    if padding.max_length <= padding.candidate_tokens:
        raise InputError(
            f"--train-class tokens={tokens}: has no room for a prompt beside candidates={count} of "
            f"candidate_tokens={longest}"
        )
    return JobClass(
        estimator=asked.estimator,
        rank=choose_rank(asked.rank or "auto", asked.estimator, max_rank),
        batch_size=asked.batch_size,
        epsilon=asked.epsilon or EPSILONS[asked.estimator],
        num_layers=asked.num_layers or depth,
        padding=padding,
    )


class Classes:
    """The classes of a server.

    Args:
        classes: the classes, in the order in which they are tried; none if every job is taken.
        length: ``(text) -> the number of its tokens``.
    """

    def __init__(
        self, classes: Sequence[JobClass] = (), length: Callable[[str], int] = lambda text: 0
    ):
        self._classes, self._length = tuple(classes), length

    def __iter__(self) -> Iterator[JobClass]:
        return iter(self._classes)

    def choose(
        self,
        asked: Hyperparameters,
        train: Rows,
        held_out: Rows | None,
        words: Words | None,
        base: Base,
    ) -> Chosen:
        """Chooses what a job leaves open: first as in the first class that it fits.

        Of classes that differ in ``tokens``, the first is taken that probably has room for every
        row, or else the longest, in which longer prompts lose their first tokens.

        Args:
            asked: what the job asks for.
            train: the rows to learn from.
            held_out: the rows to evaluate on; None holds out a part of the others.
            words: how rows are read, if they have labels.
            base: the model.

        Raises:
            InputError: there are too few rows; it fits none, and the message lists them; or as for
                :func:`zojax.serving.fine_tuning.settings.choose`.
        """
        counts = count_rows(train, held_out)
        of_data = train, counts, words, base
        if not self._classes:
            return choose(asked, *of_data)
        num_train = counts.num_train
        labels = [] if words is None else list(words.candidates.values())
        longest = max(map(self._length, labels), default=0)
        answer = max(rows.answer for rows in (train, held_out or train))

        def fits(one: JobClass) -> bool:
            room = one.padding
            if labels:
                has_room = room.candidates >= len(labels) and room.candidate_tokens >= longest
            else:
                has_room = room.candidates == 1 and room.candidate_tokens >= answer < room.tokens
            return (
                has_room
                and one.batch_size <= num_train
                and all(getattr(asked, name) in ("auto", getattr(one, name)) for name in _SHARED)
            )

        fitting = [one for one in self._classes if fits(one)]
        if not fitting:
            given = {name: getattr(asked, name) for name in _SHARED}
            told = [f"{name}={value}" for name, value in given.items() if value != "auto"]
            what = f"{train.kind} with answers of up to about {answer} tokens"
            if labels:
                what = f"{len(labels)} labels of up to {longest} tokens"
            raise InputError(
                f"{', '.join([*told, f'{num_train} rows to learn from', what])}: fits no class of "
                f"jobs of this server; there are {' and '.join(map(str, self._classes))}"
            )
        needed = num_tokens(train, words, base)
        roomy = [one for one in fitting if one.padding.tokens >= needed]
        chosen = roomy[0] if roomy else max(fitting, key=lambda one: one.padding.tokens)
        filled = {name: getattr(chosen, name) for name in _SHARED}
        return choose(asked.model_copy(update=filled), *of_data, chosen.padding)


_SHARED = ("estimator", "rank", "batch_size", "epsilon", "num_layers")
"""What both jobs and classes have."""


def _named(text: str) -> str:
    return f"--train-class {plain(text, 200)}"
