"""Where a process keeps its run: the leader in the run's directory, each other one in a copy.

All processes of a run compute the same numbers, so there is no separate code for processes that
write nothing: the others start from the leader's files, which it sends to them, and write the same
as the leader into a directory that is removed at the end. They need not see the leader's disk,
except for checkpoints, of which each process writes and reads its share.
"""

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zojax.checkpoints.disk import DIRECTORY as CHECKPOINTS
from zojax.distributed import processes
from zojax.journal.file import JOURNAL, MAX_BYTES
from zojax.reading import read_bytes
from zojax.reporting.progress import PROGRESS
from zojax.runs.run_dir import CONFIG


@contextmanager
def open_process_dir(directory: Path) -> Iterator[Path]:
    """Yield the directory that this process writes to while the context is open.

    Args:
        directory: the run's directory, whose lock the leader holds.
    """
    if processes.is_alone():
        yield directory
        return
    files = processes.broadcast_from_leader("the run's files", lambda: _read(directory))
    if processes.is_leader():
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="zojax-", ignore_cleanup_errors=True) as name:
        process_dir = Path(name)
        for file, text in files.items():
            (process_dir / file).write_bytes(base64.b64decode(text))
        (process_dir / CHECKPOINTS).symlink_to((directory / CHECKPOINTS).absolute())
        yield process_dir


def _read(directory: Path) -> dict[str, str]:
    """The files that say how far a run has got, as base64 text."""
    paths = [directory / name for name in (CONFIG, JOURNAL, PROGRESS)]
    return {
        p.name: base64.b64encode(read_bytes(p, MAX_BYTES)).decode() for p in paths if p.exists()
    }
