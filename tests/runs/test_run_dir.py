"""Files of a run are whole or not there, and a directory is never taken from another run."""

import os
from pathlib import Path

import pytest

from zojax.config import Config, ModelConfig, RunConfig, apply_overrides, to_dict
from zojax.errors import InputError
from zojax.files import write_atomically, write_json
from zojax.journal.file import JOURNAL
from zojax.reading import read_json
from zojax.runs import lock
from zojax.runs.run_dir import CONFIG, holds_run, read_config, remove_partials, set_aside


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(ModelConfig("m"), RunConfig(str(tmp_path / "run")))


@pytest.fixture
def directory(config) -> Path:
    """A run, as far as its directory goes."""
    directory = Path(config.run.dir)
    directory.mkdir()
    write_json(directory / CONFIG, to_dict(config))
    (directory / JOURNAL).write_bytes(b"precious")
    return directory


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, full)
            with pytest.raises(OSError, match="No space left"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(tmp_path):
    files = (CONFIG, JOURNAL, "metrics.jsonl", "progress.json", "result.json", "curves.png")
    partial = [f".{name}-{pid}" for name in files for pid in (7, 123456)]
    kept = [*files, lock.LOCK, ".mine-7", ".progress.json-x", f".{JOURNAL}", "progress.json-7"]
    for name in (*partial, *kept):
        (tmp_path / name).write_text("{")
    remove_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_what_is_written_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def note(*arguments, name=name, original=original):
            done.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, note)
    write_atomically(tmp_path / "file", b"data")
    assert done == ["fsync", "replace"]


def test_the_configuration_of_a_run_comes_back_as_it_was(config, directory):
    assert read_config(directory) == config


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\x00"])
def test_json_that_is_no_object_is_named(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: "):
        read_json(path)


def test_the_same_configuration_finds_its_run_again(config, directory):
    assert holds_run(directory, config)


def test_the_place_of_a_run_is_no_part_of_what_it_is(config, directory):
    assert holds_run(directory, apply_overrides(config, ["run.dir=elsewhere"]))


@pytest.mark.parametrize("override", ["train.seed=1", "model.dtype=bfloat16", "data.path=x"])
def test_any_other_field_makes_it_another_run(config, directory, override):
    name = override.partition("=")[0]
    with pytest.raises(InputError, match=rf"another run, which differs in {name} \(there "):
        holds_run(directory, apply_overrides(config, [override]))


def test_free_are_missing_empty_and_hardly_begun_directories(config, tmp_path):
    assert not holds_run(tmp_path / "a" / "b", config)
    assert not (tmp_path / "a").exists(), "asking makes nothing"
    begun = tmp_path / "begun"
    begun.mkdir()
    assert not holds_run(begun, config)
    for name in (CONFIG, f".{CONFIG}-123", f".{JOURNAL}-123"):
        (begun / name).write_text("{")
        assert not holds_run(begun, config)


@pytest.mark.parametrize("name", ["n" * 300, "/".join(["n" * 99] * 50), "a\0b", "loop", "run/tb/x"])
def test_a_place_where_no_run_can_be_is_refused_in_a_line(name, config, directory):
    (directory.parent / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"^run\.dir ") as caught:
        holds_run(directory.parent / name, config)
    assert str(caught.value).isprintable()


def test_a_journal_alone_is_never_overwritten(config, directory):
    (directory / CONFIG).unlink()
    with pytest.raises(InputError, match="holds files but no run"):
        holds_run(directory, config)
    assert (directory / JOURNAL).read_bytes() == b"precious"


def begin(directory: Path) -> None:
    """Makes the journal of a new run."""
    directory.mkdir()
    (directory / JOURNAL).write_bytes(b"new")


def test_set_aside_makes_room_keeps_what_was_there_and_says_where_at_once(directory):
    told = []
    with set_aside(directory, told.append) as aside:
        assert told == [f"the previous run is kept in {aside}"]
        assert not directory.exists()
        begin(directory)
    assert aside == directory.with_name("run.1")
    assert (aside / JOURNAL).read_bytes() == b"precious"
    assert (directory / JOURNAL).read_bytes() == b"new"
    assert len(told) == 1


@pytest.mark.parametrize("error", [InputError("bad input"), KeyboardInterrupt()])
@pytest.mark.parametrize("left", [None, (), (CONFIG, lock.LOCK, f".{JOURNAL}-12", f".{CONFIG}-12")])
def test_set_aside_puts_a_run_back_if_no_other_has_begun(directory, error, left):
    told = []

    def fail() -> None:
        with set_aside(directory, told.append):
            if left is not None:
                directory.mkdir()
                for name in left:
                    (directory / name).write_text("{")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (directory / JOURNAL).read_bytes() == b"precious"
    assert list(directory.parent.iterdir()) == [directory]
    assert told[1:] == [f"no new run began; the previous run is in {directory} again"]


@pytest.mark.parametrize("name", [JOURNAL, "notes.txt"])
def test_set_aside_never_removes_what_is_worth_keeping(directory, name):
    with set_aside(directory, lambda line: None) as aside:
        directory.mkdir()
        (directory / name).write_bytes(b"new")
    assert (directory / name).read_bytes() == b"new"
    assert (aside / JOURNAL).read_bytes() == b"precious"


def test_set_aside_leaves_a_directory_in_which_another_process_begins(directory):
    told = []
    with set_aside(directory, told.append) as aside:
        directory.mkdir()
        holding = lock.hold(directory)
        holding.__enter__()
    holding.__exit__(None, None, None)
    assert (aside / JOURNAL).read_bytes() == b"precious"
    assert directory.exists()
    assert len(told) == 1


def test_set_aside_refuses_a_run_in_use(directory):
    with (
        lock.hold(directory),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
        set_aside(directory, pytest.fail),
    ):
        pass
    assert list(directory.parent.iterdir()) == [directory]


def test_set_aside_works_from_inside_the_directory(directory, monkeypatch):
    monkeypatch.chdir(directory)
    with set_aside(Path("."), lambda line: None) as aside:
        begin(directory)
    assert aside == directory.with_name("run.1")


def test_set_aside_leaves_alone_what_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "notes.txt"):
        with set_aside(path, pytest.fail) as aside:
            assert aside is None
            assert path.exists() == (path.name != "nothing")


def test_set_aside_leaves_alone_a_model(tmp_path):
    for name in (CONFIG, "model.safetensors"):
        (tmp_path / name).write_text("mine")
    with set_aside(tmp_path, pytest.fail) as aside:
        assert aside is None
        assert (tmp_path / "model.safetensors").exists()


def test_a_directory_that_cannot_be_renamed_is_an_error_of_one_line(directory, monkeypatch):
    def busy(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with (
        pytest.raises(InputError, match=f"^run.dir {directory} cannot be renamed: Device or res"),
        set_aside(directory, pytest.fail),
    ):
        pass
