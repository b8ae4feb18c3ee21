"""``zojax serve`` begins only if what it is told makes sense."""

import importlib.util
import socket

import pytest

from zojax.commands import serve


def trains(one: str) -> tuple[str, ...]:
    """The options of a server that trains one class of jobs."""
    return "--allow-training-in", "/no/such/tunings", "--train-class", one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0: others can reach it, so a key is needed"),
        (("--adapter", "one"), "--adapter one: give NAME=DIR"),
        (("--adapter", "a=b", "--adapter", "a=c"), "another adapter has this name"),
        (("--api-key", ""), "a key is empty"),
        (("--rows", "0"), "--rows 0: give 1 or more"),
        (("--api-keys", "/no/such/file"), "/no/such/file"),
        (("--max-length", "65"), "--max-length 65: give 32 to 64"),
        (("--model", "/no/such/model"), "/no/such/model"),
        (("/no/such/run",), "/no/such/run: no such directory, so no run"),
        (
            ("--shared-layers", "4"),
            "--shared-layers 4: give 0 to 3, fewer than the model's 4 layers",
        ),
        (("run", "--shared-layers", "1"), "--shared-layers does not go with RUN, which has no"),
        (("--step", "3"), "--step goes with RUN"),
        (("run", "--model", "m"), "--model and --dtype do not go with RUN"),
        (("run", "--adapter", "a=b"), "zojax export RUN --format peft"),
        (("run", "--mesh", "model=2"), "--mesh does not go with RUN"),
        (("--mesh", "4"), "--mesh 4: give data=N, model=N or both"),
        (("--mesh", "data=0"), "--mesh data=0: give data=N, model=N or both"),
        (("--mesh", "data=1,model=3"), "mesh.model=3 does not divide the model's"),
        (("--train-class", "rank=4"), "--train-class goes with --allow-training-in"),
        (trains("rnk=4"), "--train-class rnk=4: no 'rnk'; did you mean rank?"),
        (trains("rank"), "--train-class rank: give KEY=VALUE, each once"),
        (trains("rank=4,rank=8"), "--train-class rank=4,rank=8: give KEY=VALUE, each once"),
        (trains("rank=17"), "rank=17: with estimator=mezo, this server trains adapters of rank 1"),
        (trains("batch_size=0"), "--train-class batch_size=0: batch_size should be greater than"),
        (trains("estimator=sgd"), "estimator should be 'mezo', 'lozo' or 'fzoo'"),
        (trains("tokens=x"), "--train-class tokens=x: tokens should be an integer"),
        (trains("tokens=128"), "--train-class tokens=128: rows have at most 67 here"),
        (trains("tokens=64,candidates=40"), "tokens=64: has no room for a prompt beside"),
        (("--mesh", "data=999,model=1"), "mesh.data=999 × mesh.model=1 takes 999 devices"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(run, refusal, arguments, message):
    assert message in refusal(run("serve", "--port", 0, *arguments))


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(run, refusal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot be used" in refusal(run("serve", "--port", port))


def test_what_is_missing_can_be_installed(run, refusal, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        serve.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    line = refusal(run("serve"))
    assert line == "serve: uvicorn is missing; install it with pip install 'zojax[serve]'"
