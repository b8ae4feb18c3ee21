"""Pages, and the one function that runs the transformer over them.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.scoring.pages import Item, Pages, PageShape, from_span, pack, shape_needed
from zojax.scoring.score_function import (
    Ranked,
    candidate_scores,
    repeat_for_slots,
    score,
    score_and_rank,
)

__all__ = [
    "Item",
    "PageShape",
    "Pages",
    "Ranked",
    "candidate_scores",
    "from_span",
    "pack",
    "repeat_for_slots",
    "score",
    "score_and_rank",
    "shape_needed",
]
