"""Model families, their layers, and what a model is."""

from zojax.models.identity import content_hash
from zojax.models.model import Model, abstract_model, random_model
from zojax.models.opt import logical_axes

__all__ = ["Model", "abstract_model", "content_hash", "logical_axes", "random_model"]
