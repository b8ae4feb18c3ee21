"""Files, jobs, events and checkpoints as OpenAI's clients read them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from zojax.serving.errors import ApiError
from zojax.serving.fine_tuning.bodies import Paging
from zojax.serving.fine_tuning.events import Numbered
from zojax.serving.fine_tuning.file_store import StoredFile
from zojax.serving.fine_tuning.from_use import FromUse
from zojax.serving.fine_tuning.settings import Learning
from zojax.serving.fine_tuning.tuning import Tuning, checkpoint_name

T = TypeVar("T")


def file_object(file: StoredFile) -> dict[str, Any]:
    """A file, with the number of its rows beside what OpenAI says."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
        "rows": file.count,
    }


def job_object(tuning: Tuning) -> dict[str, Any]:
    """A job; ``current_model`` names what it has learnt after ``current_step``."""
    record = tuning.record
    chosen = record.chosen
    kind = "feedback" if isinstance(chosen, FromUse) else "supervised"
    told = FromUse if isinstance(chosen, FromUse) else Learning
    hyperparameters = chosen.model_dump(include=set(told.model_fields))
    failed = {"code": "training_failed", "message": record.error, "param": None}
    return {
        "id": record.id,
        "object": "fine_tuning.job",
        "model": record.base,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "fine_tuned_model": record.model if record.status == "succeeded" else None,
        "current_model": record.model,
        "current_step": tuning.current_step,
        "organization_id": "zojax",
        "result_files": [],
        "status": record.status,
        "training_file": record.training_file,
        "validation_file": record.validation_file,
        "hyperparameters": hyperparameters,
        "method": {"type": kind, kind: {"hyperparameters": hyperparameters}},
        "seed": record.seed,
        "trained_tokens": None,
        "error": None if record.error is None else failed,
        "estimated_finish": tuning.estimated_finish,
        "integrations": [],
        "metadata": record.metadata,
        "user_provided_suffix": record.suffix or None,
    }


def event_objects(tuning: Tuning, events: Sequence[Numbered]) -> list[dict[str, Any]]:
    """Some of a job's events."""
    return [
        {
            "id": f"{_events_of(tuning)}{number}",
            "object": "fine_tuning.job.event",
            "created_at": event.at,
            "level": event.level,
            "message": event.message,
            "type": "metrics" if event.data else "message",
            "data": event.data,
        }
        for number, event in events
    ]


def event_number(tuning: Tuning, id_: str) -> int:
    """The number in an event's id; ``ApiError`` if it is not one of the job's."""
    number = id_.removeprefix(_events_of(tuning))
    if number == id_ or not number.isdecimal():
        raise ApiError(400, "there is nothing of this id", param="after")
    return int(number)


def _events_of(tuning: Tuning) -> str:
    return f"ftevent-{tuning.record.id.removeprefix('ftjob-')}-"


def checkpoint_objects(tuning: Tuning) -> list[dict[str, Any]]:
    """A job's checkpoints, the newest first, with what is known of their steps."""
    record, progress = tuning.record, tuning.progress
    return [
        {
            "id": f"ftckpt-{record.id.removeprefix('ftjob-')}-{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": tuning.learnt.time(step),
            "fine_tuned_model_checkpoint": checkpoint_name(record.model, step),
            "fine_tuning_job_id": record.id,
            "step_number": step,
            "metrics": {
                "step": step,
                "valid_loss": progress.dev_loss.get(step),
                f"valid_{progress.metric}": progress.dev.get(step),
            },
        }
        for step in reversed(tuning.learnt.steps())
    ]


def page(found: Sequence[T], wanted: Paging, id_of: Callable[[T], str]) -> tuple[list[T], bool]:
    """A page of a list, and whether more follows.

    Args:
        found: the list.
        wanted: which page.
        id_of: a thing's id.

    Raises:
        ApiError: nothing in the list has the id that the page comes after.

    >>> page("abcd", Paging(limit=2, after="b"), str)
    (['c', 'd'], False)
    """
    ids, after = [id_of(one) for one in found], wanted.after
    if after is not None and after not in ids:
        raise ApiError(400, "there is nothing of this id", param="after")
    first = 0 if after is None else ids.index(after) + 1
    last = first + wanted.limit
    return list(found[first:last]), last < len(found)


def as_list(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page as OpenAI lists things."""
    return {
        "object": "list",
        "data": list(data),
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
