"""Pages, and the one function that runs the transformer over them.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.scoring.pages import Item, Pages, PageShape, from_span, pack, shape_needed
from zojax.scoring.score_function import candidate_scores, repeat_for_slots, score

__all__ = [
    "Item",
    "PageShape",
    "Pages",
    "candidate_scores",
    "from_span",
    "pack",
    "repeat_for_slots",
    "score",
    "shape_needed",
]
