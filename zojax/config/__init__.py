"""Typed configurations, their files and their errors."""

from zojax.config.schema import (
    Config,
    DataConfig,
    EstimatorConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
    from_dict,
    to_dict,
)

__all__ = [
    "Config",
    "DataConfig",
    "EstimatorConfig",
    "MeshConfig",
    "ModelConfig",
    "RunConfig",
    "TrainConfig",
    "apply_overrides",
    "from_dict",
    "to_dict",
]
