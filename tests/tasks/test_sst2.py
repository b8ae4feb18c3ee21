"""SST-2's prompts, character by character, as MeZO's templates write them."""

import json
import shutil

import pytest

from zojax.hub.tokenizer import Tokenizer, load_tokenizer
from zojax.tasks.sst2 import render_sst2
from zojax.tasks.tokenize import tokenise


def mezo_encode(sentence: str) -> str:
    """``SST2Template.encode`` and what ``encode_prompt`` strips of it (MeZO, large_models)."""
    text = sentence.strip()
    return f"{text} It was".strip(" ").lstrip()


def mezo_verbalize(sentence: str, label: int) -> str:
    """``SST2Template.verbalize`` and what ``encode_prompt`` strips of it."""
    text = sentence.strip()
    return f"{text} It was {({0: 'terrible', 1: 'great'})[label]}".strip(" ").lstrip()


SENTENCES = [
    "a gripping film ",
    "  padded on both sides\t ",
    "no blank at the end",
    "it 's   spaced , within . ",
    "ends with It was",
    "\u2019typographic\u2019 caf\u00e9 ",
    "",
    "   ",
]


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("label", [0, 1])
def test_prompt_and_candidates_are_mezos(sentence, label):
    example = render_sst2({"sentence": sentence, "label": label}, "train:1")
    assert example.prompt == mezo_encode(sentence)
    for candidate in (0, 1):
        text = example.prompt + example.candidates[candidate]
        assert text == mezo_verbalize(sentence, candidate)


def test_label_0_is_terrible_and_1_is_great():
    for label, word in ((0, " terrible"), (1, " great")):
        example = render_sst2({"sentence": "x", "label": label}, "validation:7")
        assert example.candidates[example.label] == word
        assert example.name == "validation:7"


@pytest.fixture(scope="module")
def opt_tokenizer(shared_data, tiny_model, tmp_path_factory) -> Tokenizer:
    """The published OPT tokenizer beside a configuration with as many tokens."""
    directory = tmp_path_factory.mktemp("opt")
    for file in (shared_data / "opt-tokenizer").iterdir():
        shutil.copyfile(file, directory / file.name)
    config = (tiny_model / "config.json").read_text()
    (directory / "config.json").write_text(config.replace("1024", "50272"))
    return load_tokenizer(str(directory), 0)


def test_published_tokenizer_makes_each_word_one_token(opt_tokenizer, shared_data):
    vocab = json.loads((shared_data / "opt-tokenizer" / "vocab.json").read_text())
    item = tokenise(opt_tokenizer, render_sst2({"sentence": "a cat ", "label": 1}, "x"))
    assert [c.tolist() for c in item.candidates] == [[vocab["Ġterrible"]], [vocab["Ġgreat"]]]
    assert item.prompt[0] == 0
    assert item.num_computed == len(item.prompt)
    assert item.num_reads == 1


def test_published_tokenizer_encodes_whole_prompts_as_transformers_does(opt_tokenizer):
    for sentence in SENTENCES:
        example = render_sst2({"sentence": sentence, "label": 0}, "x")
        item = tokenise(opt_tokenizer, example)
        for candidate, text in zip(item.candidates, example.candidates, strict=True):
            with_native_bos = opt_tokenizer.tokens(example.prompt + text)["input_ids"]
            assert with_native_bos[0] == 2
            assert [*item.prompt.tolist(), *candidate.tolist()] == [0, *with_native_bos[1:]]
