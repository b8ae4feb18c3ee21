"""A reader of the journal that knows nothing but docs/journal.md, against the real one."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from zojax.journal.file import JournalWriter, read_journal
from zojax.journal.header import Header

DOCUMENT = Path(__file__).parents[2] / "docs" / "journal.md"


def rotated(x: int, by: int) -> int:
    return (x << by | x >> (32 - by)) & 0xFFFFFFFF


def xxh32(data: bytes, seed: int) -> int:
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    lanes = [seed + p1 + p2, seed + p2, seed, seed - p1]
    at = 0
    while len(data) - at >= 16:
        for i, word in enumerate(struct.unpack_from("<4I", data, at)):
            lanes[i] = rotated((lanes[i] + word * p2) & 0xFFFFFFFF, 13) * p1 & 0xFFFFFFFF
        at += 16
    h = sum(rotated(x, by) for x, by in zip(lanes, (1, 7, 12, 18))) if at else seed + p5  # noqa: B905
    h += len(data)
    while len(data) - at >= 4:
        word = int.from_bytes(data[at : at + 4], "little")
        h, at = rotated((h + word * p3) & 0xFFFFFFFF, 17) * p4, at + 4
    for byte in data[at:]:
        h = rotated((h + byte * p5) & 0xFFFFFFFF, 11) * p1
    h &= 0xFFFFFFFF
    h = (h ^ h >> 15) * p2 & 0xFFFFFFFF
    h = (h ^ h >> 13) * p3 & 0xFFFFFFFF
    return h ^ h >> 16


def read_independently(raw: bytes) -> tuple[dict, list[dict]]:
    magic, version, length = struct.unpack_from("<8sII", raw)
    assert (magic, version) == (b"ZOJAXJNL", 1)
    header = json.loads(raw[16 : 16 + length])
    (seed,) = struct.unpack_from("<I", raw, 16 + length)
    assert seed == xxh32(raw[: 16 + length], 0)
    k, q, v = len(header["key_data"]), header["num_queries"], header["num_variants"]
    layout = struct.Struct(f"<Q{k}IfI{q}f{v}fI")
    records = []
    for at in range(20 + length, len(raw) - layout.size + 1, layout.size):
        step, *rest, checksum = layout.unpack_from(raw, at)
        if checksum != xxh32(raw[at : at + layout.size - 4], seed) or step != len(records):
            break
        fields = {"key_data": rest[:k], "learning_rate": rest[k], "flags": rest[k + 1]}
        fields["projected_grad"] = rest[k + 2 : k + 2 + q]
        fields["losses"] = rest[k + 2 + q :]
        records.append({name: np.array(value) for name, value in fields.items()})
    return header, records


@pytest.mark.parametrize(("queries", "variants"), [(1, 2), (3, 5), (2, 1)])
def test_both_readers_see_what_was_written(queries, variants, tmp_path):
    header = {
        "key_data": [7, 2**32 - 1],
        "num_queries": queries,
        "num_variants": variants,
        "note": "ε, ν, 重み",
    }
    steps, rng = 23, np.random.default_rng(0)
    written = {
        "key_data": rng.integers(0, 2**32, (steps, 2), np.uint32),
        "learning_rate": rng.random(steps).astype(np.float32),
        "projected_grad": rng.standard_normal((steps, queries)).astype(np.float32),
        "losses": rng.random((steps, variants)).astype(np.float32),
        "flags": rng.integers(0, 2, steps).astype(np.uint32),
    }
    path = tmp_path / "journal.zj"
    writer = JournalWriter.create(path, header)
    for part in (slice(0, 10), slice(10, steps)):
        writer.append(
            part.start,
            key_data=written["key_data"][part],
            learning_rates=written["learning_rate"][part],
            projected_grads=written["projected_grad"][part],
            losses=written["losses"][part],
            flags=written["flags"][part],
        )
    writer.close()
    their_header, their_records = read_independently(path.read_bytes())
    journal = read_journal(path)
    assert their_header == header
    assert journal.header.as_dict().items() <= {**header, "key_impl": "threefry2x32"}.items()
    assert journal.lost_bytes == 0
    np.testing.assert_array_equal(journal.records["step"], np.arange(steps))
    for name, column in written.items():
        np.testing.assert_array_equal(journal.records[name], column)
        np.testing.assert_array_equal([record[name] for record in their_records], column)


def documents_example() -> bytes:
    """The journal that docs/journal.md writes out."""
    [dump] = re.findall(r"```hex\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return bytes.fromhex("".join(line.partition("#")[0] for line in dump.splitlines()))


def test_the_documents_example_is_read_by_both_and_written_so(tmp_path):
    raw = documents_example()
    path = tmp_path / "journal.zj"
    path.write_bytes(raw)
    header, [theirs] = read_independently(raw)
    journal = read_journal(path)
    [ours] = journal.records
    assert header == {"key_data": [0, 42], "num_queries": 1, "num_variants": 2}
    assert journal.header == Header((0, 42), num_queries=1, num_variants=2)
    for record in (ours, theirs):
        assert record["learning_rate"] == 0.5
        assert list(record["projected_grad"]) == [-1.5]
        assert list(record["losses"]) == [0.25, 0.75]
        assert record["flags"] == 0
    again = JournalWriter.create(tmp_path / "again.zj", header)
    again.append(
        0,
        key_data=np.array([theirs["key_data"]], np.uint32),
        learning_rates=np.float32([0.5]),
        projected_grads=np.float32([[-1.5]]),
        losses=np.float32([[0.25, 0.75]]),
        flags=np.uint32([0]),
    )
    again.close()
    assert (tmp_path / "again.zj").read_bytes() == raw
