"""A model's answer to a row, and the columns that it becomes."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from zojax.reading import validate

End = Literal["done", "bad", "nonfinite", "length"]

_NONFINITE = "the model's scores are not finite"

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Stored = tuple[End, str | None, Probability | None, list[Probability], bool]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model's answer to a row.

    Attributes:
        end: ``done``; ``bad`` if the row is bad; ``nonfinite`` if the model's scores are not
            finite; ``length`` if a generated answer was cut at the longest that is generated.
        prediction: the label's name, or the generated text; None if there is no answer. For a bad
            row it is what is wrong with it.
        probability: that of the predicted label among the candidates; None for a generated text.
        probabilities: those of all labels, if these are the same for every row.
        truncated: whether the model read only the end of the prompt.
    """

    end: End
    prediction: str | None = None
    probability: float | None = None
    probabilities: Sequence[float] = ()
    truncated: bool = False

    def stored(self) -> list[Any]:
        """The answer as JSON, which :func:`read_answers` reads."""
        return [*dataclasses.astuple(self)]


def read_answers(value: Any, place: str) -> list[Answer]:
    """Reads answers that were stored as JSON; ``InputError`` if they are not.

    >>> read_answers([["done", "great", 0.75, [0.25, 0.75], False]], "x")[0].prediction
    'great'
    """
    return [Answer(*stored) for stored in validate(list[_Stored], value, place)]


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that predictions become.

    Attributes:
        names: all of them, in order.
        has_probability: whether one of them is the predicted label's probability.
        has_problem: whether the last one says why a row has no prediction.
    """

    names: tuple[str, ...]
    has_probability: bool
    has_problem: bool = False

    @property
    def types(self) -> dict[str, set[type]]:
        """The types of each column's values."""
        texts = {self.names[0], *self.names[-1:]} if self.has_problem else {self.names[0]}
        return {name: {str} if name in texts else {float} for name in self.names}

    def cells(self, answer: Answer) -> dict[str, Any]:
        """A row's cells; None for each but the problem if there is no answer."""
        if answer.end in ("bad", "nonfinite"):
            told = answer.prediction if answer.end == "bad" else _NONFINITE
            return dict.fromkeys(self.names) | ({self.names[-1]: told} if self.has_problem else {})
        probability = [answer.probability] if self.has_probability else []
        problem = [None] if self.has_problem else []
        values = [answer.prediction, *probability, *answer.probabilities, *problem]
        return dict(zip(self.names, values, strict=True))


def name_columns(
    labels: Sequence[str],
    *,
    has_probability: bool,
    taken: Collection[str],
    has_problem: bool = False,
) -> Columns:
    """Names the columns of the predictions, none of which the rows have already.

    Args:
        labels: the labels' names; empty if each row has candidates of its own, or none.
        has_probability: whether candidates are ranked.
        taken: the names of the rows' own columns.
        has_problem: whether bad rows are accepted, and a column says what is wrong with them.

    >>> name_columns(["no", "yes"], has_probability=True, taken=["text"]).names
    ('prediction', 'probability', 'probability_no', 'probability_yes')
    >>> name_columns([], has_probability=False, taken=["prediction"]).names
    ('zojax_prediction',)
    """
    of_all = ["prediction", *(["probability"] if has_probability else [])]
    of_labels = (f"probability_{label}" for label in labels)
    names = (*of_all, *of_labels, *(["problem"] if has_problem else []))
    while not set(names).isdisjoint(taken):
        names = tuple(f"zojax_{name}" for name in names)
    return Columns(names, has_probability, has_problem)
