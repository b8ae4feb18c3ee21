"""A run's configuration: typed and validated, written as a Python file with ``get_config()``."""

import dataclasses
import difflib
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from zojax.errors import InputError

_STRICT_FIELDS = ConfigDict(extra="forbid", validate_assignment=True)

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(config=_STRICT_FIELDS)
class ModelConfig:
    """The base model.

    Attributes:
        path: local directory or Hugging Face hub id of a checkpoint.
        dtype: of the weights on the device.
        bos_token_id: what prompts start with; None is the tokenizer's own (2, ``</s>``, for
            OPT). The MeZO and LoZO scripts use 0.
    """

    path: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    bos_token_id: NonNegative | None = None


@dataclass(config=_STRICT_FIELDS)
class DataConfig:
    """What to learn from.

    Attributes:
        task: its name.
        path: directory with ``train.jsonl`` and ``validation.jsonl``; None reads the Hugging
            Face hub.
        num_train: training examples, the first of a shuffled train split.
        num_dev: examples behind them, to choose the best step by.
        num_eval: examples of the validation split (all, if it has fewer).
        seed: of the choice of examples.
        truncate: what to do with a sequence that is too long: ``error``, or ``left`` to drop
            its oldest prompt tokens, as MeZO does.
        max_length: the longest sequence, in tokens; the model's positions bound it too.
        page_len: tokens that a page should have at most.
        shuffle_labels: permute the training labels: a control, which must not learn.
    """

    task: str = "sst2"
    path: str | None = None
    num_train: Count = 1000
    num_dev: Count = 500
    num_eval: Count = 1000
    seed: NonNegative = 0
    truncate: Literal["error", "left"] = "error"
    max_length: Count = 2048
    page_len: Count = 512
    shuffle_labels: bool = False


@dataclass(config=_STRICT_FIELDS)
class TrainConfig:
    """How long and how fast.

    Attributes:
        steps: of the whole run.
        batch_size: examples a step.
        learning_rate: its peak.
        schedule: after the warm-up: constant, or linear or cosine to zero.
        warmup_steps: linear from zero.
        weight_decay: of what is trained (the movement, not the base weights).
        eval_every: steps between dev evaluations.
        chunk: steps between the host's waits for the device; the journal's unit of loss.
        seed: of perturbations and of the order of examples.
    """

    steps: Count = 20_000
    batch_size: Count = 16
    learning_rate: Positive = 1e-7
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegative = 0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    eval_every: Count = 4_000
    chunk: Count = 32
    seed: NonNegative = 42


@dataclass(config=_STRICT_FIELDS)
class EstimatorConfig:
    """Where to probe.

    Attributes:
        name: of the estimator.
        epsilon: length of a probe.
        rank: columns of U and V.
        interval: steps between redraws of V (ν).
        scale: ``none`` (the authors' code), ``rms`` (U Vᵀ/√r) or ``paper`` (estimate times 1/r).
        trainable: ``linear`` (attention and MLP matrices) or ``full`` (everything).
        fold: how folding rounds to the weights' dtype: ``stochastic``, ``nearest`` (exact
            enough for float32 weights only), or ``none``: V stays, nothing is folded.
    """

    name: Literal["lozo"] = "lozo"
    epsilon: Positive = 1e-3
    rank: Count = 2
    interval: Count = 50
    scale: Literal["none", "rms", "paper"] = "none"
    trainable: Literal["linear", "full"] = "linear"
    fold: Literal["stochastic", "nearest", "none"] = "stochastic"


@dataclass(config=_STRICT_FIELDS)
class MeshConfig:
    """Devices along each axis; one device for now.

    Attributes:
        data: shards of the pages.
        model: shards of the weights.
    """

    data: Literal[1] = 1
    model: Literal[1] = 1


@dataclass(config=_STRICT_FIELDS)
class RunConfig:
    """Where a run lives.

    Attributes:
        dir: its directory.
    """

    dir: str


@dataclass(config=_STRICT_FIELDS)
class Config:
    """Everything that a run is made of; see each part for its fields.

    Example:
        >>> config = Config(ModelConfig("facebook/opt-125m"), run=RunConfig("runs/a"))
        >>> apply_overrides(config, ["train.learning_rate=1e-6"]).train.learning_rate
        1e-06
    """

    model: ModelConfig
    run: RunConfig
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    estimator: EstimatorConfig = dataclasses.field(default_factory=EstimatorConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)


_ADAPTER = TypeAdapter(Config)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dicts of JSON's types."""
    return _ADAPTER.dump_python(config, mode="json")


def from_dict(tree: Mapping[str, Any]) -> Config:
    """The inverse of :func:`to_dict`; ``InputError`` names the field that is wrong."""
    try:
        return _ADAPTER.validate_python(dict(tree))
    except ValidationError as error:
        raise InputError(_describe(error)) from None


def field_names() -> list[str]:
    """Every field as ``part.field``."""
    parts = {part.name: part.type for part in dataclasses.fields(Config)}
    return [f"{name}.{field.name}" for name, part in parts.items() for field in _fields(part)]


def _fields(part: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(part)


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A new configuration with ``part.field=value`` texts applied; ``none`` stands for None.

    Raises:
        InputError: no such field (and the nearest one), or a value that it cannot take.
    """
    tree = to_dict(config)
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals:
            raise InputError(f"--set {override}: write it as FIELD=VALUE")
        if name not in field_names():
            raise InputError(f"--set {override}: no field {name!r}{_nearest(name)}")
        part, field = name.split(".")
        tree[part][field] = None if text.lower() == "none" else text
    return from_dict(tree)


def _nearest(name: str) -> str:
    """A hint at the field that was meant, or nothing."""
    names = field_names()
    by_last = [n for n in names if n.split(".")[1] == name.split(".")[-1]]
    close = by_last or difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        return f"no field {name!r}{_nearest(name)}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{name} is missing"
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"{name}={first['input']!r}: {reason}"


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Runs a configuration file's ``get_config()`` and applies overrides.

    Raises:
        InputError: no such file, what went wrong in it, or a bad override.
    """
    if not Path(path).is_file():
        raise InputError(f"--config {path}: no such file")
    try:
        config = runpy.run_path(path)["get_config"]()
    except KeyError:
        raise InputError(f"{path}: has no get_config()") from None
    except ValidationError as error:
        raise InputError(f"{path}: {_describe(error)}") from None
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise InputError(f"{path}: get_config() returned {type(config).__name__}, not Config")
    return apply_overrides(config, overrides)
