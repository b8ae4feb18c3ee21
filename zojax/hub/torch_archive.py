"""What a ``.bin`` file of PyTorch must be before PyTorch itself reads it.

Such a file is a zip archive of a pickle and of the tensors' bytes. PyTorch runs no code of the
pickle's, but believes the rest: sizes that the records do not have, compressed records as if they
were numbers, functions that allocate, tuples of tuples whose hash takes for ever.
"""

import pickletools
import struct
import zipfile
from pathlib import Path

from zojax.errors import InputError
from zojax.hub.stored import shown
from zojax.reading import open_regular

Place = tuple[int, int]
"""A record's first byte in the file, and its size."""

_MOST_PICKLE_BYTES = 4 << 20  # some 30,000 tensors
_MOST_IN_TUPLE = 1_000  # counted through all tuples in it; a tensor's arguments are some 20

_NUMBERS = ("BFloat16", "Half", "Float", "Double", "Byte", "Char", "Short", "Int", "Long", "Bool")
_NUMBERS += ("ComplexFloat", "ComplexDouble")
_ASKED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {numbers}Storage" for numbers in _NUMBERS),
}
"""What pickles of dense tensors ask for."""


def read_places(path: Path) -> list[Place]:
    """Where the bytes of a file's storages lie, in order; those without bytes are left out.

    Raises:
        InputError: the file is no such archive, it is cut off, or its pickle asks for more than
            dense tensors.
    """
    with open_regular(path) as (file, _):
        try:
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
                pickle = _read_pickle(path, archive, records)
            _check_pickle(path, pickle)
            root = records[0].filename.partition("/")[0]
            storages = [r for r in records if r.filename.startswith(f"{root}/data/")]
            return sorted(_place(file, r) for r in storages if r.file_size)
        except InputError:
            raise
        except Exception as error:  # damage shows as many kinds, from struct's to recursion's
            raise truncated(path, error) from None


def truncated(path: Path, error: Exception) -> InputError:
    """What to say of a file that PyTorch or the archive's reader gave up on."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return InputError(f"{path}: truncated or no PyTorch weight file ({shown(reason)})")


def _read_pickle(path: Path, archive: zipfile.ZipFile, records: list[zipfile.ZipInfo]) -> bytes:
    names = [record.filename.lower() for record in records]  # PyTorch ignores the case
    if len(set(names)) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        raise InputError(f"{path}: its archive has two records of one name, or two directories")
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
    """Raises for what dense tensors do not need, and for large tuples; nothing of it is run."""
    stack: list[int] = []  # how many values each value is, counted through tuples alone
    marks: list[int] = []  # where on the stack they are
    memo: dict[object, int] = {}
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL" and argument not in _ASKED:
            what = shown(str(argument).replace(" ", "."))
            raise InputError(f"{path}: holds more than dense tensors: it asks for {what}")
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
                raise InputError(f"{path}: its pickle has a tuple of more than {_MOST_IN_TUPLE:,}")
            del stack[start:]
            stack += [size] * len(operation.stack_after)
