"""The configuration of a job's run."""

from pathlib import Path

from zojax.config import (
    Config,
    DataConfig,
    FzooConfig,
    LinearConfig,
    LoraConfig,
    LozoConfig,
    MezoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.serving.fine_tuning.rows import LABEL, Kind
from zojax.serving.fine_tuning.settings import PROBED_RANK, Base, Chosen, Words, kept_dtype

_EVALUATIONS = 20


def configuration(
    chosen: Chosen,
    kind: Kind,
    words: Words | None,
    base: Base,
    *,
    data: Path,
    run: Path,
    seed: int,
) -> Config:
    """The configuration of a job's run.

    Args:
        chosen: its settings.
        kind: what kind of rows it learns from.
        words: how they are read, if they have labels.
        base: the model.
        data: the directory of the rows.
        run: the run's directory.
        seed: the seed of the examples and of the directions.
    """
    padding = chosen.padding
    return Config(
        ModelConfig(base.path, dtype=base.dtype),
        RunConfig(str(run)),
        DataConfig(
            "custom" if words else kind,
            str(data),
            num_train=chosen.num_train,
            num_dev=chosen.num_dev,
            num_eval=chosen.num_eval,
            seed=seed,
            truncate="left",
            max_length=min(base.max_length, padding.max_length) if padding else base.max_length,
            prompt=words.prompt if words else None,
            candidates=dict(words.candidates) if words else None,
            label=LABEL,
            chat=kind == "conversations",
        ),
        TrainConfig(
            steps=chosen.steps,
            batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate,
            micro_batches=chosen.micro_batches,
            in_pieces=True,
            eval_every=-(-chosen.steps // _EVALUATIONS),
            chunk=1,  # so that a step is served as soon as it is done
            seed=seed,
            padded_candidates=padding.candidates if padding else None,
            padded_candidate_tokens=padding.candidate_tokens if padding else 1,
            kept_states=kept_dtype(base) if chosen.keeps_states else "none",
        ),
        _estimator(chosen),
        space=_space(chosen, base.depth),
    )


def _estimator(chosen: Chosen) -> LozoConfig | MezoConfig | FzooConfig:
    if chosen.estimator == "mezo":
        return MezoConfig(epsilon=chosen.epsilon)
    of_rank = LozoConfig if chosen.estimator == "lozo" else FzooConfig
    return of_rank(epsilon=chosen.epsilon, rank=PROBED_RANK)


def _space(chosen: Chosen, depth: int) -> LinearConfig | LoraConfig:
    layers = None if chosen.num_layers == depth else f"{depth - chosen.num_layers}-"
    if chosen.estimator == "mezo":
        return LoraConfig(rank=chosen.rank, layers=layers)
    return LinearConfig(fold="adapter", adapter_rank=chosen.rank, layers=layers)
