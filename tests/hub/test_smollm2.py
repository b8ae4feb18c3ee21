"""A real model of today, from one GGUF file, is what transformers makes of the same file."""

import numpy as np
import pytest
from fetch_smollm2 import DIRECTORY, NAME
from rich.console import Console

from tests.campaigns import LONG
from zojax.commands.eval import evaluate_config
from zojax.config import Config, DataConfig, ModelConfig, RunConfig
from zojax.engine.loading import load

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PATH = DIRECTORY / NAME
TEXTS = ["A gorgeous, witty, seductive movie.", "The capital of France is Paris; in 2024 …\n\n x"]

QUESTION = "What is the capital of France?"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PATH.is_file(), reason="needs `python scripts/fetch_smollm2.py`"),
]


def test_tensors_tokens_and_logprobs_are_those_of_transformers():
    engine = load(PATH)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        DIRECTORY, gguf_file=NAME, dtype=torch.float32
    )
    tokens = transformers.AutoTokenizer.from_pretrained(DIRECTORY, gguf_file=NAME)
    up = engine.model.weights["layers"]["mlp"]["up_proj"]["weight"]
    reader = gguf.GGUFReader(PATH)
    [stored] = [tensor for tensor in reader.tensors if tensor.name == "blk.7.ffn_up.weight"]
    np.testing.assert_array_equal(up[7], gguf.dequantize(stored.data, stored.tensor_type))
    for text in TEXTS:
        ids = tokens(text)["input_ids"]
        assert engine.tokenizer.prompt(engine.tokenizer.ids(text)) == ids
        with torch.no_grad():
            logprobs = theirs(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()
        expected = logprobs[np.arange(len(ids) - 1), ids[1:]]
        [found] = engine.logprobs([text])
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_it_answers_in_its_own_chat_template():
    tokens = transformers.AutoTokenizer.from_pretrained(DIRECTORY, gguf_file=NAME)
    messages = [{"role": "user", "content": QUESTION}]
    asked = tokens.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    engine = load(PATH)
    item = engine.encode(QUESTION, ["Paris"], "x", chat=True)
    assert item.prompt.tolist() == asked
    [answer] = engine.generate([QUESTION], max_new_tokens=12, chat=True)
    assert (answer.text, answer.finish_reason) == ("The capital of France is Paris.", "stop")


@pytest.mark.parametrize(("calibration", "accuracy"), [("none", 0.516), ("median", 0.690)])
@pytest.mark.skipif(not LONG, reason="takes minutes; with ZOJAX_LONG=1")
def test_its_accuracy_on_sst2_is_the_known_one(calibration, accuracy, shared_data):
    """Measured with another program, MeZO's template, 872 examples."""
    config = Config(
        ModelConfig(str(PATH)),
        RunConfig("nowhere"),
        DataConfig("sst2", str(shared_data / "sst2"), calibration=calibration),
    )
    result = evaluate_config(config, Console(quiet=True))
    assert result["eval_accuracy"] == pytest.approx(accuracy, abs=0.005)
