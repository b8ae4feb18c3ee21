"""From texts to an engine's tokens."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from zojax.errors import InputError
from zojax.hub.tokenizer import Tokenizer
from zojax.hub.turns import for_chats
from zojax.scoring import Item
from zojax.scoring.pages import IntArray
from zojax.tasks import Example, tokenise
from zojax.tasks.chat import as_chat


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns texts into tokens.

    Attributes:
        tokenizer: the model's tokenizer.
        positions: the number of the model's positions.
        chat: whether prompts are chats unless a call says otherwise.
        system: what the system says first in a chat; None for what the template writes without.
    """

    tokenizer: Tokenizer
    positions: int
    chat: bool = False
    system: str | None = None

    def item(self, prompt: str, candidates: Sequence[str], name: str, *, chat: bool | None) -> Item:
        """A prompt and its candidates.

        Args:
            prompt: the text that is not scored.
            candidates: the texts that may follow.
            name: what errors call the prompt.
            chat: whether the prompt is what the user says in a chat; None for :attr:`chat`.

        Raises:
            InputError: they cannot be scored, or do not fit into the model.
        """
        return self._checked(self._tokens(prompt, candidates, name, chat))

    def prompt(self, text: str, name: str, *, chat: bool | None) -> IntArray:
        """A prompt alone, of any length."""
        return self._tokens(text, (), name, chat).prompt

    def whole(self, text: str, name: str) -> Item:
        """An item that scores all tokens of a text that have one before them.

        Raises:
            InputError: there is none, or the text does not fit into the model.
        """
        if self.tokenizer.bos is not None:
            return self.item("", [text], name, chat=False)
        ids = np.array(self.tokenizer.ids(text), np.int32)
        if len(ids) < 2:
            raise InputError(
                f"{name}: has {len(ids)} tokens; without BOS the second is the first scored"
            )
        return self._checked(Item(ids[:1], (ids[1:],), 0, name))

    def tokenizer_for(self, chat: bool | None) -> Tokenizer:
        """The tokenizer of texts or of chats."""
        return self._chat_tokenizer if (self.chat if chat is None else chat) else self.tokenizer

    @functools.cached_property
    def _chat_tokenizer(self) -> Tokenizer:
        return for_chats(self.tokenizer)

    def _tokens(self, prompt: str, candidates: Sequence[str], name: str, chat: bool | None) -> Item:
        example, tokenizer = Example(prompt, tuple(candidates), 0, name), self.tokenizer_for(chat)
        is_chat = tokenizer.chat is not None
        return tokenise(tokenizer, as_chat(example, system=self.system) if is_chat else example)

    def _checked(self, item: Item) -> Item:
        """An item that fits into the model."""
        length = len(item.prompt) + max(len(candidate) for candidate in item.candidates)
        if length > self.positions:
            raise InputError(
                f"{item.name}: with its longest candidate it has {length} tokens, but the model "
                f"has {self.positions} positions"
            )
        return item
