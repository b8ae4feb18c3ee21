"""Sets fields of a configuration from strings, as ``--set`` does."""

from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from zojax.config.fields import LearningRate, Positive
from zojax.config.messages import hint, reason
from zojax.config.parts import Arguments, Words
from zojax.config.schema import KINDS, PARTS, Config, field_names, from_dict, to_dict
from zojax.config.upgrade import MOVED
from zojax.errors import InputError
from zojax.reading import parse_json
from zojax.text import plain

_SHOWN = 200  # characters of an override
_MOST_DIGITS = 20  # of a whole number
_KIND = [f"{part}.name" for part in KINDS]


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Returns a new configuration with overrides, ``part.field=value``, applied.

    ``none`` stands for None if a field may be None. If ``estimator.name`` or ``space.name``
    changes, fields that were set keep their values where the new kind has them, but for
    ``space.targets``: the matrices that are best trained themselves are not those of a LoRA.

    >>> from zojax.config import ModelConfig, RunConfig
    >>> config = Config(ModelConfig("facebook/opt-125m"), RunConfig("runs/a"))
    >>> apply_overrides(config, ["train.learning_rate=1e-6", "space.name=lora"]).space
    LoraConfig(name='lora', rank=8, alpha=16.0, targets=('q_proj', 'v_proj'), layers=None)

    Raises:
        InputError: there is no such field (the message suggests the closest one), or it cannot
            take the value.
    """
    tree = to_dict(config)
    given = [(override, *_split(override)) for override in overrides]
    # Names of kinds are applied first, in whatever order they are given: they decide the fields.
    for override, name, text in sorted(given, key=lambda one: one[1] not in _KIND):
        try:
            _set(tree, name, text)
        except InputError as error:
            raise InputError(f"--set {plain(override, _SHOWN)}: {error}") from None
    return from_dict(tree)


def _split(override: str) -> tuple[str, str]:
    """Splits an override into the field's current name and the text of its value."""
    name, equals, text = (piece.strip() for piece in override.partition("="))
    if not equals:
        raise InputError(f"--set {plain(override, _SHOWN)}: write it as FIELD=VALUE")
    return MOVED.get(name, name), text


def _set(tree: dict[str, Any], name: str, text: str) -> None:
    if name not in field_names():
        raise InputError(f"no field {plain(name, 60)!r}{hint(name, field_names())}")
    part, field = name.split(".")
    if name in _KIND:
        try:
            tree[part] = KINDS[part].change(tree[part], text)
        except ValueError as error:
            raise InputError(f"{name} {error}") from None
        return
    field_type = _types(tree, part, field)[field]
    try:
        tree[part][field] = _parse(field_type, text)
    except ValidationError as error:
        raise InputError(f"{name} {reason(error)}") from None
    except InputError as error:
        raise InputError(f"{name} {error}") from None


def _types(tree: dict[str, Any], part: str, field: str) -> dict[str, Any]:
    if part not in KINDS:
        return PARTS[part].__annotations__
    kind = tree[part]["name"]
    if lacks := KINDS[part].lacks(kind, field):
        raise InputError(lacks)
    return KINDS[part].types(kind)


def _parse(field_type: Any, text: str) -> Any:
    if text.lower() == "none" and type(None) in get_args(field_type):
        return None
    if list_type := _list_type(field_type):
        return TypeAdapter(field_type).validate_python(_items(list_type, text))
    if example := _json_example(field_type):
        try:
            value = parse_json(text, "the text")
        except InputError as error:
            raise InputError(f"should be JSON, such as {example}; {error}") from None
        return TypeAdapter(field_type).validate_python(value)
    if field_type == LearningRate and text != "auto":
        field_type = Positive  # a text is not read as a number inside the other
    try:
        return TypeAdapter(field_type).validate_strings(text)
    except ValidationError as error:
        digits = _whole(text) if error.errors()[0]["type"].startswith("int_") else None
        if digits is None:
            raise
        return TypeAdapter(field_type).validate_strings(digits)


def _json_example(field_type: Any) -> str:
    """An example value of a field that is written as JSON; empty for other fields."""
    if Words in get_args(field_type):
        return '{"0": " bad", "1": " good"}'
    return '{"b1": 0.95}' if field_type == Arguments else ""


def _list_type(field_type: Any) -> Any:
    """The list or tuple that a field is or may be, without its constraints; None if neither."""
    if get_origin(field_type) in (list, tuple):
        return field_type
    return next(filter(None, map(_list_type, get_args(field_type))), None)


def _items(list_type: Any, text: str) -> list[Any]:
    """The items of a list: JSON, with or without the quotes that a shell takes away, or a,b.

    >>> texts = ['["q_proj", "v_proj"]', "[q_proj,v_proj]", "q_proj, v_proj"]
    >>> [_items(tuple[str, ...], text) for text in texts] == 3 * [["q_proj", "v_proj"]]
    True
    """
    if text.startswith("["):
        with suppress(InputError):
            return parse_json(text, "the text")
    item_type = TypeAdapter((*get_args(list_type), str)[0])
    inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
    items = [item.strip() for item in inner.split(",")]
    if not items[-1]:  # none at all, or Python's ("q_proj",)
        items.pop()
    bare = [item[1:-1] if item[:1] == item[-1:] in ("'", '"') else item for item in items]
    return [item_type.validate_strings(item) for item in bare]


def _whole(text: str) -> str | None:
    """A whole number that is written like a decimal one, in digits: 1000 for 1e3."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    is_short = number.is_finite() and number.adjusted() < _MOST_DIGITS
    return str(int(number)) if is_short and number == int(number) else None
