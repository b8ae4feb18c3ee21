"""From what a client asks for to a job's settings: every one has a value in the end.

Clients choose among harmless settings alone. Nothing that they send is a path, a module or a name
of either.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from zojax.errors import InputError, first_few
from zojax.proposals.proposal import estimated_tokens, usual_steps
from zojax.serving.fine_tuning.rows import TEXT, Rows
from zojax.tasks.custom import parse_template
from zojax.tasks.labels import as_label

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=1024)]
EstimatorName = Literal["mezo", "lozo", "fzoo"]

LEAST_ROWS = 10

PROMPT = f"{{{TEXT}}}\nLabel:"
"""What a text is put into, if a job does not say."""

BATCH = 16
"""The examples of a step, if a job does not say."""

_MOST_STEPS = 1_000_000
_MOST_DEV, _MOST_EVAL = 500, 1_000
_MOST_EXAMPLES = 4 << 20
"""The most examples of all steps together, whose order is drawn when a job begins."""

_MOST_KEPT = 4 << 30
"""The most bytes, in memory or on disk, of what a job keeps of the layers that do not learn."""

PROBED_RANK = 2
"""The rank of what is probed beside an adapter, which has room in its slot, too."""
_PIECE_TOKENS = 256
"""The most tokens of a call of training, unless a row alone has more."""

_RATES: dict[EstimatorName, tuple[tuple[int, float], ...]] = {
    "mezo": ((4096, 1e-4), (1024, 3e-4), (512, 1e-3), (0, 1e-2)),
    "lozo": ((4096, 1e-7), (512, 3e-5), (0, 5e-4)),
    "fzoo": ((512, 3e-4), (0, 3e-3)),
}
"""A learning rate for models that are at least so wide."""

_VARIANTS: dict[EstimatorName, int] = {"mezo": 2, "lozo": 2, "fzoo": 9}
"""How often a step reads each of its rows, side by side."""

EPSILONS: dict[EstimatorName, float] = {"mezo": 1e-2, "lozo": 1e-3, "fzoo": 1e-3}
"""How far each looks, unless a job says so."""


class Hyperparameters(BaseModel):
    """OpenAI's hyperparameters, and zojax's.

    Attributes:
        batch_size: the examples of a step.
        n_epochs: how often all rows are learnt from.
        learning_rate_multiplier: how many times as fast as usual to learn.
        learning_rate: the learning rate itself.
        steps: the number of steps, in the place of ``n_epochs``.
        epsilon: how far from the adapter losses are looked at.
        rank: the rank of what is learnt.
        num_layers: how many layers learn, counted from the last; all, which is ``auto``, or fewer,
            and what lies below is then computed once for each row.
        estimator: how directions are probed: ``mezo`` in a LoRA, which is ``auto``, ``lozo`` and
            ``fzoo`` in all matrices, from where they are folded into an adapter.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    batch_size: Auto | Size = "auto"
    n_epochs: Auto | Size = "auto"
    learning_rate_multiplier: Auto | Positive = "auto"
    learning_rate: Auto | Positive = "auto"
    steps: Auto | Annotated[int, Field(ge=1, le=_MOST_STEPS)] = "auto"
    epsilon: Auto | Positive = "auto"
    rank: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    num_layers: Auto | Size = "auto"
    estimator: Auto | EstimatorName = "auto"


class Learning(BaseModel):
    """The same, of which none is ``auto``, as clients are told them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    batch_size: int
    n_epochs: int
    learning_rate_multiplier: float
    learning_rate: float
    steps: int
    epsilon: float
    rank: int
    num_layers: int = 0  # all, in the records of jobs from before there was a choice
    estimator: EstimatorName


class Padding(BaseModel):
    """The room that every row of a job has, however long it is.

    Attributes:
        tokens: of a row with all of its candidates, which are computed whether it has them or not.
        candidates: the most candidates.
        candidate_tokens: the most tokens of a candidate.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    tokens: int
    candidates: int
    candidate_tokens: int

    @property
    def max_length(self) -> int:
        """The most tokens of a prompt with its longest candidate, so that all others have room.

        >>> Padding(tokens=64, candidates=2, candidate_tokens=4).max_length
        62
        """
        return self.tokens + 1 - (self.candidates - 1) * (self.candidate_tokens - 1)


class Chosen(Learning):
    """All that is chosen for a job.

    Attributes:
        keeps_states: whether what lies below the layers that learn is kept.
    """

    micro_batches: int
    num_train: int
    num_dev: int
    num_eval: int
    padding: Padding | None = None
    keeps_states: bool = False


class Base(BaseModel):
    """The model that jobs train on, as their runs are configured.

    Attributes:
        path: the checkpoint.
        hash: the content hash of its weights.
        dtype: the weights' dtype.
        width: its width.
        depth: the number of its layers.
        max_length: the most tokens of an example.
        max_rank: the largest rank of an adapter.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    path: str
    hash: str
    dtype: Literal["float32", "bfloat16", "float16", "int8", "int4"]
    width: int
    depth: int = 0  # not known, in the records of jobs from before it was needed
    max_length: int
    max_rank: int

    def fits(self, other: "Base") -> bool:
        """Whether what trains on this one can go on where the other is served."""
        same = self.hash == other.hash and self.path == other.path
        return same and self.max_rank <= other.max_rank


class Words(NamedTuple):
    """How rows with labels are read.

    Attributes:
        prompt: a template with the text.
        candidates: the words of the labels.
    """

    prompt: str
    candidates: dict[str, str]


class Counts(NamedTuple):
    """How many rows a job learns from, chooses its best step by, and is evaluated on."""

    num_train: int
    num_dev: int
    num_eval: int


def count_rows(train: Rows, held_out: Rows | None) -> Counts:
    """Divides a job's rows.

    Args:
        train: the rows to learn from.
        held_out: the rows to evaluate on; None holds out a fifth of the others.

    Raises:
        InputError: there are too few.
    """
    if train.count < LEAST_ROWS:
        raise InputError(f"training_file: has {train.count} rows; give {LEAST_ROWS} or more")
    num_eval = train.count // 5 if held_out is None else held_out.count
    rest = train.count - (num_eval if held_out is None else 0)
    num_dev = min(_MOST_DEV, rest // 5)
    return Counts(rest - num_dev, num_dev, min(_MOST_EVAL, num_eval))


def choose(
    asked: Hyperparameters,
    train: Rows,
    counts: Counts,
    words: Words | None,
    base: Base,
    padding: Padding | None = None,
) -> Chosen:
    """Chooses what was left to zojax.

    Args:
        asked: what a client asks for.
        train: the rows to learn from.
        counts: how they are divided, by :func:`count_rows`.
        words: how rows are read, if they have labels.
        base: the model.
        padding: the room of every row; None packs rows together as they are.

    Raises:
        InputError: there are too few rows for a batch, or too few layers, or there is no room for
            adapters of such a rank or, with padding, for what lies below the layers that learn.
    """
    num_train = counts.num_train
    batch = min(BATCH, num_train) if asked.batch_size == "auto" else asked.batch_size
    if batch > num_train:
        raise InputError(f"batch_size={batch}: there are {num_train} rows to learn from")
    steps = _steps(asked, num_train, batch)
    if steps * batch > _MOST_EXAMPLES:
        raise InputError(
            f"steps={steps}, batch_size={batch}: are more than {_MOST_EXAMPLES:,} examples in all"
        )
    if "auto" not in (asked.learning_rate, asked.learning_rate_multiplier):
        raise InputError("give learning_rate or learning_rate_multiplier, and not both")
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    estimator = "mezo" if asked.estimator == "auto" else asked.estimator
    usual = next(rate for least, rate in _RATES[estimator] if base.width >= least)
    tokens = padding.tokens if padding else num_tokens(train, words, base)
    num_layers = base.depth if asked.num_layers == "auto" else asked.num_layers
    if num_layers > base.depth:
        raise InputError(f"num_layers={num_layers}: the model has {base.depth}")
    keeps = num_layers < base.depth and _has_room(sum(counts) * tokens, base)
    if padding and num_layers < base.depth and not keeps:
        raise InputError(f"num_layers={num_layers}: no room for what so many rows have below them")
    rate = usual * multiplier if asked.learning_rate == "auto" else asked.learning_rate
    return Chosen(
        batch_size=batch,
        n_epochs=-(-steps * batch // num_train),
        learning_rate_multiplier=rate / usual,
        learning_rate=rate,
        steps=steps,
        epsilon=EPSILONS[estimator] if asked.epsilon == "auto" else asked.epsilon,
        rank=choose_rank(asked.rank, estimator, base.max_rank),
        num_layers=num_layers,
        estimator=estimator,
        micro_batches=_num_pieces(batch, _VARIANTS[estimator] * tokens),
        **counts._asdict(),
        padding=padding,
        keeps_states=keeps,
    )


def _steps(asked: Hyperparameters, num_train: int, batch: int) -> int:
    if asked.steps != "auto" and asked.n_epochs != "auto":
        raise InputError("give steps or n_epochs, and not both")
    if asked.steps != "auto":
        return asked.steps
    if asked.n_epochs != "auto":
        return min(_MOST_STEPS, -(-asked.n_epochs * num_train // batch))
    return usual_steps(num_train, batch)


def choose_rank(asked: Auto | int, estimator: EstimatorName, most: int) -> int:
    """The rank of what is learnt, which with what is not folded yet has room in a slot.

    Args:
        asked: what is asked for.
        estimator: how directions are probed.
        most: the largest rank of an adapter.

    Raises:
        InputError: there is no such room.
    """
    room = most if estimator == "mezo" else most - PROBED_RANK
    if room < 1 or (asked != "auto" and asked > room):
        raise InputError(
            f"rank={asked}: with estimator={estimator}, this server trains adapters of rank 1 to "
            f"{room}"
            if room >= 1
            else f"estimator={estimator}: this server has no room for its adapters"
        )
    return min(8, room) if asked == "auto" else asked


def kept_dtype(base: Base) -> Literal["float32", "bfloat16"]:
    """How what lies below the layers that learn is kept."""
    return "float32" if base.dtype == "float32" else "bfloat16"


def _has_room(tokens: float, base: Base) -> bool:
    """Whether what a model computes below a layer for so many tokens can be kept."""
    return tokens * base.width * {"float32": 4, "bfloat16": 2}[kept_dtype(base)] <= _MOST_KEPT


def num_tokens(rows: Rows, words: Words | None, base: Base) -> int:
    """About how many tokens the longest row has, with all of its candidates."""
    around = [] if words is None else [words.prompt, *words.candidates.values()]
    return min(base.max_length, rows.longest + sum(map(estimated_tokens, around)))


def _num_pieces(batch: int, tokens: float) -> int:
    """The least number of pieces of a batch that have few enough tokens.

    Args:
        batch: the number of its rows.
        tokens: the most that a row has, in all variants together.

    >>> _num_pieces(16, 20), _num_pieces(16, 100), _num_pieces(7, 1000)
    (2, 8, 7)
    """
    sizes = [size for size in range(batch, 0, -1) if batch % size == 0]
    return batch // next((size for size in sizes if size * tokens <= _PIECE_TOKENS), 1)


def words_of(
    sets: Sequence[Rows], prompt: str | None, candidates: Mapping[str, str] | None
) -> Words | None:
    r"""How rows are read, if they have labels: by the labels as words, unless others are given.

    Args:
        sets: the rows to learn from, and those to evaluate on, if there are some.
        prompt: the template that a client gives; None for the usual one.
        candidates: the words that a client gives; None for the labels.

    Raises:
        InputError: the template has no text, a label has no word, or there are no labels.

    >>> words_of([Rows("labelled", 20, 50, ("bad", "good"))], None, None)
    Words(prompt='{text}\nLabel:', candidates={'bad': ' bad', 'good': ' good'})
    """
    labels = dict.fromkeys(label for rows in sets for label in rows.labels)
    if sets[0].kind != "labelled":
        if prompt is not None or candidates is not None:
            raise InputError("data: is for rows of a text and a label")
        return None
    fields = parse_template(prompt or PROMPT).fields
    if fields != (TEXT,):
        raise InputError(f"data.prompt: give a template whose only name in braces is {{{TEXT}}}")
    words = dict(candidates or {label: f" {label}" for label in labels})
    lacking = [label for label in labels if as_label(label, words) is None]
    if lacking:
        raise InputError(f"data.candidates: has no word for {first_few(lacking)}")
    return Words(prompt or PROMPT, words)
