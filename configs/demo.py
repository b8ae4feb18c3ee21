"""The five-minute demo: a small OPT learns to say what it knows of film reviews, on a laptop.

    zojax train --config configs/demo.py

About two minutes on 2 CPU cores. ``--set data.shuffle_labels=true --set run.dir=runs/control`` is
the control: the same run on labels that mean nothing, which must not learn.
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

DEMO = Path(__file__).resolve().parent.parent / "demo"


def get_config() -> Config:
    return Config(
        model=ModelConfig(str(DEMO / "model"), dtype="float32"),
        data=DataConfig("sst2", str(DEMO / "reviews"), num_train=1000, num_dev=200, num_eval=600),
        train=TrainConfig(
            steps=2000,
            batch_size=32,
            learning_rate=1e-3,
            schedule="cosine",
            eval_every=200,
            chunk=50,
        ),
        estimator=LozoConfig(epsilon=1e-3, rank=4, interval=50),
        space=LinearConfig(fold="nearest"),
        run=RunConfig("runs/demo"),
    )
