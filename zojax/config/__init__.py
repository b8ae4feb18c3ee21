"""Typed configurations, their files and their errors."""

from zojax.config.estimators import (
    FzooConfig,
    LozoConfig,
    MezoConfig,
    MezoFactorizedConfig,
    PopulationConfig,
)
from zojax.config.overrides import apply_overrides
from zojax.config.parts import DataConfig, MeshConfig, ModelConfig, RunConfig, TrainConfig
from zojax.config.schema import Config, from_dict, to_dict
from zojax.config.spaces import FullConfig, LinearConfig, LoraConfig, PrefixConfig
from zojax.config.upgrade import EstimatorConfig

__all__ = [
    "Config",
    "DataConfig",
    "EstimatorConfig",
    "FullConfig",
    "FzooConfig",
    "LinearConfig",
    "LoraConfig",
    "LozoConfig",
    "MeshConfig",
    "MezoConfig",
    "MezoFactorizedConfig",
    "ModelConfig",
    "PopulationConfig",
    "PrefixConfig",
    "RunConfig",
    "TrainConfig",
    "apply_overrides",
    "from_dict",
    "to_dict",
]
