"""Ids that nobody can guess, and that say what they are of."""

import secrets

_BYTES = 12


def new_id(kind: str) -> str:
    """A new id, such as ``file-`` and 24 hexadecimal digits."""
    return f"{kind}-{secrets.token_hex(_BYTES)}"
