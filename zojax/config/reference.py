"""The reference of all settings, from the configuration's own classes: what ``--set`` takes."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter

from zojax.config.fields import LearningRate
from zojax.config.parts import OBJECTIVES, ObjectiveName
from zojax.config.schema import KINDS, PARTS

_REQUIRED = "required"


class Setting(NamedTuple):
    """One setting of a configuration.

    Attributes:
        name: as ``--set`` takes it, such as ``train.steps``.
        kind: the kind of its part that has it, such as ``lozo``; empty if the part has no kinds.
        takes: the values that it takes, in words.
        default: the default, as ``--set`` would write it; ``required`` if there is none.
        meaning: what it does, with its unit.
    """

    name: str
    kind: str
    takes: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    """All settings, part by part.

    >>> [setting.default for setting in settings() if setting.name == "train.batch_size"]
    ['16']
    """
    return [setting for part in PARTS for setting in _of_part(part)]


def _of_part(part: str) -> Iterator[Setting]:
    if part not in KINDS:
        yield from _of_class(part, "", PARTS[part])
        return
    kinds = KINDS[part]
    names = kinds.ours()
    takes = ", ".join([*names, "module:name"] if kinds.own else names)
    meaning = f"The kind, which says what else {part} has."
    yield Setting(f"{part}.name", "", takes, names[0], meaning)
    for name in names:
        yield from _of_class(part, name, kinds.classes[name])


def _of_class(part: str, kind: str, settings: Any) -> Iterator[Setting]:
    meanings, types = _meanings(settings), get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        if kind and field.name == "name":
            continue
        takes, meaning = _takes(types[field.name]), meanings.get(field.name, "")
        yield Setting(f"{part}.{field.name}", kind, takes, _default(field), meaning)


def _meanings(settings: Any) -> dict[str, str]:
    """What a class's docstring says of each of its fields."""
    _, _, section = (inspect.getdoc(settings) or "").partition("\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: _sentence(text) for name, text in entries}


def _sentence(text: str) -> str:
    """An attribute's description in one line, without Sphinx's roles."""
    line = re.sub(r":\w+:`(.*?)`", r"``\1``", " ".join(text.split()))
    return line[:1].upper() + line[1:]


def _default(field: Any) -> str:
    """The default as ``--set`` would write it."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return _REQUIRED
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return str(value)


def _takes(of_type: Any) -> str:
    if of_type == LearningRate:
        return "a number over 0, or auto"
    if of_type == (ObjectiveName | None):  # pyright: ignore[reportOperatorIssue]
        return f"{', '.join(OBJECTIVES)}, module:name or none"
    return _in_words(TypeAdapter(of_type).json_schema())


def _in_words(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words.

    >>> _in_words({"type": "integer", "minimum": 1, "maximum": 4096})
    'an integer from 1 to 4,096'
    """
    if "anyOf" in schema:
        return " or ".join(_in_words(each) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(map(str, values))
    kind = schema.get("type", "")
    words = {
        "null": "none",
        "boolean": "true or false",
        "string": "text",
        "object": "a JSON object",
        "array": "a list of texts, as JSON or a,b",
        "integer": "an integer",
        "number": "a number",
    }[kind]
    return words + _range(schema) if kind in ("integer", "number") else words


def _range(schema: Mapping[str, Any]) -> str:
    words = {
        "minimum": "from",
        "exclusiveMinimum": "over",
        "maximum": "to",
        "exclusiveMaximum": "below",
    }
    limits = {name: schema[name] for name in words if name in schema and schema[name] < 2**31 - 1}
    return "".join(f" {words[name]} {limit:,}" for name, limit in limits.items())
