"""Whatever has happened to a checkpoint's files, the result has the run's bits."""

import dataclasses
import functools
import os
import random
import re
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.bits import assert_same_bits
from tests.checkpoints.runs import (
    SAVED,
    STEPS,
    Run,
    Tree,
    files_of,
    flip,
    refusal,
)
from zojax.checkpoints.arrays import saved_steps
from zojax.training.step import TrainState


@functools.cache
def reached_in_the_end(run: Run) -> tuple[Tree, TrainState]:
    return run.reached(STEPS)


def assert_bits_or_fallback(run: Run) -> bool:
    """Asserts that a resume has the run's bits; gives whether it used the newest checkpoint."""
    weights, state, source, warnings = run.rebuilt()
    assert_same_bits((weights, state), reached_in_the_end(run))
    assert source == (25 if warnings else 30)
    assert all(f"{run.checkpoints}/30: " in warning for warning in warnings)
    return not warnings


@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_missing_or_cut_file_is_noticed_or_harmless(run, damage):
    used = []
    for path in files_of(run, 30):
        data = path.read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(data[: len(data) // 2] if damage == "half" else b"")
        used.append(assert_bits_or_fallback(run))
        path.write_bytes(data)
    assert len(used) > 10
    assert not all(used)
    assert assert_bits_or_fallback(run)


def test_a_flipped_byte_is_noticed_or_harmless(run):
    rng, used = random.Random(0), {}
    arrays = max(files_of(run, 30), key=lambda path: path.stat().st_size)
    for path in files_of(run, 30):
        data = path.read_bytes()
        for _ in range(20 if path == arrays else 2):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            used.setdefault(path, []).append(assert_bits_or_fallback(run))
        path.write_bytes(data)
    assert not any(used[run.checkpoints / "30" / "note" / "metadata"])
    assert sum(used[arrays]) < 4  # a few bytes are of headers that nobody reads


def test_arrays_with_other_bytes_are_refused_although_they_can_be_read(run):
    """What no checksum of a file format would find: whole files with a flipped bit of a weight."""
    flip(run.checkpoints / "30" / "weights", "layers", "fc1", "weight")
    assert refusal(run) == "its weights are not those that were saved"


def test_with_no_good_checkpoint_the_base_is_read_again(run):
    for step in SAVED:
        for path in (run.checkpoints / str(step) / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    warnings = run.assert_rebuilt(0)
    assert [re.findall(r"/(\d+): cannot be read \(", warning) for warning in warnings] == [
        [str(step)] for step in reversed(SAVED)
    ]
    assert all("\n" not in warning for warning in warnings)


@pytest.fixture
def moments(run, tmp_path, monkeypatch) -> list[Path]:
    """Grows by a copy of the run's checkpoints before each call that changes a directory."""
    for step in SAVED[:-2]:  # fewer files
        shutil.rmtree(run.checkpoints / str(step))
    copies: list[Path] = []
    seen, lock, busy = set(), threading.Lock(), threading.local()

    def copy() -> None:
        names = frozenset(str(p.relative_to(run.directory)) for p in run.directory.rglob("*"))
        if names not in seen:
            seen.add(names)
            copies.append(tmp_path / f"killed{len(copies)}")
            shutil.copytree(run.checkpoints, copies[-1] / "checkpoints")

    def watch(real: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not getattr(busy, "copying", False):
                with lock, suppress(OSError):  # TensorStore's threads go on meanwhile
                    busy.copying = True
                    copy()
                busy.copying = False
            return real(*args, **kwargs)

        return watched

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
        monkeypatch.setattr(os, name, watch(getattr(os, name)))
    return copies


def test_whenever_a_kill_comes_the_files_it_leaves_restore_the_run(run, moments, monkeypatch):
    """While a checkpoint is written, one is replaced, and old ones are removed."""
    writer = run.writer(keep_last=1)
    reached = {step: run.reached(step) for step in (30, 33)}
    sources = []
    for step, (weights, state) in reached.items():
        writer.save(step, weights, state)
        writer.wait()
    monkeypatch.undo()
    for directory in moments:
        left = dataclasses.replace(run, directory=directory)
        weights, state, source, _ = left.rebuilt()
        assert_same_bits((weights, state), reached_in_the_end(run))
        left.writer()  # tidies up
        left_steps = saved_steps(left.checkpoints)
        assert {path.name for path in left.checkpoints.iterdir()} == set(map(str, left_steps))
        if source == 33:  # no older one is half removed
            assert left.rebuilt(left_steps[0])[2:] == (left_steps[0], [])
        sources.append((source, left_steps[-1]))
    assert len(moments) > 30
    # Only while 30 is replaced is it missed, and then the one that it replaces comes back.
    assert {(30, 30), (25, 30), (33, 33)} == set(sources)
    assert sources == sorted(sources, key=lambda pair: pair[1])


@pytest.mark.parametrize("name", ["state/manifest.ocdbt", "state/_METADATA"])
def test_a_fifo_in_a_checkpoint_is_damage_and_nothing_waits_for_it(name, run):
    path = run.checkpoints / "30" / name
    path.unlink()
    os.mkfifo(path)
    assert not assert_bits_or_fallback(run)
