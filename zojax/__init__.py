"""zojax: fine-tune large language models with inference alone.

The names below are the public interface, with the modules :mod:`zojax.config` (the classes that a
configuration is made of) and :mod:`zojax.demo` (a small model and its data). They are imported when
they are first used, so that ``import zojax`` is quick. All other modules are internal: they may
change in any release.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zojax.version import __version__ as __version__

if TYPE_CHECKING:
    from zojax import config, demo
    from zojax.adapters import Space
    from zojax.config import Config
    from zojax.config.estimators import estimator
    from zojax.config.foreign import allow_module
    from zojax.config.loading import load_config
    from zojax.engine import Engine, load, load_run
    from zojax.errors import InputError
    from zojax.estimators import Estimator, two_point
    from zojax.generation import Generation, Sampling
    from zojax.models.family import Family
    from zojax.runs.train import train
    from zojax.runs.training import Training
    from zojax.tasks import Example, Task
    from zojax.training.estimator_table import Trainable
    from zojax.training.objective import objective

__all__ = [
    "Config",
    "Engine",
    "Estimator",
    "Example",
    "Family",
    "Generation",
    "InputError",
    "Sampling",
    "Space",
    "Task",
    "Trainable",
    "Training",
    "allow_module",
    "config",
    "demo",
    "estimator",
    "load",
    "load_config",
    "load_run",
    "objective",
    "train",
    "two_point",
]

_HOMES = {
    "Config": "config",
    "Engine": "engine",
    "Estimator": "estimators",
    "Example": "tasks",
    "Family": "models.family",
    "Generation": "generation",
    "InputError": "errors",
    "Sampling": "generation",
    "Space": "adapters",
    "Task": "tasks",
    "Trainable": "training.estimator_table",
    "Training": "runs.training",
    "allow_module": "config.foreign",
    "estimator": "config.estimators",
    "load": "engine",
    "load_config": "config.loading",
    "load_run": "engine",
    "objective": "training.objective",
    "train": "runs.train",
    "two_point": "estimators",
}
"""The internal module that defines each name."""


def __getattr__(name: str) -> Any:
    if name in ("config", "demo"):
        return importlib.import_module(f"zojax.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'zojax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zojax.{_HOMES[name]}"), name)
    globals()[name] = value  # so that this is asked for once
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
