"""The routes of files and of fine-tuning jobs."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from zojax.serving.document import answers
from zojax.serving.errors import ApiError
from zojax.serving.events import stream_events
from zojax.serving.fine_tuning import answered
from zojax.serving.fine_tuning.bodies import CreateJobBody, EventPaging, FilePaging, Paging
from zojax.serving.fine_tuning.events import Mark
from zojax.serving.fine_tuning.shown import (
    as_list,
    checkpoint_objects,
    event_number,
    event_objects,
    file_object,
    job_object,
    page,
)
from zojax.serving.fine_tuning.tuning import Tuning
from zojax.serving.fine_tuning.tunings import Tunings
from zojax.serving.service import Service

_POLL_SECONDS = 0.2
_FEW = 2
"""How many files are read together."""


Page = Annotated[Paging, Query()]


def _tunings(request: Request) -> Tunings:
    """The jobs of the server; ``ApiError`` if it trains nothing."""
    tunings = request.app.state.service.tunings
    if tunings is None:
        raise ApiError(404, "nothing is trained here; start with --allow-training-in DIR")
    return tunings


Trains = Annotated[Tunings, Depends(_tunings)]


def add_fine_tuning(app: FastAPI) -> None:
    """Adds the routes to an application whose state has the service."""
    _add_files(app)
    _add_jobs(app)
    _add_events(app)
    _add_models(app)


def _add_files(app: FastAPI) -> None:
    threads = ThreadPoolExecutor(_FEW, "zojax-files")  # of their own: answers need the others

    @app.post("/v1/files", responses=answers(answered.FileAnswer), response_model=None)
    async def upload(
        trains: Trains,
        request: Request,
        file: UploadFile,
        purpose: Annotated[str, Form(max_length=100)],
    ) -> dict[str, Any]:
        if purpose != "fine-tune":
            raise ApiError(400, "only files for fine-tune are kept here", param="purpose")
        name = Path(file.filename or "upload").name
        asked = trains.files.add, request.state.owner, name, file.file
        loop = asyncio.get_running_loop()
        return file_object(await loop.run_in_executor(threads, *asked))

    @app.get("/v1/files", responses=answers(answered.FilesAnswer), response_model=None)
    def files(
        trains: Trains, request: Request, wanted: Annotated[FilePaging, Query()]
    ) -> dict[str, Any]:
        mine = trains.files.of(request.state.owner)
        mine = mine if wanted.order == "desc" else mine[::-1]
        found, more = page(mine, wanted, lambda one: one.id)
        return as_list([file_object(one) for one in found], has_more=more)

    @app.get("/v1/files/{file_id}", responses=answers(answered.FileAnswer), response_model=None)
    def file(trains: Trains, request: Request, file_id: str) -> dict[str, Any]:
        return file_object(trains.files.get(request.state.owner, file_id))

    @app.get("/v1/files/{file_id}/content", response_class=Response)
    def content(trains: Trains, request: Request, file_id: str) -> Response:
        found = trains.files.get(request.state.owner, file_id)
        return FileResponse(trains.files.path(found), media_type="application/jsonl")

    @app.delete(
        "/v1/files/{file_id}", responses=answers(answered.DeletedAnswer), response_model=None
    )
    def delete(trains: Trains, request: Request, file_id: str) -> dict[str, Any]:
        trains.files.delete(request.state.owner, file_id)
        return {"id": file_id, "object": "file", "deleted": True}


def _add_jobs(app: FastAPI) -> None:
    a_job: dict[str, Any] = {"responses": answers(answered.JobAnswer), "response_model": None}

    @app.post("/v1/fine_tuning/jobs", **a_job)
    def create(trains: Trains, request: Request, body: CreateJobBody) -> dict[str, Any]:
        return job_object(trains.create(request.state.owner, body))

    @app.get("/v1/fine_tuning/jobs", responses=answers(answered.JobsAnswer), response_model=None)
    def jobs(trains: Trains, request: Request, wanted: Page) -> dict[str, Any]:
        found, more = page(trains.of(request.state.owner), wanted, lambda one: one.record.id)
        return as_list([job_object(one) for one in found], has_more=more)

    @app.get("/v1/fine_tuning/jobs/{job_id}", **a_job)
    def job(trains: Trains, request: Request, job_id: str) -> dict[str, Any]:
        return job_object(trains.get(request.state.owner, job_id))

    @app.post("/v1/fine_tuning/jobs/{job_id}/cancel", **a_job)
    def cancel(trains: Trains, request: Request, job_id: str) -> dict[str, Any]:
        return job_object(trains.cancel(request.state.owner, job_id))

    @app.post("/v1/fine_tuning/jobs/{job_id}/pause", **a_job)
    def pause(trains: Trains, request: Request, job_id: str) -> dict[str, Any]:
        return job_object(trains.pause(request.state.owner, job_id))

    @app.post("/v1/fine_tuning/jobs/{job_id}/resume", **a_job)
    def resume(trains: Trains, request: Request, job_id: str) -> dict[str, Any]:
        return job_object(trains.resume(request.state.owner, job_id))

    @app.get(
        "/v1/fine_tuning/jobs/{job_id}/checkpoints",
        responses=answers(answered.CheckpointsAnswer),
        response_model=None,
    )
    def checkpoints(trains: Trains, request: Request, job_id: str, wanted: Page) -> dict[str, Any]:
        shown = checkpoint_objects(trains.get(request.state.owner, job_id))
        found, more = page(shown, wanted, lambda one: one["id"])
        return as_list(found, has_more=more)


def _add_models(app: FastAPI) -> None:
    @app.delete(
        "/v1/models/{name:path}", responses=answers(answered.DeletedAnswer), response_model=None
    )
    def delete(trains: Trains, request: Request, name: str) -> dict[str, Any]:
        trains.delete(request.state.owner, name)
        return {"id": name, "object": "model", "deleted": True}


def _add_events(app: FastAPI) -> None:
    @app.get(
        "/v1/fine_tuning/jobs/{job_id}/events",
        responses=answers(answered.EventsAnswer, streams=True),
        response_model=None,
    )
    async def events(
        trains: Trains,
        request: Request,
        job_id: str,
        wanted: Annotated[EventPaging, Query()],
    ) -> Any:
        tuning = trains.get(request.state.owner, job_id)
        if wanted.stream:
            following = _following(request.app.state.service, tuning)
            return await stream_events(request, following)
        before = None if wanted.after is None else event_number(tuning, wanted.after)
        events, more = await run_in_threadpool(tuning.events.newest, wanted.limit, before)
        return as_list(event_objects(tuning, events), has_more=more)


async def _following(service: Service, tuning: Tuning) -> AsyncGenerator[dict[str, Any], None]:
    """A job's events from the first on, as they come, until it or the server ends."""
    mark = Mark()
    with service.gate.entered(tuning.record.owner, 1):
        while True:
            is_over = tuning.record.has_ended or service.is_draining
            events, after = await run_in_threadpool(tuning.events.since, mark)
            for event in event_objects(tuning, events):
                yield event
            if after != mark:
                mark = after
                continue
            if is_over:
                return
            await asyncio.sleep(_POLL_SECONDS)
