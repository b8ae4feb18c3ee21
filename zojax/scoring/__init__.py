"""Pages, the one function that runs the transformer over them, and decoding."""

from zojax.scoring.generate import generate_tokens
from zojax.scoring.pages import Item, Pages, PageShape, from_span, pack, shape_needed
from zojax.scoring.prompts import Prompts, pack_prompts
from zojax.scoring.sampling import Sampling
from zojax.scoring.score import candidate_scores, repeat_for_slots, score
from zojax.scoring.texts import Generation, generate

__all__ = [
    "Generation",
    "Item",
    "PageShape",
    "Pages",
    "Prompts",
    "Sampling",
    "candidate_scores",
    "from_span",
    "generate",
    "generate_tokens",
    "pack",
    "pack_prompts",
    "repeat_for_slots",
    "score",
    "shape_needed",
]
