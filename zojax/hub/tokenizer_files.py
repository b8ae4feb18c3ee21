"""Checks a tokenizer's files before a library makes a tokenizer of them.

Otherwise mistakes in them would show late and as many types of errors, including panics in Rust.
A ``tokenizer.json`` may also make small inputs expensive, by expressions that backtrack without
limit or replacements that multiply a text.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from zojax.config.fields import Switch, Text
from zojax.errors import InputError
from zojax.reading import is_file, parse_json, read_bytes, read_json, validate
from zojax.text import plain

_MOST_DIGITS = 40  # "no limit" is a number of 31 digits in tokenizer_config.json
_MOST_CHARACTERS = 2_000  # in a regular expression
_FEW = 8  # up to this many repeats are harmless, like the same expression written out
_MOST_GROWTH = 64  # how much longer all replacements together may make a text

_Id = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Piece = Annotated[str, Field(strict=True)]
_Ids = dict[_Piece, _Id]


@dataclass
class _Token:
    content: Text


def _token_or_none(value: Any) -> Any:
    return None if _is_unset(value) else value


def _is_unset(value: Any) -> bool:
    """Whether a value means "no such token", as null does in other files."""
    return value == "" or value is False


_Special = Annotated[Text | _Token | None, BeforeValidator(_token_or_none)]


@dataclass
class _Named:
    """Special tokens by purpose, as two of the files list them."""

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
    """Checks a tokenizer's files, and raises ``InputError`` for the first one that is invalid.

    Returns:
        Names of special tokens, such as ``unk_token``, that a file unsets by a value that the
        library does not accept (``""`` or ``false``).
    """
    unset: list[str] = []
    for name in ("merges.txt", "tokenizer.model", "chat_template.jinja"):
        if is_file(directory / name):
            read_bytes(directory / name)  # raises if it is larger than a JSON file may be
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


_EndId = Annotated[int, Field(strict=True)]


@dataclass
class _Ends:
    eos_token_id: _EndId | Annotated[list[_EndId], Field(max_length=1_000)] | None = None


def read_ends(directory: Path) -> list[int]:
    """The ids of tokens that end a text, as transformers' ``generate`` takes them.

    They are those of ``generation_config.json`` or, without that file, of ``config.json``.
    """
    files = (directory / name for name in ("generation_config.json", "config.json"))
    path = next(filter(is_file, files), None)
    if path is None:
        return []
    ends = validate(_Ends, read_json(path), str(path)).eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def names_token(directory: Path, token: str) -> bool:
    """Whether a file of the tokenizer has a token as a text of its own."""
    if is_file(directory / "tokenizer.model"):
        return True  # whose texts are not plain bytes
    spellings = {json.dumps(token, ensure_ascii=ascii).encode() for ascii in (False, True)}
    files = filter(is_file, (directory / name for name in _SCHEMAS))
    return any(spelling in text for text in map(read_bytes, files) for spelling in spellings)


def _check_ids(path: Path, vocabulary: Any) -> None:
    if isinstance(vocabulary, dict) and len(set(vocabulary.values())) < len(vocabulary):
        raise InputError(f"{path}: its vocabulary gives two tokens the same id")


def _check_work(path: Path, whole: _Whole) -> None:
    """Raises if replacements could multiply a text, or an expression could backtrack too much."""
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
                raise InputError(f"{path}: a normalizer in it replaces an empty pattern")
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
            f"{path}: its expression {plain(repr(expression), 60)} has nested repeats or is too "
            "long, so it could take for ever"
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
"""``odd`` is syntax that no tokenizer needs and that would make the count of groups wrong:
comments, calls of groups, escapes of brackets, quotes."""


def _repeats_repeats(expression: str) -> bool:
    """Whether an unlimited repeat may be inside another; True if that cannot be determined."""
    holds = [False]  # for each open group, whether it contains a long repeat
    before = False  # the same for the element just before
    depth = 0  # of nested classes, in which all other tokens are plain characters
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
    """Whether a quantifier may repeat many times, as ``+``, ``*?``, ``{2,}`` and ``{0,99}`` do."""
    if repeat[0] != "{":
        return repeat[0] != "?"
    most = repeat.rstrip("?")[1:-1].rpartition(",")[2]
    return not most or len(most) > 1 or int(most) > _FEW
