"""The notebook and its text are one, and it runs from top to bottom."""

import sys
import types

import jupytext
import matplotlib.pyplot as plt
import pytest


@pytest.fixture(scope="module")
def text(root) -> str:
    return (root / "examples" / "first_steps.py").read_text()


def test_the_notebook_and_its_text_agree(root, text):
    notebook = jupytext.read(root / "examples" / "first_steps.ipynb")
    ours = jupytext.reads(text, fmt="py:percent")

    def cells(of) -> list[tuple[str, str]]:
        return [(cell.cell_type, cell.source) for cell in of.cells]

    assert cells(notebook) == cells(ours), "run: jupytext --sync examples/first_steps.py"


def test_the_notebook_runs(text, tmp_path, monkeypatch):
    short = text.replace("STEPS, EVERY = 1000, 100", "STEPS, EVERY = 4, 2")
    short = short.replace("num_dev=200, num_eval=600", "num_dev=8, num_eval=8")
    assert short.count("STEPS, EVERY = 4, 2") == short.count("num_eval=8") == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", plt.close)
    main = types.ModuleType("__main__")  # what a notebook's cells run in
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile(short, "examples/first_steps.py", "exec"), vars(main))
    assert list(main.lozo) == list(main.sign_descent) == ["2", "4"]
    assert (tmp_path / "runs" / "signs" / "result.json").exists()
