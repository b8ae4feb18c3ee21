"""A tokenizer's chat template: how turns of a chat become one text."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from zojax.errors import InputError, first_few
from zojax.hub.template_process import TemplateProcess

Turn = tuple[str, str]
"""A role (``system``, ``user`` or ``assistant``) and what is said."""

_DEFAULT = "default"
_MOST_CHARACTERS = 1 << 20
"""The longest template that is used; those of today have up to 20,000 characters."""


class ChatTemplate:
    """A chat template, as transformers' ``apply_chat_template`` renders it, without tools.

    A template that can leave out a model's thoughts does (``enable_thinking=False``), and one that
    writes the date writes 26 July 2024, so that prompts do not change from day to day.

    Args:
        source: the template's text.
        special: the special tokens that it may name, such as ``bos_token``.
        path: what errors call the checkpoint.

    Attributes:
        source: the template's text.
        path: what errors call the checkpoint.
    """

    def __init__(self, source: str, special: Mapping[str, str], path: str):
        self.source, self.path, self._special = source, path, dict(special)
        self._process = TemplateProcess(source, path)

    def render(self, chats: Sequence[Sequence[Turn]], *, answered: Sequence[bool]) -> list[str]:
        """Renders chats.

        Args:
            chats: the turns of each.
            answered: whether each ends with the assistant's answer; to others the template adds
                what an answer begins with, if it has that.

        Raises:
            InputError: the template refuses a chat, or needs too much time or memory for it.
        """
        given = {**self._special, "tools": None, "documents": None, "enable_thinking": False}
        return self._process.render(
            [
                {
                    **given,
                    "messages": [{"role": role, "content": text} for role, text in turns],
                    "add_generation_prompt": not is_answered,
                }
                for turns, is_answered in zip(chats, answered, strict=True)
            ]
        )


def find_template(tokens: Any, path: str) -> ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokens: the tokenizer object of transformers, which has read the template from
            ``tokenizer_config.json``, ``chat_template.jinja``, ``chat_templates/`` or a GGUF file's
            ``tokenizer.chat_template``.
        path: what errors call the checkpoint.

    Raises:
        InputError: there is none, or none for plain chats.
    """
    found = getattr(tokens, "chat_template", None)
    if isinstance(found, dict):
        if _DEFAULT not in found:
            raise InputError(
                f"{path}: has chat templates for {first_few(found)}, but none that is the default"
            )
        found = found[_DEFAULT]
    if not isinstance(found, str) or not found.strip():
        raise InputError(
            f"{path}: its tokenizer has no chat template, so its prompts are plain texts: leave "
            "out data.chat (of generate and score: --chat)"
        )
    if len(found) > _MOST_CHARACTERS:
        raise InputError(
            f"{path}: its chat template has {len(found):,} characters, more than "
            f"{_MOST_CHARACTERS:,}"
        )
    return _template(found, _pairs(tokens.special_tokens_map), path)


@functools.lru_cache(maxsize=4)  # each has a process
def _template(source: str, special: tuple[tuple[str, str], ...], path: str) -> ChatTemplate:
    return ChatTemplate(source, dict(special), path)


def _pairs(special: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, token) for name, token in special.items() if isinstance(token, str))
