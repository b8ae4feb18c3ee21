"""Text from tokens one by one: whole characters only, and nothing that may begin a stop string."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

Decode = Callable[[list[int]], str]
"""A function that turns token ids into text."""

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_CONTEXT = 5
"""The tokens before a token that its text may depend on, as for a space at a text's beginning."""


_MOST_PARTS = 4
"""The most tokens of a character: its bytes in UTF-8."""


class Detokenizer:
    """Gives the text of tokens as they come, in whole characters.

    Args:
        decode: turns token ids into text.
        before: tokens that come before, whose text is not given.

    Example:
        >>> decode = lambda ids: bytes(ids).decode(errors="replace")
        >>> detokenizer = Detokenizer(decode)
        >>> [detokenizer.push(byte) for byte in "né".encode()], detokenizer.end()
        (['n', '', 'é'], '')
    """

    def __init__(self, decode: Decode, before: Sequence[int] = ()):
        self._decode = decode
        self._window, part = _before(decode, list(before))  # the tokens whose text is looked at
        whole = len(self._window) - part
        self._borders = [whole]  # where a token ended, and a character too
        # Of a token that ends within a character, the characters before that are told by some
        # decoders; others show all bytes before it as broken too.
        told = (decode(self._window[:whole]), self._text().rstrip(_BROKEN))
        self._given = max(map(len, told))

    def push(self, token: int) -> str:
        """Takes a token; returns the text that is certain by now."""
        self._window.append(token)
        text = self._text()
        new = text.rstrip(_BROKEN)[self._given :]
        self._given += len(new)
        if not text.endswith(_BROKEN):  # else perhaps a part of a character
            self._borders.append(len(self._window))
            if len(self._borders) > _CONTEXT:
                self._forget(self._borders[-_CONTEXT])
        return new

    def _forget(self, count: int) -> None:
        """Drops the window's first tokens."""
        self._window = self._window[count:]
        self._borders = [border - count for border in self._borders if border >= count]
        self._given = len(self._text())

    def end(self) -> str:
        """The text that is left: that of a character's first bytes."""
        new = self._text()[self._given :]
        self._given += len(new)
        return new

    def _text(self) -> str:
        return self._decode(self._window)


def _before(decode: Decode, ids: list[int]) -> tuple[list[int], int]:
    """The last tokens of some, from a character's beginning, and how many begin one that is open.

    A decoder that shows a run of bytes as broken if one byte is would show none of a text whose
    first or last character is cut.
    """
    for part in range(_MOST_PARTS):
        whole = len(ids) - part
        for more in range(_MOST_PARTS):
            first = max(0, whole - _CONTEXT - more)
            text = decode(ids[first : max(0, whole)])
            if not (text.startswith(_BROKEN) or text.endswith(_BROKEN)):
                return ids[first:], min(part, len(ids))
    return ids[-_CONTEXT:], min(1, len(ids))  # bytes that are no text


class Found(NamedTuple):
    """Text that may be shown.

    Attributes:
        text: the text.
        is_end: whether a stop string was found after it.
    """

    text: str
    is_end: bool


class StopStrings:
    """Looks for stop strings in text that comes bit by bit.

    What could be the beginning of one is held back until that is known.

    Args:
        stops: the stop strings, none of them empty.
        shows: whether a stop string that is found belongs to the text.

    Example:
        >>> stops = StopStrings(["END"])
        >>> [stops.push(text).text for text in ("one E", "leven EN", "D two")]
        ['one ', 'Eleven ', '']
    """

    def __init__(self, stops: Sequence[str], *, shows: bool = False):
        self._stops, self._shows = stops, shows
        self._held = ""

    def push(self, text: str) -> Found:
        """Takes more text; returns what may be shown."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            return Found(text[: at + len(stop) * self._shows], True)
        count = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - count :]
        return Found(text[: len(text) - count], False)

    def end(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that is a beginning of a stop string.

    >>> _overlap("to be or n", "nothing"), _overlap("to be", "nothing")
    (1, 0)
    """
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
