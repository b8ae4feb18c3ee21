"""Reads TensorBoard's event files, for tests."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def read_events(path: Path) -> list[Event]:
    """TFRecord, by TensorFlow's document: length u64, its CRC u32, the data, its CRC u32."""
    raw, events = path.read_bytes(), []
    while raw:
        (length,) = struct.unpack("<Q", raw[:8])
        events.append(Event.FromString(raw[12 : 12 + length]))
        raw = raw[12 + length + 4 :]
    return events
