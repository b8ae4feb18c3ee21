"""Who may ask, and for how much: keys, which are kept as hashes, and limits."""

import contextlib
import dataclasses
import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from zojax.errors import InputError
from zojax.reading import read_bytes
from zojax.serving.errors import ApiError

_MOST_BYTES = 1 << 20
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_RETRY = {"Retry-After": "1"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that a request, or all of a key's requests together, may ask for.

    Attributes:
        body_bytes: the bytes of a body.
        choices: the texts that a request continues, over all prompts.
        candidates: the candidates, items or labels of a request that scores.
        characters: the characters or tokens of all its texts, with what stands before each.
        open_per_key: the texts and items of a key that are waiting or being served.
        open: the same, of all keys together.
        file_bytes: the bytes of a file that is uploaded.
        files_per_key: the files of a key.
        stored_bytes_per_key: their bytes together.
        jobs_per_key: the fine-tuning jobs of a key that have not ended.
        kept_jobs_per_key: the jobs of a key, with those that have ended.
        jobs_at_once: the jobs of all keys that are trained at the same time.
    """

    body_bytes: int = 4 << 20
    choices: int = 128
    candidates: int = 1024
    characters: int = 16 << 20
    open_per_key: int = 1024
    open: int = 4096
    file_bytes: int = 64 << 20
    files_per_key: int = 256
    stored_bytes_per_key: int = 512 << 20
    jobs_per_key: int = 16
    kept_jobs_per_key: int = 256
    jobs_at_once: int = 4


class Keys:
    """The keys that are accepted. Only their SHA-256 hashes are kept.

    Args:
        keys: keys, or ``sha256:`` and a key's hash in hexadecimal; none if everybody may ask.

    Example:
        >>> keys = Keys(["secret"])
        >>> keys.owner("Bearer secret") is None, keys.owner("Bearer guess") is None
        (False, True)
    """

    def __init__(self, keys: Iterable[str] = ()):
        self._hashes = [_hash(key) for key in keys]

    def __len__(self) -> int:
        return len(self._hashes)

    def owner(self, authorization: str | None) -> str | None:
        """The name of a key's owner, which does not show the key; None if it is not accepted.

        Args:
            authorization: the header ``Authorization``.
        """
        if not self._hashes:
            return "anyone"
        scheme, _, key = (authorization or "").partition(" ")
        given, found = hashlib.sha256(key.strip().encode()).digest(), None
        for known in self._hashes:  # all, so that the time does not say which
            if hmac.compare_digest(known, given):
                found = known.hex()[:12]
        return found if scheme.lower() == "bearer" else None


def _hash(key: str) -> bytes:
    hashed = _HASHED.fullmatch(key)
    return bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(key.encode()).digest()


def read_keys(path: Path) -> list[str]:
    """Reads a file with a key, or ``sha256:`` and a key's hash, on each line.

    Empty lines, and those that begin with ``#``, are ignored.

    Raises:
        InputError: the file cannot be read, or has no key.
    """
    try:
        lines = read_bytes(path, _MOST_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8") from None
    keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
    if not keys:
        raise InputError(f"{path}: has no key; write one on each line")
    return keys


class Gate:
    """Counts what is waiting or being served; for the thread of the event loop alone.

    Args:
        limits: the most that may be.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._open: Counter[str] = Counter()

    @property
    def num_open(self) -> int:
        """What is waiting or being served, over all owners."""
        return self._open.total()

    @contextlib.contextmanager
    def entered(self, owner: str, count: int) -> Iterator[None]:
        """Counts ``count`` texts or items of an owner while this is open.

        Raises:
            ApiError: 429, if there are too many; 400, if they alone are.
        """
        if count > (most := min(self._limits.open_per_key, self._limits.open)):
            raise ApiError(400, f"asks for {count} texts or items at once; the most is {most}")
        if self._open[owner] + count > self._limits.open_per_key:
            raise ApiError(429, "too many requests of this key are open", headers=_RETRY)
        if self.num_open + count > self._limits.open:
            raise ApiError(429, "the server's queue is full", headers=_RETRY)
        self._open[owner] += count
        try:
            yield
        finally:
            self._open[owner] -= count
            if not self._open[owner]:
                del self._open[owner]
