"""Where a checkpoint's chat template is, and what it is given."""

import pytest

from tests.chats import TEMPLATES, chat_model
from zojax.errors import InputError
from zojax.hub import load_tokenizer
from zojax.hub.chat_template import find_template

CHAT = [("user", "Hi")]
PLAIN = "{{ messages[0].content }}"


def rendered(directory) -> str:
    tokens = load_tokenizer(str(directory), None).tokens
    [text] = find_template(tokens, str(directory)).render([CHAT], answered=[False])
    return text


@pytest.fixture
def write(tiny_model, tmp_path):
    """``write(template)``: a checkpoint with this in its ``tokenizer_config.json``."""
    return lambda template: chat_model(tmp_path / "model", tiny_model, template)


def test_a_template_is_in_the_tokenizers_configuration(write):
    assert rendered(write(f"1 {PLAIN}")) == "1 Hi"


def test_the_default_of_several_templates_is_used(write):
    named = {"tool_use": "no", "default": f"2 {PLAIN}", "rag": "no"}
    templates = [{"name": name, "template": text} for name, text in named.items()]
    assert rendered(write(templates)) == "2 Hi"


def test_a_file_of_its_own_comes_before_the_configuration(write):
    directory = write("no")
    (directory / "chat_template.jinja").write_text(f"3 {PLAIN}")
    (directory / "chat_templates").mkdir()
    (directory / "chat_templates" / "tool_use.jinja").write_text("no")
    assert rendered(directory) == "3 Hi"


def test_a_template_gets_what_transformers_gives_it(write):
    names = ("bos_token", "eos_token", "tools", "documents", "add_generation_prompt")
    given = " ".join(f"{{{{ {name} }}}}" for name in (*names, "enable_thinking"))
    assert rendered(write(given)) == "<s> </s> None None True False"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "its tokenizer has no chat template, so its prompts are plain texts: leave out"),
        (" \n", "its tokenizer has no chat template"),
        ([{"name": "rag", "template": PLAIN}], "has chat templates for rag, but none that is the"),
        (PLAIN + " " * (1 << 20), "its chat template has 1,048,601 characters, more than 1,048,5"),
        ("{% for", "its chat template: unexpected 'end of template'"),
    ],
)
def test_no_template_or_a_bad_one_is_one_line(template, reason, write):
    directory = write(template)
    with pytest.raises(InputError) as refused:
        rendered(directory)
    assert str(refused.value).startswith(f"{directory}: {reason}")


def test_the_date_is_always_the_same(write):
    assert "Today Date: 26 Jul 2024" in rendered(write(TEMPLATES["llama3"]))
