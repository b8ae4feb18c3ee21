"""Hostile adapters: each is one line at once, and no number that is not finite is taken."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.hub.checkpoints import PRE_LN
from zojax.adapters.lora import load_lora
from zojax.adapters.lora_config import rank_and_scale, read_lora_config, targeted
from zojax.errors import InputError, as_line
from zojax.models import abstract_model

MODEL = abstract_model(PRE_LN)  # only shapes are looked at
MODULES = [f"model.decoder.layers.{i}.self_attn.{name}_proj" for i in range(3) for name in "qv"]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"},
    "task_type": "CAUSAL_LM",
    "use_dora": False,
}


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A LoRA of rank 2 at q and v of the three layers, as PEFT would write it."""
    rng = np.random.default_rng(0)
    tensors = {}
    for module in MODULES:
        for part, shape in (("lora_A", (2, 8)), ("lora_B", (8, 2))):
            values = rng.standard_normal(shape).astype(np.float32)
            tensors[f"base_model.model.{module}.{part}.weight"] = values
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    write_config(tmp_path, CONFIG)
    return tmp_path


def write_config(directory: Path, content: Any) -> None:
    content = content if isinstance(content, str) else json.dumps(content)
    (directory / "adapter_config.json").write_text(content)


def refusal_of(directory: Path) -> str:
    with pytest.raises(InputError) as refused:
        load_lora(directory, MODEL)
    text = str(refused.value)
    assert text.startswith(str(directory))
    assert as_line(InputError(text)).isprintable()
    assert "\n" not in text
    assert len(text) < len(str(directory)) + 400
    return text


def test_the_adapter_is_read(adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    v_proj = load_lora(adapter, MODEL)["layers"]["self_attn"]["v_proj"]["weight"]
    b = tensors["base_model.model.model.decoder.layers.1.self_attn.v_proj.lora_B.weight"]
    np.testing.assert_array_equal(v_proj["u"][1], 2 * b)  # alpha / r = 4 / 2


NO_NUMBERS = (None, True, "8", [8], {"a": 8}, 0, -1, -(10**18), 10**18, 1e300)
CHANGES: list[dict[str, Any]] = [
    *({"r": value} for value in (*NO_NUMBERS, 2.0, 3)),
    *({"lora_alpha": value} for value in (*NO_NUMBERS, -0.5)),
    *({"rank_pattern": {"q_proj": value}} for value in (*NO_NUMBERS, 2.0, 3)),
    *({"alpha_pattern": {"q_proj": value}} for value in NO_NUMBERS),
    *({"use_rslora": value} for value in ("false", "true", 0, 1, [], {})),
    *({"target_modules": v} for v in (None, 3, True, {}, {"q_proj": 1}, [3], [None], [["a"]], "")),
    *({"exclude_modules": v} for v in (3, True, {"a": 1}, [3], ".*", "(")),
    *({"layers_to_transform": v} for v in (True, "1", 1.0, [1.0], [True], [-1], [99], {"0": 1})),
    {"layers_to_transform": [0], "layers_pattern": "("},
    {"layers_to_transform": [0], "layers_pattern": 3},
    {"layers_to_transform": [0], "layers_pattern": ["layers", None]},
    {"rank_pattern": [["q_proj", 2]]},
    {"rank_pattern": {"(a+)+$": "x"}},
    {"rank_pattern": {"(": 2}},
    {"alpha_pattern": {"a{99999999999}": 2}},
    {"bias": True},
    {"bias": None},
    {"bias": ["none"]},
    {"init_lora_weights": "pissa_niter_16"},
    {"init_lora_weights": 1.5},
    {"init_lora_weights": ["gaussian"]},
    {"peft_type": None},
    {"peft_type": 3},
    {"peft_type": ["LORA"]},
    {"peft_type": "x" * 10**5},
    {"use_dora": True},
    {"use_dora": "false"},
    {"use_qalora": True},
    {"modules_to_save": ["lm_head"]},
    {"lora_bias": 1},
    {"megatron_config": {"a": 1}},
    {"target_parameters": ["a"]},
    {"corda_config": "x" * 10**5},
    {"\x1b[31m\n\u202e": "\x1b[0m"},
    {"x" * 10**5: 1},
    {"target_modules": ["\x1b[31mq_proj"]},
    {"target_modules": ["x" * 10**5]},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: str(changes)[:50])
def test_an_entry_that_is_wrong_is_one_line(changes, adapter):
    write_config(adapter, {**CONFIG, **changes})
    refusal_of(adapter)


TEXTS = {
    "an infinite alpha": '{"peft_type": "LORA", "r": 2, "lora_alpha": Infinity}',
    "an alpha beyond floats": '{"peft_type": "LORA", "r": 2, "lora_alpha": 1e999}',
    "an alpha that is no number": '{"peft_type": "LORA", "r": 2, "lora_alpha": NaN}',
    "a rank of 5,000 digits": '{"peft_type": "LORA", "r": ' + "9" * 5_000 + "}",
    "deep": '{"peft_type": "LORA", "target_modules": ' + "[" * 99_999 + "]" * 99_999 + "}",
    "twice": '{"peft_type": "LORA", "r": 2, "r": 3}',
    "half a character": '{"peft_type": "\\ud800"}',
    "a list": "[]",
    "nothing": "",
    "two megabytes": '{"peft_type": "' + "x" * (2 << 20) + '"}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_config_that_is_none_is_one_line(case, adapter):
    write_config(adapter, TEXTS[case])
    refusal_of(adapter)


SLOW = (r"(a+)+b", r"(\w+\.?)+!", r"([a-z_.0-9]*)*[a-z_.0-9]*!", ".*" * 40 + "!")


@pytest.mark.parametrize("pattern", SLOW, ids=lambda pattern: pattern[:20])
@pytest.mark.parametrize("entry", ["target", "exclude", "rank", "alpha", "layers"])
def test_no_regular_expression_hangs(entry, pattern, adapter):
    changes = {
        "target": {"target_modules": pattern},
        "exclude": {"exclude_modules": pattern},
        "rank": {"rank_pattern": {pattern: 3}},
        "alpha": {"alpha_pattern": {pattern: 3}},
        "layers": {"layers_to_transform": [0], "layers_pattern": pattern},
    }[entry]
    write_config(adapter, {**CONFIG, **changes})
    begin = time.process_time()
    if entry in ("target", "layers"):
        assert "names no linear layer" in refusal_of(adapter)
    else:
        load_lora(adapter, MODEL)  # it names nothing
    assert time.process_time() - begin < 5


def test_many_patterns_are_bounded_together(adapter):
    many = {f"(a|b{i})*c": 3 for i in range(20_000)}
    write_config(adapter, {**CONFIG, "rank_pattern": many})
    begin = time.process_time()
    assert "takes too long" in refusal_of(adapter)
    assert time.process_time() - begin < 20


def test_many_targets_are_read_at_once(adapter):
    write_config(
        adapter, {**CONFIG, "target_modules": ["v_proj", *map(str, range(50_000)), "q_proj"]}
    )
    begin = time.process_time()
    load_lora(adapter, MODEL)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_numbers_that_are_not_finite_are_counted_and_named(part, value, adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = f"base_model.model.{MODULES[3]}.{part}.weight"
    tensors[name].flat[[1, 5]] = value
    save_file(tensors, path)
    text = refusal_of(adapter)
    assert f"2 numbers in 1 tensors are not finite as float32: {name} (2 of 16)" in text


def test_what_the_scale_makes_infinite_is_counted(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = f"base_model.model.{MODULES[0]}.lora_B.weight"
    tensors[name].flat[7] = 3e38
    save_file(tensors, path)
    assert f"{name} (1 of 16)" in refusal_of(adapter)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), 1 << 63)
    | st.floats()
    | st.sampled_from(["q_proj", ".*", ".*_proj", "(", "none", "gaussian", "all-linear", 2, 4])
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
NAMES = [*CONFIG, "use_rslora", "rank_pattern", "exclude_modules", "layers_to_transform", "bias"]


@given(st.dictionaries(st.sampled_from(NAMES), ODD, min_size=1, max_size=3))
def test_any_change_of_a_config_is_one_line_or_finite_scales(tmp_path_factory, changes):
    directory = tmp_path_factory.mktemp("changed")
    write_config(directory, {**CONFIG, **changes})
    try:
        config = read_lora_config(directory)
        modules = targeted(config, MODULES)
        scales = [rank_and_scale(config, module) for module in modules]
    except InputError:
        return
    for rank, scale in scales:
        assert rank >= 1
        assert 0 < scale < np.inf


def test_a_directory_whose_name_is_too_long_is_one_line(tmp_path):
    with pytest.raises(InputError, match="too long"):
        load_lora(tmp_path / ("n" * 300), MODEL)
