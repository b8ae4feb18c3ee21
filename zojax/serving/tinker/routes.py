"""The routes of Tinker's API, as version 0.38 of its client asks for them.

What takes time is answered with a future at once, and the client then asks what came of it. A
request that comes again, since its answer was lost, gets the same future.
"""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from zojax.engine.listener import forget_locals
from zojax.serving.errors import ApiError, as_api_error, stopping
from zojax.serving.service import Service
from zojax.serving.tinker import bodies, sampling
from zojax.serving.tinker.futures import Answer, Outcome
from zojax.serving.tinker.messages import MOST_DATA, PROTOBUF, read_forward_backward
from zojax.serving.tinker.models import TinkerModels
from zojax.serving.tinker.store import Kept

_POLL_SECONDS, _MOST_POLLS = 0.5, 40
"""How long a client waits for what came of a request before it asks again."""

_MOST_SAMPLES = 256
"""The most requests for continuations that a client has open."""


def _models(request: Request) -> TinkerModels:
    """The models of the server; ``ApiError`` if it trains nothing."""
    models = request.app.state.service.tinker
    if models is None:
        raise ApiError(404, "nothing is trained here; start with --allow-training-in DIR")
    return models


def _owner(request: Request) -> str:
    return request.state.owner


Trains = Annotated[TinkerModels, Depends(_models)]
Owner = Annotated[str, Depends(_owner)]
Json = dict[str, Any]


def add_tinker(app: FastAPI) -> None:
    """Adds the routes to an application whose state has the service."""
    # They are Tinker's and not documented here, where they could only be described again.
    router = APIRouter(prefix="/api/v1", include_in_schema=False)
    service: Service = app.state.service
    _add_client(router, service)
    _add_models(router)
    _add_training(router, service)
    _add_sampling(router, service)
    _add_kept(router)
    app.include_router(router)


def _add_client(router: APIRouter, service: Service) -> None:
    @router.get("/healthz")
    async def health(models: Trains) -> Json:
        return {"status": "ok"}

    @router.post("/client/config")
    async def config(models: Trains) -> Json:
        return {
            "parallel_fwdbwd_chunks": False,  # so that requests come in the order of their numbers
            "fwdbwd_max_chunk_len": MOST_DATA // 4,
            "fwdbwd_max_chunk_bytes_count": service.limits.body_bytes // 2,
            "sample_max_concurrent_requests": min(_MOST_SAMPLES, service.limits.open_per_key),
            "use_pyqwest_transport": False,
        }

    @router.post("/client/dynamic_config")
    async def dynamic_config(models: Trains) -> Json:
        return {}

    @router.post("/telemetry")
    async def telemetry(request: Request) -> Json:
        await request.body()  # it is not kept
        return {"status": "accepted"}

    @router.get("/get_server_capabilities")
    async def capabilities(models: Trains) -> Json:
        one = {"model_name": models.name, "max_context_length": service.max_length}
        return {"supported_models": [{**one, "trainable": True, "sampleable": True}]}

    @router.post("/create_session")
    def create_session(models: Trains, owner: Owner) -> Json:
        return {"session_id": models.create_session(owner)}

    @router.post("/session_heartbeat")
    def heartbeat(models: Trains, owner: Owner, body: bodies.SessionBody) -> Json:
        models.session(owner, body.session_id)
        return {}

    @router.post("/sessions/{session_id}/finish")
    def finish(models: Trains, owner: Owner, session_id: str) -> Json:
        models.finish(owner, session_id)
        return {}

    @router.post("/retrieve_future")
    async def retrieve(models: Trains, owner: Owner, body: bodies.RetrieveBody) -> Response:
        outcome = models.futures.get(owner, body.request_id)
        waiting = asyncio.wrap_future(outcome)
        for _ in range(_MOST_POLLS):
            # Also while the server stops, since the client repeats what got 503 without a pause.
            await asyncio.wait([waiting], timeout=_POLL_SECONDS)
            ends = service.is_draining and not models.futures.is_awaited(body.request_id)
            if waiting.done() or ends:
                break
        if not waiting.done():
            if ends:
                raise stopping()
            told = {"type": "try_again", "request_id": body.request_id, "queue_state": "active"}
            return JSONResponse(told, 408)
        models.futures.fetched(body.request_id)
        return _response(waiting.result())


def _response(found: Answer | Exception) -> Response:
    if isinstance(found, Exception):
        error = as_api_error(found)
        kind = "user" if error.status < 500 else "server"
        return JSONResponse({"error": error.message, "category": kind})
    if isinstance(found, bytes):
        return Response(found, media_type=PROTOBUF)
    return JSONResponse(found)


def _add_models(router: APIRouter) -> None:
    @router.post("/create_model")
    def create_model(models: Trains, owner: Owner, body: bodies.CreateModelBody) -> Json:
        return models.create(owner, body)

    @router.post("/get_info")
    def get_info(models: Trains, owner: Owner, body: bodies.ModelBody) -> Json:
        one = models.model(owner, body.model_id)
        return {
            "type": "get_info",
            "model_data": {"model_name": models.name},
            "model_id": one.id,
            "model_name": models.name,
            "is_lora": True,
            "lora_rank": one.trained.programs.rank,
        }


def _add_training(router: APIRouter, service: Service) -> None:
    @router.post("/forward_backward")
    async def forward_backward(models: Trains, owner: Owner, request: Request) -> Json:
        if PROTOBUF not in request.headers.get("content-type", ""):
            raise ApiError(400, f"send {PROTOBUF}")
        body = await request.body()
        return await run_in_threadpool(_begin_scoring, service, models, owner, body)

    @router.post("/optim_step")
    def optim_step(models: Trains, owner: Owner, body: bodies.OptimStepBody) -> Json:
        one = models.model(owner, body.model_id)
        return models.begin(one, body.seq_id, lambda: one.trained.optim_step(body.adam_params))

    @router.post("/save_weights")
    def save(models: Trains, owner: Owner, body: bodies.SaveBody) -> Json:
        return models.save(owner, body, "weights")

    @router.post("/save_weights_for_sampler")
    def save_for_sampler(models: Trains, owner: Owner, body: bodies.SaveBody) -> Json:
        return models.save(owner, body, "sampler_weights")

    @router.post("/load_weights")
    def load(models: Trains, owner: Owner, body: bodies.LoadBody) -> Json:
        return models.load(owner, body)


def _begin_scoring(service: Service, models: TinkerModels, owner: str, body: bytes) -> Json:
    sizes = {"vocab_size": models.vocab_size, "max_length": service.max_length}
    asked = read_forward_backward(body, **sizes)
    one = models.model(owner, asked.model_id)
    verb = one.trained.forward if asked.forward_only else one.trained.forward_backward
    return models.begin(one, asked.seq_id, lambda: verb(asked.data), len(body))


def _add_sampling(router: APIRouter, service: Service) -> None:
    tasks: set[asyncio.Task[None]] = set()  # the loop itself does not keep them

    @router.post("/create_sampling_session")
    def create_sampler(models: Trains, owner: Owner, body: bodies.CreateSamplerBody) -> Json:
        return {"sampling_session_id": models.create_sampler(owner, body)}

    @router.get("/samplers/{sampler_id}")
    def get_sampler(models: Trains, owner: Owner, sampler_id: str) -> Json:
        found = models.samplers.get(owner, sampler_id)
        return {"sampler_id": sampler_id, "base_model": models.name, "model_path": found.path}

    @router.post("/asample")
    async def sample(models: Trains, owner: Owner, body: bodies.SampleBody) -> Json:
        adapter = _adapter(models, owner, body)
        sampling.check(service, body)
        key = body.sampling_session_id, body.seq_id
        known = None if None in key else models.futures.known(owner, key)
        if known is None:
            with contextlib.ExitStack() as stack:
                stack.enter_context(service.gate.entered(owner, body.num_samples))
                key = object() if None in key else key
                known, outcome = models.futures.begin(owner, key, is_awaited=True)
                counted = stack.pop_all()
            task = asyncio.create_task(
                _sample(service, body, adapter, owner, outcome, counted), name=f"tinker {known}"
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        ids = [f"{known}:{i}" for i in range(body.num_samples)]
        return {"request_id": known, "sample_sequence_ids": ids}


def _adapter(models: TinkerModels, owner: str, body: bodies.SampleBody) -> str | None:
    """The adapter that a body asks for; None for the base model."""
    if body.sampling_session_id is not None:
        return models.samplers.get(owner, body.sampling_session_id).adapter
    if body.model_path is not None:
        return models.register_kept(owner, body.model_path)
    models.check_base(body.base_model)
    return None


async def _sample(
    service: Service,
    body: bodies.SampleBody,
    adapter: str | None,
    owner: str,
    outcome: Outcome,
    counted: contextlib.ExitStack,
) -> None:
    with counted:
        try:
            outcome.set_result(await sampling.sample(service, body, adapter, owner))
        except Exception as error:  # whoever asks for the outcome gets it
            forget_locals(error)
            outcome.set_result(error)


def _add_kept(router: APIRouter) -> None:
    @router.post("/weights_info")
    def weights_info(models: Trains, owner: Owner, body: bodies.WeightsBody) -> Json:
        about = models.store.about(owner, body.tinker_path)
        return {"base_model": about.base, "is_lora": True, "lora_rank": about.rank}

    @router.get("/training_runs/{model_id}")
    def training_run(models: Trains, owner: Owner, model_id: str) -> Json:
        kept = models.store.of_owner(owner, model_id)
        if not kept:
            one = models.model(owner, model_id)
            return _run(models, one.id, one.trained.programs.rank, one.metadata, datetime.now(UTC))
        last = kept[-1]
        told = _run(models, model_id, last.rank, last.run_metadata, _time(last.created_at))
        kinds = {"weights": "last_checkpoint", "sampler_weights": "last_sampler_checkpoint"}
        return told | {kinds[one.kind]: _checkpoint(one) for one in kept}

    @router.get("/training_runs/{model_id}/checkpoints")
    def checkpoints(models: Trains, owner: Owner, model_id: str) -> Json:
        kept = models.store.of_owner(owner, model_id)
        return {"checkpoints": [_checkpoint(one) for one in kept]}

    @router.delete("/training_runs/{model_id}/checkpoints/{kind}/{name}", status_code=204)
    def delete(models: Trains, owner: Owner, model_id: str, kind: str, name: str) -> Response:
        models.remove_kept(owner, f"tinker://{model_id}/{kind}/{name}")
        return Response(status_code=204)


def _run(
    models: TinkerModels, id_: str, rank: int, metadata: dict[str, str] | None, at: datetime
) -> Json:
    return {
        "training_run_id": id_,
        "base_model": models.name,
        "model_owner": "",
        "is_lora": True,
        "lora_rank": rank,
        "last_request_time": at.isoformat(),
        "user_metadata": metadata,
    }


def _checkpoint(about: Kept) -> Json:
    ends = about.expires_at
    return {
        "checkpoint_id": f"{about.kind}/{about.name}",
        "checkpoint_type": "training" if about.kind == "weights" else "sampler",
        "time": _time(about.created_at).isoformat(),
        "tinker_path": about.path,
        "size_bytes": about.bytes,
        "user_metadata": about.metadata,
        "expires_at": None if ends is None else _time(ends).isoformat(),
    }


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
