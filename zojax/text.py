"""Makes text from files, settings and the command line safe for a terminal, a page or JSON.

Such text may contain escape sequences, line breaks, marks that reverse the writing direction, or
markup. All of it is printed through this module, which makes it visible and inert.
"""

import math
import re
import unicodedata
from typing import Any

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of invisible characters: controls, formats, surrogates, unassigned, separators."""

_JOINERS = "\u200c\u200d"  # part of words in some scripts, and of emoji
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>()#+\-.!|&~$:@/]")
_HARMLESS = re.compile(r"(?!.*www\.)(?:[^\W_]_?|/)(?:[^\W_]_?|[ ,.%()=/+-])*")
"""Words, figures, paths and hub ids: Markdown treats them specially only at a line's start."""


def plain(text: object, longest: int | None = None) -> str:
    r"""Text as one inert line, with invisible characters written as Python escapes.

    Args:
        text: anything; it is converted with ``str``.
        longest: the maximum number of characters; longer text is cut and ends in an ellipsis.

    >>> print(plain("a\x1b[31mred\nline\u202e"))
    a\x1b[31mred\nline\u202e
    >>> plain("a name that does not end", longest=10)
    'a name th…'
    """
    whole = str(text)
    cut = whole if longest is None or len(whole) <= longest else f"{whole[: longest - 1]}…"
    if cut.isprintable():
        return cut
    return "".join(_seen(character) for character in cut)


def _seen(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _UNSAFE:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()


def half_character(text: str) -> str | None:
    r"""The first lone surrogate (half a pair, or a byte that was not UTF-8), or None.

    >>> half_character("caf\ud800"), half_character("café")
    ('\ud800', None)
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return None


def plain_lines(text: str) -> str:
    r"""Text as inert lines; its line breaks are kept.

    >>> plain_lines("one\n\x1b[31mtwo")
    'one\n\\x1b[31mtwo'
    """
    return "\n".join(plain(line) for line in text.split("\n"))


def markdown(text: object) -> str:
    r"""Text escaped so that a Markdown page shows it literally: one line, no markup or links.

    >>> markdown("<b>a_b</b>\n# c")
    '\\<b\\>a\\_b\\<\\/b\\>\\\\n\\# c'

    Words, figures and paths are left alone, since they are special only at the start of a line:

    >>> markdown("facebook/opt-1.3b, best_step 4")
    'facebook/opt-1.3b, best_step 4'
    """
    seen = plain(text)
    if _HARMLESS.fullmatch(seen):
        return seen
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", seen)


def code(text: object) -> str:
    """Text as a code span of a Markdown page.

    >>> print(code("a_b"), code("a`b"), code("`"))
    `a_b` `` a`b `` `` ` ``
    """
    seen = plain(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", seen)), default=0))
    inner = f" {seen} " if "`" in seen else seen
    return f"{fence}{inner}{fence}"


def standard(value: Any) -> Any:
    """A value as standard JSON can hold it: None for NaN and infinities, no lone surrogates.

    >>> standard({"loss": float("inf"), "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {standard(name): standard(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    return value
