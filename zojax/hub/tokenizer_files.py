"""A tokenizer's files, checked before a library makes a tokenizer of them.

What is wrong in them shows late otherwise, and as many kinds of errors, some of which end in the
middle of Rust. And a ``tokenizer.json`` may make much of a little: expressions that try ever more
ways over a text, replacements that multiply it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from zojax.config.fields import Switch, Text
from zojax.errors import InputError
from zojax.reading import is_file, parse_json, read_bytes, validate
from zojax.text import plain

_MOST_DIGITS = 40  # "no limit" is a number of 31 digits in tokenizer_config.json
_MOST_CHARACTERS = 2_000  # of an expression
_FEW = 8  # repeats that are as good as written out
_MOST_GROWTH = 64  # of a text, by all replacements together

_Id = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Piece = Annotated[str, Field(strict=True)]
_Ids = dict[_Piece, _Id]


@dataclass
class _Token:
    content: Text


def _token_or_none(value: Any) -> Any:
    return None if _is_unset(value) else value


def _is_unset(value: Any) -> bool:
    """Whether a file says so that there is no such token, where others say null."""
    return value == "" or value is False


_Special = Annotated[Text | _Token | None, BeforeValidator(_token_or_none)]


@dataclass
class _Named:
    """Special tokens by what they are for, as two files have them."""

    bos_token: _Special = None
    eos_token: _Special = None
    unk_token: _Special = None
    pad_token: _Special = None
    sep_token: _Special = None
    cls_token: _Special = None
    mask_token: _Special = None


@dataclass(config=ConfigDict(extra="ignore"))
class _Config(_Named):
    tokenizer_class: Text | None = None
    model_max_length: Annotated[float, Field(gt=0)] | None = None
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], _Token] | None = None
    add_bos_token: Switch | None = None
    add_eos_token: Switch | None = None
    add_prefix_space: Switch | None = None


@dataclass
class _Added:
    id: _Id
    content: Text


@dataclass
class _Model:
    type: Text | None = None
    vocab: _Ids | list[tuple[_Piece, float]] | None = None
    merges: list[_Piece | tuple[_Piece, _Piece]] | None = None


@dataclass
class _Whole:
    model: _Model
    added_tokens: list[_Added] = Field(default_factory=list)
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


_SCHEMAS: dict[str, Any] = {
    "tokenizer_config.json": _Config,
    "special_tokens_map.json": _Named,
    "added_tokens.json": _Ids,
    "vocab.json": _Ids,
    "tokenizer.json": _Whole,
}


def check_files(directory: Path) -> list[str]:
    """Raises ``InputError`` for a file of the tokenizer that is not what it should be.

    Returns:
        Special tokens, as ``unk_token``, that a file says are none in words that the library does
        not take (``""`` and ``false``).
    """
    unset: list[str] = []
    for name in ("merges.txt", "tokenizer.model", "chat_template.jinja"):
        if is_file(directory / name):
            read_bytes(directory / name)  # no larger than a file of JSON
    for name, schema in _SCHEMAS.items():
        path = directory / name
        if is_file(path):
            value = parse_json(read_bytes(path), str(path), most_digits=_MOST_DIGITS)
            checked = validate(schema, value, str(path))
            if isinstance(checked, _Named):
                unset += [name for name in vars(_Named()) if _is_unset(value.get(name))]
            if name == "vocab.json":
                _check_ids(path, checked)
            if isinstance(checked, _Whole):
                _check_ids(path, checked.model.vocab)
                _check_work(path, checked)
    return unset


def _check_ids(path: Path, vocabulary: Any) -> None:
    if isinstance(vocabulary, dict) and len(set(vocabulary.values())) < len(vocabulary):
        raise InputError(f"{path}: its vocabulary gives two tokens the same id")


def _check_work(path: Path, whole: _Whole) -> None:
    """Raises where a text would grow much, or an expression could try too many ways over it."""
    growth = 1.0
    parts = (whole.normalizer, whole.pre_tokenizer, whole.post_processor, whole.decoder)
    for part in _objects(parts):
        kind, pattern = part.get("type"), part.get("pattern")
        if isinstance(part.get("Regex"), str):
            _check_expression(path, part["Regex"])
        if kind == "Prepend":
            growth *= 1 + len(str(part.get("prepend")))
        if kind == "Replace" and isinstance(pattern, dict):
            replaced = len(str(pattern.get("String", "x")))
            if not replaced:
                raise InputError(f"{path}: a normalizer in it replaces nothing by something")
            growth *= max(1, len(str(part.get("content"))) / replaced)
    if growth > _MOST_GROWTH:
        raise InputError(
            f"{path}: its replacements can make a text {growth:,.0f} times as long, more than "
            f"{_MOST_GROWTH}"
        )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _objects(item)


def _check_expression(path: Path, expression: str) -> None:
    if len(expression) > _MOST_CHARACTERS or _repeats_repeats(expression):
        raise InputError(
            f"{path}: its expression {plain(repr(expression), 60)} repeats what repeats, or is "
            "too long: it could take for ever"
        )


# Oniguruma's syntax, which Python's parser cannot read: classes in classes, \x{4e00}, \p{L}.
_TOKENS = re.compile(
    r"""
      (?P<odd> \\[cCgMQ] | \(\* | \(\?[#{~] | \(\?[a-wyz-]*x )
    | (?P<escape> \\x\{[0-9a-fA-F\ ]+\} | \\[pP]\{\^?[\w\ ]+\} | \\. )
    | (?P<repeat> [*+?][?+]? | \{\d*,?\d*\}\?? )
    | (?P<open> \(\?? )
    | (?P<class> \[\^?\]? )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
"""``odd`` is what no tokenizer needs and would hide a group from the one who counts them: comments,
calls of groups, escapes of brackets, quotes."""


def _repeats_repeats(expression: str) -> bool:
    """Whether a repeat without a limit may stand in another, or that cannot be told."""
    holds = [False]  # of each group that is open, whether there is a repeat in it
    before = False  # the same of what stands right before
    depth = 0  # of classes in classes, where all else is characters
    for token in _TOKENS.finditer(expression):
        kind, text = token.lastgroup, token[0]
        if kind == "odd" and (not depth or text[0] == "\\"):
            return True
        if kind == "class" or depth:
            depth += (kind == "class") - (text == "]")
            before = False
        elif text == ")":
            if len(holds) == 1:
                return True
            before = holds.pop()
            holds[-1] |= before
        elif kind == "repeat":
            if before and _is_long(text):
                return True
            before |= _is_long(text)
            holds[-1] |= before
        else:
            before = False
            if kind == "open":
                holds.append(False)
    return False


def _is_long(repeat: str) -> bool:
    """Whether it may repeat often, as ``+``, ``*?``, ``{2,}`` and ``{0,99}`` may."""
    if repeat[0] != "{":
        return repeat[0] != "?"
    most = repeat.rstrip("?")[1:-1].rpartition(",")[2]
    return not most or len(most) > 1 or int(most) > _FEW
