"""The answers of work that is not finished, so that it can go on where it was stopped.

The file is beside the output. Its first line says what is answered, and by what; each further line
has the answers to a chunk of rows. A line that was not written to its end is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field
from typing_extensions import TypedDict

from zojax.errors import InputError
from zojax.files import hidden_beside
from zojax.outputs import alone
from zojax.prediction.answer import Answer, read_answers
from zojax.printing import to_json
from zojax.reading import open_regular, parse_json, validate
from zojax.scoring import PageShape

_LONGEST_LINE = 256 << 20
_BEGINNING = b'{"identity"'
"""How such a file begins; any other is somebody else's."""

_Size = Annotated[int, Field(strict=True, ge=1, lt=2**31)]


class _Line(TypedDict):
    """The answers to a chunk, and all shapes that had been compiled by then."""

    answers: list[Any]
    buckets: list[tuple[_Size, _Size, _Size, _Size]]


@contextmanager
def kept_answers(
    path: Path, identity: Mapping[str, str], chunk: int, *, fresh: bool
) -> Iterator[Partial]:
    """Yields the answers so far, which only this process adds to; removes them when all is done.

    The arguments are those of :class:`Partial`, and so are the errors.
    """
    with alone(str(path), hidden_beside(path, "-lock")):
        partial = Partial(path, identity, chunk, fresh=fresh)
        try:
            yield partial
        finally:
            partial.close()


class Partial:
    """The file of answers so far, opened to be added to.

    Args:
        path: the file's path; need not exist.
        identity: what is answered, and by what, by name.
        chunk: the number of rows of every chunk but the last.
        fresh: whether to begin anew if the file has answers of other work.

    Attributes:
        count: the number of answers so far.
        buckets: the shapes that these needed.
        is_done: whether the answers are no longer needed; set by whoever has written them.

    Raises:
        InputError: the file is of other work or no such file, or cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, str], chunk: int, *, fresh: bool):
        self.path, self.count, self.buckets, self.is_done = path, 0, list[PageShape](), False
        self._chunk = chunk
        exists = os.path.lexists(path)
        end = self._check(identity, fresh=fresh) if exists else 0
        for answers, buckets, behind in self._lines() if end else ():
            self.count += len(answers)
            self.buckets, end = buckets, behind
        try:
            self._file: BinaryIO = path.open("r+b" if exists else "xb")
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                self._write({"identity": dict(identity)})
        except OSError as error:
            raise _unwritable(path, error) from None

    def append(self, answers: Sequence[Answer], buckets: Sequence[PageShape]) -> None:
        """Adds the answers to a chunk."""
        shapes = [(b.pages, b.tokens, b.reads, b.scored) for b in buckets]
        try:
            self._write({"answers": [one.stored() for one in answers], "buckets": shapes})
        except OSError as error:
            raise _unwritable(self.path, error) from None
        self.count += len(answers)

    def answers(self) -> Iterator[Answer]:
        """Yields all answers, in the rows' order."""
        for answers, _, _ in self._lines():
            yield from answers

    def close(self) -> None:
        """Closes the file, and removes it if the work is done or was not begun."""
        self._file.close()
        if self.is_done or not self.count:
            self.path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(f"{to_json(line)}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _check(self, identity: Mapping[str, str], *, fresh: bool) -> int:
        """Compares the first line, and returns its length; 0 to begin anew."""
        if self.path.is_symlink():
            raise InputError(f"{self.path}: is a link; remove it, or give another --output")
        with open_regular(self.path) as (file, _):
            first = file.readline(_LONGEST_LINE)
        if not (first.startswith(_BEGINNING) or _BEGINNING.startswith(first)):
            raise InputError(
                f"{self.path}: holds no answers of this command, which would keep its own there; "
                "remove it, or give another --output"
            )
        if not first.endswith(b"\n"):  # stopped before it was written
            return 0
        header = parse_json(first, str(self.path))
        known = validate(dict[str, dict[str, str]], header, str(self.path)).get("identity", {})
        if other := [name for name in identity if known.get(name) != identity[name]]:
            if fresh:
                return 0
            raise InputError(
                f"{self.path}: holds answers of other work (not the same {', '.join(other)}); "
                "remove it, give another --output, or begin anew with --overwrite"
            )
        return len(first)

    def _lines(self) -> Iterator[tuple[list[Answer], list[PageShape], int]]:
        """Yields each chunk and the place behind it, up to the first that is not whole."""
        with open_regular(self.path) as (file, _):
            end = len(file.readline(_LONGEST_LINE))
            while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
                try:
                    value = validate(_Line, parse_json(line, str(self.path)), str(self.path))
                    answers = read_answers(value["answers"], str(self.path))
                except InputError:  # the disk was full, or power was lost
                    return
                end += len(line)
                yield answers, [PageShape(*shape) for shape in value["buckets"]], end
                if len(answers) != self._chunk:  # the last chunk
                    return


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror})")
