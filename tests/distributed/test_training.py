"""A run on meshes of 8 virtual devices is the run on one, and exchanges what it should."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.methods_on_meshes import ANSWERS, BY_ANSWERS, METHODS, STEPS
from tests.kept_programs import QUICK_FLAGS
from zojax.hub import save
from zojax.models import random_model
from zojax.models.opt import OPTConfig

WIDTH, LAYERS, BATCH, CANDIDATES, VARIANTS = 64, 2, 16, 2, 2
CONFIG = OPTConfig(
    vocab_size=1024,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=8,
    ffn_dim=128,
    max_position_embeddings=64,
    word_embed_proj_dim=WIDTH,
)
TOLERANCE = 1e-5
MESHES = ["8x1", "4x2", "1x8", "4x2 fsdp"]
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ask(root, tiny_reviews, tmp_path_factory) -> Callable[[str], dict[str, Any]]:
    """What a script beside this file prints, of 8 virtual devices."""
    directory = tmp_path_factory.mktemp("meshes")
    model = directory / "model"
    save(random_model(CONFIG, seed=3), model)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(root / "zojax" / "demo" / "model" / name, model)
    settings = {
        # Compiling is most of the time here, and what it makes is hardly run.
        "XLA_FLAGS": f"{QUICK_FLAGS} {EIGHT_DEVICES}",
        "JAX_COMPILATION_CACHE_DIR": str(directory / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }

    def ask(script: str) -> dict[str, Any]:
        path = Path(__file__).with_name(script)
        command = [sys.executable, str(path), str(model), str(tiny_reviews), str(directory)]
        environment = {**os.environ, **settings}
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="module")
def told(ask) -> dict[str, Any]:
    """What ``on_meshes.py`` prints; V is redrawn three times in these runs."""
    return ask("on_meshes.py")


@pytest.fixture(scope="module")
def told_by_method(ask) -> dict[str, Any]:
    """What ``methods_on_meshes.py`` prints."""
    return ask("methods_on_meshes.py")


@pytest.mark.parametrize("mesh", MESHES)
def test_all_steps_are_those_of_one_device(mesh, told):
    """Up to the rounding of sums that are added up in another order."""
    losses, reference = (np.array(told[name]["losses"]) for name in (mesh, "1x1"))
    assert losses.shape == (40, VARIANTS)
    np.testing.assert_allclose(losses, reference, rtol=TOLERANCE)


@pytest.mark.parametrize("mesh", MESHES)
def test_directions_are_drawn_to_the_same_bits(mesh, told):
    assert told[mesh]["subspace"] == told["1x1"]["subspace"]
    assert told[mesh]["variants"] == told["1x1"]["variants"]
    assert len(set(told[mesh]["variants"])) == VARIANTS


def test_each_device_holds_its_share_of_the_heads(told):
    shards = [told[f"{8 // n}x{n}"]["shard"] for n in (1, 2, 8)]
    assert shards == [[LAYERS, WIDTH // n, WIDTH] for n in (1, 2, 8)]


def test_fsdp_splits_the_other_side_too_and_gathers_it_when_it_is_used(told):
    assert told["4x2 fsdp"]["shard"] == [LAYERS, WIDTH // 2, WIDTH // 4]
    assert "all-gather" in {operation for operation, _ in told["4x2 fsdp"]["collectives"]}


def test_across_data_nothing_but_scores_is_exchanged(told):
    assert told["1x1"]["collectives"] == []
    [(operation, num_bytes)] = told["8x1"]["collectives"]
    assert operation == "all-reduce"
    # Of every candidate: its score under each variant, and whether it is there.
    assert num_bytes == 4 * BATCH * CANDIDATES * (VARIANTS + 1)


@pytest.mark.parametrize("mesh", ["4x2", "1x8"])
def test_a_layer_adds_up_twice_and_no_weight_is_gathered(mesh, told):
    """In the loop's body and in the last layer; and once each for embeddings and scores."""
    operations = [operation for operation, _ in told[mesh]["collectives"]]
    assert set(operations) == {"all-reduce"}
    assert len(operations) <= 2 * 2 + 2


@pytest.mark.parametrize("mesh", ["1x1", *MESHES])
def test_nothing_is_compiled_after_start_up(mesh, told):
    assert told[mesh]["compilations_after_start"] == 0


def test_the_kernel_of_long_pages_is_split_by_pages_and_heads_and_exchanges_nothing(told):
    """On 2 × 4 devices; 3 pages and 6 heads, which those do not divide, are whole on each."""
    shards = [1, 100, 1, 16], [3, 100, 6, 16]
    for attended, shard in zip(told["attended"], shards, strict=True):
        assert attended == {"collectives": [], "shard": shard, "error": 0}


def test_a_checkpoint_of_one_mesh_is_restored_on_another(told):
    """To the bits that a replay of the journal gives on a third."""
    assert told["replay_off"] == 0.0
    assert told["moved"] > 1e-5


ON_MESHES = [(method, mesh) for method, kind in METHODS.items() for mesh in kind.meshes]


@pytest.mark.parametrize(("method", "mesh"), ON_MESHES)
def test_methods_of_every_kind_train_on_a_mesh_as_on_one_device(method, mesh, told_by_method):
    """Up to the rounding of sums that are added up in another order, and by what they learn."""
    told = told_by_method[method]
    on_mesh, reference = (np.array(told[name]["trained"]) for name in (mesh, "device"))
    assert len(reference) == STEPS
    np.testing.assert_allclose(on_mesh, reference, rtol=TOLERANCE)
    untrained = np.array(told["device"]["untrained"])
    learnt = np.abs(reference[-1] - untrained[-1]) / reference[-1]
    assert learnt.min() > 20 * TOLERANCE


@pytest.mark.parametrize("mesh", BY_ANSWERS.meshes)
def test_generated_answers_are_worth_on_a_mesh_what_they_are_on_one_device(mesh, told_by_method):
    """They are the same tokens, since no two logits are within rounding of each other."""
    told = told_by_method[ANSWERS]
    on_mesh, reference = (np.array(told[name]["trained"]) for name in (mesh, "device"))
    assert len(reference) == STEPS
    assert len(np.unique(reference)) > STEPS
    np.testing.assert_allclose(on_mesh, reference, atol=1e-6)  # the mean of F1s in float32
    assert np.abs(reference - told["device"]["untrained"])[1:].max() > 1e-3


@pytest.mark.parametrize(("method", "mesh"), [*ON_MESHES, (ANSWERS, *BY_ANSWERS.meshes)])
def test_directions_of_every_kind_are_drawn_to_the_same_bits(method, mesh, told_by_method):
    told = told_by_method[method]
    assert told[mesh]["directions"] == told["device"]["directions"]


def test_devices_generate_the_same_texts_a_share_each(told_by_method):
    """And all that the host reads lies whole on each, so that every process could read it."""
    told, reference = (told_by_method["generated"][name] for name in ("4x2", "device"))
    assert told["tokens"] == reference["tokens"]
    assert len({token for tokens in told["tokens"] for token in tokens}) > 10
    assert told["whole"] == [True] * 3
    # Of four rows one, for which there is room for 16 tokens of a prompt and as many new ones.
    assert told["cache"] == [LAYERS, 1, 8 // 2, 16 + 16, WIDTH // 8]
