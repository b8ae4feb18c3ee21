"""What an answer has to be: JSON, or what a pattern or a grammar allows."""

import json
from typing import Any, NamedTuple

from llguidance import LLMatcher, grammar_from

from zojax.engine.grammars import Grammar
from zojax.errors import InputError, as_line
from zojax.serving.schema import Sampled
from zojax.serving.service import Service

_MOST_CHARACTERS = 1 << 17
_MOST_OF_A_GRAMMAR = 1 << 14
_JSON = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,64}"}
"""A model that sees nothing but blanks before it would go on with them for ever."""


class Format(NamedTuple):
    """What a body wants.

    Attributes:
        field: the field that says so.
        kind: ``json``, ``regex``, ``choice`` or ``grammar``.
        value: a schema, a pattern, texts, or a grammar in Lark's form or llama.cpp's.
        lenient: whether what is not known of a schema is ignored.
    """

    field: str
    kind: str
    value: Any
    lenient: bool = False


def grammar_of(service: Service, body: Sampled) -> Grammar | None:
    """The grammar that a body wants; None if any text will do. It takes a moment.

    Raises:
        InputError: there is no such grammar, or it is too large.
    """
    wanted = _wanted(body)
    if not wanted:
        return None
    if len(wanted) > 1:
        raise InputError(f"{wanted[0].field}: does not go with {wanted[1].field}")
    [one] = wanted
    if service.vocabulary is None:
        raise InputError(f"{one.field}: is not supported with this model's tokenizer")
    try:
        return service.vocabulary.compile(_source(one))
    except InputError as error:
        raise InputError(f"{one.field}: {as_line(error)}") from None


def _wanted(body: Sampled) -> list[Format]:
    found: list[Format] = []
    format_, field = body.response_format, "response_format"
    if format_ is not None and format_.type == "json_object":
        found.append(Format(field, "json", {"type": "object"}))
    elif format_ is not None and format_.json_schema is not None:
        schema = format_.json_schema
        found.append(Format(field, "json", schema.schema_, lenient=not schema.strict))
    given = body.structured_outputs
    if given is not None and given.json_object:
        found.append(Format("structured_outputs", "json", {"type": "object"}))
    for kind in ("json", "regex", "choice", "grammar"):
        if given is not None and getattr(given, f"{kind}_") is not None:
            found.append(Format("structured_outputs", kind, getattr(given, f"{kind}_")))
        value = getattr(body, f"guided_{kind}")
        if value is not None:
            found.append(Format(f"guided_{kind}", kind, value))
    return found


def _source(wanted: Format) -> str:
    """A grammar in llguidance's own form."""
    kind, value = wanted.kind, wanted.value
    if kind == "choice":
        kind, value = "lark", _choice(value)
    text = value if isinstance(value, str) else json.dumps(value)
    most = _MOST_OF_A_GRAMMAR if wanted.kind == "grammar" else _MOST_CHARACTERS
    if len(text) > most:
        raise InputError(f"has more than {most:,} characters")
    if kind == "grammar":  # llguidance looks at blank lines again and again, and nothing else runs
        text = "\n".join(line for line in text.splitlines() if line.strip())
    try:
        if kind == "json":
            options: Any = {**_JSON, "lenient": wanted.lenient}
            return LLMatcher.grammar_from_json_schema(text, options)
        return grammar_from(kind, text)  # type: ignore[arg-type] - one of its kinds
    except ValueError as error:
        raise InputError(as_line(error)) from None


def _choice(texts: list[str]) -> str:
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
