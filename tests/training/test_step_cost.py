"""What the compiled step costs, by XLA's own analysis of it at OPT-125M's shape: no run, no clock.

Bounds are counted by hand from the shapes, with a margin that is named; where one can be lowered,
lower it. Compilations and the host's waits are counted in ``test_train.py``.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from zojax.config import Config, EstimatorConfig, ModelConfig, RunConfig, TrainConfig
from zojax.config.loading import load_config
from zojax.models import abstract_model
from zojax.models.opt import OPTConfig
from zojax.runs import setup
from zojax.runs.chunks import compile_programs
from zojax.runs.setup import make_train_source, prepare
from zojax.scoring import Item, PageShape
from zojax.training.batches import abstract_batch
from zojax.training.method import make_method
from zojax.training.objective import CandidateScorer, classification_loss, of_candidates
from zojax.training.step import init_state

# What users' programs cost.
pytestmark = pytest.mark.usefixtures("compiled_once")

VOCABULARY, D, FFN, LAYERS, HEADS, RANK = 50272, 768, 3072, 12, 12, 2
CONFIG = OPTConfig(
    vocab_size=VOCABULARY,
    hidden_size=D,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    ffn_dim=FFN,
    max_position_embeddings=2048,
    word_embed_proj_dim=D,
)
SHAPE = PageShape(pages=2, tokens=104, reads=9, scored=18)  # of a batch of 16 of SST-2
PAGES = 2 * SHAPE.pages  # of both variants
TOKENS, READS = PAGES * SHAPE.tokens, PAGES * SHAPE.reads
MATRICES = 4 * D * D + 2 * D * FFN
LAYER_BYTES, TABLE_BYTES = 4 * MATRICES, 4 * VOCABULARY * D
SIDES = 4 * 2 * D + 2 * (D + FFN)  # m + n of a layer's matrices


@functools.cache
def compiled_step(**estimator: Any) -> Any:
    """The step's program, for shapes alone."""
    model = abstract_model(CONFIG)
    config = Config(
        ModelConfig("unused"),
        RunConfig("unused"),
        train=TrainConfig(steps=1),
        estimator=EstimatorConfig(rank=RANK, **estimator),
    )
    method = make_method(config, model)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(functools.partial(init_state, method), model.weights, key)
    scorer = CandidateScorer(model.graphdef, 2, normalize=False)
    objective = of_candidates(scorer, classification_loss)
    batches = {SHAPE: abstract_batch(SHAPE, 16)}
    programs = compile_programs(model.weights, state, key, method, objective, batches, steps=1)
    return programs.step[SHAPE]


def flops(program: Any) -> float:
    return program.cost_analysis()["flops"]


def matrix_flops(rank: int = RANK) -> float:
    """Of the matrix products that scoring two variants takes; XLA counts a loop's body once.

    Args:
        rank: that of the branch beside each matrix.
    """
    layer = 2 * TOKENS * MATRICES
    last = 2 * TOKENS * 2 * D * D + 2 * READS * (MATRICES - 2 * D * D)
    attention = 4 * PAGES * SHAPE.tokens * D * (SHAPE.tokens + SHAPE.reads)
    branches = 2 * TOKENS * rank * (SIDES + 2 * 2 * D) + 2 * READS * rank * (SIDES - 2 * 2 * D)
    return layer + last + attention + branches


def test_a_step_computes_little_but_the_products_of_its_tokens():
    """No token, layer or column of the head twice; the rest is softmax, norms and draws."""
    assert matrix_flops() <= flops(compiled_step(trainable="linear")) <= 1.02 * matrix_flops()


def test_an_adapter_that_gathers_intervals_costs_its_branch_and_no_product_more():
    """It is multiplied as a part of the branch that LoZO has: with 16 columns, 3 % of a step."""
    without, beside = (
        compiled_step(trainable="linear", **settings)
        for settings in ({}, {"fold": "adapter", "adapter_rank": 16})
    )
    expected = matrix_flops(RANK + 16)
    assert expected <= flops(beside) <= 1.02 * expected
    assert flops(beside) <= 1.05 * flops(without)
    assert without.as_text().count(" dot(") == beside.as_text().count(" dot(")


def test_all_probes_share_one_product_with_each_matrix():
    one, two = (compiled_step(trainable="linear", num_queries=n) for n in (1, 2))
    assert one.as_text().count(" dot(") == two.as_text().count(" dot(") > 0
    assert flops(two) >= 1.98 * flops(one)  # in one product, not in a loop's body, counted once


def test_a_step_reads_its_weights_three_times_at_most():
    """XLA's CPU compiler copies a layer's matrices before it reads them, and counts a gather as the
    whole table. Activations: ten times what the products of a layer read and write.
    """
    weights = 2 * 3 * LAYER_BYTES + 2 * TABLE_BYTES  # the loop's body, and the last layer
    bytes_accessed = compiled_step(trainable="linear").cost_analysis()["bytes accessed"]
    assert bytes_accessed <= weights + 10 * 4 * TOKENS * SIDES


@pytest.mark.parametrize("trainable", ["linear", "full"])
def test_a_step_needs_two_layers_and_one_layers_activations_beside_its_arguments(trainable):
    """The copies of a layer's matrices in the loop and behind it; what is alive in an MLP; U of two
    variants and the base slot, and once more in the update.
    """
    sides = LAYERS * SIDES
    if trainable == "full":
        sides += VOCABULARY + CONFIG.max_position_embeddings + 2 * D
    memory = compiled_step(trainable=trainable).memory_analysis()
    alive = 4 * TOKENS * (2 * D + FFN) + 4 * 4 * RANK * sides
    assert memory.temp_size_in_bytes <= 2 * LAYER_BYTES + alive
    # The state is written where it was read, so that little but the records is put out.
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 4096


# How many of 1,000 training examples of SST-2 have 0, 1, 2, … tokens, with BOS and " It was".
# fmt: off
SST2_LENGTHS = [
    0, 0, 0, 0, 7, 71, 117, 71, 77, 70, 65, 66, 33, 36, 30, 45, 31, 27, 29, 18, 17, 16, 14, 9, 13,
    16, 13, 10, 9, 12, 5, 12, 4, 6, 6, 9, 3, 4, 2, 5, 2, 1, 2, 1, 1, 5, 1, 0, 3, 1, 0, 1, 1, 0, 0,
    0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1,
]
# fmt: on


def test_pages_of_sst2_are_full_of_real_and_distinct_tokens(config_file, monkeypatch):
    monkeypatch.setattr(setup, "_in_layers", lambda run: 85_000_000)  # as OPT-125M has
    tiny = load_config(str(config_file))
    run = prepare(tiny, Console(quiet=True))
    one = np.zeros(1, np.int32)
    lengths = np.repeat(np.arange(len(SST2_LENGTHS)), SST2_LENGTHS)
    items = [Item(np.zeros(length, np.int32), (one, one)) for length in lengths]
    config = dataclasses.replace(tiny, train=TrainConfig(steps=500))
    run = dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, train=items),
        model=dataclasses.replace(run.model, config=CONFIG),
    )
    source = make_train_source(config, run)
    computed, places = np.array([source(step)[2] for step in range(500)]).sum(axis=0)
    assert computed == pytest.approx(500 * 16 * lengths.mean(), rel=1e-9)
    assert computed >= 0.95 * places
