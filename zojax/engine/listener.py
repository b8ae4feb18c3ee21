"""Who is told how a job goes, and what is forgotten where it fails."""

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Tree = Any


@dataclasses.dataclass(frozen=True)
class Listener:
    """Who is told how a job goes, on the job's own thread; an error ends the job.

    Attributes:
        on_adapter: called with what was learnt, and after how many steps, as soon as it is served.
        on_best: called with what was learnt at the best step, and with that step, at the end.
        on_metrics: called with every line of the run's ``metrics.jsonl``; or, of a job that learns
            from use, with its step, a batch's mean reward, the number of rewards and the distance.
        on_end: called last with the job, when its result, or its error, is there.
    """

    on_adapter: Callable[[Tree, int], None] = lambda adapter, steps: None
    on_best: Callable[[Tree, int], None] = lambda adapter, step: None
    on_metrics: Callable[[Mapping[str, Any]], None] = lambda metrics: None
    on_end: Callable[[Any], None] = lambda job: None


def forget_locals(error: BaseException) -> None:
    """Lets go of all that a run held where it failed; its lines stay in the traceback."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
