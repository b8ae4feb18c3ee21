"""Checkpoints in processes of their own: other meshes, file-size limits, disks that hang."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.runs import flip
from tests.distributed import jobs

RESTORING = Path(__file__).with_name("restoring.py")


def run_child(code: str, *arguments: object, **kwargs: Any) -> subprocess.Popen:
    """Another Python in the repository; its standard error and output are piped."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


MESHES = """
import json, sys
import zojax.runs.train, zojax.checkpoints.reader
lazy = not any(name.split(".")[0] in ("orbax", "tensorstore") for name in sys.modules)
import resource
from pathlib import Path
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import numpy as np
from tests.bits import assert_same_bits
from tests.checkpoints import runs
from zojax.errors import InputError
from zojax.checkpoints.reader import checked_note, restore
from zojax.checkpoints.arrays import saved_steps

run = runs.make_run(Path(sys.argv[1]))
weights, state = run.reached(7)  # before the first fold, which need not be compiled then

def shardings(shape):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
    matrix, layers = NamedSharding(mesh, P("data", "model")), NamedSharding(mesh, P(None, "data"))
    of_weights = {"embed_tokens": {"weight": matrix}, "layers": {"fc1": dict.fromkeys(
        ("weight", "bias"), layers)}}
    return of_weights, jax.tree.map(lambda _: NamedSharding(mesh, P()), state)

writer = run.writer()
writer.save(7, *jax.device_put((weights, state), shardings((2, 2))))
writer.wait()
abstract = jax.tree.map(
    lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
    (weights, state), shardings((4, 1)))

def restored_on_the_other():
    return restore(run.checkpoints, checked_note(run.checkpoints, 7, run.journal, True), *abstract)

restored = restored_on_the_other()
assert_same_bits(restored, (weights, state))
shards = restored[0]["embed_tokens"]["weight"].addressable_shards

resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
writer.save(9, weights, state)
writer.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
failed = [run.told.copy(), saved_steps(run.checkpoints)]

damaged = []
for path in runs.files_of(run, 7):
    data = path.read_bytes()
    for cut in (0, len(data) // 2):
        path.write_bytes(data[:cut])
        try:
            restored_on_the_other()
        except InputError as error:
            damaged.append(str(error))
    path.write_bytes(data)
print(json.dumps([lazy, [shard.data.shape for shard in shards], failed, damaged]))
"""


@pytest.fixture(scope="module")
def on_meshes(tmp_path_factory) -> tuple[Path, list[Any], str]:
    """The directory of a run on four devices, what it found, and its standard error."""
    directory = tmp_path_factory.mktemp("meshes") / "run"
    flags = "--xla_force_host_platform_device_count=4"
    process = run_child(MESHES, directory, env={**os.environ, "XLA_FLAGS": flags})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return directory, json.loads(out), err


def test_a_checkpoint_of_one_mesh_is_restored_on_another(on_meshes):
    _, (_, shards, *_), _ = on_meshes
    assert shards == [[75, 16]] * 4  # all the bits were compared there


def test_files_that_the_system_refuses_are_a_warning(on_meshes):
    directory, (*_, failed, _), _ = on_meshes
    [warning], steps = failed
    assert f"{directory}/checkpoints/9: the checkpoint failed (" in warning
    assert "File too large); training continues" in warning
    assert steps == [7]


def test_orbax_is_not_imported_without_need_and_says_nothing(on_meshes):
    """Not even when its files cannot be written or read."""
    directory, (lazy, *_, damaged), err = on_meshes
    assert lazy
    assert len(damaged) > 5
    assert all(warning.startswith(f"{directory}/checkpoints/7: ") for warning in damaged)
    assert err == ""


NEVER_BEGUN = """
from zojax.checkpoints import arrays
arrays._orbax()

class ArrayHandler:
    async def _deserialize(self): ...

async def _read_array_index_and_device_put(): ...
async def handle_request(): ...

for coroutine in (ArrayHandler()._deserialize(), _read_array_index_and_device_put()):
    del coroutine  # as Python collects those that a failed read beside them left in a closed loop
handle_request()
"""


def test_reads_that_never_began_are_not_told_but_coroutines_of_others_are():
    _, err = run_child(NEVER_BEGUN).communicate(timeout=60)
    assert [line for line in err.splitlines() if "never awaited" in line] == [
        "<string>:13: RuntimeWarning: coroutine 'handle_request' was never awaited"
    ]


def test_what_one_of_several_processes_reads_otherwise_no_process_goes_on_with(run, tmp_path):
    """The second has copies of its own: whole; of the state, or of a matrix that each splits over
    its own devices, with a bit flipped; and cut.
    """
    places = []
    for name in ("whole", "flipped", "matrix", "cut", "again"):
        for index in range(2):
            shutil.copytree(run.checkpoints, tmp_path / f"{name}{index}")
        places.append(tmp_path / f"{name}{{}}")
    flip(tmp_path / "flipped1" / "30" / "state", "params.layers/fc1/weight")
    flip(tmp_path / "matrix1" / "30" / "weights", "layers", "fc1", "weight")
    for path in (tmp_path / "cut1" / "30" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    command = [RESTORING, 30, tmp_path / "scratch{}", *places]
    with jobs.start(2, command, devices=2) as started:
        outcomes = jobs.finish(started)
    for code, out, err in outcomes:
        assert (code, err) == (0, "")
        whole, flipped, matrix, cut, again = out.splitlines()
        assert whole == again == "restored"
        start, other = f"process 1 of 2: {tmp_path}", "are not those that were saved"
        assert flipped == f"{start}/flipped1/30: its state {other}"
        assert matrix == f"{start}/matrix1/30: its weights {other}"
        assert cut.startswith(f"{start}/cut1/30: cannot be read (")


HANGING = """
import os, sys, threading
from pathlib import Path
import orbax.checkpoint as ocp
from tests.checkpoints import runs

run = runs.make_run(Path(sys.argv[1]))
asked, mkdir = threading.Event(), os.mkdir

def hang(path, *args, **kwargs):
    if "orbax-checkpoint-tmp" in str(path):
        asked.set()
        threading.Event().wait()
    mkdir(path, *args, **kwargs)

os.mkdir = hang
state = run.reached(0)[1]
if sys.argv[2] == "ours":
    writer = run.writer()
    writer.save(7, None, state)
    asked.wait()
    assert not writer.wait(0.01)
    writer.abandon(143)
else:
    manager = ocp.CheckpointManager(run.directory / "checkpoints")
    args = ocp.args.StandardSave({"params": state.params})
    threading.Thread(target=manager.save, args=(7,), kwargs={"args": args}, daemon=True).start()
    asked.wait()
print("the end", flush=True)
"""


def test_a_disk_that_hangs_does_not_keep_an_ended_run_alive(tmp_path):
    process = run_child(HANGING, tmp_path / "run", "ours")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "the end\n", "")


def test_orbaxs_own_manager_would_keep_it_alive(tmp_path):
    """So it is not used alone; where this fails, a newer one may do."""
    process = run_child(HANGING, tmp_path / "run", "theirs")
    assert process.stdout is not None
    assert process.stdout.readline() == "the end\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.kill()
    process.communicate()
