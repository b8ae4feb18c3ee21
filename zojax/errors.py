"""How a command ends: the one error that users can fix themselves, and the exit codes."""

import itertools
from collections.abc import Iterable

from zojax.text import plain

BAD_INPUT = 2
"""The exit code for an :class:`InputError`, which is printed as one line without a traceback."""

DOES_NOT_FIT = 3
"""The exit code of a plan whose program does not fit on a device."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes that follow the shells' convention: 128 + SIGINT, 128 + SIGTERM."""

BROKEN_PIPE = 141
"""The exit code of a command whose output is no longer read: 128 + SIGPIPE."""

LOST = 75
"""The exit code after another process of the job was lost: EX_TEMPFAIL of sysexits.h, "retry"."""


class InputError(ValueError):
    """Bad input, described in one clear line that names the place and, if there is one, the fix.

    Example:
        >>> import zojax
        >>> try:
        ...     zojax.load("no/such/model")
        ... except zojax.InputError as error:
        ...     print(len(str(error).splitlines()))
        1
    """


def as_line(error: BaseException) -> str:
    r"""An error's text as one line that is safe to print on a terminal.

    >>> print(as_line(InputError("of two\nlines \x1b[31m")))
    of two lines \x1b[31m
    """
    return plain(" ".join(str(error).splitlines()))


def first_few(names: Iterable[object], most: int = 10, longest: int = 40) -> str:
    """The first few names, separated by commas, with long names shortened.

    >>> first_few(["review", "label"]), first_few(range(12), most=3)
    ('review, label', '0, 1, 2, …')
    >>> first_few(["a header that is a sentence"], longest=10)
    'a header …'
    """
    texts = [plain(name, longest) for name in itertools.islice(names, most + 1)]
    return ", ".join([*texts[:most], "…"] if len(texts) > most else texts)
