"""From prompts and candidates to token ids: borders, truncation, and what cannot be scored."""

import json
import shutil

import numpy as np
import pytest

from zojax.errors import InputError
from zojax.hub.tokenizer import Tokenizer, load_tokenizer
from zojax.tasks import Example
from zojax.tasks.tokenize import fit, frame_of, only_right_candidate, tokenise

LIMITS = {"max_length": 2048, "max_positions": 64, "truncate": "error"}


@pytest.fixture(scope="module")
def tokenizer(tiny_model) -> Tokenizer:
    return load_tokenizer(str(tiny_model), None)


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A copy to damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


class Letters:
    """A tokenizer of one token a letter, but for one pair that merges into a token of its own."""

    def __init__(self, merged: str = ""):
        self.merged = merged

    def __call__(self, text: str, *, add_special_tokens: bool):
        assert not add_special_tokens
        if self.merged and self.merged in text:
            left, right = text.split(self.merged)
            return {"input_ids": [*map(ord, left), 999, *map(ord, right)]}
        return {"input_ids": [*map(ord, text)]}


def letters(merged: str = "", vocab_size: int = 1000, bos: int | None = 2) -> Tokenizer:
    return Tokenizer(Letters(merged), bos, vocab_size)


def encode(tokenizer: Tokenizer, example: Example, **limits):
    item = tokenise(tokenizer, example)
    return fit(item, frame=frame_of(tokenizer, example, item), **limits)


def codes(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def as_lists(item):
    return item.prompt.tolist(), [c.tolist() for c in item.candidates]


def test_native_bos_is_the_checkpoints_and_an_override_replaces_it_alone(tiny_model, tokenizer):
    other = load_tokenizer(str(tiny_model), 0)
    example = Example("a fine film It was", (" great",), 0, "x")
    native, overridden = (tokenise(t, example).prompt for t in (tokenizer, other))
    assert (native[0], overridden[0]) == (2, 0)
    np.testing.assert_array_equal(native[1:], overridden[1:])
    assert native.dtype == np.int32


def test_prompt_and_candidate_tokens_are_those_of_the_whole_text(tokenizer):
    example = Example("the acting is fine It was", (" great", " terribly dull"), 1, "x:3")
    item = tokenise(tokenizer, example)
    assert len(item.candidates[1]) > 1
    for ids, text in zip(item.candidates, example.candidates, strict=True):
        whole = tokenizer.tokens(example.prompt + text)["input_ids"]
        assert [*item.prompt, *ids] == whole
    assert (item.label, item.name) == (1, "x:3")


def test_candidate_is_tokenised_alone_where_a_merge_crosses_the_border():
    prompt, [crossing, plain] = as_lists(tokenise(letters("ab"), Example("xa", ("bc", "d"), 0, "")))
    assert prompt == [2, *codes("xa")]
    assert crossing == codes("bc")
    assert plain == codes("d")


def test_empty_text_is_a_prompt_of_bos_alone(tokenizer):
    prompt, [candidate] = as_lists(tokenise(tokenizer, Example("", (" great",), 0, "x")))
    assert prompt == [2]
    assert candidate == tokenizer.ids(" great")


def mezo_truncate(encoding: list[int], max_length: int) -> list[int]:
    """``encode_prompt``'s truncation (MeZO, large_models/utils.py), for tokenizers with a BOS."""
    return encoding[0:1] + encoding[1:][-(max_length - 1) :]


@pytest.mark.parametrize("limit", [2, 3, 7, 13, 14, 15])
@pytest.mark.parametrize("by", ["max_length", "max_positions"])
def test_left_truncation_drops_what_mezo_drops_and_keeps_bos(limit, by):
    example = Example("abcdefghijkl", ("y", "z"), 0, "x")
    limits = {"max_length": 100, "max_positions": 100, by: limit}
    prompt, candidates = as_lists(encode(letters(), example, **limits, truncate="left"))
    for candidate, text in zip(candidates, example.candidates, strict=True):
        expected = mezo_truncate([2, *codes(example.prompt + text)], limit)
        assert prompt + candidate == expected


def test_longest_candidate_decides_how_much_of_a_shared_prompt_is_dropped():
    example = Example("abcdefgh", ("y", "uvw"), 0, "x")
    prompt, candidates = as_lists(
        encode(letters(), example, max_length=8, max_positions=64, truncate="left")
    )
    assert prompt + candidates[1] == mezo_truncate([2, *codes("abcdefghuvw")], 8)
    assert candidates == [codes("y"), codes("uvw")]


def test_without_a_bos_only_the_first_tokens_of_a_text_are_dropped():
    example = Example("abcdefgh", ("yz",), 0, "x")
    limits = {"max_length": 5, "max_positions": 64, "truncate": "left"}
    assert as_lists(encode(letters(bos=None), example, **limits))[0] == codes("fgh")


def test_a_sequence_of_exactly_the_limit_is_left_whole():
    example = Example("abc", ("d",), 0, "x")
    prompt, _ = as_lists(
        encode(letters(), example, max_length=5, max_positions=64, truncate="error")
    )
    assert prompt == [2, *codes("abc")]


@pytest.mark.parametrize(
    ("limits", "but"),
    [
        ({"max_length": 4, "max_positions": 64}, "data.max_length is 4"),
        ({"max_length": 2048, "max_positions": 4}, "the model has 4 positions"),
    ],
)
def test_too_long_names_the_example_both_lengths_and_the_fix(limits, but):
    example = Example("abc", ("d",), 0, "train.jsonl:17")
    with pytest.raises(InputError) as raised:
        encode(letters(), example, **limits, truncate="error")
    assert str(raised.value) == (
        f"train.jsonl:17: the sequence has 5 tokens, but {but}; "
        "--set data.truncate=left drops the first ones"
    )


@pytest.mark.parametrize(("answer", "kept"), [("yz", "fghijkl"), ("tuvwxyz", "hijkl")])
def test_room_for_an_answer_to_generate_is_left_behind_the_prompt(answer, kept):
    example = Example("abcdefghijkl", (answer,), 0, "x")
    limits = {"max_length": 13, "max_positions": 64, "max_new_tokens": 5}
    prompt, candidates = as_lists(encode(letters(), example, **limits, truncate="left"))
    assert (prompt, candidates) == ([2, *codes(kept)], [codes(answer)])


@pytest.mark.parametrize(
    ("max_length", "message"),
    [
        (
            13,
            "x:1: the sequence has 18 tokens, with room for 5 new ones, but data.max_length is 13",
        ),
        (5, "x:1: BOS and room for an answer alone are 6 tokens, but data.max_length is 5"),
    ],
)
def test_too_little_room_for_an_answer_says_so(max_length, message):
    example = Example("abcdefghijkl", ("y",), 0, "x:1")
    limits = {"max_length": max_length, "max_positions": 64, "max_new_tokens": 5}
    with pytest.raises(InputError) as raised:
        encode(letters(), example, **limits, truncate="error")
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "text", ["", "a fine film .", "caf\u00e9 \u65e5\u672c\u8a9e \U0001f642!", "a\n\nb"]
)
def test_pieces_are_the_text_token_by_token(tokenizer, text):
    ids = tokenizer.ids(text)
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_an_item_without_its_wrong_candidates_keeps_the_right_one(tokenizer):
    item = tokenise(tokenizer, Example("a film It was", (" bad", " great", " fine"), 1, "x"))
    right = only_right_candidate(item)
    assert (right.label, right.name) == (0, "x")
    assert [c.tolist() for c in right.candidates] == [tokenizer.ids(" great")]
    np.testing.assert_array_equal(right.prompt, item.prompt)


def test_a_candidate_that_fills_the_limit_alone_cannot_be_truncated():
    example = Example("abc", ("wxyz",), 0, "train.jsonl:17")
    with pytest.raises(InputError, match=r"^train.jsonl:17: BOS and a candidate alone are 5 "):
        encode(letters(), example, max_length=4, max_positions=64, truncate="left")


@pytest.mark.parametrize("candidates", [("",), (" great", "")])
def test_candidate_of_no_token_is_refused(tokenizer, candidates):
    with pytest.raises(InputError, match=r"^train:4: candidate '' tokenises to nothing$"):
        encode(tokenizer, Example("a film It was", candidates, 0, "train:4"), **LIMITS)


def test_candidates_that_tokenise_alike_are_refused(tokenizer):
    example = Example("a film It was", (" great", " great"), 0, "train:4")
    with pytest.raises(InputError, match=r"candidate ' great' tokenises like ' great'$"):
        encode(tokenizer, example, **LIMITS)


def test_token_beyond_the_models_vocabulary_is_refused():
    with pytest.raises(InputError, match="train:4: has token 122, but the model's vocabulary has"):
        tokenise(letters(vocab_size=120), Example("abz", ("c",), 0, "train:4"))


def test_bos_beyond_the_models_vocabulary_is_refused(tiny_model):
    with pytest.raises(InputError, match="start with token 1024, but the model's vocabulary has"):
        load_tokenizer(str(tiny_model), 1024)


def test_tokenizer_without_bos_asks_for_one(checkpoint):
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "special_tokens_map.json").unlink()
    del settings["add_bos_token"]
    settings["bos_token"] = None
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"has no BOS; give one: --set model.bos_token_id=ID"):
        load_tokenizer(str(checkpoint), None)
    assert load_tokenizer(str(checkpoint), 0).bos == 0


def test_checkpoint_without_vocabulary_has_no_tokenizer(checkpoint):
    for name in ("vocab.json", "merges.txt"):
        (checkpoint / name).unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(str(checkpoint), None)


def test_damaged_vocabulary_is_named_in_one_line(checkpoint):
    (checkpoint / "vocab.json").write_text("{")
    with pytest.raises(InputError, match=r"vocab\.json: is not JSON") as raised:
        load_tokenizer(str(checkpoint), None)
    assert str(checkpoint) in str(raised.value)
    assert "\n" not in str(raised.value)
