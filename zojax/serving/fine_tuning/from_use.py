"""The settings of a job that learns from use, all of which have a value in the end."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from zojax.engine.use_job import Course
from zojax.errors import InputError
from zojax.serving.fine_tuning.settings import Auto, Base, Positive
from zojax.training.rewarded import Recipe

MOST_BEHIND = 256
"""The most steps between a completion and its reward: later ones are not learnt from."""

_MOST_STEPS = 100_000
_RATES: tuple[tuple[int, float], ...] = ((4096, 1e-3), (1024, 3e-3), (512, 1e-2), (0, 1e-1))
"""A learning rate for models that are at least so wide."""


class FeedbackHyperparameters(BaseModel):
    """What a client may choose.

    Attributes:
        batch_size: the number of rewards that steps wait for.
        steps_per_batch: the number of steps on these.
        steps: the number of all steps, after which the job ends.
        num_queries: the number of directions that a step probes.
        learning_rate: the learning rate.
        epsilon: how far from the adapter texts are scored.
        rank: the rank of what is learnt.
        max_distance: how far from its start it may be, in lengths of the start.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    batch_size: Auto | Annotated[int, Field(ge=2, le=256)] = "auto"
    steps_per_batch: Auto | Annotated[int, Field(ge=1, le=4)] = "auto"
    steps: Auto | Annotated[int, Field(ge=1, le=_MOST_STEPS)] = "auto"
    num_queries: Auto | Annotated[int, Field(ge=1, le=64)] = "auto"
    learning_rate: Auto | Positive = "auto"
    epsilon: Auto | Positive = "auto"
    rank: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    max_distance: Auto | Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = "auto"


class FromUse(BaseModel):
    """The same, of which none is ``auto``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    batch_size: int
    steps_per_batch: int
    steps: int
    num_queries: int
    learning_rate: float
    epsilon: float
    rank: int
    max_distance: float

    def recipe(self, seed: int) -> Recipe:
        """How the job learns."""
        return Recipe(
            self.rank,
            self.epsilon,
            self.num_queries,
            self.learning_rate,
            self.max_distance,
            seed,
        )

    @property
    def course(self) -> Course:
        """When it steps, and when it ends."""
        return Course(self.batch_size, self.steps_per_batch, self.steps)


def choose_from_use(asked: FeedbackHyperparameters, base: Base) -> FromUse:
    """Chooses what was left to zojax.

    Args:
        asked: what a client asks for.
        base: the model.

    Raises:
        InputError: adapters of such a rank have no room.
    """
    rate = next(rate for least, rate in _RATES if base.width >= least)
    usual = FromUse(
        batch_size=16,
        steps_per_batch=2,
        steps=10_000,
        num_queries=8,
        learning_rate=rate,
        epsilon=2e-2,
        rank=min(2, base.max_rank),
        max_distance=4.0,
    )
    given = {name: value for name, value in asked.model_dump().items() if value != "auto"}
    if given.get("rank", 1) > base.max_rank:
        raise InputError(
            f"rank={given['rank']}: this server trains adapters of rank 1 to {base.max_rank}"
        )
    return usual.model_copy(update=given)
