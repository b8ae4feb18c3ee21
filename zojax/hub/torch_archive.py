"""Checks a ``.bin`` file of PyTorch before PyTorch itself reads it.

Such a file is a zip archive of a pickle and of the tensors' bytes. PyTorch runs no code from the
pickle, but trusts the rest: it accepts sizes that records do not have, reads compressed records as
numbers, calls functions that allocate memory, and hashes nested tuples, which can take for ever.
"""

import pickletools
import struct
import zipfile
from pathlib import Path

from zojax.errors import InputError
from zojax.hub.stored import shown
from zojax.reading import open_regular

Place = tuple[int, int]
"""The offset of a record's first byte in the file, and its size in bytes."""

_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickled number, with which files begin that are not archives."""

_MOST_PICKLE_BYTES = 4 << 20  # about 30,000 tensors
_MOST_IN_TUPLE = 1_000  # including nested tuples; a tensor's arguments are about 20

_NUMBERS = ("BFloat16", "Half", "Float", "Double", "Byte", "Char", "Short", "Int", "Long", "Bool")
_NUMBERS += ("ComplexFloat", "ComplexDouble")
_ASKED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {numbers}Storage" for numbers in _NUMBERS),
}
"""The only names that pickles of dense tensors refer to."""


def read_places(path: Path) -> list[Place]:
    """The places of a file's storages, in order; empty ones are left out.

    Raises:
        InputError: the file is not such an archive, is truncated, or its pickle asks for more than
            dense tensors.
    """
    with open_regular(path) as (file, _):
        try:
            if file.read(len(_OLD_FORMAT)) == _OLD_FORMAT:
                raise InputError(
                    f"{path}: is in the format of PyTorch before 1.6; save it again: "
                    "torch.save(torch.load(FILE, weights_only=True), FILE)"
                )
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
                pickle = _read_pickle(path, archive, records)
            _check_pickle(path, pickle)
            root = records[0].filename.partition("/")[0]
            storages = [r for r in records if r.filename.startswith(f"{root}/data/")]
            return sorted(_place(file, r) for r in storages if r.file_size)
        except InputError:
            raise
        except Exception as error:  # damage causes many types, from struct.error to RecursionError
            raise truncated(path, error) from None


def truncated(path: Path, error: Exception) -> InputError:
    """The error for a file that PyTorch or the archive's reader cannot read."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return InputError(f"{path}: truncated or not a PyTorch weight file ({shown(reason)})")


def _read_pickle(path: Path, archive: zipfile.ZipFile, records: list[zipfile.ZipInfo]) -> bytes:
    names = [record.filename.lower() for record in records]  # PyTorch ignores the case
    if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        raise InputError(
            f"{path}: its archive has two records of the same name, or two directories"
        )
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path}: {shown(record.filename)} in it is compressed; save it again")
    [pickle] = [record for record in records if record.filename.endswith("/data.pkl")]
    if pickle.file_size > _MOST_PICKLE_BYTES:
        raise InputError(
            f"{path}: its pickle has {pickle.file_size:,} bytes, more than {_MOST_PICKLE_BYTES:,}"
        )
    return archive.read(pickle)


def _place(file, record: zipfile.ZipInfo) -> Place:
    file.seek(record.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return record.header_offset + 30 + name + extra, record.file_size


def _check_pickle(path: Path, pickle: bytes) -> None:
    """Raises for names that dense tensors do not need and for large tuples; runs nothing."""
    stack: list[int] = []  # the size of each value, where only tuples count more than 1
    marks: list[int] = []  # the marks' positions on the stack
    memo: dict[object, int] = {}
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL" and argument not in _ASKED:
            what = shown(str(argument).replace(" ", "."))
            raise InputError(f"{path}: contains more than dense tensors: it asks for {what}")
        if "PUT" in operation.name:
            memo[argument] = stack[-1]
        elif "GET" in operation.name:
            stack.append(memo[argument])
        elif operation.name == "MARK":
            marks.append(len(stack))
        else:
            taken = operation.stack_before
            if pickletools.markobject in taken:
                start = marks.pop() - taken.index(pickletools.markobject)
            else:
                start = len(stack) - len(taken)
            size = 1 + (sum(stack[start:]) if "TUPLE" in operation.name else 0)
            if size > _MOST_IN_TUPLE:
                raise InputError(
                    f"{path}: its pickle has a tuple of more than {_MOST_IN_TUPLE:,} values"
                )
            del stack[start:]
            stack += [size] * len(operation.stack_after)
