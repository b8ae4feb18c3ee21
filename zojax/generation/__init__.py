"""Decoding: continues prompts with new tokens, and turns them into text.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.generation.decode import generate_tokens
from zojax.generation.prompts import Prompts, pack_prompts
from zojax.generation.sampling import Sampling
from zojax.generation.texts import Generation, check_settings, generate

__all__ = [
    "Generation",
    "Prompts",
    "Sampling",
    "check_settings",
    "generate",
    "generate_tokens",
    "pack_prompts",
]
