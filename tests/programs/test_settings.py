"""JAX's settings that change numbers: pinned by the command line, refused or compared elsewhere."""

import json
import os
import re
import subprocess
import sys

import jax
import pytest
from rich.console import Console

from zojax.commands.journal import verify
from zojax.commands.journal_replay import replay_to
from zojax.errors import InputError
from zojax.journal.file import read_journal
from zojax.journal.replay import check_run
from zojax.programs.settings import PINNED, check_chosen, ignore_environment
from zojax.runs.run_dir import read_config
from zojax.runs.setup import prepare

QUIET = Console(quiet=True)
HOSTILE = {
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
    "jax_random_seed_offset": 5,
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_disable_jit": True,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_transfer_guard": "log",
    "jax_error_checking_behavior_nan": "raise",
    "jax_error_checking_behavior_divide": "raise",
    "jax_error_checking_behavior_oob": "raise",
}
"""A value of each that is not its default."""


@pytest.fixture
def changed(request):
    """A setting, changed by the program itself, as a user of the library may have done."""
    name, before = request.param, jax.config.values[request.param]
    jax.config.update(name, HOSTILE[name])
    yield name
    jax.config.update(name, before)


@pytest.mark.parametrize("changed", HOSTILE, indirect=True)
def test_a_program_that_changed_a_setting_is_refused_before_any_number_is_made(changed, trained):
    config = read_config(trained)
    for entry in (
        lambda: verify(trained, QUIET),
        lambda: replay_to(trained, QUIET),
        lambda: prepare(config, QUIET),
    ):
        with pytest.raises(InputError, match=rf"^{changed} is .* in this program, but zojax's"):
            entry()


def test_all_that_is_pinned_is_tried_here():
    assert HOSTILE.keys() == PINNED.keys()


def test_a_setting_in_a_context_is_seen_as_well(trained):
    with jax.enable_x64(True), pytest.raises(InputError, match="jax_enable_x64 is True"):
        verify(trained, QUIET)


def test_the_environments_are_taken_out_and_no_other_variable():
    environment = {name.upper(): "1" for name in HOSTILE} | {"JAX_PLATFORMS": "cpu"}
    ignore_environment(environment)
    assert environment == {"JAX_PLATFORMS": "cpu"}


def test_commands_in_a_hostile_environment_have_the_same_bits(
    trained, config_file, compiled_as_here, run, tmp_path
):
    """All settings at once, in one process: a training and a replay of another's journal."""
    script = f"""
from zojax import cli
assert cli.main(["train", "--config", {str(config_file)!r}, "--set", "run.dir={tmp_path}/a"]) == 0
assert cli.main(["journal", "replay", "--json", {str(trained)!r}]) == 0
assert cli.main(["journal", "replay", "--json", "{tmp_path}/a"]) == 0
"""
    hostile = {name.upper(): str(value) for name, value in HOSTILE.items()}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **compiled_as_here, **hostile},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    of_trained, of_again = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    expected = json.loads(run("journal", "replay", "--json", trained)[1])["content_hash"]
    assert of_trained["content_hash"] == of_again["content_hash"] == expected
    records = [read_journal(path / "journal.zj").records for path in (trained, tmp_path / "a")]
    for name in ("key_data", "losses", "projected_grad"):
        assert records[0][name].tobytes() == records[1][name].tobytes()


def test_a_journal_made_with_other_rounding_is_not_replayed_with_this_one(trained):
    journal, config = read_journal(trained / "journal.zj"), read_config(trained)
    for precision in ("highest", "bfloat16"):
        with (
            jax.default_matmul_precision(precision),
            pytest.raises(
                InputError,
                match=rf"matmul_precision None, .* '{precision}': unset JAX_DEFAULT_",
            ),
        ):
            check_run(journal, config, journal.header.base_hash or "")


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        (
            {"jax_default_matmul_precision": "highest"},
            "'highest', but here it is None: set JAX_DEFAULT_MATMUL_PRECISION=highest in",
        ),
        ({"jax_next_generator": "fast"}, "which this zojax does not know"),
    ],
)
def test_what_a_header_says_of_the_settings_is_compared(recorded, reason):
    with pytest.raises(InputError, match=f"^j.zj: was made with .*{reason}"):
        check_chosen(recorded, "j.zj")


def test_a_chosen_precision_stands_in_the_header(config_file, tmp_path, run):
    with jax.default_matmul_precision("highest"):
        code, _, err = run("train", "--config", config_file, "--set", f"run.dir={tmp_path}/a")
    assert code == 0, err
    settings = read_journal(tmp_path / "a" / "journal.zj").header.settings
    assert settings == {"jax_default_matmul_precision": "highest"}


@pytest.mark.parametrize(
    "variable",
    ["JAX_DEFAULT_MATMUL_PRECISION", "JAX_LOG_COMPILES", "JAX_COMPILATION_CACHE_MAX_SIZE"],
)
def test_a_value_that_jax_cannot_use_is_one_line(variable, trained):
    done = subprocess.run(
        [sys.executable, "-m", "zojax.cli", "journal", "verify", str(trained)],
        env={**os.environ, variable: "[/x]"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"zojax: error: in the environment: .*\[/x\].*\n", done.stderr)
