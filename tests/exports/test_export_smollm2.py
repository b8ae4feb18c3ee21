"""A real model of today, trained for some steps from one GGUF file, is the same model elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from fetch_smollm2 import DIRECTORY, NAME
from rich.console import Console

import zojax
from zojax.config import (
    Config,
    DataConfig,
    LinearConfig,
    LozoConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from zojax.exports.export import export_run
from zojax.runs.train import train

pytest.importorskip("gguf")
peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PATH = DIRECTORY / NAME
TEXTS = ["A gorgeous, witty, seductive movie. It was great", "The capital of France is Paris;"]
TOLERANCE = 1e-3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PATH.is_file(), reason="needs `python scripts/fetch_smollm2.py`"),
]


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    """Six steps of LoZO, with nothing folded, so that a LoRA holds all of them."""
    config = Config(
        model=ModelConfig(str(PATH)),
        data=DataConfig("sst2", str(shared_data / "sst2"), num_train=24, num_dev=8, num_eval=8),
        train=TrainConfig(steps=6, batch_size=4, learning_rate=3e-5, eval_every=6, chunk=6),
        estimator=LozoConfig(rank=2, interval=50),
        space=LinearConfig(fold="none"),
        run=RunConfig(str(tmp_path_factory.mktemp("run") / "run")),
    )
    train(config, Console(quiet=True))
    return Path(config.run.dir)


@pytest.fixture(scope="module")
def expected(run) -> list[np.ndarray]:
    """Log-probabilities by zojax; the base model's are others."""
    ours = zojax.load_run(run, step=6).logprobs(TEXTS)
    base = zojax.load(PATH).logprobs(TEXTS)
    assert min(np.abs(a - b).max() for a, b in zip(ours, base, strict=True)) > 30 * TOLERANCE
    return ours


def base_of_transformers():
    return transformers.AutoModelForCausalLM.from_pretrained(
        DIRECTORY, gguf_file=NAME, dtype=torch.float32
    )


def assert_scored_alike(theirs, tokenizer, expected) -> None:
    for text, ours in zip(TEXTS, expected, strict=True):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logprobs = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
        found = logprobs[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(ours, found, atol=TOLERANCE)


def test_peft_loads_the_lora_on_the_models_own_file(run, expected, tmp_path):
    told = export_run(run, "peft", tmp_path / "lora", Console(quiet=True), step=6)
    assert (told["rank"], told["relative_error"]) == (2, 0)
    theirs = peft.PeftModel.from_pretrained(base_of_transformers(), str(tmp_path / "lora")).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(DIRECTORY, gguf_file=NAME)
    assert_scored_alike(theirs, tokenizer, expected)


def test_transformers_loads_the_checkpoint_with_its_tokenizer(run, expected, tmp_path):
    export_run(run, "hf", tmp_path / "hf", Console(quiet=True), step=6)
    directory = str(tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert_scored_alike(
        theirs.eval(), transformers.AutoTokenizer.from_pretrained(directory), expected
    )
