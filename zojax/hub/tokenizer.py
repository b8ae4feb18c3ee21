"""A checkpoint's tokenizer."""

import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zojax.errors import InputError
from zojax.hub.chat_template import ChatTemplate
from zojax.hub.checkpoint import Checkpoint, find_checkpoint
from zojax.hub.gguf_tokenizer import end_ids, read_tokenizer
from zojax.hub.tokenizer_files import check_files, names_token, read_ends
from zojax.models.registry import family_of
from zojax.text import plain

_MAX_BYTES = 4
"""The most bytes that a character has in UTF-8, and so the most tokens."""

_BOS_OPTIONS = "--set model.bos_token_id=ID (of generate: --bos-token-id ID)"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        tokens: the tokenizer object of transformers.
        bos: the token id that prompts start with; None if they start with their text.
        vocab_size: the size of the model's vocabulary; ids are below it.
        path: the checkpoint's path, for error messages.
        ends: the ids of tokens that end a text, beside the tokenizer's own.
        chat: the checkpoint's chat template, if prompts are chats
            (:func:`zojax.hub.turns.for_chats`); it writes BOS itself.
    """

    tokens: Any
    bos: int | None
    vocab_size: int
    path: str = "the tokenizer"
    ends: tuple[int, ...] = ()
    chat: ChatTemplate | None = None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids of all tokens that end a text, each once."""
        found = dict.fromkeys((self.tokens.eos_token_id, *self.ends))
        return tuple(i for i in found if i is not None and 0 <= i < self.vocab_size)

    @property
    def special(self) -> tuple[str, ...]:
        """The special tokens that are recognised within a text, such as ``</s>``."""
        if getattr(self.tokens, "split_special_tokens", False):
            return ()
        added = getattr(self.tokens, "added_tokens_decoder", {}).values()
        return tuple(token.content for token in added if token.special and token.content)

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """A prompt's token ids from those of its text: with BOS, if there is one.

        Raises:
            InputError: the text is empty, and there is no BOS that could stand for it.
        """
        start = [] if self.bos is None else [self.bos]
        if not (start or ids):
            raise InputError(f"is empty, and {self.path} has no BOS; give one: {_BOS_OPTIONS}")
        return [*start, *ids]

    def text(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        with _named(self.path, "cannot turn tokens into text"):
            return self.tokens.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, without BOS."""
        with _named(self.path, "cannot turn text into tokens"):
            return self.tokens(text, add_special_tokens=False)["input_ids"]

    def ids_of_all(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`ids` for many texts, twenty times as fast as one by one."""
        backend = getattr(self.tokens, "backend_tokenizer", None)
        if backend is None:  # a tokenizer written in Python
            return [self.ids(text) for text in texts]
        # load_tokenizer's first call has turned truncation and padding off.
        with _named(self.path, "cannot turn text into tokens"):
            encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined, they are the whole text.

        A character that takes several tokens belongs to the last of them; the others are empty.
        """
        pieces, first = [], 0
        for stop in range(1, len(ids) + 1):
            with _named(self.path, "cannot turn tokens into text"):
                text = self.tokens.decode(ids[first:stop], clean_up_tokenization_spaces=False)
            is_partial = text.endswith("\N{REPLACEMENT CHARACTER}")
            if is_partial and stop - first < _MAX_BYTES and stop < len(ids):
                pieces.append("")
            else:
                pieces.append(text)
                first = stop
        return pieces


def load_tokenizer(path: str, bos_token_id: int | None) -> Tokenizer:
    """Loads a checkpoint's tokenizer.

    Args:
        path: a local directory or hub id.
        bos_token_id: the BOS id to use; None uses the tokenizer's own.

    Raises:
        InputError: the checkpoint has no readable tokenizer, or its BOS is not in the model's
            vocabulary.
    """
    checkpoint = find_checkpoint(path)
    vocab_size = checkpoint.config.vocab_size
    unset = [] if checkpoint.gguf else check_files(checkpoint.path)
    with _named(path, "has no tokenizer that can be read"):
        tokens = _read(checkpoint, dict.fromkeys(unset))
        if lacking := _not_in_vocabulary(tokens, vocab_size):
            # BOS in their place, since the library reads None as what its files say.
            known = dict.fromkeys(lacking, tokens.bos_token)
            tokens = _read(checkpoint, {**dict.fromkeys(unset), **known})
        bos = _own_bos(checkpoint, tokens) if bos_token_id is None else bos_token_id
    tokenizer = Tokenizer(tokens, bos, vocab_size, path, tuple(_ends(checkpoint)))
    if not tokenizer.ids("a"):  # the library's tokenizer for a directory without a vocabulary
        raise InputError(f"{path}: has no tokenizer (neither tokenizer.json nor vocab.json)")
    if bos is not None and bos >= vocab_size:
        raise InputError(
            f"{path}: prompts would start with token {bos}, but the model's vocabulary has "
            f"{vocab_size}; give another: {_BOS_OPTIONS}"
        )
    return tokenizer


def _own_bos(checkpoint: Checkpoint, tokens: Any) -> int | None:
    """What a tokenizer begins texts with, which is nothing in some families."""
    bos = tokens.bos_token_id
    if not family_of(checkpoint.config).always_bos:
        return bos if tokens("a")["input_ids"][:1] == [bos] else None
    if bos is None:
        raise InputError(f"the tokenizer has no BOS; give one: {_BOS_OPTIONS}")
    if checkpoint.gguf is None and not names_token(checkpoint.path, tokens.bos_token):
        raise InputError(
            f"no file of the tokenizer names a BOS, and the vocabulary lacks the library's "
            f"own, {plain(repr(tokens.bos_token), 40)}; give one: {_BOS_OPTIONS}"
        )
    return bos


def _ends(checkpoint: Checkpoint) -> list[int]:
    """The ids of tokens that end a text, beside the tokenizer's own."""
    if checkpoint.gguf is None:
        return read_ends(checkpoint.path)
    return end_ids(checkpoint.gguf.header)


def _read(checkpoint: Checkpoint, special: Mapping[str, str | None]) -> Any:
    """A checkpoint's tokenizer, with other special tokens than its files name."""
    library = _library()
    if checkpoint.gguf is not None:
        return read_tokenizer(checkpoint.gguf.header, special)
    # A local path, not a hub id, for which it might fetch files that were not checked.
    safely = {"local_files_only": True, "trust_remote_code": False, **special}
    return library.AutoTokenizer.from_pretrained(str(checkpoint.path), **safely)


def _library() -> Any:
    """The library, imported without its advice that PyTorch is missing, of which we need none."""
    name = "TRANSFORMERS_VERBOSITY"
    if "transformers" in sys.modules or name in os.environ:
        return importlib.import_module("transformers")
    os.environ[name] = "error"
    try:
        library = importlib.import_module("transformers")  # takes seconds
    finally:
        del os.environ[name]
    library.logging.set_verbosity_warning()  # its default, for whoever else uses it
    return library


def _not_in_vocabulary(tokens: Any, vocab_size: int) -> list[str]:
    """The special tokens that the model has no row for, such as a ``[PAD]`` added later.

    With them, the library would read these words in a text as tokens that the model cannot take.
    """
    added = getattr(tokens, "added_tokens_decoder", {}).items()
    texts = {token.content for i, token in added if i >= vocab_size}
    named = tokens.special_tokens_map.items()
    lacking = [name for name, token in named if isinstance(token, str) and token in texts]
    return [] if "bos_token" in lacking or tokens.bos_token is None else lacking


@contextlib.contextmanager
def _named(path: str, what: str) -> Iterator[None]:
    """Turns the libraries' errors, of many types, into one line with the checkpoint's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except BaseException as error:
        # A panic in Rust is deliberately not a subclass of Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: {what} ({plain(reason, 200)})") from error
