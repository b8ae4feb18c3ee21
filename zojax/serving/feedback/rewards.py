"""Which completions of a job's model are remembered, and where the rewards for them go."""

from typing import Literal

from zojax.engine.use_job import Rated, UseJob
from zojax.scoring import Item
from zojax.serving.errors import ApiError
from zojax.serving.feedback.served import Key, Served
from zojax.serving.fine_tuning.from_use import MOST_BEHIND
from zojax.serving.fine_tuning.tunings import Tunings


def remember(tunings: Tunings, model: str, key: Key, item: Item) -> None:
    """Remembers a completion, if its model is that of a job that learns from use now.

    Args:
        tunings: the jobs.
        model: the model's name.
        key: the answer's id and the choice's index.
        item: its prompt and itself.
    """
    tuning = tunings.of_model(model)
    if tuning is not None and tuning.learns_from_use and tuning.record.status == "running":
        steps = tuning.job.num_steps if tuning.job is not None else 0
        tuning.served.add(key, Served(item, steps))


def rate(
    tunings: Tunings, owner: str, key: Key, reward: float
) -> tuple[str, Literal["taken", "late"]]:
    """Takes a reward; returns the job's id, and whether the job learns from it or it is late.

    Args:
        tunings: the jobs.
        owner: who gives it, which is whose the completion is.
        key: the answer's id and the choice's index.
        reward: the reward.

    Raises:
        ApiError: 404, no such completion is remembered; 409, it has its reward, or its job does
            not learn now.
    """
    found = [one for one in tunings.of(owner) if one.learns_from_use and one.served.holds(key)]
    if not found:
        raise ApiError(404, "no such completion is remembered", param="id")
    tuning, job = found[0], found[0].job
    if not isinstance(job, UseJob) or tuning.record.status != "running":
        raise ApiError(409, f"its job is {tuning.record.status}, and does not learn", param="id")
    served = tuning.served.take(key)
    if served == "unknown":
        raise ApiError(404, "no such completion is remembered", param="id")
    if served == "twice":
        raise ApiError(409, "this completion has its reward already", param="id")
    if job.num_steps - served.step > MOST_BEHIND:
        return tuning.record.id, "late"
    job.rate(Rated(served.item, reward))
    return tuning.record.id, "taken"
