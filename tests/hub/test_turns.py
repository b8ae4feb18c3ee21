"""Chats as tokens: those of transformers, with only the answer behind the prompt."""

import pytest
from transformers import AutoTokenizer

from tests.chats import ENDS, TEMPLATES, chat_model
from zojax.errors import InputError
from zojax.hub import load_tokenizer
from zojax.hub.turns import for_chats, frame_of, render_turns

CHATS = {
    "one": [("user", "Is it great?")],
    "blanks and lines": [("user", "  a\n\nb \n")],
    "several": [
        ("user", "great\nfilm"),
        ("assistant", "Yes"),
        ("user", "dull — ö"),
        ("assistant", "No."),
        ("user", "?"),
    ],
    "system": [("system", "Be brief."), ("user", "a")],
}
NO_SYSTEM = {("system", "gemma"), ("system", "mistral")}


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory):
    """A checkpoint for each template."""
    base = tmp_path_factory.mktemp("chats")
    return {name: chat_model(base / name, tiny_model, TEMPLATES[name]) for name in TEMPLATES}


@pytest.fixture(scope="module")
def tokenizers(models):
    return {name: for_chats(load_tokenizer(str(path), None)) for name, path in models.items()}


def theirs(path, turns, **settings) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in turns]
    tokens = AutoTokenizer.from_pretrained(str(path))
    settings = {"date_string": "26 Jul 2024", "enable_thinking": False, **settings}
    return tokens.apply_chat_template(messages, return_dict=False, **settings)


@pytest.mark.parametrize(
    ("name", "chat"),
    [(name, chat) for name in TEMPLATES for chat in CHATS if (chat, name) not in NO_SYSTEM],
)
def test_tokens_are_those_of_transformers(name, chat, models, tokenizers):
    turns, tokenizer = CHATS[chat], tokenizers[name]
    prompt, answers = render_turns(tokenizer, turns, ["great", "no."], ends_turn=True)
    assert tokenizer.ids(prompt) == theirs(models[name], turns, add_generation_prompt=True)
    for said, answer in zip(["great", "no."], answers, strict=True):
        whole = theirs(models[name], [*turns, ("assistant", said)])
        ours = tokenizer.ids(prompt + answer)
        assert ours == whole[: len(ours)]
        assert tokenizer.pieces(ours)[-1] == ENDS.get(name, "<|im_end|>")
        assert tokenizer.text(whole[len(ours) :]).strip() == ""


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_alone_is_what_stands_before_the_end_of_its_turn(name, tokenizers):
    _, answers = render_turns(tokenizers[name], CHATS["several"], ["great", "a b"])
    assert answers == ([" great", " a b"] if name == "mistral" else ["great", "a b"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_generated_answer_ends_with_the_turn_and_bos_is_the_templates(name, tokenizers):
    tokenizer = tokenizers[name]
    end = tokenizer.ids(ENDS.get(name, "<|im_end|>"))
    assert set(end) <= set(tokenizer.stop_ids)
    assert tokenizer.prompt([5]) == [5]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_frame_is_what_is_written_around_the_users_turns(name, tokenizers):
    turns = CHATS["several"]
    frame = frame_of(tokenizers[name].chat, turns)
    prompt, _ = render_turns(tokenizers[name], turns, [])
    assert prompt.startswith(f"{frame.before}great\nfilm")
    assert prompt.endswith(f"?{frame.after}")


def test_a_frame_has_the_systems_turn(tokenizers):
    chat = [("system", "Be brief."), ("user", "a b"), ("assistant", "c"), ("user", "d")]
    frame = frame_of(tokenizers["chatml"].chat, chat)
    assert frame.before == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert frame.after == "<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_stands_alone_where_prompts_begin_thoughts_that_chats_leave_out(
    tiny_model, tmp_path
):
    template = TEMPLATES["chatml"].replace("assistant\n' }}", "assistant\n<think>' }}")
    tokenizer = for_chats(
        load_tokenizer(str(chat_model(tmp_path / "m", tiny_model, template)), None)
    )
    prompt, answers = render_turns(tokenizer, CHATS["one"], ["great"], ends_turn=True)
    assert prompt.endswith("assistant\n<think>")
    assert answers == ["great<|im_end|>"]


def test_a_template_without_special_tokens_ends_an_answer_as_it_is_written(tiny_model, tmp_path):
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = for_chats(
        load_tokenizer(str(chat_model(tmp_path / "m", tiny_model, template)), None)
    )
    assert render_turns(tokenizer, CHATS["one"], ["a"], ends_turn=True) == (
        "user: Is it great?\n\nassistant:",
        [" a\n\n"],
    )
    assert tokenizer.stop_ids == load_tokenizer(tokenizer.path, None).stop_ids


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("a", "its chat template leaves out what the user says"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "its chat template leaves out what the assistant says",
        ),
        (None, "its tokenizer has no chat template"),
    ],
)
def test_a_template_that_writes_no_chat_is_one_line(template, reason, tiny_model, tmp_path):
    tokenizer = load_tokenizer(str(chat_model(tmp_path / "m", tiny_model, template)), None)
    with pytest.raises(InputError, match=reason):
        for_chats(tokenizer)


def test_a_chat_for_plain_prompts_is_refused(models):
    tokenizer = load_tokenizer(str(models["chatml"]), None)
    with pytest.raises(InputError, match="but prompts are plain texts here"):
        render_turns(tokenizer, CHATS["one"], [])
