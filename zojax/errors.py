"""How a command ends: the one error that a user can mend, and the exit codes."""

import itertools
from collections.abc import Iterable

from zojax.text import plain

BAD_INPUT = 2
"""The exit code of an :class:`InputError`, whose text alone the command line prints."""

DOES_NOT_FIT = 3
"""The exit code of a plan whose program is larger than a device."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes as shells give them: 128 + SIGINT, 128 + SIGTERM."""

BROKEN_PIPE = 141
"""The exit code of a command whose output nobody reads any more: 128 + SIGPIPE."""

LOST = 75
"""The exit code of a process that lost another of its job: sysexits' EX_TEMPFAIL, "try again"."""


class InputError(ValueError):
    """Bad input: a single clear line that names the place and, where there is one, the fix."""


def as_line(error: BaseException) -> str:
    r"""An error's text in one line, in which nothing acts on the terminal.

    >>> print(as_line(InputError("of two\nlines \x1b[31m")))
    of two lines \x1b[31m
    """
    return plain(" ".join(str(error).splitlines()))


def first_few(names: Iterable[object], most: int = 10, longest: int = 40) -> str:
    """Names for a line: some of many, and each cut where it is long.

    >>> first_few(["review", "label"]), first_few(range(12), most=3)
    ('review, label', '0, 1, 2, …')
    >>> first_few(["a header that is a sentence"], longest=10)
    'a header …'
    """
    texts = [plain(name, longest) for name in itertools.islice(names, most + 1)]
    return ", ".join([*texts[:most], "…"] if len(texts) > most else texts)
