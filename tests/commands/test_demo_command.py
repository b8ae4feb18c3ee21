"""``zojax demo``: what it says at its end, and that a wheel has all that it takes."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from zojax import demo

SHORT = (
    *("train.steps=4", "train.batch_size=2", "train.eval_every=4", "train.chunk=2"),
    *("data.num_train=12", "data.num_dev=4", "data.num_eval=8"),
)
SETTINGS = [argument for setting in SHORT for argument in ("--set", setting)]
DATA = {
    f"zojax/demo/{path.relative_to(demo.MODEL.parent)}"
    for path in [*demo.MODEL.iterdir(), *demo.REVIEWS.iterdir()]
}

pytestmark = pytest.mark.slow


def test_it_trains_where_it_is_told_to_and_says_what_to_try_next(run, tmp_path):
    directory = tmp_path / "a run"
    code, out, err = run("demo", "--dir", directory, *SETTINGS)
    assert (code, err) == (0, "")
    prompt = '--prompt "a gripping film . It was" --max-new-tokens 1'
    assert out.splitlines()[-2:] == [
        f"next     zojax eval '{directory}'",
        f"         zojax generate '{directory}' {prompt}",
    ]
    assert json.loads((directory / "config.json").read_text())["run"]["dir"] == str(directory)
    code, _, err = run("demo", "--dir", directory, "--fresh", *SETTINGS)
    assert (code, err) == (0, "")
    assert (tmp_path / "a run.1" / "journal.zj").is_file()


def test_its_settings_are_a_configurations(run, refusal):
    line = refusal(run("demo", "--set", "train.stepps=4"))
    assert "did you mean train.steps?" in line


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """The wheel of the source distribution, so that both are tried."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"  # a copy, since a build leaves files behind
    shutil.copytree(root / "zojax", source / "zojax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    _build("sdist", source)
    [archive] = (source / "dist").iterdir()
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    unpacked = directory / archive.name.removesuffix(".tar.gz")
    _build("wheel", unpacked)
    [wheel] = (unpacked / "dist").iterdir()
    return wheel


def _build(kind: str, source: Path) -> None:
    program = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    (source / "dist").mkdir()
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True)


def test_the_wheel_has_the_package_its_page_and_the_demos_data_and_nothing_else(wheel, root):
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    code = {str(path.relative_to(root)) for path in (root / "zojax").rglob("*.py")}
    page = {name for name in held if name.startswith("zojax/serving/dashboard/")} - code
    assert {name.rpartition(".")[2] for name in page} == {"html", "css", "js", "svg"}
    assert held == code | DATA | page


def test_the_demo_runs_from_the_unpacked_wheel_in_an_empty_directory(
    wheel, run, compiled_as_here, tmp_path
):
    site, empty = tmp_path / "site", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "zojax.cli", "demo", *SETTINGS],
        cwd=empty,
        env=os.environ | compiled_as_here | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2] == "next     zojax eval runs/demo"
    assert os.listdir(empty) == ["runs"]
    directory = empty / "runs" / "demo"
    config = json.loads((directory / "config.json").read_text())
    assert config["model"]["path"] == str(site / "zojax" / "demo" / "model")
    assert config["data"]["path"] == str(site / "zojax" / "demo" / "reviews")
    code, out, _ = run("eval", directory, "--json")  # which is another directory's business
    result = json.loads((directory / "result.json").read_text())
    assert (code, json.loads(out)["eval_accuracy"]) == (0, result["eval_accuracy"])
