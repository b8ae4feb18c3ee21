"""Tasks: turn records into prompts and candidates, and these into token ids.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.tasks.dataset import Splits, load_held_out, load_splits
from zojax.tasks.example import Example
from zojax.tasks.task import Task
from zojax.tasks.tokenize import tokenise

__all__ = [
    "Example",
    "Splits",
    "Task",
    "load_held_out",
    "load_splits",
    "tokenise",
]
