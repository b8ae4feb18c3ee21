"""Runs: the compiled step, the loop around it, the journal, and evaluation."""

from zojax.training.stopping import Stopped
from zojax.training.train import evaluate_run, train

__all__ = ["Stopped", "evaluate_run", "train"]
