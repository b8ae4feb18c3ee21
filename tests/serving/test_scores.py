"""``/v1/score`` and the routes of tokens answer what the engine and transformers find."""

import numpy as np
import pytest
import transformers

import zojax

PROMPT, CANDIDATES = "a gripping film . It was", [" great", " terrible", " a gripping film"]


def ask(client, path="/v1/score", status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_candidates_have_the_engines_scores(client, engine):
    answer = ask(client, prompt=PROMPT, candidates=CANDIDATES)
    [expected] = engine.score([PROMPT], CANDIDATES)
    np.testing.assert_allclose(answer["scores"], expected, atol=2e-5)
    for text, one, total in zip(CANDIDATES, answer["candidates"], expected, strict=True):
        assert one["tokens"] == engine.tokenizer.ids(text)
        assert sum(one["token_logprobs"]) == pytest.approx(total, abs=2e-5)
    ids = {
        "prompt": engine.tokenizer.prompt(engine.tokenizer.ids(PROMPT)),
        "candidates": [engine.tokenizer.ids(text) for text in CANDIDATES],
    }
    assert ask(client, **ids)["scores"] == pytest.approx(answer["scores"], abs=1e-5)


def test_labels_have_the_probabilities_that_transformers_finds(client, engine):
    items, labels = [" a dull film .", " a gripping film ."], [333, 338, 5]
    model = transformers.AutoModelForCausalLM.from_pretrained(zojax.demo.MODEL).double()
    for first in (False, True):
        body = {"query": PROMPT, "items": items, "label_token_ids": labels, "item_first": first}
        wholes = [item + PROMPT if first else PROMPT + item for item in items]
        expected = []
        for whole in wholes:
            ids = engine.tokenizer.prompt(engine.tokenizer.ids(whole))
            logits = model(
                transformers.BatchEncoding({"input_ids": [ids]}, tensor_type="pt").input_ids
            )
            expected.append(logits.logits[0, -1].softmax(-1)[labels].detach().numpy())
        found = ask(client, **body)["scores"]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        shares = ask(client, **body, apply_softmax=True)["scores"]
        total = np.sum(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(shares, np.array(expected) / total, rtol=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give prompt and candidates, or query"),
        ({"prompt": "a", "candidates": []}, "give prompt and candidates, or query"),
        ({"prompt": "a", "candidates": [[5]]}, "both as texts or both as tokens"),
        ({"prompt": [2, 5], "candidates": [[]]}, "one has no token"),
        ({"prompt": "a", "candidates": ["", " b"]}, "tokenises to nothing"),
        ({"prompt": "a", "candidates": [" b"] * 2}, "tokenises like"),
        ({"prompt": "a", "candidates": [" b"] * 2000}, "more than 1024"),
        ({"prompt": [1024], "candidates": [[5]]}, "has token 1024"),
        ({"query": "a", "items": [[3]], "label_token_ids": [4]}, "both as texts or both as tokens"),
        ({"query": "a", "items": ["b"], "label_token_ids": [1024]}, "has token 1024"),
    ],
)
def test_what_cannot_be_scored_is_refused(client, body, message):
    assert message in ask(client, status=400, **body)["error"]["message"]


def test_texts_that_are_too_long_are_refused_before_they_are_put_together(client, service):
    long = "a" * (256 * service.max_length)
    labels = [5]
    for body in (
        {"query": long + "a", "items": ["b"] * 1024, "label_token_ids": labels},
        {"query": "b", "items": [long + "a"], "label_token_ids": labels},
        {"prompt": long + "a", "candidates": ["b"] * 1024},
    ):
        assert "characters" in ask(client, status=400, **body)["error"]["message"]
    refused = ask(client, status=400, query=long, items=["b"] * 1025, label_token_ids=labels)
    assert "more than 1024" in refused["error"]["message"]
    refused = ask(client, status=400, query=long, items=["b"] * 1024, label_token_ids=labels)
    assert "not tokenised at once" in refused["error"]["message"]


def test_tokens_and_texts_are_those_of_the_tokenizer(client, engine):
    text = "a gripping film , né"
    found = ask(client, "/tokenize", prompt=text, return_token_strs=True)
    ids = engine.tokenizer.ids(text)
    assert found["tokens"] == [2, *ids]
    assert (found["count"], found["max_model_len"]) == (len(ids) + 1, 64)
    assert found["token_strs"][:2] == ["</s>", "a"]
    assert ask(client, "/tokenize", prompt=text, add_special_tokens=False)["tokens"] == ids
    assert ask(client, "/detokenize", tokens=ids) == {"prompt": text}
    assert "0 to 1023" in str(ask(client, "/detokenize", status=400, tokens=[1024]))
    info = client.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == ("</s>", "</s>")
