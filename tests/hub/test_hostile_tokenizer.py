"""Hostile tokenizers: each file is one line, or gives token ids; no code of it runs."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, TOKENIZER_FILES
from zojax.errors import InputError, as_line
from zojax.hub import checkpoint, load_tokenizer
from zojax.hub.tokenizer_files import check_files

TEXT = "a good film"
DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
CONFIG, MAP, WHOLE = "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"


@pytest.fixture(scope="session")
def in_parts(tmp_path_factory) -> Path:
    """A tokenizer as vocab.json and merges.txt."""
    directory = tmp_path_factory.mktemp("parts")
    for name in (*TOKENIZER_FILES, "config.json"):
        shutil.copy(ROOT / "zojax" / "demo" / "model" / name, directory)
    return directory


@pytest.fixture(scope="session")
def in_one(in_parts, tmp_path_factory) -> Path:
    """The same as a tokenizer.json, all of which counts."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("one")
    AutoTokenizer.from_pretrained(str(in_parts)).save_pretrained(str(directory))
    shutil.copy(in_parts / "config.json", directory)
    edit(directory / CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast"})
    return directory


def edit(path: Path, changes: dict[str, Any]) -> None:
    raw = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**raw, **changes}))


def write(path: Path, content: Any) -> None:
    content = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def refusal_of(directory: Path) -> str:
    with pytest.raises(InputError) as refused:
        load_tokenizer(str(directory), None)
    text = str(refused.value)
    assert text.startswith(str(directory))
    assert as_line(InputError(text)).isprintable()
    assert len(text) < len(str(directory)) + 400
    return text


def test_both_forms_are_read_alike(in_parts, in_one):
    parts, one = (load_tokenizer(str(directory), None) for directory in (in_parts, in_one))
    assert parts.ids(TEXT) == one.ids(TEXT)
    assert parts.bos == one.bos == 2


@pytest.mark.parametrize("content", [DEEP, "[]", "null", "{", b"\xff", '{"a": 1, "a": 2}'])
@pytest.mark.parametrize("name", [CONFIG, MAP, "vocab.json", "added_tokens.json"])
def test_a_file_that_is_no_object_is_one_line(name, content, in_parts, tmp_path):
    directory = shutil.copytree(in_parts, tmp_path / "model")
    write(directory / name, content)
    assert name in refusal_of(directory)


SETTINGS: list[dict[str, Any]] = [
    *({"bos_token": value} for value in (3, ["</s>"], {"a": 1}, {"content": 3}, True, 0)),
    *({"eos_token": value} for value in (7, [], {"content": None})),
    *({"tokenizer_class": value} for value in (3, ["GPT2Tokenizer"], "os.system", "")),
    *({"model_max_length": value} for value in ("x", [1], -1, 0)),
    *({"add_bos_token": value} for value in ("x", 2, [])),
    *({"added_tokens_decoder": {k: {"content": "a"}}} for k in ("-5", "a", "1" * 30, "")),
    *({"added_tokens_decoder": value} for value in ([1], 3, {"5": "a"}, {"5": {}})),
    {"add_prefix_space": []},
    {"padding_side": "x"},
    {"init_inputs": [1, 2, 3]},
    {"self": 3},
    {"cls": 3},
    {"extra_special_tokens": 3},
    {"tokenizer_class": "BertJapaneseTokenizer"},
    {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
    {"tokenizer_class": "Evil\x1b[31m\n"},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=lambda changes: str(changes)[:50])
def test_a_setting_of_another_type_is_one_line(changes, in_parts, tmp_path):
    directory = shutil.copytree(in_parts, tmp_path / "model")
    edit(directory / CONFIG, changes)
    refusal_of(directory)


@pytest.mark.parametrize(("name", "none"), [(CONFIG, ""), (CONFIG, False), (MAP, ""), (MAP, None)])
@pytest.mark.parametrize("token", ["unk_token", "pad_token", "mask_token"])
@pytest.mark.parametrize("form", ["in_parts", "in_one"])
def test_a_special_token_may_be_none_in_several_words(form, token, name, none, request, tmp_path):
    directory = shutil.copytree(request.getfixturevalue(form), tmp_path / "model")
    expected = load_tokenizer(str(directory), None).ids(TEXT)
    edit(directory / name, {token: none})
    assert load_tokenizer(str(directory), None).ids(TEXT) == expected


def test_a_bos_that_is_none_is_asked_for(in_one, tmp_path):
    directory = shutil.copytree(in_one, tmp_path / "model")
    edit(directory / CONFIG, {"bos_token": ""})
    assert "the tokenizer has no BOS; give one" in refusal_of(directory)
    assert load_tokenizer(str(directory), 2).ids(TEXT)


def test_the_files_of_a_hub_id_are_those_that_were_checked(in_one, monkeypatch):
    monkeypatch.setattr(checkpoint, "_download", lambda hub_id, with_weights: in_one)
    tokenizer = load_tokenizer("nobody/nothing", None)
    assert tokenizer.ids(TEXT) == load_tokenizer(str(in_one), None).ids(TEXT)
    assert tokenizer.path == "nobody/nothing"


VOCABULARIES: dict[str, Callable[[dict[str, int]], Any]] = {
    "of nothing": lambda v: {},
    "of text": lambda v: {token: str(i) for token, i in v.items()},
    "of fractions": lambda v: {token: i + 0.5 for token, i in v.items()},
    "of negative ids": lambda v: {token: -i for token, i in v.items()},
    "of ids that wrap around": lambda v: {token: i + (1 << 32) for token, i in v.items()},
    "of another model": lambda v: {token: i + 5_000 for token, i in v.items()},
    "of one id": lambda v: dict.fromkeys(v, 1),
    "of nulls": dict.fromkeys,
    "one id far away": lambda v: {**v, "a": 4_000_000_000},
    "one id twice": lambda v: {**v, "never seen": 5},
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_a_vocabulary_that_is_none_is_one_line(case, in_parts, tmp_path):
    directory = shutil.copytree(in_parts, tmp_path / "model")
    write(
        directory / "vocab.json",
        VOCABULARIES[case](json.loads((in_parts / "vocab.json").read_text())),
    )
    refusal_of(directory)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", "#version\na\nb c d\n", "#version\nzz qq\n", "#v\n" + "a" * 10**6, None],
)
def test_merges_that_are_none_are_one_line(content, in_parts, tmp_path):
    directory = shutil.copytree(in_parts, tmp_path / "model")
    (directory / "merges.txt").unlink()
    if content is not None:
        write(directory / "merges.txt", content)
    refusal_of(directory)


def split(expression: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


WHOLES: list[dict[str, Any]] = [
    {"model": None},
    {"model": 3},
    {"model": {"type": "Evil"}},
    {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
    {"model": {"type": "BPE", "vocab": {"a": 1 << 40}, "merges": []}},
    {"model": {"type": "BPE", "vocab": {"a": 1, "b": 1}, "merges": []}},
    {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
    {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}},
    {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}},
    {"added_tokens": 3},
    {"added_tokens": [{"id": -1, "content": "a"}]},
    {"added_tokens": [{"id": 1}]},
    {"pre_tokenizer": 3},
    {"pre_tokenizer": {"type": "Evil"}},
    {"pre_tokenizer": split("(")},
    {"pre_tokenizer": split(r"(a+)+$")},
    {"pre_tokenizer": split(r"(?:\p{L}+\s*)*!")},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(r"(x+x+)+y")]}},
    {"pre_tokenizer": split("a" * 3_000)},
    {"normalizer": replace("", "aaaa")},
    {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
    {"normalizer": {"type": "Sequence", "normalizers": [replace("a", "a" * 8)] * 7}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|b*)*c"}, "content": ""}},
    {"decoder": "x"},
    {"post_processor": []},
    {"version": "9"},
]


@pytest.mark.parametrize("changes", WHOLES, ids=lambda changes: str(changes)[:60])
def test_a_tokenizer_json_that_is_none_is_one_line(changes, in_one, tmp_path, capfd):
    directory = shutil.copytree(in_one, tmp_path / "model")
    edit(directory / WHOLE, changes)
    refusal_of(directory)
    assert "panicked" not in capfd.readouterr().err


PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "Qwen 2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "DeepSeek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "DeepSeek's Chinese": r"[一-龥぀-ゟ゠-ヿ]+",
    "by code points": r"[\x{4e00}-\x{9fff}]+",
    "with classes in classes": r"[[:alpha:]&&[^(*]]+|(?:[[a]b]{1,3})+|(?<name>\(a+\))?",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_expressions_are_taken(name, in_one, tmp_path):
    directory = shutil.copytree(in_one, tmp_path / "model")
    edit(directory / WHOLE, {"pre_tokenizer": split(PUBLISHED[name])})
    assert load_tokenizer(str(directory), None).ids(TEXT)


@pytest.mark.parametrize(
    "expression",
    [
        r"(?:[^[(]b]+)+",
        r"[[a]b](?:\x{4e00}+)*",
        r"(?<name>(\(a*?))?){2,}",
        r"(a+){0,100}",
        r"a{2,}{2,}",
        r"[]a](b+)+[]b]",
        r"\c[(a+)+]",
        r"(a)\g<1>+",
        r"(?#[)(a+)+(?#])",
        "(?x)(a+ # )\n)+",
    ],
)
def test_repeats_of_repeats_are_found_behind_any_bracket(expression, in_one, tmp_path):
    directory = shutil.copytree(in_one, tmp_path / "model")
    edit(directory / WHOLE, {"pre_tokenizer": split(expression)})
    with pytest.raises(InputError, match="could take for ever"):
        check_files(directory)


class PanicException(BaseException):
    """As Rust's errors arrive."""


def panic(*args: Any, **kwargs: Any) -> Any:
    raise PanicException("index out of bounds\nat somewhere")


def test_what_fails_at_a_text_alone_is_one_line(in_one, monkeypatch):
    tokenizer = load_tokenizer(str(in_one), None)
    monkeypatch.setattr(type(tokenizer.tokens), "__call__", panic)
    with pytest.raises(InputError, match=r"into tokens \(index out of bounds\)$"):
        tokenizer.ids(TEXT)


def test_what_fails_at_one_of_many_texts_is_one_line(in_one):
    backend = SimpleNamespace(encode_batch_fast=panic)
    tokens = SimpleNamespace(backend_tokenizer=backend)
    tokenizer = dataclasses.replace(load_tokenizer(str(in_one), None), tokens=tokens)
    with pytest.raises(InputError, match=r"into tokens \(index out of bounds\)$"):
        tokenizer.ids_of_all([TEXT, TEXT])


@pytest.mark.parametrize("form", ["in_parts", "in_one"])
def test_no_code_of_a_tokenizer_runs(form, request, tmp_path, monkeypatch):
    directory = shutil.copytree(request.getfixturevalue(form), tmp_path / "model")
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    edit(directory / "config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}})
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10**9) %}{% endfor %}"
    )
    changes = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "trust_remote_code": True}
    edit(directory / CONFIG, {**changes, "chat_template": template, "vocab_file": "/etc/passwd"})
    monkeypatch.setattr("builtins.input", lambda *_: "yes")  # would be asked for, at a terminal
    assert load_tokenizer(str(directory), None).ids(TEXT)
    edit(directory / CONFIG, {"tokenizer_class": "Evil"})
    edit(directory / "config.json", {"model_type": "opt"})
    with contextlib.suppress(InputError):
        load_tokenizer(str(directory), None)
    assert not (tmp_path / "ran").exists()


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
FIELDS = {
    CONFIG: [
        "bos_token",
        "eos_token",
        "tokenizer_class",
        "model_max_length",
        "errors",
        "unk_token",
    ],
    WHOLE: ["model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "truncation"],
}


@given(st.data())
def test_any_change_of_a_tokenizer_is_one_line_or_ids(in_one, tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("changed") / "model"
    shutil.copytree(in_one, directory)
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    edit(directory / name, {data.draw(st.sampled_from(FIELDS[name])): data.draw(ODD)})
    try:
        ids = load_tokenizer(str(directory), None).ids(TEXT)
    except InputError:
        return
    assert ids
    assert all(isinstance(i, int) and i >= 0 for i in ids)
