"""Families are found by their names, and nothing outside ``models/`` names one."""

import io
import re
import tokenize
from pathlib import Path

import pytest

import zojax
from zojax.errors import InputError
from zojax.models import registry
from zojax.models.registry import FAMILIES, PUBLISHED, SHAPES, family_of, parse_config

PACKAGE = Path(zojax.__file__).parent
SMALL = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 16,
    "max_position_embeddings": 32,
}


def names_of_families(source: str) -> list[str]:
    """Identifiers, and texts that are one, of which a family's name is a word.

    ``opt_state`` is an optimizer's.
    """
    families = "|".join(family.model_type for family in FAMILIES)
    begins = rf"(?:{families})(?:$|_(?!state\b)|config|for|model)"
    word = re.compile(rf"{begins}|.*_(?:{families})(?:$|_)", re.IGNORECASE)
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.strip("\"'")
        if token.type in (tokenize.NAME, tokenize.STRING) and text.isidentifier():
            found += [text] if word.match(text) else []
    return found


def test_nothing_outside_models_names_a_family():
    sources = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] != "models"]
    assert len(sources) > 50
    named = {str(p): names_of_families(p.read_text(encoding="utf-8")) for p in sources}
    assert {path: names for path, names in named.items() if names} == {}


def test_that_test_sees_a_name():
    assert names_of_families("from x import opt, OPT, OPTConfig, opt_shapes") == [
        "opt",
        "OPT",
        "OPTConfig",
        "opt_shapes",
    ]
    assert names_of_families("if kind == 'opt': pass") == ["opt"]
    assert names_of_families("import optax; options = optimizer = opt_state = 'optional'") == []


@pytest.mark.parametrize(
    "named", [{"model_type": "opt"}, {"architectures": ["OPTForCausalLM"]}], ids=lambda n: min(n)
)
def test_a_family_is_found_by_its_type_or_its_architecture(named):
    config = parse_config({**SMALL, **named})
    assert family_of(config).model_type == "opt"
    assert config.hidden_size == 8


@pytest.mark.parametrize(
    "named", [{}, {"model_type": "gpt2", "architectures": ["OPTForCausalLM"]}], ids=len
)
def test_what_is_not_known_is_refused_with_what_is(named):
    with pytest.raises(InputError) as raised:
        parse_config({**SMALL, **named})
    what, _, known = str(raised.value).partition("; zojax knows ")
    assert what == f"holds a {named.get('model_type')!r} model"
    assert known == ", ".join(repr(family.model_type) for family in FAMILIES)


def test_every_family_reads_what_it_writes():
    for hub_id, config in PUBLISHED.items():
        family = family_of(config)
        written = family.write_config(config)
        assert parse_config(written) == config, hub_id
        assert parse_config({**written, "model_type": None}) == config, hub_id
        assert SHAPES[hub_id.partition("/")[2]] is config


def test_no_two_families_answer_to_one_name():
    types = [family.model_type for family in FAMILIES]
    architectures = [name for family in FAMILIES for name in family.architectures]
    assert len(set(types)) == len(types)
    assert len(set(architectures)) == len(architectures)
    assert len(PUBLISHED) == sum(len(family.published) for family in registry.FAMILIES)
