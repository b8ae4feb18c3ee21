"""What may be written over: a table of targets for each command, and how each is written."""

import errno
import json
import os
import shutil
import stat
import sys
import threading
from pathlib import Path

import filelock
import pytest

from tests.campaigns import some_of
from zojax import outputs
from zojax.commands.eval import _PREDICTED
from zojax.commands.generate import _GENERATED
from zojax.errors import InputError
from zojax.outputs import RowsFile, new_directory
from zojax.printing import OutputLost
from zojax.runs import lock, run_dir

ROW = dict.fromkeys(("index", "name", "prompt", "prediction"), 1)
LINE = json.dumps(ROW) + "\n"


def rows_file(path: Path, **settings) -> RowsFile:
    return RowsFile("--predictions", path, ROW, **settings)


def refused(path: Path, **settings) -> str:
    with pytest.raises(InputError) as caught:
        rows_file(path, **settings)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- Commands and their targets. None of the refusals waits for a model.

OF_RUN = ["config.json", "journal.zj", "metrics.jsonl", "progress.json", "result.json", ".lock"]
ELSEWHERE = {
    "a directory": lambda here: here,
    "below a file": lambda here: here / "file" / "x",
    "no parent": lambda here: here / "none" / "x",
    "a long name": lambda here: here / ("n" * 300),
    "a long path": lambda here: here / "/".join(["n" * 100] * 50),
    "another's file": lambda here: here / "file",
    "a loop": lambda here: here / "loop",
    "a zero byte": lambda here: here / "a\0b",
}
TARGETS = [*OF_RUN, "checkpoints/4/note.json", "tb/x", "link", "hard", *ELSEWHERE]
COMMANDS = {
    "eval": ("eval", "{run}", "--predictions"),
    "eval over": ("eval", "{run}", "--overwrite", "--predictions"),
    "generate": ("generate", "{run}", "--prompt", "a", "--output"),
    "generate over": ("generate", "{run}", "--prompt", "a", "--overwrite", "--output"),
    "replay": ("journal", "replay", "{run}", "--output"),
    "export": ("export", "{run}", "--format", "journal", "--output"),
}
ALLOWED = {("eval over", "another's file"), ("generate over", "another's file")}
CASES = [
    (command, target)
    for command in COMMANDS
    for target in TARGETS
    if (command, target) not in ALLOWED
    # What is made is a directory, and so are the directories above it.
    and not (command in ("replay", "export") and target in ("no parent", "a directory"))
    and not (command.endswith("over") and target == "hard")  # which is replaced; the run's stays
]


@pytest.mark.parametrize(("command", "target"), some_of(CASES, 40))
def test_a_target_that_must_stay_is_refused_in_a_line(
    command, target, run, trained, another, tmp_path, refusal
):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "loop").symlink_to("loop")
    (another / "checkpoints").mkdir()
    (another / "link").symlink_to("journal.zj")
    os.link(another / "journal.zj", another / "hard")
    path = ELSEWHERE[target](tmp_path) if target in ELSEWHERE else another / target
    words = [word.format(run=another) for word in COMMANDS[command]]
    line = refusal(run(*words, path))
    assert words[-1] in line
    assert len(line) < 3_000
    assert (tmp_path / "file").read_text() == "kept"
    for name in OF_RUN:
        assert (another / name).read_bytes() == (trained / name).read_bytes()
    assert not (another / "tb" / "x").exists()


def test_every_file_of_a_run_is_kept(trained):
    assert {*run_dir._WRITTEN} == outputs.RUN_FILES
    directories = {path.name for path in trained.iterdir() if path.is_dir()}
    files = {path.name for path in trained.iterdir()} - directories
    assert files <= outputs.RUN_FILES | {lock.LOCK}
    assert directories <= outputs.RUN_DIRECTORIES


@pytest.mark.parametrize("over", [(), ("--overwrite",)])
def test_what_a_command_reads_is_never_written_over(
    over, run, trained, config_file, tiny_model, tiny_reviews, tmp_path, refusal
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    data = shutil.copytree(tiny_reviews, tmp_path / "data")
    config = Path(shutil.copy(config_file, tmp_path / "its:config.py"))  # which names none
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps(dict.fromkeys(_GENERATED, "a")) + "\n")  # as an older output
    of_config = ("eval", "--config", config, "--set", f"model.path={model}")
    of_config += ("--set", f"data.path={data}", *over, "--predictions")
    of_run = ("eval", trained, "--set", f"data.path={data}", *over, "--predictions")
    of_model = ("generate", "--model", model, "--prompts", prompts, *over, "--output")
    cases = [
        (of_config, [config, data / "train.jsonl", data / "validation.jsonl", *model.iterdir()]),
        (of_run, [data / "validation.jsonl"]),
        (of_model, [prompts, model / "model.safetensors"]),
        # What is not there yet would be found by its name, too.
        (of_config, [model / "added_tokens.json", model / "tokenizer.json", data / "train.csv"]),
        (of_model, [model / "pytorch_model.bin"]),
    ]
    for command, targets in cases:
        for target in targets:
            before = target.read_bytes() if target.exists() else None
            assert str(target) in refusal(run(*command, target))
            assert (target.read_bytes() if target.exists() else None) == before


def test_the_model_of_a_run_is_never_written_over(another, run, refusal):
    model = Path(run_dir.read_config(another).model.path)
    of_run = ("generate", another, "--prompt", "a", "--overwrite", "--output")
    for target in (model / "model.safetensors", model / "vocab.json", model / "tokenizer.json"):
        before = target.read_bytes() if target.exists() else None
        assert str(target) in refusal(run(*of_run, target))
        assert (target.read_bytes() if target.exists() else None) == before


def test_rows_may_stand_beside_a_model(tmp_path):
    rows = RowsFile("--output", tmp_path / "answers.jsonl", ["a"])
    rows.spare_model(tmp_path)
    rows.write([{"a": 1}])
    assert (tmp_path / "answers.jsonl").read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("name", ["/dev/fd/2147483648", "/dev/fd/99999999999999999999"])
def test_a_descriptor_that_no_process_has_is_refused(name):
    with pytest.raises(InputError, match=name):
        RowsFile("--output", Path(name), [])


def test_what_was_written_is_written_anew(run, trained, tmp_path):
    path = tmp_path / "texts.jsonl"
    command = ("generate", trained, "--prompt", "a film", "--max-new-tokens", 2, "--output", path)
    assert run(*command)[0] == 0
    first = path.read_bytes()
    assert json.loads(first).keys() == set(_GENERATED)
    assert run(*command)[0] == 0
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["texts.jsonl"]


def test_predictions_may_stand_beside_the_run(another):
    path = another / "answers.jsonl"
    rows_file(path).write([ROW])
    rows_file(path).write([ROW, ROW])
    assert path.read_text() == 2 * LINE
    assert set(ROW) == set(_PREDICTED)


# --- What is there already

OTHERS = {
    "text": b"kept",
    "other rows": b'{"sentence": "a", "label": 1}\n',
    "one other row": LINE.encode() + b'{"sentence": "a", "label": 1}\n',
    "an array": b"[1]\n",
    "a number": b"1\n",
    "an object of several lines": json.dumps(ROW, indent=1).encode(),
    "a zero byte": LINE.encode() + b"\0",
    "no UTF-8": b"\xff",
    "blank lines": b"\n\n",
    "deep": b"[" * 100_000,
    "NaN": b'{"index": NaN, "name": 1, "prompt": 1, "prediction": 1}\n',
    "a line without end": b" " * (1 << 21),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_replaced_only_if_told(kind, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OTHERS[kind])
    assert "--overwrite" in refused(path)
    assert path.read_bytes() == OTHERS[kind]
    rows_file(path, overwrite=True).write([ROW])
    assert path.read_text() == LINE


@pytest.mark.parametrize("before", [b"", LINE.encode(), 50_000 * LINE.encode()])
def test_an_empty_file_or_an_older_output_is_replaced(before, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(before)
    rows_file(path).write([ROW])
    assert path.read_text() == LINE


def test_what_has_come_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "file"
    output = rows_file(path)
    path.write_text("kept")
    with pytest.raises(InputError, match="contains something else"):
        output.write([ROW])
    assert path.read_text() == "kept"


# --- How it is written


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name, before in (("file", LINE), ("new", None)):
        target, link = tmp_path / "elsewhere" / name, tmp_path / f"link-{name}"
        if before is not None:
            target.write_text(before)
        link.symlink_to(target)
        rows_file(link).write([ROW, ROW])
        assert link.is_symlink()
        assert target.read_text() == 2 * LINE
    assert len([*tmp_path.iterdir()]) == 3


def test_a_files_mode_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text(LINE)
    path.chmod(0o640)
    rows_file(path).write([ROW])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_fifo_is_written_and_stays(tmp_path):
    path, read = tmp_path / "fifo", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
    reader.start()
    rows_file(path).write([ROW])
    reader.join(10)
    assert read == [LINE]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_and_stays(tmp_path):
    null, full = tmp_path / "null", tmp_path / "full"  # links: no test writes over /dev
    null.symlink_to("/dev/null")
    full.symlink_to("/dev/full")
    rows_file(null).write([ROW])
    with pytest.raises(InputError, match="No space left on device"):
        rows_file(full).write([ROW])
    assert all(path.is_symlink() and path.is_char_device() for path in (null, full))


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_rows_on_standard_output_stand_before_what_is_printed_later(name, capfd, monkeypatch):
    print("before")
    rows_file(Path(name)).write([ROW])
    print("after", flush=True)
    assert capfd.readouterr().out == f"before\n{LINE}after\n"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OutputLost):
        rows_file(Path(name)).write([ROW])


def test_no_other_file_that_is_not_open():
    assert "Bad file descriptor" in refused(Path("/dev/fd/987"))


def test_a_full_disk_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text(LINE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        rows_file(path).write([ROW, ROW])
    assert path.read_text() == LINE
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_name_as_long_as_the_disk_takes_it(tmp_path):
    path = tmp_path / ("é" * 127)
    rows_file(path).write([ROW])
    assert path.read_text() == LINE


@pytest.mark.parametrize("denied", ["file", "directory"])
def test_what_may_not_be_written_is_told_before_the_work(denied, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text(LINE)
    not_writable = path if denied == "file" else tmp_path
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != not_writable)  # root may all
    assert f"{not_writable} is not writable" in refused(path)


# --- Directories


def test_a_link_to_an_empty_directory_or_to_none_yet_stays(tmp_path):
    (tmp_path / "empty").mkdir(mode=0o750)
    for name in ("empty", "none"):
        link = tmp_path / f"link-{name}"
        link.symlink_to(name)
        with new_directory(link) as partial:
            (partial / "file").write_text(name)
        assert link.is_symlink()
        assert (tmp_path / name / "file").read_text() == name
    assert len([*tmp_path.iterdir()]) == 4


@pytest.mark.parametrize("held", [[], ["lost+found/"], [".zojax-partial/half", ".zojax-lock"]])
def test_an_empty_directory_is_filled_and_not_replaced(held, tmp_path, monkeypatch):
    target = tmp_path / "mounted"
    target.mkdir()
    for name in held:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).mkdir() if name.endswith("/") else (target / name).touch()
    before = target.stat()
    with new_directory(target) as partial:
        assert partial.parent == target  # on the same disk, so that renames work
        for name in ("weights", "config.json"):
            (partial / name).write_text(name)
        assert [path.name for path in tmp_path.iterdir()] == ["mounted"]  # perhaps not writable
    assert os.path.samestat(before, target.stat())
    left = {path.name for path in target.iterdir()} - {"lost+found"}
    assert left == {"weights", "config.json"}


@pytest.mark.parametrize(
    ("name", "is_stdout"), [("/dev/stdout", True), ("/dev/fd/1", True), ("/dev/stderr", False)]
)
def test_standard_output_is_known_by_each_of_its_names(name, is_stdout):
    assert RowsFile("--output", Path(name), []).is_stdout is is_stdout


def test_a_mounted_file_is_written_to_and_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text(LINE)
    before = path.stat()
    monkeypatch.setattr(os.path, "ismount", lambda asked: Path(asked) == path)
    rows_file(path).write([ROW, ROW])
    assert (path.read_text(), path.stat().st_ino) == (2 * LINE, before.st_ino)


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path):
    def killed() -> None:
        with new_directory(tmp_path / "out") as partial:
            (partial / "half").write_text("half")
            shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-killed"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    left = tmp_path.with_name(f"{tmp_path.name}-killed")  # as it lay there at that moment
    assert len([*left.iterdir()]) == 2
    with new_directory(left / "out") as partial:
        assert not any(partial.iterdir())
        (partial / "whole").write_text("whole")
    assert [path.name for path in left.iterdir()] == ["out"]
    assert [path.name for path in (left / "out").iterdir()] == ["whole"]


def test_a_directory_that_another_process_writes_is_left_alone(tmp_path):
    with new_directory(tmp_path / "out") as partial:
        (partial / "half").write_text("half")
        [lock_file] = [path for path in tmp_path.iterdir() if path.is_file()]
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(lock_file, is_singleton=False).acquire(blocking=False)
        with pytest.raises(InputError, match="another process"), new_directory(tmp_path / "out"):
            pass
        assert (partial / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), FileNotFoundError(2, "No such file", "base/x.bin")]
)
def test_what_fails_while_a_directory_is_made_is_not_blamed_on_it(error, tmp_path):
    with pytest.raises(type(error)) as raised, new_directory(tmp_path / "out"):
        raise error
    assert raised.value is error
    assert not list(tmp_path.iterdir())


def test_a_directory_is_blamed_for_what_its_disk_refuses(tmp_path):
    match = "out: cannot be written"
    with pytest.raises(InputError, match=match), new_directory(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match=match), new_directory(tmp_path / "out") as partial:
        (partial / "absent" / "x").write_text("")


def test_a_directory_that_was_filled_meanwhile_stays(tmp_path):
    def fill() -> None:
        with new_directory(tmp_path / "out"):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine").write_text("kept")

    with pytest.raises(InputError, match="already exists"):
        fill()
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_standard_output_that_is_closed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    rows_file(tmp_path / "file").write([ROW])
