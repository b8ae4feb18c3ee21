"""An extension of griffe, which reads docstrings: makes Markdown of them, and adds defaults."""

import re
from typing import Any

from griffe import Class, Extension, Module, Object  # pyright: ignore[reportMissingImports]

_ATTRIBUTES = "\nAttributes:\n"
_FIELD = re.compile(r"^    (\w+): .*(?:\n     +\S.*)*", re.MULTILINE)
_ROLE = re.compile(r":[a-z]+:`~?([\w.]+)`")
_PROMPT = re.compile(r"^(\s*)>>> ")


class Markdown(Extension):
    """Makes references code and examples blocks of it, and tells fields' defaults."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Changes an object's docstring before it is parsed."""
        _mend(obj)

    def on_module_members(self, *, mod: Module, **_: Any) -> None:
        """Changes a module's docstring, which it has only once its members are read."""
        _mend(mod)

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Puts the defaults of a class's fields into its docstring, where they are described."""

        def with_default(match: re.Match[str]) -> str:
            value = getattr(cls.members.get(match[1]), "value", None)
            if value is None or "(" in str(value):  # what a call makes would tell nothing
                return match[0]
            return f"{match[0]} Default: `{value}`."

        if cls.docstring is not None and _ATTRIBUTES in cls.docstring.value:
            head, section, rest = cls.docstring.value.partition(_ATTRIBUTES)
            cls.docstring.value = head + section + _FIELD.sub(with_default, rest)


def _mend(obj: Object) -> None:
    if obj.docstring is not None:
        obj.docstring.value = fence_examples(_ROLE.sub(r"`\1`", obj.docstring.value))


def fence_examples(text: str) -> str:
    """Puts fences around doctests, which Markdown would take for quotations."""
    lines: list[str] = []
    indent: str | None = None  # of the example that a line is in
    for line in [*text.splitlines(), ""]:
        if indent is None and (prompt := _PROMPT.match(line)) is not None:
            indent = prompt[1]
            lines.append(f"{indent}```pycon")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    return "\n".join(lines[:-1])
