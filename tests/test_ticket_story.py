"""The story of docs/tutorial.md: a table becomes a model, by the page's own commands."""

import csv
import json
import random
import re
import runpy
import shlex
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import zojax
from tests.kept_programs import kept_programs

LABELS = {"question", "complaint", "praise"}
SHORTER = {
    "train.steps": 450,
    "train.batch_size": 8,
    "train.eval_every": 75,
    "train.learning_rate": 5e-4,
    "data.max_length": 46,  # of most tickets, so that one program holds all batches
}
"""What a test waits for; the page trains 2,000 steps of 16 tickets."""


def commands(page: str) -> list[list[str]]:
    """The page's commands, in their order."""
    fences = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [shlex.split(line, comments=True) for fence in fences for line in fence.splitlines()]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tickets(root):
    """The program that made the table."""
    return runpy.run_path(str(root / "scripts" / "make_tickets.py"))


@pytest.fixture
def clone(root, tmp_path, monkeypatch) -> Path:
    """A directory in which the page's commands run as in a clone."""
    for name in ("scripts", "zojax"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_becomes_a_model_by_the_pages_commands(
    root, clone, run, tickets, monkeypatch, tmp_path_factory
):
    told = {}
    for command in commands((root / "docs" / "tutorial.md").read_text()):
        program, name, *_ = command
        if program == "python":
            monkeypatch.setattr("sys.argv", command[1:])
            tickets["main"]()
            continue
        assert program == "zojax", command
        shorter = SHORTER.items() if name == "train" else ()
        settings = [part for field, value in shorter for part in ("--set", f"{field}={value}")]
        steps = kept_programs(tmp_path_factory.mktemp("steps"), quickly=False)
        with steps if name == "train" else nullcontext():  # hundreds of steps, of one program
            code, out, err = run(*command[1:], *settings)
        assert code == 0, (command, err)
        told[name] = out
    rows = table(clone / "tickets.csv")
    assert len(rows) == 400
    for odd in (",", '"', "\n", "😀"):
        assert any(odd in row["body"] for row in rows), odd
    assert {row["queue"] for row in rows} == LABELS
    assert "Columns 'subject', 'body' are read" in told["init"]
    assert "label 0 ' question': 105 (41.0 %)" in told["data"]
    for label in LABELS:
        assert re.search(rf"^{label} .*[0-9]$", told["train"], re.MULTILINE)  # its F1 and others
    _check_result(clone / "runs" / "tickets", rows)
    _check_predictions(clone / "answers.csv", tickets)
    _check_peft(clone, rows)


def _check_result(run: Path, rows: list[dict[str, str]]) -> None:
    """It has learnt more than which queue has the most tickets."""
    result = json.loads((run / "result.json").read_text())
    most = max(sum(row["queue"] == label for row in rows) for label in LABELS) / len(rows)
    assert result["eval_examples"] == 80
    assert result["eval_accuracy"] > most + 0.15
    for picture in ("curves.png", "confusion.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")


def _check_predictions(answers: Path, tickets: dict) -> None:
    """Every row is kept, and most are sorted into the queue that the program had in mind."""
    rng = random.Random(7)
    tickets["rows"](rng, 400)
    truth = tickets["rows"](rng, 40, first=401)
    predicted = table(answers)
    assert [row["body"] for row in predicted] == [row[2].lstrip("'") for row in truth]
    assert {row["prediction"] for row in predicted} <= LABELS
    right = sum(row["prediction"] == told[3] for row, told in zip(predicted, truth, strict=True))
    assert right > 0.5 * len(truth)
    for row in predicted:
        shares = {label: float(row[f"probability_{label}"]) for label in LABELS}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == max(shares, key=lambda label: shares[label])


def _check_peft(clone: Path, rows: list[dict[str, str]]) -> None:
    """The LoRA scores tickets in PEFT as the run's model does here."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    texts = [f"Subject: {row['subject']}\nBody: {row['body']}\nQueue:" for row in rows[:3]]
    base = clone / "zojax" / "demo" / "model"
    tokens = transformers.AutoTokenizer.from_pretrained(base)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(plain, clone / "tickets-lora").eval()
    for text, ours in zip(texts, zojax.load_run("runs/tickets").logprobs(texts), strict=True):
        ids = torch.tensor([tokens(text)["input_ids"]])
        with torch.no_grad():
            theirs = model(ids).logits.log_softmax(-1)[0, :-1]
            with model.disable_adapter():
                untrained = model(ids).logits.log_softmax(-1)[0, :-1]
        at = (torch.arange(ids.shape[1] - 1), ids[0, 1:])
        np.testing.assert_allclose(ours, theirs[at].numpy(), atol=2e-3)
        assert np.abs(ours - untrained[at].numpy()).max() > 0.1  # it has learnt something
