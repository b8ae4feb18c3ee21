"""Names against regular expressions: Python's answers, in bounded time."""

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zojax.adapters.name_matcher import NameMatcher

NAMES = [
    "model.decoder.layers.0.self_attn.q_proj",
    "model.decoder.layers.11.fc1",
    "lm_head",
    "aab",
]
# Of trainers in use: whole families of models, all but the vision tower, two layers.
IN_USE = [
    r".*layers\.[12]\.(fc1|self_attn\.\w_proj)",
    r"^(?!.*(?:vision|visual)).*(?:q_proj|k_proj|fc1)$",
    r"(?:.*?(?:vision|image).*?(?:self_attn|mlp).*?(?:q_proj|fc1).*?)"
    r"|(?:\bmodel\.decoder\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|k_proj)))",
    r"model(?=\.).*\.(fc1|q_proj)",
    r".+_proj|lm_head",
    r"[a-z.]*\d{2}\.[^l]c1",
]


@pytest.mark.parametrize("pattern", IN_USE)
def test_patterns_in_use_match_as_in_python(pattern):
    matcher = NameMatcher()
    answers = [matcher.fullmatch(pattern, name) for name in NAMES]
    assert answers == [re.fullmatch(pattern, name) is not None for name in NAMES]


ATOMS = st.sampled_from(
    ["a", "b", r"\.", ".", "[a-f]", "[^l]", r"[\d_]", r"\w", r"\d", r"\W", r"\S", "layers", "fc1"]
) | st.sampled_from(["^", "$", r"\A", r"\Z", r"\b", "(?=a)", "(?!m)", "(?=.*fc)", "_proj"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{0,9}"])).map(
            lambda both: f"(?:{both[0]}){both[1]}"
        ),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.sampled_from([*NAMES, "a", "bb.a", "layers.1.fc1"]))
def test_any_pattern_matches_as_in_python(pattern, name):
    matcher = NameMatcher()
    short = name[:12]  # Python itself may take for ever over more
    assert matcher.fullmatch(pattern, short) == bool(re.fullmatch(pattern, short))
    ending = re.match(rf"(.*\.)?({pattern})$", short)
    assert matcher.matches_end(pattern, short) == bool(ending)


SLOW = [
    r"(a+)+b",
    r"(a|a)*b",
    r"(.*)*b",
    r"(\w+\.?)+!",
    r"((((a*)*)*)*)*!",
    ".*" * 30 + "!",
    r"(a?){60}a{60}!",
    r"(?:(?:a{0,60}){0,60}){0,60}!",
    r"(?=(?=(?=.*a*)*a*)*.*)*!",
    r"(?:a|aa|aaa)*(?:a|aa|aaa)*!",
    r"^(a+)+$" + "!" * 50,
    "(a|b|ab)*" * 20 + "!",
    "a*" * 1_900,
    "(?:" * 300 + "a" + "+)*" * 300,
    "(" * 5_000 + ")" * 5_000,
    "a{65535}" * 400,
    "(?:a{65535}b?){65535}",
]


@pytest.mark.parametrize("pattern", SLOW, ids=lambda pattern: pattern[:24])
def test_no_pattern_takes_long(pattern):
    matcher = NameMatcher()
    begin = time.process_time()
    with contextlib.suppress(ValueError):  # the budget is spent
        assert not any(matcher.fullmatch(pattern, "a" * 60 + str(i)) for i in range(200))
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "not a regular expression"),
        ("*", "not a regular expression"),
        ("a{99999999999999999999}", "not a regular expression"),
        ("[z-a]", "not a regular expression"),
        ("a)|(b", "not a regular expression"),
        (r"\p{L}", "not a regular expression"),
        (r"(a)\1", "unbounded"),
        (r"(?P<n>a)(?P=n)", "unbounded"),
        (r"(a)(?(1)b|c)", "unbounded"),
        (r"(?<=a)b", "unbounded"),
        (r"(?<!a)b", "unbounded"),
        (r"(?>a)b", "unbounded"),
        (r"a*+b", "unbounded"),
        (r"(?i)A", "flags"),
        (r"(?i:A)b", "unbounded"),
        ("(" * 500 + "a+" + ")" * 500, "nested"),
        ("a+" * 3_000, "characters"),
    ],
)
def test_what_cannot_be_matched_is_said(pattern, reason):
    with pytest.raises(ValueError, match=reason):
        NameMatcher().matches_end(pattern, "aaa")


def test_the_patterns_of_a_large_model_stay_within_the_budget():
    parts = [f"self_attn.{name}_proj" for name in "qkvo"] + ["fc1", "fc2", "gate_proj"]
    modules = [f"model.decoder.layers.{i}.{part}" for i in range(126) for part in parts]
    for pattern in IN_USE:
        matcher = NameMatcher()
        for module in modules:
            matcher.fullmatch(pattern, module)
    matcher = NameMatcher()  # a rank for each module, the first that fits taken
    for i, module in enumerate(modules):
        assert [matcher.matches_end(other, module) for other in modules[: i + 1]][-1]
