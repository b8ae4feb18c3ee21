"""A journal with one byte changed, lost or added: refused, or cut to its first good steps."""

import pytest

from tests.campaigns import some_of
from tests.journal.test_journal import header_size, write
from zojax.errors import InputError
from zojax.journal.file import read_journal

STEPS = 6
CHANGES = ("flip", "zero", "ones", "lose", "add")


def mutated(raw: bytes, at: int, change: str) -> bytes:
    before, byte, after = raw[:at], raw[at], raw[at + 1 :]
    new = {
        "flip": bytes([byte ^ 1 << at % 8]),
        "zero": bytes(1),
        "ones": b"\xff",
        "lose": b"",
        "add": bytes([byte, byte ^ 0x55]),
    }[change]
    return before + new + after


@pytest.mark.parametrize("change", CHANGES)
def test_no_single_change_is_silently_wrong(change, tmp_path):
    """What is read is what was written, as far as it goes; what is not the whole says so."""
    whole = write(tmp_path / "whole.zj", STEPS)
    good, path = read_journal(tmp_path / "whole.zj"), tmp_path / "journal.zj"
    outcomes = {"refused": 0, "cut": 0}
    for at in some_of(range(len(whole)), 150):
        raw = mutated(whole, at, change)
        if raw == whole:
            continue
        path.write_bytes(raw)
        try:
            journal = read_journal(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            outcomes["refused"] += 1
            continue
        outcomes["cut"] += 1
        assert at + (change == "add") >= header_size(whole)
        assert journal.header == good.header
        kept = len(journal.records)
        assert journal.records.tobytes() == good.records[:kept].tobytes()
        assert journal.lost_bytes > 0
    assert outcomes["refused"] > 50
    assert outcomes["cut"] > 0


def test_a_large_file_of_nothing_is_read_within_bounds(tmp_path):
    """A header and zeros: nothing follows that is good, and nothing more than that is kept."""
    path = tmp_path / "journal.zj"
    start = len(write(path, 0))
    with path.open("r+b") as file:
        file.truncate(start + 40 * 50_000)
    journal = read_journal(path)
    assert (len(journal.records), journal.lost_steps) == (0, 50_000)
    with path.open("r+b") as file:
        file.truncate(2**40)  # a hole, which takes no disk
    with pytest.raises(InputError, match="has 1,099,511,627,776 bytes, more than"):
        read_journal(path)
