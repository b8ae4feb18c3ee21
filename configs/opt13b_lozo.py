"""LoZO on attention and MLP matrices alone: OPT-13B on SST-2, 20,000 steps, on one 40 GB GPU.

    zojax train --config configs/opt13b_lozo.py

This is the paper's method as in its published port to vLLM, whose authors call it "LoRA-only":
embeddings, norms and biases stay as they are. The paper's own table trains everything; its row is
configs/opt13b_table.py:sst2-lozo.

The authors' own code takes 726 ms a step on one A100, about 4 hours in all. Prompts start with
token 0 and long ones lose their oldest tokens, as in the authors' scripts.
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
        model=ModelConfig("facebook/opt-13b", dtype="bfloat16", bos_token_id=0),
        data=DataConfig("sst2", num_train=1000, num_dev=500, num_eval=1000, truncate="left"),
        train=TrainConfig(steps=20_000, batch_size=16, learning_rate=1e-7, eval_every=4_000),
        estimator=LozoConfig(epsilon=1e-3, rank=2, interval=50),
        space=LinearConfig(fold="stochastic"),
        run=RunConfig("runs/opt13b_lozo"),
    )
