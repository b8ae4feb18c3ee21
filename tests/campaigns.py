"""Campaigns: many hostile cases of a kind. ``make test`` runs a sample, ``make test-long`` all.

A table's cases are parametrized by :func:`some_of`; what is generated is Hypothesis's, whose number
of examples is set here: conftest.py imports this module, so leave ``max_examples`` out.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

LONG = bool(os.environ.get("ZOJAX_LONG"))

settings.register_profile(
    "sample",
    max_examples=25,
    deadline=None,
    derandomize=True,  # a change is to blame for what fails, not chance
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("long", settings.get_profile("sample"), max_examples=2_000)
settings.load_profile("long" if LONG else "sample")


def some_of(cases: Sequence[T], count: int) -> list[T]:
    """All cases in a long run; else so many of them, evenly spread, the first and last included."""
    if LONG or count >= len(cases):
        return list(cases)
    return [cases[round(i * (len(cases) - 1) / (count - 1))] for i in range(count)]
