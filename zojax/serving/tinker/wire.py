"""Protobuf by hand: reads and writes fields of messages, and knows no message's meaning."""

import struct

from zojax.errors import InputError

_MOST_FIELDS = 1 << 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class Message:
    """The fields of a message, by number; one that is missing is empty, as in proto3.

    Args:
        data: the message.

    Raises:
        InputError: it is no message, or has far too many fields.

    Example:
        >>> Message(field(1, "a") + field(2, 300)).integer(2)
        300
    """

    def __init__(self, data: bytes):
        self._fields: dict[int, list[int | bytes]] = {}
        at = count = 0
        while at < len(data):
            tag, at = _read_varint(data, at)
            kind, count = tag & 7, count + 1
            if count > _MOST_FIELDS or kind not in (_VARINT, _BYTES, *_WIDTHS):
                raise _broken()
            value, at = _read_varint(data, at) if kind in (_VARINT, _BYTES) else (0, at)
            if kind != _VARINT:
                stop = at + _WIDTHS.get(kind, value)
                if stop > len(data):
                    raise _broken()
                value, at = data[at:stop], stop
            self._fields.setdefault(tag >> 3, []).append(value)

    def all(self, number: int) -> list[bytes]:
        """All strings, messages or bytes of a number, in order."""
        found = self._fields.get(number, [])
        if not all(isinstance(one, bytes) for one in found):
            raise _broken()
        return found  # pyright: ignore[reportReturnType]

    def data(self, number: int) -> bytes:
        """The last of them."""
        return self.all(number)[-1] if number in self._fields else b""

    def text(self, number: int) -> str:
        """The same as a text."""
        try:
            return self.data(number).decode()
        except UnicodeDecodeError:
            raise _broken() from None

    def integer(self, number: int) -> int:
        """The last integer of a number."""
        found = self._fields.get(number, [0])[-1]
        if not isinstance(found, int):
            raise _broken()
        return found - (1 << 64) if found >> 63 else found

    def entries(self, number: int) -> dict[str, bytes]:
        """A map from strings to messages."""
        pairs = map(Message, self.all(number))
        return {pair.text(1): pair.data(2) for pair in pairs}

    def __contains__(self, number: int) -> bool:
        return number in self._fields


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field: an integer, a double, a string, or a message or bytes."""
    if isinstance(value, float):
        return _varint(number << 3 | _FIXED64) + struct.pack("<d", value)
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise _broken()


def _broken() -> InputError:
    return InputError("the body is not the protobuf message of this route")
