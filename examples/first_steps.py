# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps with zojax
#
# zojax fine-tunes language models with inference alone: a step computes the loss at both ends of a
# small movement of the weights, and moves along it in proportion to the difference. This notebook
# scores, generates, trains and evaluates with the small model that comes with the package, in about
# two minutes on two CPU cores. For another model, replace `zojax.demo.MODEL` with a directory or a
# hub id such as `facebook/opt-1.3b`.
#
# It needs only the installed package.

# %%
import dataclasses

import jax.numpy as jnp
import matplotlib.pyplot as plt

import zojax
from zojax.config import (
    Config,
    DataConfig,
    LinearConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)

engine = zojax.load(zojax.demo.MODEL)

# %% [markdown]
# ## Score and generate
#
# The log-probability of every candidate after every prompt, in nats, summed over its tokens:

# %%
reviews = ["a gripping film . It was", "a dull and overlong film . It was"]
engine.score(reviews, candidates=[" great", " terrible"])

# %%
for generation in engine.generate(["a gripping film", "a dull film"], max_new_tokens=8):
    print(generation.text)

# %% [markdown]
# The model was pretrained on reviews and can tell good ones from bad ones, but it does not yet
# express this as ` great` or ` terrible`: the two prompts get nearly the same scores. That is what
# it learns now.
#
# ## Train
#
# A configuration names the model, the data, the steps and the method, which is LoZO by default.


# %%
def configure(directory, estimator):
    return Config(
        ModelConfig(str(zojax.demo.MODEL)),
        RunConfig(directory),
        DataConfig("sst2", str(zojax.demo.REVIEWS), num_train=1000, num_dev=200, num_eval=600),
        TrainConfig(steps=STEPS, batch_size=32, learning_rate=1e-3, schedule="cosine", chunk=50),
        estimator=estimator,
        space=LinearConfig(fold="nearest"),
    )


STEPS, EVERY = 1000, 100

# %% [markdown]
# `zojax.train(config)` would do all of this. A loop of your own does the same step by step, and its
# directory is that of a run like any other. If you interrupt the cell and run it again, it resumes
# where it stopped.


# %%
def train(config):
    with zojax.Training(config) as training:
        for batch in training.batches():
            training.step(batch)
            if training.num_steps % EVERY == 0:
                training.evaluate()
        result = training.finish()
    print(f"held-out accuracy {result['eval_accuracy']:.3f} after step {result['best_step']}")
    return result["dev_accuracy"]


lozo = train(configure("runs/lozo", LozoConfig(rank=4)))

# %% [markdown]
# ## An estimator of your own
#
# In sign descent every step moves by the same length, towards whichever end of its probe is lower.
# The class has the settings, and pydantic checks them. A configuration names the estimator as
# `module:name`; what a notebook defines is in `__main__`.
#
# Its steps are longer than LoZO's at the same learning rate, so the curves below show only that
# both learn, and not which is better. [The page about methods](../docs/methods.md) compares methods
# at the best rate of each.


# %%
@dataclasses.dataclass
class Settings:
    rank: int = 4
    epsilon: float = 1e-3
    interval: int = 50
    length: float = 1.0


@zojax.estimator(Settings)
def signs(settings, trainable):
    space, draw = trainable.low_rank(settings.rank)
    base = zojax.two_point(space, draw, epsilon=settings.epsilon)
    return base._replace(
        projected_grad=lambda losses_v: settings.length * jnp.sign(base.projected_grad(losses_v))
    )


sign_descent = train(configure("runs/signs", {"name": "__main__:signs"}))

# %%
for name, accuracies in {"LoZO": lozo, "sign descent": sign_descent}.items():
    plt.plot([int(step) for step in accuracies], accuracies.values(), marker="o", label=name)
plt.xlabel("steps")
plt.ylabel("accuracy on the dev set")
plt.legend()
plt.show()

# %% [markdown]
# ## What was learnt
#
# The run's directory has a journal of 41 kB. Together with the base model, it is the
# trained model:

# %%
trained = zojax.load_run("runs/lozo")
trained.score(reviews, candidates=[" great", " terrible"])

# %% [markdown]
# To continue, try `zojax eval runs/lozo` and `zojax export runs/lozo --format hf --output DIR`, and
# read [zojax in Python](../docs/library.md).
