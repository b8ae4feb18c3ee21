"""Masks leave open what a grammar allows, and what is too much is refused before it takes long."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, grammar_from

import zojax
from zojax.engine.grammars import Grammar, Vocabulary
from zojax.engine.requests import GrammarError
from zojax.errors import InputError
from zojax.hub import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(zojax.demo.MODEL), None)


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary(tokenizer.tokens, tokenizer.vocab_size, tokenizer.stop_ids)


def allowed(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def walk(grammar: Grammar, tokenizer, seed: int, most: int = 400) -> str | None:
    """A text of tokens drawn from the masks; None if it does not end."""
    rng, text, mask, tokens = np.random.default_rng(seed), grammar.begin(), grammar.first, []
    for _ in range(most):
        tokens.append(int(rng.choice(allowed(mask))))
        mask = text.take(tokens[-1])
        if mask is None:
            return tokenizer.text(tokens)
    return None


@pytest.mark.parametrize("pattern", ["(yes|no)( sir){0,3}", "[a-f]{2,4}-[0-9]{1,3}", "é{2}日?"])
def test_every_way_through_a_patterns_masks_matches_it(vocabulary, tokenizer, pattern):
    grammar = vocabulary.compile(grammar_from("regex", pattern))
    texts = [walk(grammar, tokenizer, seed) for seed in range(20)]
    for text in texts:
        assert text is not None
        assert re.fullmatch(pattern, text)
    assert len(set(texts)) > 1


SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 3, "maximum": 40},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
        "when": {"type": "string", "format": "date"},
        "note": {"type": "string", "maxLength": 12, "minLength": 2},
    },
    "required": ["id", "tags", "when", "note"],
    "additionalProperties": False,
}


def test_every_way_through_a_schemas_masks_is_json_of_that_schema(vocabulary, tokenizer):
    grammar = vocabulary.compile(LLMatcher.grammar_from_json_schema(SCHEMA))
    texts = [walk(grammar, tokenizer, seed) for seed in range(20)]
    for text in filter(None, texts):
        jsonschema.validate(json.loads(text), SCHEMA)
    assert sum(text is not None for text in texts) > 10


def test_a_text_may_end_only_where_its_grammar_is_fulfilled(vocabulary, tokenizer):
    [end] = tokenizer.stop_ids
    text = vocabulary.compile(grammar_from("regex", "(ab){1,2}")).begin()
    ends = []
    for letter in "aba":
        [token] = tokenizer.ids(letter)
        mask = text.take(token)
        assert mask is not None
        ends.append(end in allowed(mask))
    assert ends == [False, True, False]
    assert text.take(tokenizer.ids("b")[0]) is None


def test_texts_of_one_grammar_do_not_know_of_each_other(vocabulary, tokenizer):
    grammar = vocabulary.compile(LLMatcher.grammar_from_json_schema(SCHEMA))
    alone = [walk(grammar, tokenizer, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda seed: walk(grammar, tokenizer, seed), range(8))
    assert list(together) == alone


def test_a_grammar_is_compiled_once(vocabulary):
    source = grammar_from("regex", "once")
    assert vocabulary.compile(source) is vocabulary.compile(source)


ENDLESS = {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regex", "(a", r'invalid regex "\(a".*; unclosed group'),
        ("regex", "(" * 5000 + "a" + ")" * 5000, "invalid regex"),
        ("lark", "start: (((", "Expected token"),
        ("lark", "start: " + "(" * 9000 + '"a"' + ")" * 9000, "too deeply nested"),
        ("lark", "start: a\na: b\nb: a", "."),
        ("json", '{"type": "strin"}', "Invalid type: strin"),
        ("json", '{"not": {"type": "integer"}}', "Unimplemented keys"),
        ("json", '{"$ref": "http://example.org/"}', "does not fetch resources"),
        ("json", '{"$ref": "file:///etc/passwd"}', "does not fetch resources"),
        ("json", json.dumps(ENDLESS), "."),
        ("json", '{"allOf": [{"type": "integer"}, {"type": "string"}]}', "Unsatisfiable"),
        ("json", '{"properties":{"a":' * 5000 + "{}" + "}}" * 5000, "recursion limit"),
    ],
)
def test_what_is_wrong_or_too_much_is_refused_in_a_line_and_soon(vocabulary, kind, text, message):
    began = time.thread_time()
    with pytest.raises(InputError, match=message) as caught:
        vocabulary.compile(grammar_from(kind, text))
    assert time.thread_time() - began < 2  # of this thread; limits of the library bound it
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


def test_a_pattern_that_grows_too_large_ends_its_text_soon(vocabulary, tokenizer):
    began = time.thread_time()
    grammar = vocabulary.compile(grammar_from("regex", "((a{1000}){1000}){1000}"))
    with pytest.raises(GrammarError, match="too many expressions"):
        walk(grammar, tokenizer, 0)
    assert time.thread_time() - began < 2


def test_a_tokenizer_of_another_kind_has_no_grammars():
    with pytest.raises(InputError, match="no grammars for this tokenizer"):
        Vocabulary([], 10, (2,))
