"""The tokenizer in a GGUF file, built by transformers of what the ``gguf`` package reads.

Its own way, ``from_pretrained(gguf_file=…)``, needs PyTorch for the reading.
"""

from collections.abc import Mapping
from typing import Any

from zojax.hub.gguf_file import GgufHeader
from zojax.models.family import SENTENCEPIECE

_ENDS = ("eos", "eot", "eom")
"""Tokens that end a text, a turn or a message."""

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens by their names in transformers, and those in the files."""

_TAKE_WHOLE_TOKENS = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    *("jina-v5-nano", "tekken"),
)
"""Byte-level vocabularies in which a piece of text that is a token is that token, merges or not,
and to which llama.cpp adds BOS unless the file says otherwise: as in its ``llama-vocab.cpp``.
"""


def read_tokenizer(header: GgufHeader, special: Mapping[str, str | None]) -> Any:
    """A file's tokenizer, as an object of transformers.

    Args:
        header: what the file says of itself.
        special: special tokens other than the file's.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    described, settings = (
        _renamed(header, GGUF_TOKENIZER_MAPPING[group])
        for group in ("tokenizer", "tokenizer_config")
    )
    backend, _ = convert_gguf_tokenizer(header.entry("general.architecture"), described)
    if _takes_whole_tokens(described):
        backend.model.ignore_merges = True  # as in the files of Llama 3, which a GGUF file replaces
    if _takes_whole_tokens(described) or described.get("tokenizer_type") == SENTENCEPIECE:
        settings.setdefault("add_bos_token", True)
    for name, theirs in _SPECIAL.items():
        token = header.entry(f"tokenizer.ggml.{theirs}_token_id")
        settings[f"{name}_token"] = None if token is None else described["tokens"][token]
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**settings, **special})


def end_ids(header: GgufHeader) -> list[int]:
    """The ids of tokens that end a text, a turn or a message."""
    named = (header.entry(f"tokenizer.ggml.{kind}_token_id") for kind in _ENDS)
    return [token for token in named if isinstance(token, int)]


def _renamed(header: GgufHeader, names: Mapping[str, str]) -> dict[str, Any]:
    """The entries that a file has, by transformers' names for them."""
    found = {ours: header.entry(f"tokenizer.{theirs}") for theirs, ours in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def _takes_whole_tokens(described: Mapping[str, Any]) -> bool:
    kind, splits = described.get("tokenizer_type"), described.get("pre_tokenizer_type")
    return kind == "gpt2" and splits in _TAKE_WHOLE_TOKENS
