"""Keeping PyTorch out of a process until it is needed.

transformers and tensorboardX import it where it is installed, which takes seconds, and zojax uses
nothing of it but to read and write ``.bin`` checkpoints.
"""

import sys


def hide() -> None:
    """From now on libraries find no PyTorch; for the command's own process, from its start."""
    sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]


def show() -> None:
    """It can be imported again; libraries that have looked for it before go on without."""
    if "torch" in sys.modules and sys.modules["torch"] is None:
        del sys.modules["torch"]
