"""The journal's file: all that can happen to its bytes, and what is made of them then."""

import errno
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from zojax.config import Config, ModelConfig, RunConfig, to_dict
from zojax.errors import InputError
from zojax.journal import file as journal_module
from zojax.journal.file import SKIPPED, JournalWriter, read_journal

HEADER = {
    "zojax": "0.1.0",
    "jax": "0.10.2",
    "config": to_dict(Config(ModelConfig("facebook/opt-125m"), RunConfig("runs/a"))),
    "base_hash": "0123456789abcdef0123456789abcdef",
    "key_impl": "threefry2x32",
    "key_data": [0, 42],
    "num_queries": 1,
    "num_variants": 2,
}
SIZE = 40  # bytes of a record with two words of key data, one query and two variants

# --- Journals to play with -----------------------------------------------------------------------


def columns(steps: int, first: int = 0, *, header=HEADER, seed: int = 0) -> dict[str, np.ndarray]:
    """Contents for records ``first`` to ``first + steps - 1``, the same whatever the chunks."""
    rng = np.random.default_rng(seed)
    words, queries = len(header["key_data"]), header["num_queries"]
    whole = {
        "key_data": rng.integers(0, 2**32, (1000, words), np.uint32),
        "learning_rates": rng.random(1000).astype(np.float32),
        "projected_grads": rng.standard_normal((1000, queries)).astype(np.float32),
        "losses": rng.random((1000, header["num_variants"])).astype(np.float32),
        "flags": rng.integers(0, 2, 1000).astype(np.uint32) * SKIPPED,
    }
    return {name: column[first : first + steps] for name, column in whole.items()}


def write(path: Path, steps: int, *, chunk: int = 7, header=HEADER, seed: int = 0) -> bytes:
    writer = JournalWriter.create(path, header)
    for first in range(0, steps, chunk):
        count = min(chunk, steps - first)
        writer.append(first, **columns(count, first, header=header, seed=seed))
    writer.close()
    return path.read_bytes()


def header_size(raw: bytes) -> int:
    return 20 + int.from_bytes(raw[12:16], "little")


def flipped(raw: bytes, bit: int) -> bytes:
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def assert_recovers(path: Path, whole: bytes, keeps: int, loses: int) -> None:
    """Reading keeps so many steps, and a run that goes on ends with the very same file."""
    journal = read_journal(path)
    assert (len(journal.records), journal.lost_steps) == (keeps, loses)
    start = header_size(whole)
    assert journal.records.tobytes() == whole[start : start + keeps * SIZE]
    writer = JournalWriter.resume(path)
    assert (writer.num_steps, writer.lost_steps) == (keeps, loses)
    assert path.read_bytes() == whole[: start + keeps * SIZE]
    writer.append(keeps, **columns((len(whole) - start) // SIZE - keeps, keeps))
    writer.close()
    assert path.read_bytes() == whole


# --- What is written is what is read -------------------------------------------------------------


def test_labels_keep_their_own_order_in_the_header(tmp_path):
    """It is that of the answers' indices, and so of the hash of the data."""
    data = {**HEADER["config"]["data"], "candidates": {"refund": " r", "other": " o"}}
    header = {**HEADER, "config": {**HEADER["config"], "data": data}}
    write(tmp_path / "journal.zj", 3, header=header)
    found = read_journal(tmp_path / "journal.zj").header.config["data"]["candidates"]
    assert list(found) == ["refund", "other"]


def test_twenty_thousand_steps_take_less_than_a_megabyte(tmp_path):
    path, steps = tmp_path / "journal.zj", 20_000
    writer = JournalWriter.create(path, HEADER)
    writer.append(
        0,
        key_data=np.ones((steps, 2)),
        learning_rates=np.ones(steps),
        projected_grads=np.ones((steps, 1)),
        losses=np.ones((steps, 2)),
        flags=np.zeros(steps),
    )
    writer.close()
    assert len(read_journal(path).records) == steps
    assert path.stat().st_size <= 1_000_000


def test_infinite_and_missing_losses_are_kept_as_they_are(tmp_path):
    writer = JournalWriter.create(tmp_path / "journal.zj", HEADER)
    strange = {**columns(2), "losses": np.float32([[np.inf, -np.inf], [np.nan, 1]])}
    writer.append(0, **strange)
    writer.close()
    read = read_journal(tmp_path / "journal.zj").records["losses"]
    np.testing.assert_array_equal(read, strange["losses"])


def test_records_must_follow_each_other(tmp_path):
    writer = JournalWriter.create(tmp_path / "journal.zj", HEADER)
    writer.append(0, **columns(3))
    for first in (0, 2, 4):
        with pytest.raises(ValueError, match=f"record {first} cannot follow 3 records"):
            writer.append(first, **columns(1, first))
    writer.close()


# --- Damage --------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_in_its_last_records_recovers(tmp_path):
    steps = 20
    whole = write(tmp_path / "whole.zj", steps)
    path = tmp_path / "journal.zj"
    for length in range(len(whole) - 3 * SIZE, len(whole) + 1):
        path.write_bytes(whole[:length])
        keeps, torn = divmod(length - header_size(whole), SIZE)
        assert_recovers(path, whole, keeps, loses=int(torn > 0))


def test_a_flipped_bit_recovers_to_a_prefix_or_is_refused(tmp_path):
    steps = 20
    whole = write(tmp_path / "whole.zj", steps)
    start, path = header_size(whole), tmp_path / "journal.zj"
    rng = np.random.default_rng(0)
    everywhere = rng.choice(8 * len(whole), 100, replace=False)
    in_records = rng.choice(np.arange(8 * start, 8 * len(whole)), 70, replace=False)
    in_the_last = rng.choice(np.arange(8 * (len(whole) - SIZE), 8 * len(whole)), 30, replace=False)
    outcomes = set()
    for bit in np.concatenate([everywhere, in_records, in_the_last]):
        path.write_bytes(flipped(whole, int(bit)))
        index = (int(bit) // 8 - start) // SIZE
        if index == steps - 1:
            assert_recovers(path, whole, steps - 1, loses=1)
            outcomes.add("recovered")
            continue
        # What was read would be wrong, so that nothing may be: the error names the place.
        place = "journal.zj: " if index < 0 else rf"record {index} \(bytes {start + index * SIZE} "
        for opened in (read_journal, JournalWriter.resume):
            with pytest.raises(InputError, match=place):
                opened(path)
        assert path.read_bytes() == flipped(whole, int(bit))
        outcomes.add("header" if index < 0 else "record")
    assert outcomes == {"recovered", "header", "record"}


def test_damage_that_reaches_to_the_end_recovers(tmp_path):
    whole = write(tmp_path / "whole.zj", 20)
    path = tmp_path / "journal.zj"
    rng = np.random.default_rng(0)
    for damaged in range(1, 21):
        kept = len(whole) - damaged * SIZE
        path.write_bytes(whole[:kept] + rng.bytes(damaged * SIZE))
        assert_recovers(path, whole, 20 - damaged, loses=damaged)


@pytest.mark.parametrize(
    ("tail", "loses"), [(bytes(SIZE * 5), 5), (b"\xff" * 39, 1), (bytes(1), 1), (bytes(4096), 103)]
)
def test_what_a_crash_leaves_behind_the_records_is_cut_off(tail, loses, tmp_path):
    whole = write(tmp_path / "whole.zj", 20)
    path = tmp_path / "journal.zj"
    path.write_bytes(whole + tail)
    assert_recovers(path, whole, 20, loses)


def test_a_refusal_says_how_to_keep_the_steps_before(tmp_path):
    whole = write(tmp_path / "whole.zj", 20)
    path, start = tmp_path / "journal.zj", header_size(whole)
    path.write_bytes(flipped(whole, 8 * (start + 6 * SIZE) + 3))
    with pytest.raises(InputError, match="13 good records follow") as refusal:
        read_journal(path)
    assert "\n" not in str(refusal.value)
    [length] = re.findall(r"truncate -s (\d+) ", str(refusal.value))
    os.truncate(path, int(length))
    assert_recovers(path, whole, 6, loses=0)


def test_a_file_that_ends_in_its_header_is_refused(tmp_path):
    whole = write(tmp_path / "whole.zj", 1)
    path = tmp_path / "journal.zj"
    for length in range(header_size(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"journal\.zj: ends inside its header"):
            read_journal(path)
    path.write_bytes(whole[: header_size(whole)])
    assert len(read_journal(path).records) == 0


def test_every_flip_in_the_header_is_refused(tmp_path):
    whole = write(tmp_path / "whole.zj", 2)
    path = tmp_path / "journal.zj"
    for byte in range(header_size(whole)):
        path.write_bytes(flipped(whole, 8 * byte + byte % 8))
        with pytest.raises(InputError, match=r"journal\.zj: "):
            read_journal(path)


def test_another_journals_records_do_not_pass(tmp_path):
    whole = write(tmp_path / "whole.zj", 20)
    other = write(tmp_path / "other.zj", 20, header={**HEADER, "base_hash": "f" * 32}, seed=1)
    start, path = header_size(whole), tmp_path / "journal.zj"
    assert header_size(other) == start
    middle = slice(start + 5 * SIZE, start + 6 * SIZE)
    path.write_bytes(whole[: middle.start] + other[middle] + whole[middle.stop :])
    with pytest.raises(InputError, match=r"record 5 .* is damaged"):
        read_journal(path)
    path.write_bytes(whole[:-SIZE] + other[-SIZE:])
    assert_recovers(path, whole, 19, loses=1)


@pytest.mark.parametrize("order", [[0, 1, 1, 2, 3], [0, 1, 3, 4], [1, 0, 2], [0, 1, 2, 2], [1]])
def test_whole_records_in_another_order_are_refused(order, tmp_path):
    whole = write(tmp_path / "whole.zj", 5)
    start, path = header_size(whole), tmp_path / "journal.zj"
    records = [whole[start + i * SIZE : start + (i + 1) * SIZE] for i in order]
    path.write_bytes(whole[:start] + b"".join(records))
    wrong = next(i for i, step in enumerate(order) if i != step)
    with pytest.raises(InputError, match=rf"record {wrong} \(bytes .* is of step {order[wrong]}"):
        read_journal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends inside its header"),
        (b"PK\x03\x04 a zip file, not a journal", "not a zojax journal"),
        (b"ZOJAXJNL\x03\0\0\0\0\0\0\0", "has journal format 3; this zojax reads 1 and 2"),
        (b"ZOJAXJNL\x01\0\0\0\xff\xff\xff\xff{}", "ends inside its header"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "journal.zj").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_journal(tmp_path / "journal.zj")


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.zj: no journal here"):
        read_journal(tmp_path / "a.zj")
    with pytest.raises(InputError, match="is not a regular file"):
        read_journal(tmp_path)


# --- Writing fails -------------------------------------------------------------------------------


def failing(error: int, *, after_bytes: int = 0, write=os.write):
    """An ``os.write`` that takes so many bytes and then fails, or any other call that fails."""
    room = after_bytes

    def call(file: int, *args) -> int:
        nonlocal room
        if room == 0:
            raise OSError(error, os.strerror(error))
        written = write(file, args[0][:room])
        room -= written
        return written

    return call


@pytest.mark.parametrize("after_bytes", [0, 1, SIZE - 1, SIZE, 2 * SIZE + 3])
@pytest.mark.parametrize("can_truncate", [True, False])
def test_a_full_disk_loses_no_record_before(after_bytes, can_truncate, tmp_path, monkeypatch):
    whole = write(tmp_path / "whole.zj", 10, chunk=5)
    path = tmp_path / "journal.zj"
    writer = JournalWriter.create(path, HEADER)
    writer.append(0, **columns(5))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "write", failing(errno.ENOSPC, after_bytes=after_bytes))
        if not can_truncate:
            patch.setattr(journal_module.os, "ftruncate", failing(errno.EIO))
        with pytest.raises(InputError, match=r"journal\.zj: .*No space left.*free space") as error:
            writer.append(5, **columns(5, 5))
        assert "5 steps are kept" in str(error.value)
    with pytest.raises(ValueError, match="cannot follow"):
        writer.append(5, **columns(5, 5))  # nothing may be written behind a torn record
    writer.close()
    kept, torn = (0, 0) if can_truncate else divmod(after_bytes, SIZE)
    assert_recovers(path, whole, 5 + kept, loses=int(torn > 0))


def test_a_sync_that_fails_is_an_error_and_recovers(tmp_path, monkeypatch):
    whole = write(tmp_path / "whole.zj", 10, chunk=5)
    path = tmp_path / "journal.zj"
    writer = JournalWriter.create(path, HEADER)
    writer.append(0, **columns(5))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "fsync", failing(errno.EIO))
        with pytest.raises(InputError, match=r"Input/output error.*repair the disk"):
            writer.append(5, **columns(5, 5))
    writer.close()
    assert_recovers(path, whole, 5, loses=0)


def test_a_real_limit_on_the_files_size(tmp_path):
    """A process of its own that may not write so far; the file it leaves is gone on with."""
    whole = write(tmp_path / "whole.zj", 40, chunk=8)
    path, limit = tmp_path / "journal.zj", header_size(whole) + 20 * SIZE + 11
    script = f"""
        import importlib.util, pathlib, resource, signal, sys
        spec = importlib.util.spec_from_file_location("journals", {__file__!r})
        journals = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(journals)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            journals.write(pathlib.Path({str(path)!r}), 40, chunk=8)
        except journals.InputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert re.search(r"journal\.zj: .*File too large.*ulimit -f.*16 steps are kept", done.stdout)
    assert_recovers(path, whole, 16, loses=0)


def test_a_journal_that_cannot_be_started_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module.os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        JournalWriter.create(tmp_path / "journal.zj", HEADER)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_may_not_be_written_is_named_on_resuming(tmp_path, monkeypatch):
    write(tmp_path / "journal.zj", 5)
    monkeypatch.setattr(journal_module.os, "open", failing(errno.EROFS))
    with pytest.raises(InputError, match=r"journal\.zj: .*Read-only.*writable.*5 steps are kept"):
        JournalWriter.resume(tmp_path / "journal.zj")


def test_the_files_name_is_synced_with_its_directory(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def spy(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is synced")
    monkeypatch.setattr(journal_module.os, "fsync", spy)
    writer = JournalWriter.create(tmp_path / "journal.zj", HEADER)
    assert synced[-1] == str(tmp_path)
    writer.append(0, **columns(3))
    writer.close()
    assert synced[-1] == str(tmp_path / "journal.zj")


def test_a_journal_that_is_moved_while_it_is_written_keeps_its_records_and_gets_no_more(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    writer = JournalWriter.create(directory / "journal.zj", HEADER)
    writer.append(0, **columns(2))
    directory.rename(tmp_path / "moved")
    directory.mkdir()  # as whatever writes beside it would
    with pytest.raises(InputError, match=r"was moved or removed .* it has the 4 steps so far"):
        writer.append(2, **columns(2, 2))
    with pytest.raises(ValueError, match="cannot follow"):
        writer.append(4, **columns(2, 4))
    writer.close()
    assert len(read_journal(tmp_path / "moved" / "journal.zj").records) == 4
