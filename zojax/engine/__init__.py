"""The runtime for programs of your own: a model that scores and generates.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.engine.engine import Engine
from zojax.engine.loading import load, load_run

__all__ = ["Engine", "load", "load_run"]
