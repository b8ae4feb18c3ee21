"""The runtime in a program of one's own: a model that scores and generates."""

from zojax.engine.engine import Engine
from zojax.engine.loading import load, load_run

__all__ = ["Engine", "load", "load_run"]
