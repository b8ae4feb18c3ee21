"""Tables that benchmarks write into the documents."""

from pathlib import Path

from zojax.errors import InputError
from zojax.files import write_atomically


def write_docs(path: Path, begin: str, end: str, text: str) -> None:
    """Replace only the text between two markers of a Markdown file."""
    old = path.read_text() if path.is_file() else ""
    head, begins, rest = old.partition(begin)
    _, ends, tail = rest.partition(end)
    if not begins or not ends:
        raise InputError(f"{path}: has no lines {begin!r} and {end!r} to put the table between")
    write_atomically(path, f"{head}{begin}\n{text}\n{end}{tail}".encode())
