"""The command line: its help, how commands end, and what they print as processes."""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zojax
import zojax.runs.train
from zojax import cli
from zojax.cli import make_parser
from zojax.errors import InputError
from zojax.programs.stopping import Stopped

# --- Help


def parsers() -> dict[str, argparse.ArgumentParser]:
    parser = make_parser()
    [commands] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return {"zojax": parser, **commands.choices}


@pytest.mark.parametrize("name", parsers())
def test_every_argument_is_explained_and_every_command_has_an_example(name):
    parser = parsers()[name]
    assert re.search(rf"^ +zojax {'train' if name == 'zojax' else name} ", parser.epilog, re.M)
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, action


def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser, and those of its commands and their actions."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    below = [leaf for action in nested for p in action.choices.values() for leaf in leaves(p)]
    return [parser, *below]


@pytest.mark.parametrize("prog", [parser.prog for parser in leaves(make_parser())])
def test_help_fits_80_columns(prog, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    [parser] = [parser for parser in leaves(make_parser()) if parser.prog == prog]
    too_wide = [line for line in parser.format_help().splitlines() if len(line) > 80]
    assert too_wide == []


@pytest.mark.parametrize("name", parsers())
def test_help_is_printed_with_exit_code_0(run, name):
    code, out, err = run(*([] if name == "zojax" else [name]), "--help")
    assert (code, err) == (0, "")
    assert "example" in out


def test_zojax_alone_prints_its_help(run):
    assert run() == run("--help")


def test_examples_parse(root, monkeypatch):
    monkeypatch.chdir(root)
    for parser in parsers().values():
        text = parser.epilog.replace("\\\n", " ")
        for line in re.findall(r"^ +zojax (.*)$", text, re.M):
            arguments = make_parser().parse_args(shlex.split(line, comments=True))
            if arguments.command == "train":
                assert Path(arguments.config).is_file()


def test_version_is_the_packages(run):
    assert run("--version") == (0, f"zojax {zojax.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train"],
        ["train", "--config", "x.py", "--sett", "a=b"],
        ["train", "--conf", "x.py"],
        ["export", "runs/x", "--output", "out"],
        ["eval", "runs/x", "--step", "-1"],
        ["eval", "runs/x", "--step", "ten"],
        ["score", "--model", "m", "--text", "t"],
        ["score", "--model", "m", "--text", "t", "--candidate", "c", "--dtype", "int2"],
    ],
    ids=" ".join,
)
def test_arguments_that_cannot_be_parsed_end_with_usage_and_exit_code_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: zojax")
    assert "error: " in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["trian", "--config", "x.py"], "no command 'trian'; did you mean train?"),
        (["zzz"], "argument COMMAND: invalid choice: 'zzz'"),
        (["train", "--config", "x.py", "--steps", "5"], "did you mean --set train.steps=5?"),
        (["train", "--config", "x.py", "--num-demos=4"], "did you mean --set data.num_demos=4?"),
        (["plan", "--target", "t", "--mesh.model=4"], "did you mean --set mesh.model=4?"),
        (
            ["train", "--config", "x.py", "--seed=1"],
            "did you mean --set data.seed=1 or --set train.seed=1?",
        ),
        (["train", "--config", "x.py", "--no-such", "5"], "unrecognized arguments: --no-such 5\n"),
        (["configs", "--steps=5"], "--steps=5\n"),
        (["score", "--steps=5"], "--steps=5; did you mean --step?"),
        (["train", "--steps", "5"], "did you mean --set train.steps=5?"),
        (["train", "--confg", "x.py"], "unrecognized arguments: --confg x.py; did you mean"),
        (["train", "mine.py"], "did you mean --config mine.py?"),
        (["score", "--candiate=c"], "--candiate=c; did you mean --candidate?"),
        (["data", "preview", "--cnfig", "x.py"], "--cnfig x.py; did you mean --config"),
        (["generate", "--stop", "---"], "begins with - as --stop=VALUE"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(run, arguments, reason):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("score --model demo-run --text a --candidate b", "demo-run: is a run, not a checkpoint"),
        ("score --model lora --text a --candidate b", "lora: is an adapter; give its base model"),
        ("generate model --prompt a", "model: is a model, not a run"),
        ("eval model", "model: is a model, not a run"),
        ("eval demo-rum", "no such directory, so no run; did you mean demo-run?"),
        ("generate elsewhere --prompt a", "elsewhere: no such directory, so no run"),
        ("train --config c.yaml", "--config c.yaml: is YAML, not Python; give a Python file"),
        ("train --config demo-run/config.json", "is JSON, not Python; give a Python file"),
    ],
)
def test_one_thing_in_the_place_of_another_is_named(
    run, refusal, tmp_path, monkeypatch, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    for file, text in [
        ("demo-run/journal.zj", ""),
        ("demo-run/config.json", "{}"),
        ("lora/adapter_config.json", "{}"),
        ("model/config.json", '{"model_type": "opt"}'),
        ("c.yaml", "train: {steps: 5}"),
    ]:
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(text)
    assert reason in refusal(run(*arguments.split()))


def test_a_home_is_found_where_the_shell_does_not_look(run, refusal, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in (
        ["generate", "--model=~/m", "--prompt=a", "--output=~/none/x"],
        ["export", "~/run", "--format=hf", "--output=~/x"],
        ["train", "--config=~/c.py"],
        ["data", "preview", "--config=~/c.py"],
    ):
        line = refusal(run(*arguments))
        assert str(tmp_path) in line
        assert "~" not in line


def test_a_file_of_an_option_is_no_configuration(run, refusal, tmp_path):
    (tmp_path / "nothing_in_it.py").write_text("")
    for option in (
        ["--allow-module", tmp_path / "nothing_in_it.py"],
        [f"--allow-module={tmp_path}/nothing_in_it.py"],
    ):
        assert "no run" in refusal(run("generate", tmp_path / "none", "--prompt=a", *option))


def test_help_waits_for_no_library_that_takes_long():
    heavy = "{'jax', 'numpy', 'pydantic', 'transformers'} & set(sys.modules)"
    program = f"import sys, zojax.cli as cli; cli.make_parser(); print(*({heavy}))"
    assert finish(start("-c", program, program=())) == (0, "\n", "")


# --- Exit codes


def test_an_interrupt_while_setting_up_ends_with_130_and_no_traceback(
    run, config_file, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(zojax.runs.train, "train", interrupted)
    code, _, err = run("train", "--config", config_file)
    assert (code, err) == (130, "\nzojax: interrupted\n")


@pytest.mark.parametrize("exit_code", [130, 143])
def test_a_run_that_was_stopped_says_so_and_ends_with_its_own_code(
    exit_code, run, config_file, monkeypatch
):
    def stop(*_):
        raise Stopped("stopped after step 3", exit_code)

    monkeypatch.setattr(zojax.runs.train, "train", stop)
    assert run("train", "--config", config_file) == (exit_code, "stopped after step 3\n", "")


def test_an_error_of_several_lines_is_printed_as_one(run, config_file, monkeypatch, refusal):
    def refuse(*_):
        raise InputError("first\nsecond")

    monkeypatch.setattr(zojax.runs.train, "train", refuse)
    assert refusal(run("train", "--config", config_file)) == "first second"


def test_mistakes_of_the_program_itself_are_not_passed_off_as_the_users(
    run, config_file, monkeypatch
):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(zojax.runs.train, "train", fail)
    with pytest.raises(ZeroDivisionError):
        run("train", "--config", config_file)


# --- Processes of their own


def start(*arguments, program=("-m", "zojax.cli"), **environment) -> subprocess.Popen:
    """Starts a command in a process of its own, as quiet and as loud as it is for users."""
    ours = {*cli._QUIET, "JAX_COMPILATION_CACHE_DIR"}
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.Popen(
        [sys.executable, *map(str, (*program, *arguments))],
        env=inherited | {"JAX_PLATFORMS": "cpu"} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_the_libraries_keep_quiet_and_programs_are_cached(tiny_model, tmp_path):
    command = ["score", f"--model={tiny_model}", "--text=It was", "--candidate= great", "--json"]
    code, out, err = finish(start(*command, XDG_CACHE_HOME=str(tmp_path)))
    assert (code, err) == (0, "")
    assert json.loads(out)["candidates"][0]["candidate"] == " great"
    assert any((tmp_path / "zojax" / "compiled").iterdir())


def test_a_cache_that_cannot_be_written_is_told_of_in_a_line(tiny_model, tmp_path):
    (tmp_path / "zojax").write_text("no directory")
    command = ["score", f"--model={tiny_model}", "--text=It was", "--candidate= great", "--json"]
    code, out, err = finish(start(*command, XDG_CACHE_HOME=str(tmp_path)))
    assert code == 0
    assert json.loads(out)["candidates"][0]["candidate"] == " great"
    assert str(tmp_path / "zojax" / "compiled") in err
    assert err.count("\n") == 1


def test_the_script_is_the_command(config_file, root, refusal):
    command = ["--config", config_file, "--set", "train.lr=1"]
    script = start(*command, program=[root / "scripts" / "train.py"])
    refusals = [refusal(finish(process)) for process in (script, start("train", *command))]
    assert refusals[0] == refusals[1]
    assert refusals[0].endswith("did you mean train.learning_rate?")


def test_ctrl_c_stops_cleanly_and_what_was_done_is_kept(
    root, config_file, tmp_path, run, compiled_as_here, refusal
):
    directory = tmp_path / "run"
    settings = [f"run.dir={directory}", "train.steps=6000", "space.fold=none"]
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    process = start(
        *("--config", config_file, *arguments),
        program=[root / "scripts" / "train.py"],
        **compiled_as_here,
    )
    deadline, metrics = time.monotonic() + 300, directory / "metrics.jsonl"
    while not (metrics.exists() and '"loss"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, err) == (130, "")
    stopped = re.search(r"stopped after step (\d+) of 6000", out)
    assert stopped is not None
    code, out, _ = run("eval", directory, "--step", stopped[1], "--json")
    assert (code, json.loads(out)["step"]) == (0, int(stopped[1]))
    line = refusal(run("eval", directory, "--step", int(stopped[1]) + 1))
    assert line.endswith(f"holds {stopped[1]} steps, not {int(stopped[1]) + 1}")
