"""What all routes share: the runtime, the tokenizer, and the names of model and adapters."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zojax.engine.grammars import Vocabulary
from zojax.engine.runtime import Runtime
from zojax.errors import InputError
from zojax.hub.tokenizer import Tokenizer
from zojax.hub.turns import for_chats
from zojax.scoring.pages import IntArray
from zojax.serving.errors import ApiError
from zojax.serving.fine_tuning.tunings import LEARNT, Tunings
from zojax.serving.limits import Gate, Keys, Limits
from zojax.serving.metrics import Metrics
from zojax.serving.schema import Text
from zojax.serving.tinker.bodies import PATH, PREFIX
from zojax.serving.tinker.models import TinkerModels

Tree = Any


@dataclasses.dataclass
class Service:
    """A model that is served.

    Attributes:
        runtime: what answers.
        tokenizer: the model's tokenizer.
        name: the base model's name.
        max_length: the most tokens of a prompt and what follows it.
        metrics: what is counted.
        keys: who may ask.
        limits: for how much.
        adapters_from: the directory below which clients may load adapters; None for nowhere.
        read_adapter: reads an adapter from its directory; ``InputError`` if it is bad or too large.
        admin_keys: who may load and unload adapters; none if all may that may ask.
        tunings: the fine-tuning jobs; None if nothing is trained.
        tinker: what tinker's client trains; None if nothing is trained.
        vocabulary: what grammars are compiled for; None if there are none for this tokenizer.
        gate: what is waiting or being served.
        is_draining: whether no more requests are taken.
        num_inside: the number of requests that were let in and have no whole answer yet, but for
            those that fetch what came of others.
        created: when serving began, in seconds since 1970.
    """

    runtime: Runtime
    tokenizer: Tokenizer
    name: str
    max_length: int
    metrics: Metrics
    keys: Keys = dataclasses.field(default_factory=Keys)
    limits: Limits = dataclasses.field(default_factory=Limits)
    adapters_from: Path | None = None
    read_adapter: Callable[[Path], Tree] | None = None
    admin_keys: Keys = dataclasses.field(default_factory=Keys)
    tunings: Tunings | None = None
    tinker: TinkerModels | None = None
    vocabulary: Vocabulary | None = None
    is_draining: bool = False
    num_inside: int = 0
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.gate = Gate(self.limits)
        self._decoded = functools.lru_cache(_MOST_DECODED)(self._decode)

    @functools.cached_property
    def chat_tokenizer(self) -> Tokenizer:
        """The tokenizer for chats; the first call takes a moment.

        Raises:
            ApiError: the model has no chat template, or none that can be used.
        """
        try:
            return for_chats(self.tokenizer)
        except InputError:
            raise ApiError(
                400, "this model has no chat template that can be used; ask /v1/completions"
            ) from None

    @property
    def is_idle(self) -> bool:
        """Whether all that was accepted is answered, and its answers are fetched."""
        awaited = self.tinker.futures.num_awaited if self.tinker is not None else 0
        return self.gate.num_open == self.num_inside == awaited == 0

    def owner(self, authorization: str | None) -> str | None:
        """The owner of a key, an admin's or another's; None if it is not accepted."""
        admin = self.admin_keys.owner(authorization) if self.admin_keys else None
        return admin or self.keys.owner(authorization)

    def adapters(self, owner: str) -> list[str]:
        """The adapters that an owner may ask for: none that another has trained."""
        return [name for name in self.runtime.registry.names() if self._is_for(name, owner)]

    def _is_for(self, name: str, owner: str) -> bool:
        if self.tinker is not None and name.startswith(PREFIX):
            return self.tinker.samplers.owner_of(name) == owner
        if self.tunings is None or not name.startswith(LEARNT):
            return True
        return self.tunings.owner_of(name) == owner

    def adapter(self, model: str | None, owner: str) -> str | None:
        """The adapter that a model's name means to an owner; None for the base model.

        Raises:
            ApiError: 404, there is no such model.
        """
        if model is None or model == self.name:
            return None
        if self.tinker is not None and PATH.fullmatch(model):
            self.tinker.register_kept(owner, model)
        if model not in self.runtime.registry or not self._is_for(model, owner):
            raise ApiError(
                404,
                "there is no such model; /v1/models lists those that there are",
                code="model_not_found",
                param="model",
            )
        return model

    def encode(self, text: Text, *, add_special_tokens: bool = True) -> IntArray:
        """A prompt's tokens; those that are tokens already stay as they are.

        Raises:
            InputError: there is none, or the text is so long that it cannot fit.
        """
        if not isinstance(text, str):
            ids = text
        else:
            self.check_characters(text)
            ids = self.tokenizer.ids(text)
            ids = self.tokenizer.prompt(ids) if add_special_tokens else ids
        if not ids:
            raise InputError("prompt: has no token")
        return np.array(ids, np.int32)

    def check_characters(self, text: str) -> None:
        """Refuses a text that is too long to fit, before it is tokenised."""
        most = _MOST_CHARACTERS_PER_TOKEN * self.max_length
        if len(text) > most:
            raise InputError(
                f"prompt: has {len(text):,} characters; more than {most:,} are not tokenised, as "
                f"the most is {self.max_length} tokens"
            )

    def token_text(self, token: int, *, as_id: bool = False) -> str:
        """The text of one token, or ``token_id:`` and its id, which no other token has."""
        if as_id:
            return f"token_id:{token}"
        return self._decoded(token)

    def _decode(self, token: int) -> str:
        return self.tokenizer.tokens.decode([token], clean_up_tokenization_spaces=False)


_MOST_CHARACTERS_PER_TOKEN = 256
_MOST_DECODED = 1 << 16
