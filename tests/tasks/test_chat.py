"""Examples as chats: turns, demonstrations, truncation, and what only one of the two can have."""

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.chats import TEMPLATES, chat_model
from zojax.config import Config, DataConfig, ModelConfig, RunConfig
from zojax.errors import InputError
from zojax.hub import load_tokenizer
from zojax.hub.turns import for_chats, run_tokenizer
from zojax.runs.setup import load_data
from zojax.tasks import Example, load_splits, tokenise
from zojax.tasks.calibrate import without_content
from zojax.tasks.chat import as_chat
from zojax.tasks.dataset import get_task
from zojax.tasks.tokenize import fit, frame_of
from zojax.tasks.unlabelled import unlabelled_example

REVIEW = Example("a fine film It was ", (" bad", " great"), 1, "x:1", content_free="It was")
ANSWER = Example("Who ran?\nAnswer:", (" Al\n",), 0, "x:2", answers=("Al",))


def with_room(model: Path) -> Path:
    """A checkpoint whose weights nobody loads, with positions for chats of bytes."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    return model


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("chat") / "m"
    return with_room(chat_model(directory, tiny_model, TEMPLATES["gemma"]))


@pytest.fixture(scope="module")
def tokenizer(model):
    return for_chats(load_tokenizer(str(model), None))


@pytest.fixture(scope="module")
def theirs(model):
    """``theirs("a", "b", "c")``: ids of a chat of the user and the assistant in turn."""
    tokens = AutoTokenizer.from_pretrained(str(model))

    def ids(*said: str) -> list[int]:
        roles = ["user", "assistant"] * len(said)
        messages = [{"role": r, "content": t} for r, t in zip(roles, said, strict=False)]
        asks = len(said) % 2 == 1
        return tokens.apply_chat_template(messages, add_generation_prompt=asks, return_dict=False)

    return ids


def test_only_the_answer_is_scored(tokenizer, theirs):
    item = tokenise(tokenizer, as_chat(REVIEW))
    assert item.prompt.tolist() == theirs("a fine film It was")
    assert [c.tolist() for c in item.candidates] == [tokenizer.ids(t) for t in ("bad", "great")]
    assert (item.label, item.name) == (1, "x:1")


def test_a_generated_answer_includes_the_end_of_its_turn(tokenizer, theirs):
    item = tokenise(tokenizer, as_chat(ANSWER, ends_turn=True))
    whole = [*item.prompt.tolist(), *item.candidates[0].tolist()]
    assert whole == theirs("Who ran?\nAnswer:", "Al")[:-1]  # all but a line break
    assert item.candidates[0][-1] in tokenizer.stop_ids


def test_demonstrations_are_earlier_turns(tokenizer, theirs):
    item = tokenise(tokenizer, as_chat(REVIEW, [REVIEW, ANSWER]))
    said = ("a fine film It was", "great", "Who ran?\nAnswer:", "Al", "a fine film It was")
    assert item.prompt.tolist() == theirs(*said)


def test_the_prompt_without_content_is_a_chat_too(tokenizer, theirs):
    bare = without_content(as_chat(REVIEW, [ANSWER]))
    said = ("Who ran?\nAnswer:", "Al", "It was")
    assert tokenise(tokenizer, bare).prompt.tolist() == theirs(*said)


def limited(tokenizer, example, limit, truncate="left"):
    whole = tokenise(tokenizer, example)
    frame = frame_of(tokenizer, example, whole)
    return fit(whole, max_length=limit, max_positions=1000, truncate=truncate, frame=frame)


def test_truncation_drops_the_first_words_and_keeps_the_template(tokenizer, theirs):
    chat = as_chat(dataclasses.replace(REVIEW, prompt="a fine film"))
    length = len(theirs("a fine film")) + len(tokenizer.ids("bad"))
    item = limited(tokenizer, chat, length - len("a fine "))
    assert item.prompt.tolist() == theirs("film")
    assert limited(tokenizer, chat, length).prompt.tolist() == theirs("a fine film")
    with pytest.raises(InputError, match=r"x:1: the sequence has \d+ tokens, but data.max_length"):
        limited(tokenizer, chat, length - 1, "error")


def test_what_the_template_writes_must_fit(tokenizer, theirs):
    around = len(theirs("z")) - 1 + len(tokenizer.ids("bad"))
    assert limited(tokenizer, as_chat(REVIEW), around).prompt.tolist() == theirs("")
    what = f"x:1: what the chat template writes and a candidate alone are {around} tokens"
    with pytest.raises(InputError, match=what):
        limited(tokenizer, as_chat(REVIEW), around - 1)


def test_an_error_of_the_template_names_the_example(tokenizer):
    with pytest.raises(InputError, match=r"^x:1: .*its chat template: System role not supported$"):
        tokenise(tokenizer, as_chat(REVIEW, system="Be brief."))


@pytest.fixture
def config(model, tmp_path) -> Config:
    rows = [{"q": f"Who is {name}?", "a": name} for name in "abcdefghij"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(
        "custom", str(tmp_path / "rows.jsonl"), 3, 2, 2, prompt="{q}", answer="a", chat=True
    )
    return Config(ModelConfig(str(model)), RunConfig("nowhere"), data=data)


def with_data(config: Config, **changes) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def test_a_runs_examples_are_chats(config, theirs):
    data = load_data(config)
    for example, item in zip(data.splits.train, data.train, strict=True):
        [answer] = example.answers
        whole = [*item.prompt.tolist(), *item.candidates[0].tolist()]
        assert whole == theirs(f"Who is {answer}?", answer)[:-1]
    assert data.tokenizer.chat is not None


def test_demonstrations_of_a_run_are_turns_of_other_rows(config):
    for example in load_splits(with_data(config, num_demos=2).data).train:
        assert example.turns is not None
        assert [role for role, _ in example.turns] == ["user", "assistant"] * 2
        texts = [text for _, text in example.turns]
        assert texts[::2] == [f"Who is {answer}?" for answer in texts[1::2]]
        assert example.answers[0] not in texts[1::2]


def test_a_system_turn_comes_first(config, tiny_model, tmp_path):
    chatml = with_room(chat_model(tmp_path / "chatml", tiny_model, TEMPLATES["chatml"]))
    settings = dataclasses.replace(config, model=ModelConfig(str(chatml)))
    data = load_data(with_data(settings, system="Be brief.", num_demos=1))
    told = data.tokenizer.pieces(data.dev[0].prompt.tolist())
    assert "".join(told).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nW")


def test_a_row_without_a_label_is_the_same_chat(config):
    example = unlabelled_example(config.data, get_task(config.data), {"q": "Who? "}, "a:1")
    assert (example.prompt, example.turns) == ("Who?", ())


def test_what_goes_with_one_kind_of_prompts_is_refused_with_the_other(config, tiny_model):
    with pytest.raises(InputError, match=r"^data.system is the first turn of a chat; --set data"):
        load_splits(with_data(config, chat=False, system="Be brief.").data)
    with_bos = dataclasses.replace(config, model=ModelConfig(config.model.path, bos_token_id=0))
    with pytest.raises(InputError, match=r"^model.bos_token_id=0, but with data.chat the chat"):
        run_tokenizer(with_bos)
    plain = dataclasses.replace(config, model=ModelConfig(str(tiny_model)))
    with pytest.raises(InputError, match=r"its tokenizer has no chat template, so its prompts"):
        load_data(plain)
