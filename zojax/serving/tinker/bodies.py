"""The bodies of requests that are JSON; fields that are not known are ignored."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from zojax.engine.requests import MAX_LOGPROBS
from zojax.serving.schema import Tokens

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
PREFIX = "tinker:"
"""What the names of all adapters begin with that tinker's client has trained."""

_MODEL = rf"{PREFIX}[0-9a-f]{{24}}:train:[0-9]{{1,9}}"
PATH = re.compile(rf"tinker://({_MODEL})/(weights|sampler_weights)/({NAME.pattern})")

_TEN_YEARS = 10 * 366 * 86_400

Id = Annotated[str, Field(max_length=200)]
Number = Annotated[int, Field(ge=0, lt=10**9)]
Path = Annotated[str, Field(max_length=400)]
Word = Annotated[str, Field(max_length=64)]
Metadata = Annotated[dict[Word, Annotated[str, Field(max_length=1024)]], Field(max_length=64)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Body(BaseModel):
    """A body."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


class SessionBody(Body):
    """Names a session."""

    session_id: Id


class ModelBody(Body):
    """Names a model."""

    model_id: Id


class LoraSettings(Body):
    """How a LoRA is made."""

    rank: int = Field(ge=1, le=1 << 16)
    seed: int | None = Field(None, ge=0, lt=2**31)
    train_attn: bool = True


class OptimizerSettings(Body):
    """Which optimizer a model has."""

    type: str = "adamw"


class CreateModelBody(SessionBody):
    """Asks for a new model."""

    model_seq_id: Number
    base_model: str = Field(max_length=4096)
    user_metadata: Metadata | None = None
    lora_config: LoraSettings | None = None
    optimizer_config: OptimizerSettings = OptimizerSettings()


class AdamSettings(Body):
    """The settings of a step of Adam."""

    learning_rate: Positive = 1e-4
    beta1: Share = 0.9
    beta2: Share = 0.95
    eps: Annotated[float, Field(gt=0, le=1e6)] = 1e-12
    weight_decay: Positive = 0.0
    grad_clip_norm: Positive = 0.0


class OptimStepBody(ModelBody):
    """Asks for a step."""

    seq_id: Number
    adam_params: AdamSettings


class SaveBody(ModelBody):
    """Asks to keep a model's weights."""

    seq_id: Number
    path: str | None = Field(None, pattern=rf"^{NAME.pattern}$")
    ttl_seconds: int | None = Field(None, ge=1, le=_TEN_YEARS)
    overwrite: bool = False
    user_metadata: Metadata | None = None
    sampling_session_seq_id: Number | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"


class LoadBody(Body):
    """Asks for weights that were kept, in a model or in a new one."""

    path: Path
    optimizer: bool
    model_id: Id | None = None
    seq_id: Number | None = None
    session_id: Id | None = None
    model_seq_id: Number | None = None
    user_metadata: Metadata | None = None


class CreateSamplerBody(SessionBody):
    """Asks for continuations of a model."""

    sampling_session_seq_id: Number
    base_model: str | None = Field(None, max_length=4096)
    model_path: Path | None = None


class Chunk(Body):
    """A part of a prompt; only tokens are understood."""

    type: Literal["encoded_text"] = "encoded_text"
    tokens: Tokens


class Prompt(Body):
    """A prompt."""

    chunks: list[Chunk] = Field(max_length=1024)


class SamplingSettings(Body):
    """How a prompt is continued."""

    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: (
        str
        | Annotated[list[str], Field(max_length=16, fail_fast=True)]
        | Annotated[Tokens, Field(max_length=8)]
        | None
    ) = None
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_k: int = Field(-1, ge=-1, lt=2**31)
    top_p: float = Field(1.0, gt=0, le=1)


class SampleBody(Body):
    """Asks for continuations."""

    prompt: Prompt
    sampling_params: SamplingSettings
    num_samples: int = Field(1, ge=1, le=128)
    sampling_session_id: Id | None = None
    seq_id: int | None = Field(None, ge=0, lt=2**63)
    base_model: str | None = Field(None, max_length=4096)
    model_path: Path | None = None
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    topk_sample_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    prompt_logprobs_last_n: int | None = Field(None, ge=1)
    target_prompt_logprobs: Any = None
    prompt_alt_tokens_k: int = 0
    record_stability_info: bool | None = None


class RetrieveBody(Body):
    """Asks for what came of a request."""

    request_id: Id


class WeightsBody(Body):
    """Names weights that were kept."""

    tinker_path: Path
