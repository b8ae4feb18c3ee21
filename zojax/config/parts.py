"""The parts of a run's configuration: the model, the data, the training, the mesh, the run.

The estimator and the space, which come in several kinds, are in files of their own.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue
from pydantic.dataclasses import dataclass

from zojax.config import foreign
from zojax.config.fields import (
    STRICT,
    Batch,
    Count,
    Fraction,
    LearningRate,
    NonNegative,
    NonNegativeFloat,
    PathText,
    Seed,
    Steps,
    Switch,
    Text,
    in_float32,
)
from zojax.config.messages import joined
from zojax.config.optimizers import check_name
from zojax.errors import InputError


def _allowed(name: str) -> str:
    """Returns a name unchanged, unless it names a module that may not be used."""
    if foreign.is_foreign(name):
        try:
            foreign.find(name, object, "there")
        except InputError as error:  # pydantic adds the field's name to a ValueError
            raise ValueError(str(error)) from None
    return name


OBJECTIVES = ("classification", "pairwise", "likelihood", "accuracy", "f1")


def _check_objective(name: str) -> str:
    if name in OBJECTIVES or foreign.is_foreign(name):
        return _allowed(name)
    ours = joined(map(repr, OBJECTIVES), "or")
    raise ValueError(f"should be {ours}, or an objective of your own as 'module:name'")


def _check_family(name: str) -> str:
    if not foreign.is_foreign(name):
        raise ValueError("should be 'module:name', such as 'my_models:FAMILY'")
    foreign.allow_found(_allowed(name))
    return name


GroupSize = Annotated[int, Field(strict=True, ge=2, le=4_096)]
Named = Annotated[Text, AfterValidator(_allowed)]
ObjectiveName = Annotated[Text, AfterValidator(_check_objective)]
FamilyName = Annotated[Text, AfterValidator(_check_family)]


@dataclass(config=STRICT)
class ModelConfig:
    """The base model.

    Attributes:
        path: the local directory or Hugging Face hub id of a checkpoint.
        dtype: the weights' dtype on the device; ``int8`` stores the layers' matrices as int8 with a
            scale for each row, and everything else as bfloat16; ``int4`` packs two entries into a
            byte, with a scale for each ``group_size`` entries of a row. Nothing can be folded into
            such weights, so use ``lora``, ``prefix`` or ``space.fold=adapter`` or ``none``.
        bos_token_id: the token that prompts start with; None is the tokenizer's own (2, ``</s>``,
            for OPT). The MeZO and LoZO scripts use 0.
        activations: ``float32`` does not round activations to the dtype of 16-bit weights before
            they are multiplied, so that no part of a score is lost there; this doubles the number
            of products. Without it, only the differences between the variants are rounded, in
            proportion to their size.
        scan_layers: run the layers as a loop on GPUs, too, as on other devices: a deep model's step
            compiles in a third of the time, but copies the weights every time it runs.
        allow_nonfinite: accept weights that are NaN or infinite, or become so in ``dtype``;
            otherwise they are an error.
        family: your own family of models (:class:`zojax.Family`) as ``module:name``, for an
            architecture that zojax does not have.
        group_size: the most neighbours in an int4 row that share a scale: a group has this many
            entries, or as many as the largest even divisor of the row's length below. Small groups
            are more accurate; with their scales, 32, 64 and 128 take 4.5, 4.25 and 4.125 bits an
            entry.
    """

    path: PathText
    dtype: Literal["float32", "bfloat16", "float16", "int8", "int4"] = "float32"
    bos_token_id: NonNegative | None = None
    activations: Literal["float32"] | None = None
    scan_layers: bool = False
    allow_nonfinite: Switch = False
    family: FamilyName | None = None
    group_size: GroupSize = 64


def _keys_as_text(value: Any) -> Any:
    """Turns keys into text, as in JSON, and refuses labels that become equal, such as 0 and "0"."""
    if not isinstance(value, Mapping):
        return value
    texts = {key: json.dumps(key) if isinstance(key, int) else key for key in value}
    first: dict[Any, Any] = {}
    for key, text in texts.items():
        if text in first:
            raise ValueError(f"has {first[text]!r} and {key!r}, which are the same label as text")
        first[text] = key
    return {texts[key]: word for key, word in value.items()}


def _of_usable_numbers(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments unchanged; ``ValueError`` if float32 cannot hold one of their numbers."""
    try:
        json.dumps(arguments, allow_nan=False)
    except ValueError:
        raise ValueError("should have only finite numbers") from None
    level: list[Any] = [arguments]
    while level:
        item = level.pop()
        if isinstance(item, int | float):
            in_float32(item)
        level += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return arguments


Optimizer = Annotated[Text, AfterValidator(check_name)]
Arguments = Annotated[dict[Text, JsonValue], AfterValidator(_of_usable_numbers)]
Words = Annotated[dict[Text, Text], Field(max_length=10_000), BeforeValidator(_keys_as_text)]
Demonstrations = Annotated[int, Field(strict=True, ge=0, le=1_024)]


@dataclass(config=STRICT)
class DataConfig:
    r"""What to learn from.

    Attributes:
        task: the task's name; ``custom`` for your own data, which ``prompt`` describes;
            ``completions`` or ``conversations`` for rows in OpenAI's formats; or your own task
            (:class:`zojax.Task`) as ``module:name``.
        path: a directory with ``train`` and ``validation`` as ``.jsonl``, ``.csv`` or ``.parquet``,
            or a clone of a data set of the hub; for your own data, also a file, of which a fifth is
            held out; None reads the Hugging Face hub.
        num_train: the number of training examples, the first of the shuffled train split; None is
            1,000, or what ``num_dev`` leaves if there are fewer.
        num_dev: the number of examples after those, which select the best step; None is the task's
            own number: 500, or 100 if it has few records.
        num_eval: the number of examples of the validation split (all, if it has fewer); None is
            1,000.
        seed: the seed of the choice of examples.
        truncate: what to do with a sequence that is too long: ``error``, or ``left`` to drop the
            oldest tokens of its prompt, as MeZO does.
        max_length: the longest sequence, in tokens; the model's positions limit it too.
        shuffle_labels: permute the training labels, as a control that must learn nothing.
        prompt: for your own data, a template such as ``"{review}\nSentiment:"``, with the names of
            fields in braces.
        candidates: for your own data, a word for each label, such as ``{0: " bad", 1: " good"}``.
        label: for your own data, the field that has the label.
        answer: for your own data, the field that has a free answer; it replaces ``candidates``.
        metric: what chooses the best step: ``accuracy``; ``f1`` of the words of a free answer;
            ``macro_f1`` for labels, the mean of each one's F1; ``probability`` of a completion's
            tokens, their geometric mean; None is the task's own.
        skip_bad: leave out and count bad rows instead of stopping at the first.
        num_demos: the number of demonstrations before every prompt, drawn from the train split;
            MeZO's in-context learning uses 32.
        calibration: what to subtract from the candidates' scores: nothing, their scores after a
            ``content_free`` prompt, their ``median`` over the dev set, or what is ``fitted`` to the
            dev set's labels.
        chat: put the model's own chat template around prompts, for instruct models: a prompt is
            what the user says, and the answer is what the assistant says, which alone is scored.
        system: what the system says first in every chat, for templates that have such a turn; None
            is what the template writes without.
    """

    task: Named = "sst2"
    path: PathText | None = None
    num_train: Count | None = None
    num_dev: Count | None = None
    num_eval: Count | None = None
    seed: Seed = 0
    truncate: Literal["error", "left"] = "error"
    max_length: Count = 2048
    shuffle_labels: Switch = False
    prompt: Text | None = None
    candidates: Words | None = None
    label: Text = "label"
    answer: Text | None = None
    metric: Literal["accuracy", "f1", "macro_f1", "probability"] | None = None
    skip_bad: Switch = False
    num_demos: Demonstrations = 0
    calibration: Literal["none", "content_free", "median", "fitted"] = "none"
    chat: Switch = False
    system: Text | None = None


@dataclass(config=STRICT)
class TrainConfig:
    """How long and how fast.

    Attributes:
        steps: the number of steps of the whole run; 0 trains nothing, for a model that is only
            evaluated.
        batch_size: the number of examples per step.
        learning_rate: the peak of the learning rate. ``auto`` trains with several rates for an
            eighth of the steps, and goes on with the best on the dev set; the run then has its
            number.
        schedule: the learning rate after the warm-up: constant, or linear or cosine to zero.
        warmup_steps: the number of steps in which the learning rate rises linearly from zero.
        optimizer: how the estimated gradient is applied: ``sgd``; ``momentum``, N ← β₁ N +
            (1 − β₁) g, which with ``lozo`` is LoZO-M; ``adam``, if what is trained stays beside
            the weights (``lora``, ``prefix``, or no fold); or any other optimizer of optax by its
            name there, such as ``lion``.
        optimizer_args: arguments of optax's function besides the learning rate and the weight
            decay, such as ``{"b1": 0.95}``.
        beta1: the decay of the momentum, and Adam's first.
        beta2: Adam's second decay.
        weight_decay: the weight decay of what is trained (the movement, not the base weights).
        objective: what is minimised: ``classification`` (cross-entropy over the candidates),
            ``pairwise`` (that of telling which of two examples has which label, whatever the
            candidates' bias; it needs ``data.calibration``) or ``likelihood`` (of the right
            answer's tokens); without a gradient, ``accuracy`` or ``f1`` (with a minus, of the
            ranking or of generated answers); or your own objective (:func:`zojax.objective`) as
            ``module:name``. None is the task's own: ``classification`` or ``likelihood``.
        batches: which examples a step gets: the next of the ``shuffled`` ones, or as many of each
            label, too (``balanced``).
        micro_batches: the number of parts that a batch is scored in, one after the other, to save
            memory.
        in_pieces: score each part in a call of its own, and not all in one program with the rest of
            the step, so that an engine can serve others in between. Losses are the same up to
            rounding.
        eval_every: steps between evaluations on the dev set.
        chunk: steps between two waits of the host for the device, and the most steps that a crash
            can lose.
        seed: the seed of the perturbations and of the order of examples.
        nonfinite: what to do with a step whose loss is not finite: ``skip`` it, so that nothing
            moves, or ``stop`` the run. Either way it is counted and journaled.
        kept_states: whether and how to keep what the layers below the first of ``space.layers``
            compute for every example, so that steps and evaluations cost the layers above alone:
            4 (``float32``) or 2 (``bfloat16``) bytes for each token and each of the model's
            hidden size; a data set that takes more than 1 GiB lies in a temporary file.
        padded_candidates: give every example a page of its own, with room for ``data.max_length``
            tokens and so many candidates, so that the shapes of all programs are known without
            the data; None packs the examples into few pages, of the shapes that they need.
        padded_candidate_tokens: with ``padded_candidates``, the most tokens of a candidate.
    """

    steps: Steps = 20_000
    batch_size: Batch = 16
    learning_rate: LearningRate = 1e-7
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegative = 0
    optimizer: Optimizer = "sgd"
    optimizer_args: Arguments = dataclasses.field(default_factory=dict)
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: NonNegativeFloat = 0.0
    objective: ObjectiveName | None = None
    batches: Literal["shuffled", "balanced"] = "shuffled"
    micro_batches: Batch = 1
    in_pieces: Switch = False
    eval_every: Count = 4_000
    chunk: Count = 32
    seed: Seed = 42
    nonfinite: Literal["skip", "stop"] = "skip"
    kept_states: Literal["none", "float32", "bfloat16"] = "none"
    padded_candidates: Count | None = None
    padded_candidate_tokens: Count = 1


@dataclass(config=STRICT)
class MeshConfig:
    """Devices along each axis; None is chosen to suit the weights' size and the devices.

    Like the run's directory, this may change when a run is resumed.

    Attributes:
        data: the number of shards of the pages.
        model: the number of shards of the weights; it must divide the model's heads.
        fsdp: split the weights over ``data`` too, and gather them layer by layer as they are used.
            This is slower; use it for models that do not fit otherwise.
    """

    data: Count | None = None
    model: Count | None = None
    fsdp: Switch = False


@dataclass(config=STRICT)
class RunConfig:
    """A run's directory, and what is kept in it; unlike the rest, this may change on a resume.

    Checkpoints are off by default because the journal restores a run without them: a replay takes
    0.3 to 2 % of the training's time, while each checkpoint of a folded run is as large as the
    model (OPT-13B: 26 GB).

    Attributes:
        dir: the run's directory.
        checkpoint_every: steps between checkpoints; 0 is never. A thousand or more suits runs
            whose replay is long, and runs that may be resumed with another version of JAX.
        keep_last: how many of the newest checkpoints to keep.
        keep_best: how many of those that are best on the dev set to keep as well.
        eval_batch_size: the number of examples that are evaluated at a time; None is two training
            batches. Lower it if long prompts, such as demonstrations, do not fit.
        profile: trace a few steps into ``profile/``, and report which parts of a step take longest.
    """

    dir: PathText
    checkpoint_every: NonNegative = 0
    keep_last: Count = 1
    keep_best: NonNegative = 1
    eval_batch_size: Batch | None = None
    profile: Switch = False
