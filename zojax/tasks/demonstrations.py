"""In-context learning: examples with their answers before the prompt, as in MeZO's scripts."""

import dataclasses
from collections.abc import Sequence

from zojax.tasks.example import Example

_SEPARATOR = "\n\n"


def with_demonstrations(example: Example, demonstrations: Sequence[Example]) -> Example:
    r"""Puts demonstrations before an example's prompt, and before its content-free prompt.

    A demonstration is a prompt with its right candidate, stripped. A blank line separates them.

    >>> shown = Example("fine. It was", (" bad", " good"), 1, "train:1")
    >>> with_demonstrations(Example("dull. It was", (" bad", " good"), 0, "x"), [shown]).prompt
    'fine. It was good\n\ndull. It was'
    """
    if not demonstrations:
        return example
    shown = [(d.prompt + d.candidates[d.label]).strip() for d in demonstrations]
    before = _SEPARATOR.join(shown) + _SEPARATOR
    return dataclasses.replace(
        example,
        prompt=(before + example.prompt).lstrip(),
        content_free=(before + example.content_free).lstrip(),
    )
