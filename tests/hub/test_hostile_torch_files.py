"""Hostile files of PyTorch: each is one line, or is read as PyTorch reads it, and never garbage."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.campaigns import some_of
from tests.hub.checkpoints import EMBEDDING, FC1, PRE_LN, assert_same, message, noisy, read_tensors
from zojax.errors import InputError, as_line
from zojax.hub import load, save
from zojax.hub.torch_file import TorchFile

torch = pytest.importorskip("torch")


def tensors_of(directory: Path) -> dict[str, Any]:
    return {name: torch.from_numpy(v.copy()) for name, v in read_tensors(directory).items()}


def strided(tensors, *stride) -> Any:
    return torch.as_strided(tensors[FC1], (16, 8), stride)


TORCH: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an integer for a name": lambda t: {**t, 3: torch.zeros(1)},
    "bytes for a name": lambda t: {**t, b"a": torch.zeros(1)},
    "a tuple for a name": lambda t: {**t, ("a", 1): torch.zeros(1)},
    "nothing for a name": lambda t: {**t, None: torch.zeros(1)},
    "a name of a megabyte": lambda t: {**t, "x" * 10**6: torch.zeros(1)},
    "half a character": lambda t: {**t, "\ud800": torch.zeros(1)},
    "no dictionary": lambda t: list(t.values()),
    "a tensor alone": lambda t: t[FC1],
    "a dictionary in it": lambda t: {"model": t},
    "a number": lambda t: {**t, FC1: 3.0},
    "sparse": lambda t: {**t, FC1: t[FC1].to_sparse()},
    "sparse rows": lambda t: {**t, FC1: t[FC1].to_sparse_csr()},
    "meta": lambda t: {**t, FC1: t[FC1].to("meta")},
    "complex": lambda t: {**t, FC1: t[FC1].to(torch.complex64)},
    "integers": lambda t: {**t, FC1: t[FC1].to(torch.int64)},
    "doubles": lambda t: {**t, FC1: t[FC1].double()},
    "numbers of 8 bits": lambda t: {**t, FC1: t[FC1].to(torch.float8_e5m2)},
    "of no axis": lambda t: {**t, FC1: torch.tensor(1.0)},
    "one number for all": lambda t: {**t, FC1: torch.zeros(1).expand(16, 8)},
    "a terabyte of one number": lambda t: {**t, FC1: torch.zeros(1).expand(1 << 19, 1 << 19)},
    "rows that overlap": lambda t: {**t, FC1: strided(t, 1, 1)},
    "a row again and again": lambda t: {**t, FC1: strided(t, 0, 1)},
    "many tensors in one storage": lambda t: dict.fromkeys(t, t[FC1]),
    "a view that changes signs": lambda t: {**t, FC1: torch._neg_view(t[FC1])},
    "a nested tensor": lambda t: {**t, FC1: torch.nested.nested_tensor([t[FC1]])},
    "an allocation": lambda t: {**t, "a": bytearray(9)},
    "a set": lambda t: {**t, "a": {1, 2}},
    "a wrapped class": lambda t: {**t, "a": torch.Size([3])},
    "code": lambda t: {**t, "a": Path("x")},
}


def test_a_torch_file_of_nothing_has_no_layers(saved):
    torch.save({}, saved[1] / "pytorch_model.bin")
    (saved[1] / "model.safetensors").unlink()
    assert message(saved[1]).startswith(
        f"{saved[1]}/config.json: num_hidden_layers is 3, but the weights have 0 layers"
    )


@pytest.mark.parametrize("case", TORCH)
def test_a_torch_file_of_other_things_is_one_line(case, saved):
    torch.save(TORCH[case](tensors_of(saved[1])), saved[1] / "pytorch_model.bin")
    (saved[1] / "model.safetensors").unlink()
    text = message(saved[1])
    assert text.startswith(f"{saved[1]}/pytorch_model.bin: ")
    assert as_line(InputError(text)).isprintable()
    assert len(text) < len(str(saved[1])) + 400


READ_RIGHT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "parameters": lambda t: {name: torch.nn.Parameter(x) for name, x in t.items()},
    "a transposed view": lambda t: {**t, FC1: t[FC1].T.contiguous().T},
    "a part of a storage": lambda t: {**t, FC1: torch.cat([t[FC1], t[FC1]])[16:]},
    "a tied head": lambda t: {**t, "lm_head.weight": t[EMBEDDING]},
}


@pytest.mark.parametrize("case", READ_RIGHT)
def test_a_torch_file_of_views_is_read_right(case, saved):
    model, directory = saved
    torch.save(READ_RIGHT[case](tensors_of(directory)), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert_same(load(str(directory)).weights, model.weights)


def edit_archive(path: Path, edit: Callable[[dict[str, bytes]], Any], method: int) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    edit(records)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


PICKLE = "pytorch_model/data.pkl"
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def in_pickle(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], Any]:
    def edit(records: dict[str, bytes]) -> None:
        assert old in records[PICKLE]
        records[PICKLE] = records[PICKLE].replace(old, new, 1)

    return edit


def pickled(pickle: bytes) -> Callable[[dict[str, bytes]], Any]:
    return lambda records: records.update({PICKLE: b"\x80\x02" + pickle + b"."})


ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], Any], int]] = {
    "compressed": (lambda _: None, DEFLATED),
    "a storage declared larger": (in_pickle(b"M\x90\x01tq", b"M\xf0\x01tq"), STORED),
    "a storage declared huge": (in_pickle(b"M\x90\x01tq", b"J\xff\xff\xff\x7ftq"), STORED),
    "a storage declared smaller": (in_pickle(b"M\x90\x01tq", b"M\x8f\x01tq"), STORED),
    "a storage of other numbers": (in_pickle(b"FloatStorage", b"HalfStorage"), STORED),
    "a record that is longer": (lambda r: r.update({"pytorch_model/data/0": b"\0" * 9999}), STORED),
    "a record that is not there": (lambda r: r.pop("pytorch_model/data/1"), STORED),
    "a record beside": (lambda r: r.update({"pytorch_model/data/99": b"\0" * 64}), STORED),
    "another directory": (lambda r: r.update({"b/data.pkl": b"\x80\x02}."}), STORED),
    "no pickle": (lambda r: r.pop(PICKLE), STORED),
    "an empty pickle": (lambda r: r.update({PICKLE: b""}), STORED),
    "a pickle cut off": (lambda r: r.update({PICKLE: r[PICKLE][:99]}), STORED),
    "an empty stack": (pickled(b"R"), STORED),
    "a memory that is empty": (pickled(b"h\x07"), STORED),
    "an allocation": (pickled(b"c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R"), STORED),
    "memory as it is": (pickled(b"ctorch\nTensor\nJ\x00\x00\x00\x10\x85R"), STORED),
    "a storage from nowhere": (pickled(b"ctorch\nUntypedStorage\nJ\x00\x00\x00\x10\x85R"), STORED),
    "a call of the shell": (pickled(b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R"), STORED),
    "a deep tuple for a name": (pickled(b"})" + b"\x85" * 500_000 + b"Ns"), STORED),
    "a tuple of itself": (pickled(b"})" + b"q\x00h\x00\x86" * 60 + b"Ns"), STORED),
    "deep lists": (pickled(b"]" * 100_000 + b"a" * 99_999), STORED),
    "a pickle of 5 MB": (pickled(b"N0" * (5 << 19)), STORED),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_forged_archive_is_one_line(case, torch_file, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_file)
    edit_archive(path, *ARCHIVES[case])
    with pytest.raises(InputError) as refused:
        TorchFile(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 300


@pytest.fixture(scope="module")
def torch_file(tmp_path_factory) -> bytes:
    directory = tmp_path_factory.mktemp("torch")
    save(noisy(PRE_LN), directory, format="bin")
    return (directory / "pytorch_model.bin").read_bytes()


@given(st.data())
def test_any_bytes_of_a_torch_file_are_one_line_or_tensors(torch_file, tmp_path_factory, data):
    raw = bytearray(torch_file)
    start, stop = data.draw(st.sampled_from([(0, 1200), (len(raw) - 2500, len(raw))]))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(start, stop - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("forged") / "pytorch_model.bin"
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw), len(raw) - 1, 700]))])
    try:
        file = TorchFile(path)
    except InputError:
        return
    for name, stored in file.tensors.items():
        if stored.shape:
            assert file.read_box(name, stored.box).shape == stored.shape


@pytest.mark.parametrize("keep", some_of(range(0, 9000, 31), 6))
def test_what_is_cut_off_anywhere_is_one_line(keep, torch_file, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_file[:keep])
    with pytest.raises(InputError, match="truncated"):
        TorchFile(path)
