"""Where compiled programs are kept: as XDG says, never in the working directory."""

from pathlib import Path

import jax
import pytest

from zojax.programs.cache import keep_programs, kept_until_the_end


@pytest.mark.parametrize("given", ["", "caches", "./caches", "~/caches", None])
def test_what_is_no_absolute_path_is_as_if_it_were_not_set(given, tmp_path, monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    jax.config.update("jax_compilation_cache_dir", "")  # JAX_COMPILATION_CACHE_DIR=
    try:
        keep_programs()
        expected = tmp_path / "home" / ".cache" / "zojax" / "compiled"
        assert jax.config.values["jax_compilation_cache_dir"] == str(expected)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


LEAST = "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def unset():
    """No directory is set; what was set is put back."""
    names = ("jax_compilation_cache_dir", LEAST)
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_that_are_kept_nowhere_are_kept_until_the_end(unset, tmp_path):
    with kept_until_the_end():
        directory = Path(jax.config.values["jax_compilation_cache_dir"])
        assert directory.is_dir()
    assert not directory.exists()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update(LEAST, 1.0)  # as JAX has it if a user sets the directory alone
    with kept_until_the_end():
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
        assert jax.config.values[LEAST] == 0
    assert jax.config.values[LEAST] == 1
    assert tmp_path.is_dir()
