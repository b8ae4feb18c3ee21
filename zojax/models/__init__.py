"""Model families and their weights."""

from zojax.models.identity import content_hash
from zojax.models.opt import logical_axes
from zojax.models.weights import Model, abstract_model, load, random_model, read_config, save

__all__ = [
    "Model",
    "abstract_model",
    "content_hash",
    "load",
    "logical_axes",
    "random_model",
    "read_config",
    "save",
]
