"""Each process reads and packs what its devices hold, and all generate the same with it."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from tests.distributed import jobs
from tests.distributed.loading import generated
from zojax.hub import save
from zojax.hub.device_buffer import DeviceBuffer
from zojax.models import content_hash, random_model
from zojax.models.opt import OPTConfig

SCRIPT = Path(__file__).with_name("loading.py")
CONFIG = OPTConfig(
    vocab_size=96,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=4,
    ffn_dim=32,
    max_position_embeddings=20,
    word_embed_proj_dim=16,
)


@pytest.fixture(scope="module")
def model():
    small = random_model(CONFIG, seed=2)
    # Logits far enough apart that no order of sums makes another token the largest.
    return dataclasses.replace(small, weights=jax.tree.map(lambda leaf: 20 * leaf, small.weights))


@pytest.mark.parametrize(("data", "shards"), [(1, 4), (2, 2)])
def test_a_process_reads_and_packs_what_its_devices_hold(data, shards, model, tmp_path):
    formats = ("safetensors", "bin")
    for format in formats:
        save(model, tmp_path / format, format=format)
    command = [SCRIPT, data, shards, *(tmp_path / format for format in formats)]
    with jobs.start(2, command, devices=2) as started:
        outcomes = jobs.finish(started)
    assert [(code, err) for code, _, err in outcomes] == [(0, "")] * 2
    for (_, out, _), pages in zip(outcomes, [[0, 1], [2, 3]], strict=True):
        by_format = json.loads(out.splitlines()[-1])
        assert {told["hash"] for told in by_format} == {content_hash(model.weights)}
        assert [told["generated"] for told in by_format] == [generated(model)] * 2
        told = by_format[0]
        assert told["read"] == told["held"]
        # Half of the matrices where the two devices hold half of the shards, else all of them.
        share = told["read"] / told["whole"]
        assert 0.5 < share < 0.6 if data == 1 else share == 1
        assert told["pages"] == ([0, 1, 2, 3] if data == 1 else pages)


def test_what_devices_hold_side_by_side_is_read_at_once():
    def parts(*bounds):
        buffer = DeviceBuffer.__new__(DeviceBuffer)
        buffer._bounds = list(bounds)
        return buffer.parts

    left, right, far = ((0, 4), (0, 2)), ((0, 4), (2, 4)), ((0, 4), (6, 8))
    assert parts(left, right, left) == [((0, 4), (0, 4))]
    assert parts(far, left) == [left, far]
    corner = ((4, 8), (2, 4))
    assert parts(left, corner) == [left, corner]  # not the square that they lie in
