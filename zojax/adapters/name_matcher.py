r"""Matches untrusted regular expressions against names in bounded time.

Python's own matcher tries one alternative after the other, and a pattern such as ``(a+)+b`` has too
many to try. Here all alternatives advance at the same time, as a bit for every place in the name
that one of them has reached. The question is only whether a whole name matches, which does not
depend on greediness, so the answer is the same as Python's. Back-references (``\1``), possessive
quantifiers (``a*+``), lookbehind and flags are refused, and all names of an adapter share a budget
of steps.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

# Python's parser of regular expressions, which has had no public name since 3.11.
from re import _constants as ops  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

_MOST_CHARACTERS = 4_000
_MOST_STEPS = 5_000_000  # a second or two; an ordinary pattern takes about 1,000 per name
_PLAIN = re.compile(r"(?:[\w-]|\\?\.)*")
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    ops.CATEGORY_DIGIT: str.isdecimal,
    ops.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    ops.CATEGORY_SPACE: str.isspace,
    ops.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    ops.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    ops.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}
_ONE = (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN)
_LOOKS_AHEAD = (ops.ASSERT, ops.ASSERT_NOT)
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT)
_PLACES = (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING, ops.AT_END, ops.AT_END_STRING)
_PLACES += (ops.AT_BOUNDARY, ops.AT_NON_BOUNDARY)


class NameMatcher:
    r"""Matches whole names, with one budget of steps for all calls.

    Example:
        >>> matcher = NameMatcher()
        >>> matcher.fullmatch(r".*\.(fc1|fc2)", "layers.0.fc1")
        True
        >>> matcher.fullmatch(r"(\w+)+!", "a" * 60)
        False
    """

    def __init__(self) -> None:
        self._patterns: dict[tuple[str, str], Any] = {}
        self._steps = 0

    def fullmatch(self, pattern: str, name: str) -> bool:
        """Whether a pattern matches a whole name.

        Raises:
            ValueError: the pattern is not a regular expression or cannot be matched in bounded
                time, or the budget is spent.
        """
        return self._match("", pattern, name)

    def matches_end(self, pattern: str, name: str) -> bool:
        """Whether a pattern matches a whole name, or all of it after one of its dots."""
        return self._match(r"(?:.*\.)?", pattern, name)

    def _match(self, before: str, pattern: str, name: str) -> bool:
        parsed = self._patterns.get((before, pattern))
        if parsed is None:
            self._spend((10 if _PLAIN.fullmatch(pattern) else 50) * len(pattern))
            parsed = self._patterns[before, pattern] = _parse(before, pattern)
        self._spend(1)
        if isinstance(parsed, re.Pattern):
            return parsed.fullmatch(name) is not None
        try:
            return bool(self._follow(parsed, 1, name, {}) >> len(name))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise ValueError("it takes too long to match")

    def _follow(self, items: Sequence[Any], at: int, name: str, known: dict[int, int]) -> int:
        """The places, as bits, where a sequence may end if it begins at any place in ``at``."""
        for item in items:
            if not at:
                return 0
            self._spend(10)
            at = self._end(item, at, name, known)
        return at

    def _end(self, item: Any, at: int, name: str, known: dict[int, int]) -> int:
        operation, argument = item
        if operation is ops.AT:
            return at & _fitting_at(item, name, known)
        if operation in _ONE:
            return (at & _fitting_at(item, name, known)) << 1
        if operation is ops.SUBPATTERN:
            return self._follow(argument[3], at, name, known)
        if operation is ops.BRANCH:
            ends = 0
            for branch in argument[1]:
                ends |= self._follow(branch, at, name, known)
            return ends
        if operation in _LOOKS_AHEAD:
            found = 0
            for place in range(len(name) + 1):
                if at >> place & 1 and self._follow(argument[1], 1 << place, name, known):
                    found |= 1 << place
            return found if operation is ops.ASSERT else at & ~found
        least, most, inner = argument
        return self._repeat(least, most, inner, at, name, known)

    def _repeat(
        self, least: int, most: int, items: Sequence[Any], at: int, name: str, known: dict[int, int]
    ) -> int:
        # Beyond one round per place, some rounds match nothing, so more rounds change nothing.
        enough = len(name) + 1
        if least == 0 and most >= enough and len(items) == 1 and items[0][0] in _ONE:
            self._spend(40)
            fitting, reached = _fitting_at(items[0], name, known), at
            while at := (at & fitting) << 1 & ~reached:
                reached |= at
            return reached
        for _ in range(min(least, enough)):
            at = self._follow(items, at, name, known)
        reached = new = at
        for _ in range(min(most - least, enough)):
            new = self._follow(items, new, name, known) & ~reached
            if not new:
                break
            reached |= new
        return reached


def _parse(before: str, pattern: str) -> Any:
    """Compiles a pattern that Python cannot match slowly; parses any other into a tree."""
    if len(pattern) > _MOST_CHARACTERS:
        raise ValueError(f"it has more than {_MOST_CHARACTERS:,} characters")
    if _PLAIN.fullmatch(pattern):
        return re.compile(before + pattern)
    try:
        _parser.parse(pattern)  # first alone, so that none of its brackets closes ours
        tree = _parser.parse(f"{before}(?:{pattern})")
        if tree.state.flags & ~re.UNICODE:
            raise ValueError("it sets flags")
        _check(tree)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (re.error, OverflowError) as error:
        raise ValueError(f"it is not a regular expression ({error})") from None
    return tree


def _check(items: Sequence[Any]) -> None:
    """Raises unless a sequence, and everything in it, can be matched place by place."""
    for operation, argument in items:
        inner: Sequence[Any] = ()
        if operation in _REPEATS:
            inner = [argument[2]]
        elif operation is ops.BRANCH:
            inner = argument[1]
        elif operation in _LOOKS_AHEAD and argument[0] > 0:
            inner = [argument[1]]
        elif operation is ops.SUBPATTERN and not argument[1] and not argument[2]:
            inner = [argument[3]]
        elif operation not in _ONE and not (operation is ops.AT and argument in _PLACES):
            raise ValueError(
                f"it has an element that takes unbounded time ({str(operation).lower()})"
            )
        for sequence in inner:
            _check(sequence)


def _fitting_at(item: Any, name: str, known: dict[int, int]) -> int:
    if id(item) not in known:
        known[id(item)] = _fitting(item, name)
    return known[id(item)]


def _fitting(item: Any, name: str) -> int:
    """The places, as bits, whose character fits the item, or that fit an anchor."""
    operation, argument = item
    last = len(name)
    if operation is not ops.AT:
        fits = [_fits(operation, argument, character) for character in name]
    elif argument in (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING):
        fits = [True]
    elif argument in (ops.AT_END, ops.AT_END_STRING):
        line_end = argument is ops.AT_END and name.endswith("\n")
        fits = [i == last or (line_end and i == last - 1) for i in range(last + 1)]
    else:
        word = [False, *(_CATEGORIES[ops.CATEGORY_WORD](c) for c in name), False]
        boundary = argument is ops.AT_BOUNDARY
        fits = [(word[i] != word[i + 1]) == boundary for i in range(last + 1)]
    return sum(1 << place for place, fit in enumerate(fits) if fit)


def _fits(operation: Any, argument: Any, character: str) -> bool:
    if operation is ops.ANY:
        return character != "\n"
    if operation is ops.LITERAL:
        return ord(character) == argument
    if operation is ops.NOT_LITERAL:
        return ord(character) != argument
    negated = argument[0][0] is ops.NEGATE
    return any(_in(kind, of, character) for kind, of in argument[negated:]) != negated


def _in(kind: Any, of: Any, character: str) -> bool:
    if kind is ops.LITERAL:
        return ord(character) == of
    if kind is ops.RANGE:
        return of[0] <= ord(character) <= of[1]
    return _CATEGORIES[of](character)
