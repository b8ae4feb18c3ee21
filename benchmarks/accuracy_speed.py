"""Time the steps of time_to_accuracy's methods and of the PyTorch peer, interleaved.

The peer's losses are first held against zojax's, along the same directions. It takes about
20 minutes on 2 quiet CPU cores.
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import float64
import jax
import peers
import torch
from accuracy_record import Speed
from accuracy_runs import CONTENDERS, REFERENCE, Study
from setting import machine_name
from timed_step import TimedStep

from zojax.adapters.sites import site_key
from zojax.config import apply_overrides
from zojax.estimators import SUBSPACE, stream_key
from zojax.estimators.estimator import direction_key
from zojax.training.step import init_state

EQUAL_STEPS, TIMED_STEPS = 50, 30


class Peer:
    """LoZO of attention and MLP matrices, as the authors' code does it.

    Args:
        path: the checkpoint.
        timed: zojax's steps, of which it takes batches, directions and settings.
    """

    def __init__(self, path: Path, timed: TimedStep):
        torch.set_num_threads(os.cpu_count() or 1)
        run = timed.run
        self._key, self._config = run.key, run.model.config
        self._params = init_state(run.method, run.model.weights, run.key).params
        self._v = run.method.estimator.space.redraw(stream_key(run.key, SUBSPACE, 0))
        self._settings: Any = run.config.estimator
        self._rate = float(run.config.train.learning_rate)
        self._model = peers.load_model(path)
        moved = self._tensors(self._v)
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in moved)
        self._batches = [peers.pad(items) for items in timed.items]

    def along_the_same_directions(self, step: int) -> tuple[float, float]:
        """Do a step in the first interval along zojax's directions; return its two losses."""
        key = direction_key(self._key, step, 0, 1)
        u = self._tensors(
            {
                path: jax.random.normal(site_key(key, path), (*p.shape[:-1], self._settings.rank))
                for path, p in self._params.items()
            }
        )
        return self._step(step, self._tensors(self._v), lambda: lambda name, shape: u[name])

    def timed(self, step: int) -> float:
        """Do a step along directions of torch's own; return its seconds."""
        subspace = peers.draw_subspace(self._model, self._settings.rank, peers.seeded_draw(0))
        started = time.perf_counter()
        self._step(step, subspace, lambda: peers.seeded_draw(step))
        return time.perf_counter() - started

    def _step(self, step: int, v: dict[str, torch.Tensor], redraw: Any) -> tuple[float, float]:
        return peers.lozo_step(
            self._model,
            self._batches[step],
            v,
            redraw,
            epsilon=self._settings.epsilon,
            learning_rate=self._rate,
        )

    def _tensors(self, flat: Any) -> dict[str, torch.Tensor]:
        return {name: t.float() for name, t in float64.by_name(flat, self._config).items()}


def measure(study: Study, methods: Sequence[str]) -> Speed:
    """Hold the peer's losses against zojax's, and time both."""
    steps = {method: _timed_step(study, method) for method in dict.fromkeys([REFERENCE, *methods])}
    ours = steps[REFERENCE]
    peer = Peer(Path(study.model), ours)
    differences = []
    for number in _told(EQUAL_STEPS, "compared"):
        theirs = peer.along_the_same_directions(number)
        losses_v = ours(number)[1].losses_v
        differences += [abs(float(a) - b) for a, b in zip(losses_v, theirs, strict=True)]
    seconds: dict[str, list[float]] = {method: [] for method in steps}
    peer_seconds = []
    for step in steps.values():
        step(0)  # the first touches all memory
    for number in _told(TIMED_STEPS, "timed"):
        for method, step in steps.items():
            seconds[method].append(step(number)[0])
        peer_seconds.append(peer.timed(number))
        time.sleep(0.2)  # torch's threads spin for a while before they sleep
    medians = {method: statistics.median(seconds[method]) for method in steps}
    return Speed(machine_name(), medians, statistics.median(peer_seconds), max(differences))


def _told(steps: int, done: str) -> Iterator[int]:
    """Count steps, and say every tenth: a step of the peer takes seconds."""
    for number in range(steps):
        yield number
        if not (number + 1) % 10:
            print(f"{done} {number + 1} of {steps} steps", file=sys.stderr, flush=True)


def _timed_step(study: Study, method: str) -> TimedStep:
    config = study.config(method, CONTENDERS[method].rates[0], 0)
    return TimedStep(apply_overrides(config, [f"train.steps={EQUAL_STEPS}", "data.num_dev=10"]))
