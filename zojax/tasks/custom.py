"""The user's own data: a template in the configuration, and candidates or a free answer."""

import dataclasses
import math
import reprlib
import string
from typing import Any

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks.example import Example
from zojax.tasks.labels import as_label, label_error
from zojax.tasks.row import BadRowError, Record
from zojax.tasks.task import Task, is_texts, not_text

CUSTOM = "custom"
NUM_DEV = 100
"""A user's own data are often few; 500, as in MeZO's tables, might leave none to train on."""

_OWN_FIELDS = ("prompt", "candidates", "answer")


@dataclasses.dataclass(frozen=True)
class Template:
    """A text with names of fields in braces; ``{{`` and ``}}`` stand for braces.

    Attributes:
        parts: pairs of a literal text and the field after it; None if no field follows.
    """

    parts: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, each once, in order."""
        return tuple(dict.fromkeys(field for _, field in self.parts if field is not None))

    def fill(self, values: dict[str, str]) -> str:
        """The text with each field replaced by its value."""
        return "".join(text + (values[field] if field else "") for text, field in self.parts)


def parse_template(text: str) -> Template:
    """Reads a template.

    Raises:
        InputError: there is a single brace, or more than a name within braces.

    >>> parse_template("{review} {{it}} was").fill({"review": "Fine."})
    'Fine. {it} was'
    """
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise InputError(
            f"data.prompt={text!r}: {error}; write {{{{ and }}}} for literal braces"
        ) from None
    for _, field, spec, conversion in parsed:
        if field == "" or spec or conversion:
            raise InputError(
                f"data.prompt={text!r}: braces may contain only the name of a field; write {{{{ "
                "and }} for literal braces"
            )
    return Template(tuple((literal, field) for literal, field, _, _ in parsed))


def custom_task(config: DataConfig) -> Task:
    """The task that a configuration describes.

    Raises:
        InputError: a field is missing, or one is given that excludes another.
    """
    if config.prompt is None or config.path is None:
        what = "data.prompt" if config.prompt is None else "data.path"
        raise InputError(f"data.task='custom' needs {what}; see docs/data.md for an example")
    if (config.candidates is None) == (config.answer is None):
        raise InputError(
            "data.task='custom' needs either data.candidates, the words of its labels, or "
            "data.answer, the field of a free answer"
        )
    template = parse_template(config.prompt)
    if not template.fields:
        raise InputError(f"data.prompt={config.prompt!r}: names no field, as in {{text}}")
    if config.candidates is None:
        return _free_answers(template, str(config.answer))
    return _labelled(template, config.candidates, config.label)


def refuse_own_fields(config: DataConfig) -> None:
    """Refuses fields that have no meaning for a task with its own template."""
    for field in _OWN_FIELDS:
        if getattr(config, field) is not None:
            raise InputError(
                f"data.{field} is for data.task='custom', but data.task is {config.task!r}"
            )


def _labelled(template: Template, words: dict[str, str], label_field: str) -> Task:
    candidates = tuple(words.values())
    if len(candidates) < 2:
        raise InputError(f"data.candidates={words}: too few; give at least two")
    for label, word in words.items():
        first = next(other for other in words if words[other] == word)
        if first != label:
            raise InputError(
                f"data.candidates: labels {first!r} and {label!r} have the same word, {word!r}; "
                "give each its own"
            )
    index_by_label = {label: i for i, label in enumerate(words)}

    def render(record: Record, name: str) -> Example:
        label = as_label(record[label_field], index_by_label)
        if label is None:
            raise label_error(name, label_field, record[label_field], words)
        prompt, content_free = _prompts(template, record, name)
        return Example(prompt, candidates, index_by_label[label], name, content_free=content_free)

    return Task(
        "custom",
        hub=None,
        fields=dict.fromkeys([*template.fields, label_field], object),
        render=render,
        kind="classification",
        candidates=candidates,
        labels=tuple(words),
        num_dev=NUM_DEV,
    )


def _free_answers(template: Template, answer_field: str) -> Task:
    def render(record: Record, name: str) -> Example:
        value = record[answer_field]
        answers = value if is_texts(value) else [_as_text(value, answer_field, name)]
        first = answers[0].strip()
        if not first or "\n" in first:
            raise BadRowError(
                f"{name}: {answer_field} is {reprlib.repr(value)}; an answer must be one line that "
                "is not empty",
                "without an answer of one line",
            )
        prompt, _ = _prompts(template, record, name)
        return Example(prompt, (f" {first}\n",), 0, name, answers=tuple(answers))

    return Task(
        "custom",
        hub=None,
        fields=dict.fromkeys([*template.fields, answer_field], object),
        render=render,
        kind="generation",
        metric="f1",
        num_dev=NUM_DEV,
        max_new_tokens=50,
    )


def _prompts(template: Template, record: Record, name: str) -> tuple[str, str]:
    """The prompt, and the same without the fields' content."""
    values = {field: _as_text(record[field], field, name) for field in template.fields}
    return template.fill(values).lstrip(), template.fill(dict.fromkeys(values, "")).lstrip()


def _as_text(value: Any, field: str, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise not_text(name, field, value)
