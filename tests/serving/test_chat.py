"""``/v1/chat/completions`` answers what the engine answers to the same chat."""

import openai
import pytest
import transformers
from fastapi.testclient import TestClient

import zojax
from tests.serving.conftest import Running
from zojax.engine.requests import Token
from zojax.serving import chat, completions
from zojax.serving.app import create_app
from zojax.serving.choices import Shown
from zojax.serving.schema import ChatBody, CompletionBody

SAID = "a gripping film"
CHAT = [{"role": "user", "content": SAID}]
GREEDY = {"model": "demo", "messages": CHAT, "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(chatting):
    with TestClient(create_app(chatting)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(chat_model):
    engine = zojax.load(chat_model)
    return engine.generate([SAID], max_new_tokens=12, chat=True)[0]


def ask(client, status=200, **body):
    answer = client.post("/v1/chat/completions", json={**GREEDY, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_answers_are_those_of_the_engine(client, chat_model, expected):
    answer = ask(client, n=2)
    for choice in answer["choices"]:
        assert choice["message"]["content"] == expected.text
        assert choice["finish_reason"] == expected.finish_reason
    tokens = transformers.AutoTokenizer.from_pretrained(chat_model)
    ids = tokens.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    parts = [{"type": "text", "text": "a gripping"}, {"type": "text", "text": " film"}]
    again = ask(client, messages=[{"role": "user", "content": parts}])
    assert again["choices"][0]["message"]["content"] == expected.text


def test_an_answer_may_fill_what_the_model_has(client):
    answer = ask(client, max_tokens=None, ignore_eos=True)
    assert answer["usage"]["total_tokens"] == 64
    assert ask(client, max_completion_tokens=3)["usage"]["completion_tokens"] <= 3


def test_openais_client_understands_answers_and_streams(chatting, expected):
    running = Running(chatting)
    try:
        with openai.OpenAI(
            base_url=f"{running.url}/v1",
            api_key="none",
            max_retries=0,
            _strict_response_validation=True,
        ) as client:
            answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2)
            [choice] = answer.choices
            assert choice.message.content == expected.text
            tokens = choice.logprobs.content
            assert "".join(token.token for token in tokens) == expected.text
            for token in tokens:
                assert token.top_logprobs[0].logprob == token.logprob
                assert bytes(token.bytes).decode() == token.token
            options = {"include_usage": True}
            *parts, last = client.chat.completions.create(
                **GREEDY, n=2, stream=True, stream_options=options
            )
    finally:
        running.server.handle_exit(15, None)
        running.thread.join(30)
        chatting.is_draining = False
    for i in range(2):
        mine = [part.choices[0] for part in parts if part.choices[0].index == i]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content for choice in mine) == expected.text
        assert mine[-1].finish_reason == expected.finish_reason
    assert last.usage.completion_tokens == 2 * len(expected.tokens)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "messages: "),
        ({"messages": "hello"}, "messages: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages: "),
        ({"messages": [{"role": "user", "content": "refused"}]}, "not this"),
        ({"messages": [{"role": "user", "content": "a " * 64}]}, "no room for more"),
        ({"messages": [{"role": "user", "content": "a" * 20_000}]}, "has 20,000 characters"),
        ({"top_logprobs": 2}, "top_logprobs: goes with logprobs=true"),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"response_format": {"type": "xml"}}, "response_format: "),
        ({"max_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, body, message):
    for stream in (False, True):
        error = ask(client, 400, **body, stream=stream)["error"]
        assert message in error["message"]


def test_a_chat_is_tokenised_as_transformers_does(client, chat_model):
    tokens = transformers.AutoTokenizer.from_pretrained(chat_model)
    for more in ([], [{"role": "assistant", "content": "It was great"}]):
        chat = [*CHAT, *more]
        body = {"messages": chat, "add_generation_prompt": not more, "return_token_strs": True}
        found = client.post("/tokenize", json=body).json()
        ids = tokens.apply_chat_template(chat, add_generation_prompt=not more, return_dict=False)
        assert found["tokens"] == ids
        assert found["count"] == len(ids)
        assert "".join(found["token_strs"]) == tokens.decode(ids)
    for body in ({}, {"messages": CHAT, "prompt": "a"}, {"messages": []}):
        assert client.post("/tokenize", json=body).status_code == 400


def test_a_model_without_a_template_says_so(service):
    said = ask(TestClient(create_app(service)), 400)["error"]["message"]
    assert said == "this model has no chat template that can be used; ask /v1/completions"


def test_tokens_that_are_parts_of_characters_share_a_text_and_have_no_bytes(service):
    broken = "\N{REPLACEMENT CHARACTER}"
    first, second = [id_ for id_ in range(1024) if service.token_text(id_) == broken][:2]
    shown = [Shown(Token(first, -2.0, ((second, -1.0),)), 0)]
    turns = [{"role": "user", "content": "a"}]
    chat_body = ChatBody.model_validate({"messages": turns, "logprobs": True})
    told = chat._logprobs(service, chat_body, shown)
    assert told is not None
    assert (told["content"][0]["token"], told["content"][0]["bytes"]) == (broken, None)
    body = CompletionBody.model_validate({"prompt": "a", "logprobs": 1})
    told = completions._logprobs(service, body, shown)
    assert (told["token_logprobs"], told["top_logprobs"]) == ([-2.0], [{broken: -1.0}])
