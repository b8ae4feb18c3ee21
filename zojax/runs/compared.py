"""Runs side by side: what they came to, and the settings in which they differ."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zojax.config import Config, to_dict
from zojax.errors import InputError
from zojax.journal.file import JOURNAL, read_journal
from zojax.reporting.comparison import Curve
from zojax.reporting.metrics import METRICS, read_seconds
from zojax.reporting.progress import Progress, read_progress
from zojax.runs.result import read_result
from zojax.runs.run_dir import read_config

_BESIDE = ("run.", "mesh.")
"""Settings that do not change what is trained."""


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run as far as it has come.

    Attributes:
        directory: its directory.
        config: its configuration.
        steps: the number of steps done.
        progress: its evaluations.
        result: the contents of its ``result.json``; None if it is not finished.
        seconds: the seconds that each step took, by step, where that is known.
    """

    directory: Path
    config: Config
    steps: int
    progress: Progress
    result: Mapping[str, Any] | None
    seconds: Mapping[int, float]

    def curve(self, name: str) -> Curve:
        """The figures on the dev set, under a name."""
        median = sorted(self.seconds.values())[len(self.seconds) // 2] if self.seconds else None
        return Curve(name, self.progress.metric, self.progress.dev, median)

    def as_dict(self) -> dict[str, Any]:
        """The run for JSON: its directory, settings, steps, evaluations and result."""
        return {
            "run": str(self.directory),
            "steps": self.steps,
            "config": to_dict(self.config),
            **self.progress.as_dict(),
            "result": self.result,
        }


def read_run(directory: Path) -> ComparedRun:
    """Reads a run, finished or not.

    Raises:
        InputError: there is none, or its files are damaged.
    """
    config = read_config(directory)
    steps = len(read_journal(directory / JOURNAL).records)
    return ComparedRun(
        directory,
        config,
        steps,
        read_progress(directory, steps, config),
        read_result(directory, config, steps) if steps == config.train.steps else None,
        read_seconds(directory / METRICS),
    )


def check_comparable(runs: Sequence[ComparedRun]) -> None:
    """Raises ``InputError`` if runs are not measured by one metric, or one is given twice."""
    by_metric = {run.progress.metric: run for run in runs}
    if len(by_metric) > 1:
        told = " and ".join(f"{name} ({run.directory})" for name, run in by_metric.items())
        raise InputError(f"these runs have different metrics: {told}; compare those of one task")
    seen: set[Path] = set()
    for run in runs:
        if run.directory.resolve() in seen:
            raise InputError(f"{run.directory}: is given twice")
        seen.add(run.directory.resolve())


def differing_settings(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """The settings that are not the same in all configurations, by their dotted names.

    A setting that a configuration's kind does not have is None.

    >>> from zojax.config import ModelConfig, RunConfig, apply_overrides
    >>> config = Config(ModelConfig("m"), RunConfig("a"))
    >>> differing_settings([config, apply_overrides(config, ["train.seed=3", "run.dir=b"])])
    {'train.seed': [42, 3]}
    """
    flat = [_flat(to_dict(config)) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    columns = {name: [one.get(name) for one in flat] for name in names}
    return {
        name: values
        for name, values in columns.items()
        if not name.startswith(_BESIDE) and any(value != values[0] for value in values)
    }


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Settings' names without their part, where that leaves them apart.

    >>> short_names(["train.seed", "estimator.rank", "space.rank"])
    {'train.seed': 'seed', 'estimator.rank': 'estimator.rank', 'space.rank': 'space.rank'}
    """
    last = [name.partition(".")[2] for name in names]
    return {
        name: own if last.count(own) == 1 else name for name, own in zip(names, last, strict=True)
    }


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": value for part in tree for name, value in tree[part].items()}
