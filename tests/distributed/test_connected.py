"""Processes that JAX connects agree, and end together, whatever ends one of them."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests.distributed import jobs
from zojax.distributed import processes
from zojax.errors import BAD_INPUT, LOST, TERMINATED

SCRIPT = Path(__file__).with_name("connected.py")
PREFIX = "zojax: error: "


def end(what: str, count: int = 2) -> list[jobs.Outcome]:
    with jobs.start(count, [SCRIPT, what]) as started:
        return jobs.finish(started, 60)


def test_what_the_leader_decides_and_what_any_cannot_do_is_known_to_all():
    for code, out, err in end("agreement"):
        assert (code, err) == (0, "")
        assert out.splitlines()[1:] in (
            [
                "['leader', 0, 0.1]",
                "[0, 1]",
                f"own {own}",
                "length 8000000",
                "what 0 cannot read",
                "process 1 of 2: what 1 cannot read",
            ]
            for own in range(2)
        )


@pytest.mark.parametrize("victim", [0, 2])
def test_a_lost_process_ends_the_others_with_one_line(victim):
    with jobs.start(3, [SCRIPT, "wait"]) as started:
        for job in started:
            while job.stdout is not None and "ready" not in job.stdout.readline():
                assert job.poll() is None, job.communicate()
        time.sleep(1.5)  # signs of life
        began = time.monotonic()
        started[victim].send_signal(signal.SIGKILL)
        outcomes = jobs.finish(started, 60)
    assert time.monotonic() - began < jobs.LOST_AFTER + 10
    for index, (code, _, err) in enumerate(outcomes):
        if index != victim:
            assert code == LOST
            [line] = [line for line in err.splitlines() if line.startswith(PREFIX)]
            wanted = f"process {victim} of 3 was lost; give the same command again, .*"
            assert re.fullmatch(wanted, line.removeprefix(PREFIX))
            # JAX logs that the leader is gone, now and then behind this line.
            assert victim == 0 or err == f"{line}\n"


def test_a_stop_that_one_hears_stops_all():
    began = time.monotonic()
    outcomes = end("stop_one")
    assert [code for code, _, _ in outcomes] == [TERMINATED] * 2
    assert [err for _, _, err in outcomes] == [""] * 2
    assert time.monotonic() - began < 40


def test_what_one_cannot_read_ends_all_and_the_leader_tells():
    outcomes = end("bad_input")
    assert [code for code, _, _ in outcomes] == [BAD_INPUT] * 2
    assert [err for _, _, err in outcomes] == [
        f"{PREFIX}process 1 of 2: what 1 cannot read\n",
        "",
    ]


def test_a_mistake_of_one_is_dumped_there_alone():
    (code, _, err), (other, _, dump) = end("error")
    assert (code, err) == (1, f"{PREFIX}process 1 of 2: ZeroDivisionError: a mistake\n")
    assert other == 1
    assert dump.startswith("Traceback")


def test_a_process_that_goes_another_way_is_an_error_and_reads_nothing_of_the_others():
    (code, _, err), (other, out, dump) = end("other_ways")
    mistake = "RuntimeError: process 0 is at 'left' where process 1 is at 'right'"
    assert (code, err) == (1, f"{PREFIX}process 1 of 2: {mistake}\n")
    assert other == 1
    assert "leader" not in out
    assert dump.splitlines()[-1] == mistake


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # a batch script
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),  # a shell of salloc
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a pod of no job
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_a_process_joins_others_where_a_launcher_started_several(environment, expected):
    assert processes._is_in_job(environment) == expected


def test_an_incomplete_environment_names_what_is_missing(monkeypatch):
    for name in (processes.ADDRESS, processes.NUMBER, processes.INDEX):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(processes.NUMBER, "2")
    with pytest.raises(processes.InputError, match="JAX_COORDINATOR_ADDRESS is not set; several"):
        processes.connect()


def test_one_process_is_alone(monkeypatch):
    monkeypatch.setenv(processes.NUMBER, "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with processes.connected():
        assert processes.is_alone()
        assert processes.is_leader()
