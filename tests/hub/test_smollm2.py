"""A real model of today, from one GGUF file, is what transformers makes of the same file."""

import numpy as np
import pytest
from fetch_smollm2 import DIRECTORY, NAME

from zojax.engine.loading import load

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PATH = DIRECTORY / NAME
TEXTS = ["A gorgeous, witty, seductive movie.", "The capital of France is Paris; in 2024 …\n\n x"]

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
