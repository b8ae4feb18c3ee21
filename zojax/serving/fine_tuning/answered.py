"""The shapes of answers, for ``/openapi.json``."""

from typing import Any, Literal

from pydantic import BaseModel

from zojax.serving.fine_tuning.from_use import FromUse
from zojax.serving.fine_tuning.record import Status
from zojax.serving.fine_tuning.settings import Learning


class FileAnswer(BaseModel):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["fine-tune"]
    status: Literal["processed"]
    status_details: None
    rows: int


class _Page(BaseModel):
    object: Literal["list"]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FilesAnswer(_Page):
    """Files."""

    data: list[FileAnswer]


class DeletedAnswer(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["file", "model"]
    deleted: Literal[True]


class _Supervised(BaseModel):
    hyperparameters: Learning


class _Feedback(BaseModel):
    hyperparameters: FromUse


class _Method(BaseModel):
    type: Literal["supervised", "feedback"]
    supervised: _Supervised | None = None
    feedback: _Feedback | None = None


class _JobError(BaseModel):
    code: str
    message: str
    param: str | None


class JobAnswer(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"]
    model: str
    created_at: int
    finished_at: int | None
    fine_tuned_model: str | None
    current_model: str
    current_step: int
    organization_id: str
    result_files: list[str]
    status: Status
    training_file: str | None
    validation_file: str | None
    hyperparameters: Learning | FromUse
    method: _Method
    seed: int
    trained_tokens: int | None
    error: _JobError | None
    estimated_finish: int | None
    integrations: list[str]
    metadata: dict[str, str]
    user_provided_suffix: str | None


class JobsAnswer(_Page):
    """Jobs."""

    data: list[JobAnswer]


class _Event(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class EventsAnswer(_Page):
    """Events."""

    data: list[_Event]


class _Checkpoint(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | None]


class CheckpointsAnswer(_Page):
    """Checkpoints."""

    data: list[_Checkpoint]
