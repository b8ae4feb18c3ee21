"""The five-minute demo: a small OPT learns to say what it knows of film reviews, on a laptop.

Its model and data are files beside this one, so that an installed package needs nothing else.
``scripts/make_demo_model.py`` of the repository has made them.
"""

from pathlib import Path

from zojax.config import (
    Config,
    DataConfig,
    LinearConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)

MODEL = Path(__file__).resolve().parent / "model"
"""A small OPT that has read film reviews, in Hugging Face's format."""
REVIEWS = Path(__file__).resolve().parent / "reviews"
"""Labelled film reviews, as SST-2 has them: ``train.jsonl`` and ``validation.jsonl``."""


def get_config() -> Config:
    """A thousand steps of LoZO, in ``runs/demo`` of the current directory."""
    return Config(
        model=ModelConfig(str(MODEL), dtype="float32"),
        data=DataConfig("sst2", str(REVIEWS), num_train=1000, num_dev=200, num_eval=600),
        train=TrainConfig(
            steps=1000,
            batch_size=32,
            learning_rate=1e-2,
            schedule="cosine",
            eval_every=100,
            chunk=50,
        ),
        estimator=LozoConfig(epsilon=1e-3, rank=4, interval=50),
        space=LinearConfig(fold="nearest", targets=("out_proj",)),  # see docs/methods.md
        run=RunConfig("runs/demo"),
    )
