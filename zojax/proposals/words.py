"""Proposes a word for each label: what the model says instead of it."""

import re
from collections.abc import Mapping, Sequence

from zojax.config.messages import closest
from zojax.errors import InputError
from zojax.text import plain

_TRUTH = {"true": " yes", "false": " no"}


def propose_words(where: str, counts: Mapping[str, int]) -> dict[str, str]:
    """A word for each label, the most frequent label first, numbers in their order.

    A word is the label as it stands, with a blank before it and with ``_`` as blanks; true and
    false are yes and no.

    Raises:
        InputError: two labels would have the same word, so they are probably one.

    >>> propose_words("a.csv", {"billing_question": 3, "spam": 5})
    {'spam': ' spam', 'billing_question': ' billing question'}
    >>> propose_words("a.csv", {"1": 3, "0": 5}), propose_words("a.csv", {"false": 1, "true": 2})
    ({'0': ' 0', '1': ' 1'}, {'true': ' yes', 'false': ' no'})
    """
    if are_truths(counts):
        return dict(_TRUTH)
    words: dict[str, str] = {}
    first: dict[str, str] = {}
    for label in _ordered(counts):
        word = " " + (" ".join(label.replace("_", " ").split()) or " ".join(label.split()))
        if word in first:
            pair = (f"{plain(repr(n), 60)} ({counts[n]:,} rows)" for n in (first[word], label))
            raise InputError(
                f"{where}: labels {' and '.join(pair)} differ only in blanks; write them alike if "
                "they mean the same, and otherwise give them other names"
            )
        first[word] = label
        words[label] = word
    return words


def doubted(counts: Mapping[str, int]) -> list[tuple[str, str | None]]:
    """The labels that may be others misspelt, the most frequent first, and which others.

    Those are labels that differ from a more frequent one in case alone, and labels that only one or
    two rows have, beside the label that is most like them, if any is. Of labels that are all so
    rare, none is doubted for that.

    >>> counts = {"billing": 40, "Billing": 3, "biling": 1, "login": 9, "other": 2}
    >>> doubted(counts)
    [('Billing', 'billing'), ('other', None), ('biling', 'billing')]
    >>> doubted({"1": 4, "7": 1}), doubted({"a": 1, "b": 2})
    ([('7', None)], [])
    """
    order = sorted(counts, key=lambda label: -counts[label])
    first: dict[str, str] = {}
    for label in order:
        first.setdefault(label.casefold(), label)
    usual = [label for label in first.values() if counts[label] > _RARE]
    found: list[tuple[str, str | None]] = []
    for label in order:
        if (other := first[label.casefold()]) != label:
            found.append((label, other))
        elif usual and counts[label] <= _RARE:
            found.append((label, None if is_whole(label) else closest(label, usual)))
    return found


_RARE = 2
"""So many rows or fewer may have a label by mistake."""


def are_truths(labels: Mapping[str, int]) -> bool:
    """Whether labels are true and false."""
    return set(labels) == set(_TRUTH)


def are_numbers(words: Mapping[str, str]) -> bool:
    """Whether the words say no more than numbers."""
    return all(word.strip().replace(".", "", 1).lstrip("-").isdecimal() for word in words.values())


def _ordered(counts: Mapping[str, int]) -> Sequence[str]:
    if all(is_whole(label) for label in counts):
        return sorted(counts, key=int)
    return sorted(counts, key=lambda label: -counts[label])


def is_whole(label: str) -> bool:
    """Whether a label is a whole number, written as Python writes it.

    >>> is_whole("-7"), is_whole("07"), is_whole("1.0")
    (True, False, False)
    """
    return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", label) is not None
