"""Runs: the compiled step, the loop around it, the journal, and evaluation."""

from zojax.training.evaluate_command import evaluate_run
from zojax.training.stopping import Stopped
from zojax.training.train import train

__all__ = ["Stopped", "evaluate_run", "train"]
