"""A base model with an adapter on a task, against PEFT and torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from zojax.commands.eval import evaluate_config
from zojax.errors import InputError
from zojax.runs.setup import load_data

QUIET = Console(quiet=True)
WORDS = ["good", "bad", "long", "great", "dull", "fine", "warm", "cold", "poor", "rich"]
COUNT = 30


@pytest.fixture
def adapter(export_runs, tmp_path) -> Path:
    """Random, and large enough to turn answers."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=4, lora_alpha=40, target_modules="all-linear", init_lora_weights=False
    )
    base = export_runs.transformers_model(export_runs.bases["as 350M"])
    peft.get_peft_model(base, settings).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def write_reviews(directory: Path, labels: list[int]) -> None:
    rng = np.random.default_rng(0)
    directory.mkdir(exist_ok=True)
    for split in ("train", "validation"):
        sentences = [f"the {' '.join(rng.choice(WORDS, 4))} film" for _ in labels]
        records = [
            {"sentence": sentence, "label": label}
            for sentence, label in zip(sentences, labels, strict=True)
        ]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (directory / f"{split}.jsonl").write_text(text)


def answers(model, items) -> list[int]:
    """What torch makes of each example."""
    import torch

    found = []
    for item in items:
        assert all(len(candidate) == 1 for candidate in item.candidates)
        words = [int(candidate[0]) for candidate in item.candidates]
        with torch.no_grad():
            logits = model(torch.tensor(item.prompt[None], dtype=torch.int64)).logits[0, -1]
        found.append(int(logits[words].argmax()))
    return found


def test_an_adapter_is_evaluated_as_peft_would(adapter, export_runs, tmp_path):
    config = export_runs.config(tmp_path / "run", "as 350M")
    config.data.path, config.data.num_eval = str(tmp_path / "reviews"), COUNT
    write_reviews(tmp_path / "reviews", [0] * COUNT)
    items = load_data(config).eval
    adapted = answers(export_runs.peft_model("as 350M", adapter), items)
    plain = answers(export_runs.transformers_model(export_runs.bases["as 350M"]), items)
    turned = sum(one != other for one, other in zip(adapted, plain, strict=True))
    assert turned >= 3

    # Labels that the adapter has right, but for two; items are in another order than the file.
    line = [int(item.name.rpartition(":")[2]) - 1 for item in items]
    labels = [0] * COUNT
    for i, (at, answer) in enumerate(zip(line, adapted, strict=True)):
        labels[at] = answer if i >= 2 else 1 - answer
    write_reviews(tmp_path / "reviews", labels)
    told = evaluate_config(config, QUIET, adapter)
    assert (
        told
        | {
            "adapter": str(adapter),
            "metric": "accuracy",
            "eval_accuracy": (COUNT - 2) / COUNT,
            "eval_examples": COUNT,
        }
        == told
    )


def test_an_adapter_of_another_base_is_refused(adapter, export_runs, tmp_path):
    config = export_runs.config(tmp_path / "run", "pre-LN")
    with pytest.raises(InputError, match=r"extra tensor .*project_in"):
        evaluate_config(config, QUIET, adapter)
