"""What is kept of a job, beside its run: ``job.json``."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from zojax.files import write_json
from zojax.reading import read_json, validate
from zojax.serving.fine_tuning.from_use import FromUse
from zojax.serving.fine_tuning.rows import Kind
from zojax.serving.fine_tuning.settings import Base, Chosen, Words

_NAME = "job.json"

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]

ENDED: tuple[Status, ...] = ("succeeded", "failed", "cancelled")
"""The statuses of a job that does not go on."""


class JobRecord(BaseModel):
    """A job.

    Attributes:
        id: its id, which nobody can guess.
        owner: whose it is.
        base: the name of the model that it trains on.
        trained_on: the same, as its run is configured, whatever the server is told later.
        model: the name by which requests ask for what it has learnt.
        created_at: when it was created, in seconds since 1970.
        finished_at: when it ended; None before.
        training_file: the id of the file to learn from; None for a job that learns from use.
        validation_file: the id of the file to evaluate on; None for a part of the other.
        kind: what kind of rows it learns from; None likewise.
        prompt: the template of rows with labels.
        candidates: the words of their labels.
        chosen: its settings.
        seed: the seed of its run.
        suffix: a part of the model's name.
        metadata: what its owner wants to remember.
        status: how far it is.
        error: why it has failed.
        best_step: the step of the best model, once it has succeeded.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: str
    owner: str
    base: str
    trained_on: Base
    model: str
    created_at: int
    finished_at: int | None = None
    training_file: str | None = None
    validation_file: str | None = None
    kind: Kind | None = None
    prompt: str | None = None
    candidates: dict[str, str] | None = None
    chosen: Chosen | FromUse
    seed: int
    suffix: str
    metadata: dict[str, str]
    status: Status = "queued"
    error: str | None = None
    best_step: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it does not go on."""
        return self.status in ENDED

    @property
    def words(self) -> Words | None:
        """How its rows are read, if they have labels."""
        if self.prompt is None or self.candidates is None:
            return None
        return Words(self.prompt, self.candidates)

    def write(self, directory: Path) -> None:
        """Writes it into a job's directory."""
        write_json(directory / _NAME, self.model_dump())


def read_record(directory: Path) -> JobRecord:
    """Reads it; ``InputError`` if the file is not one of ours."""
    return validate(JobRecord, read_json(directory / _NAME), str(directory / _NAME))
