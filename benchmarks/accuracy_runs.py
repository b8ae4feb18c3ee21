"""Runs whose accuracy is measured along the way, in pieces that can be resumed at any time.

A run is trained by :class:`zojax.Training`, so its journal restores it; its accuracies go into the
record of the comparison.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accuracy_record import Accuracies, Record, read_record, write_record
from rich.console import Console

import zojax
from zojax.config import Config, DataConfig, ModelConfig, RunConfig, TrainConfig, apply_overrides
from zojax.tasks import load_splits
from zojax.tasks.calibrate import median_offsets

BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method in the comparison.

    Attributes:
        title: its name in tables and plots.
        passes: the forward passes of a step, each over one batch.
        rates: the learning rates to choose from, three a half-decade apart.
        settings: the settings of its configuration.
    """

    title: str
    passes: int
    rates: tuple[float, ...]
    settings: tuple[str, ...]


CONTENDERS: Mapping[str, Contender] = {
    "lozo": Contender("LoZO", 2, (1e-5, 3e-5, 1e-4), ("estimator.name=lozo",)),
    "mezo-lora": Contender(
        "MeZO-LoRA",
        2,
        (3e-4, 1e-3, 3e-3),
        ("estimator.name=mezo", "estimator.epsilon=1e-2", "space.name=lora"),
    ),
    "fzoo": Contender("FZOO", 9, (1e-4, 3e-4, 1e-3), ("estimator.name=fzoo",)),
    "mezo": Contender("MeZO", 2, (1e-5, 3e-5, 1e-4), ("estimator.name=mezo", "space.name=full")),
}

REFERENCE = "lozo"
"""The method that the others are compared with, and that the PyTorch peer has, too."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers of examples to train on, to choose with, and held out for the final word."""

    train: int
    dev: int
    eval: int


SIZES: Mapping[str, Sizes] = {"sst2": Sizes(1000, 5000, 872), "cb": Sizes(125, 125, 56)}


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared, and where the runs are.

    Attributes:
        model: the checkpoint.
        task: the task's name.
        data: the directory or hub id of its data.
        work: the directory of the runs.
        record: the file of their accuracies.
        passes: the forward passes of a whole run; after half of them hopeless learning rates are
            stopped.
    """

    model: str
    task: str
    data: str | None
    work: Path
    record: Path
    passes: int

    @property
    def screen(self) -> int:
        """The forward passes after which hopeless learning rates are stopped."""
        return self.passes // 2

    @property
    def marks(self) -> tuple[int, ...]:
        """The forward passes after which a run is evaluated, in order."""
        return 0, self.passes // 4, self.screen, self.passes

    def read(self) -> Record:
        """The accuracies so far."""
        model = Path(self.model).name
        return read_record(self.record, f"{model} on {self.task}, {self.passes} passes")

    def directory(self, method: str, rate: float, seed: int) -> Path:
        """A run's directory."""
        return self.work / f"{self.task}-{method}-{rate:g}-seed{seed}"

    def config(self, method: str, rate: float, seed: int) -> Config:
        """A run's configuration; the seed chooses examples, their order and the directions."""
        contender, sizes = CONTENDERS[method], SIZES[self.task]
        config = Config(
            ModelConfig(self.model),
            RunConfig(str(self.directory(method, rate, seed))),
            DataConfig(
                self.task,
                self.data,
                num_train=sizes.train,
                num_dev=sizes.dev,
                num_eval=sizes.eval,
                seed=seed,
                truncate="left",
            ),
            TrainConfig(
                steps=step_at(self.passes, contender),
                batch_size=BATCH_SIZE,
                learning_rate=rate,
                seed=seed,
            ),
        )
        return apply_overrides(config, contender.settings)


def step_at(passes: int, contender: Contender) -> int:
    """The step that ends nearest to a number of forward passes.

    >>> step_at(500, CONTENDERS["fzoo"])
    56
    """
    return round(passes / contender.passes)


@dataclasses.dataclass(frozen=True)
class Scored:
    """The candidates' scores of a data set, ``(n, candidates)``, and the right ones, ``(n,)``."""

    scores: np.ndarray
    labels: np.ndarray

    def accuracy(self, bias: np.ndarray | None = None) -> float:
        """The share of right answers; the median of ``bias``, scores like these, is subtracted."""
        scores = self.scores if bias is None else self.scores - median_offsets(bias)
        return float((scores.argmax(-1) == self.labels).mean())


def accuracies(dev: Scored, held_out: Scored) -> Accuracies:
    """The accuracies of a model, from its scores of the two data sets."""
    finite = np.isfinite(dev.scores).all() and np.isfinite(held_out.scores).all()
    return Accuracies(
        dev.accuracy(),
        dev.accuracy(dev.scores),
        held_out.accuracy(),
        held_out.accuracy(dev.scores),
        diverged=not finite,
    )


def advance(study: Study, method: str, rate: float, seed: int, until: int) -> None:
    """Train a run up to a number of forward passes, and record its accuracies on the way.

    It continues where the run was left, by this function or by a crash.

    Args:
        study: the comparison.
        method: a name of :data:`CONTENDERS`.
        rate: the learning rate.
        seed: the run's seed.
        until: the forward passes, one of the marks.
    """
    wanted = {mark for mark in study.marks if mark <= until}
    if wanted <= study.read().run(method, rate, seed).marks.keys():
        return
    contender, config = CONTENDERS[method], study.config(method, rate, seed)
    mark_at = {step_at(mark, contender): mark for mark in wanted}
    splits = load_splits(config.data)
    labels = {
        "dev": np.array([example.label for example in splits.dev]),
        "eval": np.array([example.label for example in splits.eval]),
    }
    with zojax.Training(config, console=Console()) as training:

        def score() -> None:
            mark = mark_at.get(training.num_steps)
            if mark is None:
                return
            record = study.read()
            run = record.run(method, rate, seed)
            if mark not in run.marks:
                dev, held_out = (
                    Scored(training.scores(split), labels[split]) for split in ("dev", "eval")
                )
                found = accuracies(dev, held_out)
                write_record(study.record, record.with_mark(run, mark, found))

        score()
        for batch in training.batches():
            if training.num_steps >= step_at(until, contender):
                break
            record = training.step(batch)
            if training.num_steps <= 1 and record.losses_v.shape[0] != contender.passes:
                raise ValueError(f"{method}: a step has {record.losses_v.shape[0]} passes")
            score()
