"""Plans of a tiny model for this machine, as if it were another: no compiler but JAX's own."""

import dataclasses
import json

import jax
import pytest
from rich.console import Console

from tests.models.published import CONFIGS
from zojax.commands.plan import read_plan_config
from zojax.config import Config
from zojax.distributed import make_layout
from zojax.errors import InputError
from zojax.models.opt import OPTConfig
from zojax.planning import answer
from zojax.planning.answer import smallest
from zojax.planning.plan import Bound, Plan, _out_of_memory, make_plan, matrix_shares
from zojax.planning.shapes import SST2_TOKENS, architecture, bytes_of, run_shapes, sample_items
from zojax.planning.targets import Chip, Target
from zojax.planning.traffic import Collective, Copy

# What XLA makes of users' programs.
pytestmark = pytest.mark.usefixtures("compiled_once")

D, FFN, LAYERS, VOCABULARY, POSITIONS, RANK = 64, 256, 3, 512, 128, 2
MODEL = OPTConfig(
    vocab_size=VOCABULARY,
    hidden_size=D,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    ffn_dim=FFN,
    max_position_embeddings=POSITIONS - 2,
    word_embed_proj_dim=D,
)
MATRICES = LAYERS * (4 * D * D + 2 * D * FFN)
# Biases of six matrices and two norms a layer, tables, and the last norm.
VECTORS = LAYERS * (4 * D + FFN + D + 4 * D) + 2 * D
WEIGHTS = MATRICES + VECTORS + (VOCABULARY + POSITIONS) * D
SIDES = LAYERS * (4 * 2 * D + 2 * (D + FFN))  # m + n of all matrices
TOKENS, BATCH, VARIANTS = 96, 4, 2

CHIP = Chip(
    name="abacus",
    extra="plan-abacus",
    memory=1 << 30,
    matmul_flops={"float32": 1e9},
    high_flops=1e9,
    exact_flops=1e8,
    memory_bandwidth=1e8,
    link_bandwidth=1e7,
    topologies={1: "1", 2: "2", 4: "4"},
    names=lambda n: f"abacus-{n}",
)


def small_config(*overrides: str) -> Config:
    settings = ["model.dtype=float32", f"train.batch_size={BATCH}"]
    if not any("estimator.name" in override for override in overrides):
        settings.append(f"estimator.rank={RANK}")
    return read_plan_config(None, "tiny", [*settings, *overrides])


def plan_here(chip: Chip = CHIP, *overrides: str) -> Plan:
    return make_plan(small_config(*overrides), MODEL, Target(chip, 1), TOKENS, jax.devices()[:1])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_here()


def test_bytes_are_those_of_weights_adapters_and_what_the_programs_take(plan):
    assert plan.kinds["weights"] == 4 * WEIGHTS
    assert plan.kinds["adapters"] == 4 * RANK * SIDES  # A and V
    assert plan.kinds["optimizer"] == 0
    assert plan.step is not None
    assert plan.fold is not None
    # The run's key, the learning rate and the number of the step; less what no line reads.
    assert abs(plan.step.arguments - sum(plan.kinds.values())) <= 64
    assert plan.peak >= plan.step.arguments + plan.step.temporaries
    assert plan.step.outputs < 1024  # the state goes where it came from
    assert plan.fold.outputs < 1024  # and so do the weights
    assert plan.step.exchanges == []


def test_what_is_proposed_for_a_table_has_the_shapes_of_any_other_batches():
    """No example is there to be balanced, and no learning rate yet."""
    proposed = ["train.batches=balanced", "train.objective=pairwise", "train.learning_rate=auto"]
    layout = make_layout(1, 1)
    theirs, usual = (
        run_shapes(small_config(*settings), MODEL, layout, TOKENS)
        for settings in ([*proposed, "data.calibration=fitted"], [])
    )
    assert [leaf.shape for leaf in jax.tree.leaves(theirs.batches)] == [
        leaf.shape for leaf in jax.tree.leaves(usual.batches)
    ]


@pytest.mark.parametrize(
    ("dtype", "of_matrices"),
    [("int8", MATRICES + 4 * LAYERS * (5 * D + FFN)), ("int4", MATRICES // 2 + 2 * MATRICES // 32)],
)
def test_of_quantised_matrices_entries_and_scales_are_counted(dtype, of_matrices):
    """int8 has a float32 for each row, int4 16 bits for each group; all else is 16 bits."""
    settings = [f"model.dtype={dtype}", "model.group_size=32", "space.fold=none"]
    layout = make_layout(1, 1)
    shapes = run_shapes(small_config(*settings), MODEL, layout, TOKENS)
    assert bytes_of(shapes.run.model.weights) == of_matrices + 2 * (WEIGHTS - MATRICES)
    shares = matrix_shares(shapes)
    assert (LAYERS, FFN, D) in shares, "what would be copied if a stack were unpacked at once"
    assert ((LAYERS, FFN, D // 2) in shares) == (dtype == "int4")
    assert (LAYERS, FFN, D // 32) not in shares, "scales are no matrices"


def test_an_8b_model_trains_in_7_gb_with_int4(tmp_path):
    """Planned from its ``config.json`` alone; compiled plans have less than 0.5 GB beside this."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["meta-llama/Meta-Llama-3-8B"]))
    settings = ["model.dtype=int4", "space.fold=none"]
    config = read_plan_config(None, str(tmp_path), settings)
    shapes = run_shapes(config, architecture(str(tmp_path)), make_layout(1, 1), SST2_TOKENS)
    width, ffn, key_value, layers, words = 4096, 14336, 1024, 32, 128256
    sides = [(width, width)] * 2 + [(key_value, width)] * 2
    sides += [(ffn, width)] * 2 + [(width, ffn)]
    entries = layers * sum(m * n for m, n in sides)
    whole = 2 * words * width + (2 * layers + 1) * width  # embeddings, head and norms
    weights = bytes_of(shapes.run.model.weights)
    assert weights == entries // 2 + 2 * entries // 64 + 2 * whole
    state = bytes_of((shapes.state.params, shapes.state.subspace, shapes.state.opt_state))
    assert state == 4 * 2 * layers * sum(m + n for m, n in sides)  # A and V, float32, r 2
    assert weights + state < 6.5e9


def test_the_bound_is_the_dearest_of_products_memory_and_links(plan):
    """Counted by hand: pages of 52 places, with one example and with three."""
    assert plan.batch == {
        "tokens": 96,
        "passes": 1,
        "places": 104,
        "pages": 2,
        "page_tokens": 52,
        "variants": VARIANTS,
    }
    page, tokens, reads = 52, VARIANTS * 104, VARIANTS * 2 * 3
    layer, key_value = 4 * D * D + 2 * D * FFN, 2 * D * D
    products = 2 * (LAYERS - 1) * tokens * layer
    products += 2 * (tokens * key_value + reads * (layer - key_value))
    products += 4 * D * page * ((LAYERS - 1) * tokens + reads)  # attention
    sides, of_key_value = SIDES // LAYERS, 2 * 2 * D
    branches = 2 * RANK * ((LAYERS - 1) * tokens * sides + tokens * of_key_value)
    branches += 2 * RANK * reads * (sides - of_key_value)
    head = 2 * reads * 2 * D  # two candidates
    assert plan.bound.products == pytest.approx(products / 1e9 + (branches + head) / 1e8, rel=1e-5)
    layers = 4 * (MATRICES + VECTORS - 2 * D)
    state = 4 * RANK * SIDES
    rows = 4 * RANK * LAYERS * (5 * D + FFN)  # A, which is written
    assert plan.bound.memory == pytest.approx((layers + state + rows) / 1e8, rel=1e-4)
    assert plan.bound.fold == pytest.approx(2 * layers / 1e8 / 50)
    assert plan.bound.links == 0
    assert plan.bound.limit == "products"


@pytest.mark.parametrize(
    ("bound", "limit", "seconds"),
    [
        (Bound(3.0, 2.0, 0.0, 1.0, fold=0.5), "products", 3.5),
        (Bound(3.0, 2.0, 2.0, 1.0, fold=0.5), "memory", 4.5),
        (Bound(1.0, 2.0, 0.0, 4.0, fold=0.0), "links", 4.0),
    ],
)
def test_one_limit_sets_the_bound_and_the_fold_comes_on_top(bound, limit, seconds):
    assert (bound.limit, bound.seconds) == (limit, seconds)


def test_what_is_larger_than_a_device_does_not_fit(plan):
    assert plan.fits
    exact = dataclasses.replace(CHIP, memory=plan.peak)
    assert dataclasses.replace(plan, target=Target(exact, 1)).fits
    less = dataclasses.replace(CHIP, memory=plan.peak - 1)
    assert not dataclasses.replace(plan, target=Target(less, 1)).fits


def test_weights_that_are_larger_than_a_device_are_not_even_compiled():
    plan = plan_here(dataclasses.replace(CHIP, memory=4 * WEIGHTS))
    assert not plan.fits
    assert plan.step is None
    assert plan.compile_seconds < 1
    assert plan.peak == sum(plan.kinds.values())


def test_the_fewest_devices_that_have_room_are_looked_for(plan, monkeypatch):
    asked = []

    def fake(config: Config, model: OPTConfig, target: Target, tokens: int) -> Plan:
        asked.append((target.num_devices, config.mesh.model))
        if (target.num_devices, config.mesh.model) == (2, None):
            raise InputError("a mesh that the method does not go with")
        fits = config.mesh.model == 2
        return dataclasses.replace(plan, target=target, step=plan.step if fits else None)

    monkeypatch.setattr(answer, "make_plan", fake)
    tight = dataclasses.replace(plan, step=None)
    found = smallest(small_config("mesh.data=2"), MODEL, tight, TOKENS, Console())
    assert found is not None
    assert found.target.name == "abacus-2"
    assert asked == [(1, None), (1, 1), (2, None), (2, 2)]  # a run's own choice comes first


def test_micro_batches_and_pairs_of_dense_directions_pass_through_the_weights_one_by_one():
    many = ["train.micro_batches=2", "estimator.name=mezo", "estimator.num_queries=3"]
    small = dataclasses.replace(CHIP, memory=4 * WEIGHTS)  # so that nothing is compiled
    assert plan_here(small, *many).batch["passes"] == 2 * 3
    assert plan_here(small, "estimator.num_queries=3").batch["passes"] == 1


def test_defects_are_copies_of_whole_weights_and_more_than_two_all_reduces_a_layer(plan):
    assert plan.step is not None
    copies = [Copy("c", "copy", 2_000_000_000, 1, True), Copy("d", "fusion", 9, 3, False)]
    bad = dataclasses.replace(plan, step=dataclasses.replace(plan.step, copies=copies), fold=None)
    assert bad.defects == ["the step copies weights: copy of 2.00 GB"]
    for a_layer, passes, defects in ((2, 1, []), (3, 1, ["3 all-reduces a layer"]), (2, 4, [])):
        in_layers = [Collective("all-reduce", 9, 2, passes * LAYERS)] * a_layer
        outside = [Collective("all-reduce", 9, 2, passes)] * 2
        step = dataclasses.replace(plan.step, copies=[], exchanges=in_layers + outside)
        batch = {**plan.batch, "passes": passes}
        assert dataclasses.replace(plan, step=step, fold=None, batch=batch).defects == defects


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "RESOURCE_EXHAUSTED: temporaries (18.45G) exceeds available HBM (15.75G).",
            "XLA needs 18.45GiB of 15.75GiB",
        ),
        ("RESOURCE_EXHAUSTED: Used 25.9G of 15.75G hbm.", "XLA needs 25.9GiB of 15.75GiB"),
        ("RESOURCE_EXHAUSTED: no", "XLA refuses it as too large"),
    ],
)
def test_what_xla_refuses_as_too_large_is_said_in_its_figures(text, reason):
    assert _out_of_memory(jax.errors.JaxRuntimeError(text)) == reason


def test_other_errors_of_xla_are_not_taken_for_that():
    with pytest.raises(jax.errors.JaxRuntimeError):
        _out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: a bug"))


@pytest.mark.parametrize("count", [1, 4, 16, 40])
def test_sample_items_have_the_tokens_that_are_asked_for(count):
    for with_choice in (True, False):
        items = sample_items(15 * count, count, with_choice=with_choice)
        assert len(items) == count
        assert sum(item.num_computed for item in items) == 15 * count
    with pytest.raises(InputError, match=r"--tokens 3: too few for train\.batch_size=4"):
        sample_items(3, 4, with_choice=True)


def test_published_sizes_and_local_directories_need_no_download(tiny_model):
    assert architecture("facebook/opt-13b") == architecture("opt-13b")
    assert architecture("opt-66b").num_hidden_layers == 64
    assert architecture(str(tiny_model)).hidden_size == 16
    with pytest.raises(InputError, match="--model gpt2: neither a directory"):
        architecture("gpt2")
