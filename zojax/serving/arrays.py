"""Reads arrays by name from files that the server has written."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load

from zojax.errors import InputError
from zojax.reading import read_bytes

_MOST_BYTES = 16 << 30


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; ``InputError`` if it cannot be read or is damaged."""
    try:
        return load(read_bytes(path, _MOST_BYTES))
    except InputError:
        raise
    except Exception:  # whatever safetensors says
        raise InputError(f"{path}: is damaged") from None
