"""Hostile safetensors files: each is one line, or is read as it says, and never garbage."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.campaigns import some_of
from tests.hub.checkpoints import FC1, assert_same, message
from zojax.errors import InputError, as_line
from zojax.hub import load
from zojax.hub.checkpoint_files import SafetensorsFile
from zojax.hub.safetensors_header import read_header

FC2 = FC1.replace("fc1", "fc2")
Header = dict[str, Any]


def parts_of(path: Path) -> tuple[Header, bytes]:
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def forge(path: Path, header: Header | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(**changes: Any) -> Callable[[Header], Header]:
    return lambda header: {**header, FC1: {**header[FC1], **changes}}


def beside(name: str, value: Any) -> Callable[[Header], Header]:
    return lambda header: {**header, name: value}


def unaligned(header: Header) -> Header:
    """A tensor of one byte's half before all others, which move behind it."""
    moved = {
        name: {**e, "data_offsets": [n + 2 for n in e["data_offsets"]]}
        for name, e in header.items()
        if name != "__metadata__"
    }
    return {**moved, "a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}


def shared(header: Header) -> Header:
    return {**header, FC1: {**header[FC1], "data_offsets": header[FC2]["data_offsets"]}}


def twice(header: Header) -> bytes:
    return json.dumps(header).encode()[:-1] + f', "{FC1}": {json.dumps(header[FC2])}}}'.encode()


HEADERS: dict[str, Callable[[Header], Header | bytes]] = {
    "deep lists": lambda _: b"[" * 100_000 + b"]" * 100_000,
    "a deep shape": lambda _: b'{"a":{"dtype":"F32","shape":' + b"[" * 500 + b"]" * 500 + b"}}",
    "deep objects": lambda _: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "float offsets": entry(data_offsets=[0.0, 512.0]),
    "a float in the shape": entry(shape=[16.0, 8]),
    "a large float in the shape": entry(shape=[1e300, 8]),
    "text in the shape": entry(shape=["16", 8]),
    "a truth in the shape": entry(shape=[True, 128]),
    "a shape that is none": entry(shape=None),
    "a negative shape": entry(shape=[-16, -8]),
    "a shape beyond 64 bits": entry(shape=[1 << 62, 1 << 62]),
    "an integer of 5,000 digits": lambda _: b'{"a":{"shape":[' + b"9" * 5_000 + b"]}}",
    "many axes": entry(shape=[1] * 100_000),
    "no dtype": lambda header: {**header, FC1: {"shape": [16, 8], "data_offsets": [0, 512]}},
    "an unknown dtype": entry(dtype="F99"),
    "a dtype that is a number": entry(dtype=32),
    "a dtype that is a list": entry(dtype=["F32"]),
    "a field beside": entry(strides=[1, 16]),
    "an entry that is null": beside(FC1, None),
    "an entry that is a list": beside(FC1, [1, 2]),
    "one offset": entry(data_offsets=[0]),
    "three offsets": entry(data_offsets=[0, 4, 512]),
    "offsets as text": entry(data_offsets="01"),
    "offsets the wrong way": entry(data_offsets=[512, 0]),
    "offsets far behind the file": entry(data_offsets=[1 << 60, (1 << 60) + 512]),
    "unaligned": unaligned,
    "overlapping": shared,
    "the same tensor twice": twice,
    "half a character": lambda _: b'{"\\ud800": {}}',
    "NaN": lambda _: b'{"a": NaN}',
    "a number beyond floats": lambda _: b'{"a": 1e999}',
    "metadata of numbers": beside("__metadata__", {"format": 1}),
    "metadata that is a list": beside("__metadata__", ["pt"]),
    "no JSON": lambda _: b"\x80\x02}q\x00.",
    "not UTF-8": lambda _: b'{"\xff": 1}',
    "nothing": lambda _: b"",
    "no tensors": lambda _: b"{}",
    "null": lambda _: b"null",
    "escape sequences": beside("\x1b[31m\n\u202e", {"dtype": "X\x1b", "shape": []}),
    "a name of a megabyte": beside("x" * 10**6, {"dtype": "I8", "shape": []}),
    "200,000 names, the last twice": lambda _: (
        b"{" + b"".join(b'"%d":1,' % i for i in range(200_000)) + b'"199999":1}'
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_forged_header_is_one_line(case, saved):
    path = saved[1] / "model.safetensors"
    header, data = parts_of(path)
    forged = HEADERS[case](header)
    forge(path, forged, b"\0\0" + data if case == "unaligned" else data)
    text = message(saved[1])
    assert text.startswith(f"{path}: ")
    assert as_line(InputError(text)).isprintable()
    assert len(text) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("length", "reason"),
    [(0, "not JSON"), (1 << 63, "truncated"), (1 << 20, "truncated"), ((1 << 64) - 1, "truncated")],
)
def test_a_wrong_length_of_the_header_is_one_line(length, reason, saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    assert reason in message(saved[1])


def test_a_header_that_is_too_large_is_refused_unread(saved):
    path = saved[1] / "model.safetensors"
    with path.open("wb") as file:
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate(1 << 31)  # a hole
    assert "1,073,741,824 bytes" in message(saved[1])


def test_a_file_may_be_as_large_as_a_shard_of_a_large_model(tmp_path):
    size = 5 << 30
    header = {
        "first": {"dtype": "BF16", "shape": [size // 4, 2], "data_offsets": [0, size]},
        "second": {"dtype": "F32", "shape": [2], "data_offsets": [size, size + 8]},
    }
    path = tmp_path / "large.safetensors"
    forge(path, header, b"")
    os.truncate(path, path.stat().st_size + size + 8)  # sparse
    assert list(read_header(path)) == ["first", "second"]


def test_bytes_behind_the_last_tensor_are_refused(saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "1 bytes after" in message(saved[1])


def test_headers_that_are_written_in_another_way_are_read_right(saved):
    model, directory = saved
    path = directory / "model.safetensors"
    header, data = parts_of(path)
    del header["__metadata__"]
    turned = dict(reversed(header.items()))
    for text in (json.dumps(turned), json.dumps(header, indent=3), json.dumps(header) + " " * 77):
        forge(path, text.encode(), data)
        assert_same(load(str(directory)).weights, model.weights)


def values_of(header: Header, data: bytes) -> dict[str, np.ndarray]:
    """What a header says, read without any library."""
    names = {"F32": np.float32, "F16": np.float16}
    return {
        name: np.frombuffer(data[slice(*e["data_offsets"])], names[e["dtype"]]).reshape(e["shape"])
        for name, e in header.items()
        if name != "__metadata__"
    }


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 64), 1 << 65),
    st.sampled_from([0, 1, 2, 4, 8, 16, 128, 512, "F16", "F32", "BF16", "I8", [], {}, [16, 8]]),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(0, 600), max_size=3),
)


@given(st.data())
def test_any_change_of_a_header_is_one_line_or_read_as_it_says(pristine, tmp_path_factory, data):
    header, values = parts_of(pristine[1] / "model.safetensors")
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(header)))
        if data.draw(st.booleans()) and isinstance(header[name], dict) and header[name]:
            field = data.draw(st.sampled_from(sorted(header[name])))
            header[name] = {**header[name], field: data.draw(ODD)}
        else:
            header[data.draw(st.sampled_from([*sorted(header), "new"]))] = data.draw(ODD)
    path = tmp_path_factory.mktemp("forged") / "model.safetensors"
    forge(path, header, values)
    assert_one_line_or_right(path, lambda: values_of(header, values))


@given(st.data())
def test_any_bytes_of_a_file_are_one_line_or_read_as_they_say(pristine, tmp_path_factory, data):
    raw = bytearray((pristine[1] / "model.safetensors").read_bytes())
    size = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("forged") / "model.safetensors"
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw), size, len(raw) - 1]))])
    assert_one_line_or_right(path, lambda: values_of(*parts_of(path)))


def assert_one_line_or_right(path: Path, expected: Callable[[], dict[str, np.ndarray]]) -> None:
    try:
        file = SafetensorsFile(path)
    except InputError:
        return
    want = expected()
    assert file.tensors.keys() == want.keys()
    for name, stored in file.tensors.items():
        if stored.shape:
            np.testing.assert_array_equal(file.read_box(name, stored.box), want[name])


@pytest.mark.parametrize("keep", some_of(range(0, 2200, 7), 6))
def test_what_is_cut_off_anywhere_is_one_line(keep, saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert message(saved[1]).startswith(f"{path}: ")


def test_weights_are_read_in_the_order_of_the_file(pristine):
    file = SafetensorsFile(pristine[1] / "model.safetensors")
    header, _ = parts_of(pristine[1] / "model.safetensors")
    del header["__metadata__"]
    assert list(file.tensors) == sorted(header, key=lambda name: header[name]["data_offsets"])
