"""Model families, their layers, and the :class:`Model` that they make.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.models.identity import content_hash
from zojax.models.model import Model, abstract_model, random_model

__all__ = ["Model", "abstract_model", "content_hash", "random_model"]
