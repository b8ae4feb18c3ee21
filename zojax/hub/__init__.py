"""Loads weights and tokenizers from Hugging Face files, and saves them.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.hub.checkpoint import read_config
from zojax.hub.loading import load
from zojax.hub.saving import save
from zojax.hub.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "load", "load_tokenizer", "read_config", "save"]
