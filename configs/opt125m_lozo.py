"""LoZO on OPT-125M and SST-2: 50 steps, to see that a machine is set up and how fast it is.

    zojax train --config configs/opt125m_lozo.py --set data.path=DIR

About a minute on 2 CPU cores. For a trained model, give it time:
``--set train.steps=20000 --set train.learning_rate=1e-6``.
"""

from zojax.config import (
    Config,
    DataConfig,
    LinearConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig("facebook/opt-125m", dtype="float32", bos_token_id=0),
        data=DataConfig("sst2", num_train=1000, num_dev=100, num_eval=200, truncate="left"),
        train=TrainConfig(steps=50, batch_size=16, learning_rate=1e-7, eval_every=50, chunk=10),
        estimator=LozoConfig(epsilon=1e-3, rank=2, interval=50),
        space=LinearConfig(fold="nearest"),
        run=RunConfig("runs/opt125m_lozo"),
    )
