"""How a command ends: the one error that a user can mend, and the exit codes."""

BAD_INPUT = 2
"""The exit code of an :class:`InputError`, whose text alone the command line prints."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes as shells give them: 128 + SIGINT, 128 + SIGTERM."""


class InputError(ValueError):
    """Bad input: a single clear line that names the place and, where there is one, the fix."""
