"""LoZO in SmolLM2's upper layers on SST-2, by pairs of examples: docs/results.md, "small steps".

    python scripts/fetch_smollm2.py
    zojax train --config configs/smollm2_sst2.py --set data.path=DIR

A quarter of an hour on 2 CPU cores. What the 24 layers below compute is kept, so that a step costs
a fifth of a whole one.
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
        model=ModelConfig("data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype="float32"),
        data=DataConfig(
            "sst2",
            num_train=1000,
            num_dev=2000,
            num_eval=872,
            truncate="left",
            calibration="median",
        ),
        train=TrainConfig(
            steps=5000,
            batch_size=16,
            learning_rate=2e-4,
            schedule="cosine",
            objective="pairwise",
            batches="balanced",
            eval_every=1000,
            kept_states="float32",
        ),
        estimator=LozoConfig(epsilon=1e-3, rank=2, interval=50),
        space=LinearConfig(fold="nearest", layers="24-"),
        run=RunConfig("runs/smollm2_sst2"),
    )
