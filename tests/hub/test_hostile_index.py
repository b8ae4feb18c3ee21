"""Hostile index files and paths: each is one line."""

import json
from typing import Any

import pytest

from tests.hub.checkpoints import FC1, message
from zojax.errors import InputError, as_line

INDICES: dict[str, Any] = {
    "a list": [],
    "no map": {"metadata": {}},
    "a map of nothing": {"weight_map": {}},
    "a map that is a list": {"weight_map": [[FC1, "model.safetensors"]]},
    "a shard that is a number": {"weight_map": {FC1: 3}},
    "a shard that is null": {"weight_map": {FC1: None}},
    "a shard above": {"weight_map": {FC1: "../model.safetensors"}},
    "a shard anywhere": {"weight_map": {FC1: "/etc/model.safetensors"}},
    "a shard below": {"weight_map": {FC1: "a/model.safetensors"}},
    "the directory": {"weight_map": {FC1: "."}},
    "nothing": {"weight_map": {FC1: ""}},
    "a name that is too long": {"weight_map": {FC1: "n" * 300 + ".safetensors"}},
    "a name of a megabyte": {"weight_map": {FC1: "n" * 10**6 + ".safetensors"}},
    "a zero byte": {"weight_map": {FC1: "a\0.safetensors"}},
    "escape sequences": {"weight_map": {FC1: "\x1b[31m\n.safetensors"}},
    "a shard of another format": {"weight_map": {FC1: "pytorch_model.bin"}},
    "the index itself": {"weight_map": {FC1: "model.safetensors.index.json"}},
    "a number beyond floats": '{"metadata": 1e999}',
    "deep": '{"weight_map": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "twice": f'{{"weight_map": {{"{FC1}": "a", "{FC1}": "b"}}}}',
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("case", INDICES)
def test_a_hostile_index_is_one_line(case, sharded):
    index = sharded[1] / "model.safetensors.index.json"
    content = INDICES[case]
    content = content if isinstance(content, str | bytes) else json.dumps(content)
    index.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = message(sharded[1])
    assert str(sharded[1]) in text
    assert as_line(InputError(text)).isprintable()
    assert len(text) < len(str(sharded[1])) + 400


def test_a_path_that_is_too_long_is_one_line(tmp_path):
    assert "too long" in message(tmp_path / ("n" * 300))
