"""The one error that a user can mend: the command line prints its text alone and exits with 2."""


class InputError(ValueError):
    """Bad input: a single clear line that names the place and, where there is one, the fix."""
