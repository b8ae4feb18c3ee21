"""``/v1/completions`` answers what the engine in a program of one's own generates and scores."""

import json
import math

import numpy as np
import pytest

import zojax

PROMPTS = ["a gripping film", "a dull", "it was"]
PATH = "/v1/completions"


def ask(client, status: int = 200, **body):
    answer = client.post(PATH, json={"temperature": 0, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def texts(answer) -> list[str]:
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["text"] for choice in answer["choices"]]


def events(client, **body):
    answer = client.post(PATH, json={"temperature": 0, "stream": True, **body})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module")
def expected(engine):
    """What offline generation finds, greedily."""
    return engine.generate(PROMPTS, max_new_tokens=12)


def test_texts_are_those_of_the_engine(client, engine, expected):
    answer = ask(client, prompt=PROMPTS, max_tokens=12)
    assert texts(answer) == [one.text for one in expected]
    assert [c["finish_reason"] for c in answer["choices"]] == [o.finish_reason for o in expected]
    before = sum(len(engine.tokenizer.prompt(engine.tokenizer.ids(text))) for text in PROMPTS)
    after = sum(len(one.tokens) for one in expected)
    assert answer["usage"] == {
        "prompt_tokens": before,
        "completion_tokens": after,
        "total_tokens": before + after,
    }


def test_tokens_as_a_prompt_mean_the_same_as_their_text(client, engine, expected):
    ids = [engine.tokenizer.prompt(engine.tokenizer.ids(text)) for text in PROMPTS]
    assert texts(ask(client, prompt=ids, max_tokens=12)) == [one.text for one in expected]
    assert texts(ask(client, prompt=ids[1], max_tokens=12)) == [expected[1].text]


def test_a_stream_is_the_same_text_bit_by_bit(client, expected):
    found = events(client, prompt=PROMPTS, max_tokens=12, stream_options={"include_usage": True})
    *parts, last = found
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == sum(len(one.tokens) for one in expected)
    assert {part["id"] for part in found} == {last["id"]}
    for i, one in enumerate(expected):
        mine = [part["choices"][0] for part in parts if part["choices"][0]["index"] == i]
        assert "".join(choice["text"] for choice in mine) == one.text
        assert [choice["finish_reason"] for choice in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == one.finish_reason
        assert len(mine) >= 3  # of 12 tokens, the first, and at most 8 with each call


def test_stop_strings_end_texts_where_the_engine_ends_them(client, engine):
    for stop in (["in"], [" ,", "e"], ["never to be found"]):
        offline = engine.generate(PROMPTS, max_new_tokens=12, stop=stop)
        answer = ask(client, prompt=PROMPTS, max_tokens=12, stop=stop)
        assert texts(answer) == [one.text for one in offline]
        streamed = events(client, prompt=PROMPTS[0], max_tokens=12, stop=stop)
        assert "".join(part["choices"][0]["text"] for part in streamed) == offline[0].text
    shown = ask(
        client, prompt=PROMPTS[0], max_tokens=12, stop="in", include_stop_str_in_output=True
    )
    assert texts(shown)[0].endswith("in")


def test_an_echo_has_the_log_probabilities_of_the_prompt(client, engine):
    answer = ask(client, prompt=PROMPTS, echo=True, logprobs=0, max_tokens=0)
    assert texts(answer) == PROMPTS
    for choice, logprobs in zip(answer["choices"], engine.logprobs(PROMPTS), strict=True):
        found = choice["logprobs"]
        assert found["token_logprobs"][0] is None  # BOS
        np.testing.assert_allclose(found["token_logprobs"][1:], logprobs, atol=2e-5)
        assert "".join(found["tokens"][1:]) == choice["text"]
        assert found["text_offset"][:2] == [0, 0]
        for token, offset in zip(found["tokens"][1:], found["text_offset"][1:], strict=True):
            assert choice["text"][offset:].startswith(token)


def test_log_probabilities_are_those_of_scoring_the_whole_text(client, engine):
    answer = ask(client, prompt=PROMPTS[0], echo=True, logprobs=3, max_tokens=4)
    [choice] = answer["choices"]
    [whole] = engine.logprobs([choice["text"]])
    found = choice["logprobs"]
    np.testing.assert_allclose(found["token_logprobs"][1:], whole, atol=5e-5)
    rows = list(zip(*list(found.values())[:3], strict=True))
    assert found["top_logprobs"][0] is None
    for token, logprob, top in rows[1:]:
        assert len(top) in (3, 4)  # with the token itself
        assert top[token] == logprob
    assert [top[token] == max(top.values()) for token, _, top in rows[-4:]] == [True] * 4
    assert not all(top[token] == max(top.values()) for token, _, top in rows[1:-4])
    streamed = events(client, prompt=PROMPTS[0], echo=True, logprobs=3, max_tokens=4)
    for field in found:
        joined = [x for part in streamed for x in part["choices"][0]["logprobs"][field]]
        if field == "token_logprobs":
            np.testing.assert_allclose(joined[1:], found[field][1:], atol=5e-5)
        elif field != "top_logprobs":
            assert joined == found[field]


def test_no_token_is_added_if_none_is_asked_for(client):
    [choice] = ask(client, prompt=PROMPTS[0], max_tokens=0)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    found = events(client, prompt=PROMPTS[0], max_tokens=0, echo=True, n=2)
    assert [part["choices"][0]["text"] for part in found] == [PROMPTS[0]] * 2


def test_the_same_seed_gives_the_same_samples(client):
    def sampled(seed):
        body = {"prompt": PROMPTS[0], "n": 3, "temperature": 1.0, "max_tokens": 12, "seed": seed}
        return texts(ask(client, **body))

    first = sampled(5)
    assert len(set(first)) == 3
    assert sampled(5) == first
    assert sampled(2**40) != first


def test_best_of_gives_the_most_probable(client, engine):
    body = {"prompt": PROMPTS[0], "temperature": 1.0, "max_tokens": 6, "seed": 1, "logprobs": 0}

    def means(answer):
        return [np.mean(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]]

    every = means(ask(client, n=5, **body))
    best = means(ask(client, n=2, best_of=5, **body))
    np.testing.assert_allclose(best, sorted(every, reverse=True)[:2], atol=1e-5)


def test_biases_and_penalties_are_obeyed(client, engine):
    [token] = engine.tokenizer.ids(" film")
    answer = ask(client, prompt="a", max_tokens=3, logit_bias={str(token): 100})
    assert texts(answer) == [" film film film"]
    answer = ask(
        *(client,),
        prompt="a",
        max_tokens=3,
        logit_bias={str(token): 100},
        presence_penalty=2,
        frequency_penalty=2,
    )
    assert texts(answer)[0].startswith(" film")


def test_ends_can_be_ignored_and_others_given(client, engine, expected):
    [*_, end] = engine.tokenizer.stop_ids
    bias = {str(end): 100}
    ended = ask(client, prompt="a", max_tokens=5, logit_bias=bias)
    assert [c["finish_reason"] for c in ended["choices"]] == ["stop"]
    assert ended["usage"]["completion_tokens"] == 1
    going_on = ask(client, prompt="a", max_tokens=5, logit_bias=bias, ignore_eos=True)
    assert going_on["usage"]["completion_tokens"] == 5
    third = expected[0].tokens[2]
    stopped = ask(client, prompt=PROMPTS[0], max_tokens=12, stop_token_ids=[third])
    assert stopped["usage"]["completion_tokens"] == expected[0].tokens.index(third) + 1


def test_a_null_limit_means_what_the_model_has(client):
    answer = ask(client, prompt=PROMPTS[0], max_tokens=None, ignore_eos=True)
    assert answer["usage"]["total_tokens"] == 64


def test_a_models_name_chooses_the_adapter(client, loras):
    answers = {
        name: texts(ask(client, prompt=PROMPTS, max_tokens=8, model=name))
        for name in ("demo", "one", "two")
    }
    assert len({tuple(found) for found in answers.values()}) == 3
    for name in ("one", "two"):
        alone = zojax.load(zojax.demo.MODEL, adapter=loras / name)
        assert answers[name] == [g.text for g in alone.generate(PROMPTS, max_new_tokens=8)]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "prompt: Field required"),
        ({"prompt": 3}, 400, "prompt: "),
        ({"prompt": []}, 400, "prompt: give a text"),
        ({"prompt": [[]]}, 400, "prompt: has no token"),
        ({"prompt": [-1]}, 400, "prompt: "),
        ({"prompt": [2**40]}, 400, "prompt: "),
        ({"prompt": [1024]}, 400, "has token 1024, but the model's are 0 to 1023"),
        ({"prompt": "a", "n": "2"}, 400, "n: Input should be a valid integer"),
        ({"prompt": "a", "n": 129}, 400, "n: "),
        ({"prompt": ["a"] * 64, "n": 3}, 400, "n: with all prompts this makes 192 texts"),
        ({"prompt": "a", "n": 2, "best_of": 1}, 400, "best_of: give n or more"),
        ({"prompt": "a", "stream": True, "best_of": 2}, 400, "best_of: a stream cannot"),
        ({"prompt": "a", "temperature": -1}, 400, "temperature: "),
        ({"prompt": "a", "top_p": 0}, 400, "top_p: "),
        ({"prompt": "a", "stop": ""}, 400, "stop: a stop string is empty"),
        ({"prompt": "a", "logprobs": 21}, 400, "logprobs: "),
        ({"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias: "),
        ({"prompt": "a", "logit_bias": {"1024": 1}}, 400, "no token 1024"),
        ({"prompt": "a", "max_tokens": 63}, 400, "65 together; the most is 64"),
        ({"prompt": "a " * 64}, 400, "no room for more"),
        ({"prompt": "a " * 64, "max_tokens": 0}, 400, "more than 64 tokens"),
        ({"prompt": "a" * 20_000}, 400, "has 20,000 characters"),
        ({"prompt": "a", "suffix": "b"}, 400, "suffix is not supported"),
        ({"prompt": "a", "model": "gpt-4"}, 404, "no such model"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_shape(client, body, status, message):
    for stream in (False, True):
        error = ask(client, status, **{"stream": stream, **body})["error"]
        assert message in error["message"]
        assert error.keys() == {"message", "type", "param", "code"}


def test_unknown_fields_are_ignored(client, expected):
    body = {"prompt": PROMPTS[0], "max_tokens": 12, "user": "me", "of_tomorrow": {"a": 1}}
    assert texts(ask(client, **body, suffix=None, min_tokens=0, n=None, top_p=None, stop=None)) == [
        expected[0].text
    ]


def test_numbers_that_json_does_not_have_are_refused(client):
    for body in ('{"prompt": "a", "temperature": NaN}', '{"prompt": "a', "[" * 100_000, "null"):
        answer = client.post(PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not math.isnan(ask(client, prompt="a", logprobs=0)["usage"]["total_tokens"])
