"""The route that takes rewards."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from zojax.serving.document import answers
from zojax.serving.feedback.rewards import rate
from zojax.serving.fine_tuning.routes import Trains


class FeedbackBody(BaseModel):
    """The body of ``/v1/feedback``.

    Attributes:
        id: the id of an answer of ``/v1/completions`` or ``/v1/chat/completions``.
        index: the index of one of its choices.
        reward: what it was worth; only how rewards compare with each other matters.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=64)]
    index: int = Field(0, ge=0, lt=1 << 14)
    reward: float = Field(ge=-1e6, le=1e6, allow_inf_nan=False)


class FeedbackAnswer(BaseModel):
    """The answer of ``/v1/feedback``."""

    object: Literal["feedback"]
    id: str
    index: int
    reward: float
    job: str
    status: Literal["taken", "late"]


def add_feedback(app: FastAPI) -> None:
    """Adds the route to an application whose state has the service."""

    @app.post("/v1/feedback", responses=answers(FeedbackAnswer), response_model=None)
    def feedback(trains: Trains, request: Request, body: FeedbackBody) -> dict[str, Any]:
        job, status = rate(trains, request.state.owner, (body.id, body.index), body.reward)
        told = {"id": body.id, "index": body.index, "reward": body.reward}
        return {"object": "feedback", **told, "job": job, "status": status}
