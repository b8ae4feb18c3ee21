"""Every setting with odd values, and odd configuration files: one line, or a sane configuration."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zojax.config import Config, ModelConfig, RunConfig, apply_overrides, from_dict, to_dict
from zojax.config.loading import load_config
from zojax.config.schema import KINDS, field_names
from zojax.errors import InputError, as_line
from zojax.text import plain

TEXTS = [
    *("", " ", "0", "-1", "1", "1.5", "true", "True", "none", "None", "null", "nan", "NaN", "inf"),
    *("-inf", "Infinity", "1e400", "1e39", "1e-50", "1e-400", "-0.0", "0.99999999999", "0x10"),
    *("1_000", "٣", "½", "=", "==", "{}", "[]", "[[]]", '{"a": NaN}', '{"a": 1e999}', "a\nb"),
    *('{"0": "a", "0": "b"}', '{"": "a"}', '["\\ud800"]', "\x1b[31m", "a\0b", "\udcff"),
    *(str(10**18), str(2**31), str(2**63), str(2**64), "1" * 5_000, "x" * 300, "x" * 70_000),
    *("[" * 5_000, '{"a":' * 3_000),
]
ODD_NAMES = ["", ".", "train", "train.", ".steps", "train.steps.x", "x" * 5_000, "a\0b", "\udcff.x"]


def base() -> Config:
    return Config(ModelConfig("some/model"), RunConfig("runs/a"))


def kind_with(name: str) -> list[str]:
    """The override that brings a kind with this field."""
    part, _, field = name.partition(".")
    if part not in KINDS or field == "name":
        return []
    of = next(of for of in KINDS[part].classes if field in KINDS[part].types(of))
    return [f"{part}.name={of}"]


def check_sane(config: Config) -> None:
    """It survives JSON, and holds nothing that float32 or a count of 32 bits would not."""
    tree = to_dict(config)
    assert from_dict(json.loads(json.dumps(tree, allow_nan=False))) == config
    for name, part in tree.items():
        for field, value in part.items():
            if isinstance(value, int | float) and value:
                assert 1e-38 < abs(value) < 3.5e38, (name, field)
            if isinstance(value, int):
                assert value < 2**31
            if isinstance(value, str):
                assert "\0" not in value
                assert value.encode()
    for path in (config.model.path, config.run.dir, config.data.path or ""):
        assert max(map(len, path.encode().split(b"/"))) < 256
    assert config.train.steps <= 10**7


def check(overrides: list[str]) -> None:
    try:
        config = apply_overrides(base(), overrides)
    except InputError as error:
        refusal = error
    else:
        check_sane(config)
        return
    assert "\n" not in str(refusal)
    assert plain(as_line(refusal)) == as_line(refusal)
    assert len(str(refusal)) < 2_000


@pytest.mark.parametrize("name", [*field_names(), *ODD_NAMES], ids=lambda n: n[:30])
def test_every_setting_takes_an_odd_text_or_refuses_it_in_a_line(name):
    known = name in field_names()
    for text in TEXTS:
        check([*(kind_with(name) if known else []), f"{name}={text}"])


@given(st.sampled_from(field_names()), st.text(st.characters(), max_size=30))
def test_every_setting_takes_any_text_or_refuses_it_in_a_line(name, text):
    check([*kind_with(name), f"{name}={text}"])


NUMBERS = st.one_of(
    st.floats(), st.integers(), st.integers(-3, 3).map(lambda n: 2 ** (40 * n)), st.booleans()
)


@given(st.sampled_from(field_names()), NUMBERS)
def test_every_setting_takes_a_number_as_it_is_or_refuses_it(name, number):
    part, _, field = name.partition(".")
    config = apply_overrides(base(), kind_with(name))
    tree: dict[str, Any] = to_dict(config)
    tree[part][field] = number
    try:
        taken = getattr(getattr(from_dict(tree), part), field)
    except InputError:
        return
    assert taken == number
    assert math.isfinite(taken)
    assert isinstance(taken, bool) == isinstance(number, bool)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.steps=1000000000000000000", "train.steps should be less than or equal to 10000000"),
        ("train.learning_rate=1e-50", "train.learning_rate is 0 in float32; give a number from"),
        ("train.learning_rate=1e39", "train.learning_rate is infinite in float32"),
        ("estimator.epsilon=1e-50", "estimator.epsilon is 0 in float32"),
        ("train.beta1=0.99999999999", "train.beta1 is 1 in float32"),
        ("model.path=a\0b", "model.path should not contain a zero byte"),
        ("run.dir=" + "x" * 300, "run.dir should have at most 255 bytes in each part of the path"),
        ("run.dir=" + "x/" * 3_000, "run.dir should have at most 4,000 bytes, since it is a path"),
        ('train.optimizer_args={"b1": NaN}', "train.optimizer_args should be JSON"),
        ('train.optimizer_args={"b1": 1e999}', "1e999 does not fit in 64 bits"),
        ('data.candidates={"0": "a", "0": "b"}', "data.candidates should be JSON"),
        ("train.optimizer=sgdd", "train.optimizer should be sgd, momentum, adam or another"),
        ('train.optimizer_args={"eps": 1e-99}', "train.optimizer_args is 0 in float32"),
    ],
    ids=lambda text: text[:30],
)
def test_what_would_fail_or_mean_nothing_later_is_refused_at_once(override, reason):
    with pytest.raises(InputError) as raised:
        apply_overrides(base(), [override])
    assert reason in str(raised.value)


def test_a_misspelt_optimizer_is_answered_with_the_one_that_was_meant_every_time():
    answers = set()
    for _ in range(20):
        with pytest.raises(InputError) as raised:
            apply_overrides(base(), ["train.optimizer=sgdd"])
        answers.add(str(raised.value))
    [answer] = answers
    assert answer.endswith("; did you mean sgd?")


@pytest.mark.parametrize(("first", "second"), [(0, "0"), (1, "1"), (True, "true")])
def test_labels_that_are_the_same_text_are_refused(first, second):
    config = base()
    with pytest.raises(ValueError, match=f"has {first!r} and '{second}', which are the same label"):
        config.data.candidates = {first: " a", second: " b"}  # pyright: ignore


IMPORT = "from zojax.config import *\nC = Config(ModelConfig('m'), RunConfig('r'))\n"
NO_TEXT = "class X(Exception):\n    def __str__(self): "
FILES = {
    "an exit": "raise SystemExit(3)",
    "an exception of its own": "class X(BaseException): pass\nraise X('a\\nb')",
    "a closed generator": "raise GeneratorExit",
    "a group": "raise BaseExceptionGroup('g', [GeneratorExit()])",
    "an exception without a text": f"{NO_TEXT} raise ValueError\nraise X",
    "an exception whose text exits": f"{NO_TEXT} raise SystemExit\nraise X",
    "an exception whose text is none": f"{NO_TEXT} return 5\nraise X",
    "an exception with a hostile name": "X = type('a\\nb\\x1b', (Exception,), {})\nraise X",
    "a text of 10 MB": "raise ValueError('x' * 10**7)",
    "escape sequences": "raise ValueError('\\x1b[31m\\u202e')",
    "half a character": "raise ValueError('\\udcff')",
    "a syntax error of its own": "raise SyntaxError",
    "another": "raise SyntaxError('x', (__file__, 'abc', 1, 't'))",
    "a zero byte": "x = 1\0",
    "deep nesting": f"x = {'(' * 5_000}{')' * 5_000}",
    "endless recursion": "def f(): return f()\nf()",
    "no memory": "raise MemoryError",
    "names that are none": "NAMES = [5]",
    "a list that cannot be read": "class L(list):\n  def __iter__(self): 1/0\nNAMES = L([1])",
    "a class": "class get_config: pass",
    "nothing": "def get_config(): return None",
    "a value past its type": f"{IMPORT}object.__setattr__(C.train, 'steps', 'x')\n"
    "def get_config(): return C",
    "an object past its type": f"{IMPORT}C.train.optimizer_args['a'] = object()\n"
    "def get_config(): return C",
    "a number past its type": f"{IMPORT}C.train.optimizer_args['a'] = float('nan')\n"
    "def get_config(): return C",
    "a circle": f"{IMPORT}d = C.train.optimizer_args\nd['d'] = d\ndef get_config(): return C",
    "an integer of 5,000 digits": f"{IMPORT}C.train.steps = 10**5000",
    "a float of 400 digits": f"{IMPORT}C.train.learning_rate = 10**400",
    "a label of 5,000 digits": f"{IMPORT}C.data.candidates = {{10**5000: 'a', 2: 'b'}}",
    "a value that cannot be shown": "class X:\n  def __repr__(self): 1/0\n"
    f"{IMPORT}C.train.steps = X()",
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("what", FILES)
def test_whatever_a_configuration_file_raises_is_one_line(what, tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(FILES[what].encode())
    with pytest.raises(InputError) as raised:
        load_config(str(path))
    line = as_line(raised.value)
    assert plain(line) == line
    assert len(line) < 1_500


def test_ctrl_c_in_a_configuration_file_is_ctrl_c(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_config(str(path))


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300, "x" * 5_000 + ":a", "\udcff", "/dev/zero"])
def test_a_configuration_that_is_no_file_is_named_in_a_line(path):
    with pytest.raises(InputError) as raised:
        load_config(path)
    assert "no such file" in str(raised.value)
    assert len(as_line(raised.value)) < 300
