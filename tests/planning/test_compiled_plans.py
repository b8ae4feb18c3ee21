"""Plans of published sizes, compiled by XLA's GPU and TPU compilers: ``make plan-test``.

Each compiler is large and wants an environment of its own, so these are skipped where it is absent,
unless ``ZOJAX_PLANS`` names it: then they fail.
"""

import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest

from zojax.hub.tensor_names import tensor_shapes
from zojax.models.registry import SHAPES


def needs(compiler: str, module: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(
        absent and os.environ.get("ZOJAX_PLANS") != compiler,
        reason=f"zojax[plan-{compiler}]: the compiler is absent; make plan-test installs it",
    )


GPU, TPU = needs("gpu", "jax_cuda12_plugin"), needs("tpu", "libtpu")

CASES = [
    pytest.param("opt-13b", "h100x1", marks=GPU),
    pytest.param("opt-30b", "h100x2", marks=GPU),
    pytest.param("opt-66b", "h100x4", marks=GPU),
    pytest.param("opt-13b", "v5e-4", marks=TPU),
    pytest.param("opt-66b", "v5p-8", marks=TPU),
]

pytestmark = pytest.mark.slow


@functools.cache
def planned(model: str, target: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and figures, from a process that no JAX has been started in."""
    command = [sys.executable, "-m", "zojax.cli", "plan", "--model", model]
    done = subprocess.run(
        [*command, "--target", target, "--json", *options], capture_output=True, text=True
    )
    assert done.returncode in (0, 3), done.stderr
    [told] = json.loads(done.stdout)["plans"]
    return done.returncode, told


def shares(model: str, told: dict[str, Any]) -> tuple[int, int]:
    """Bytes on a device of all weights, and of the smallest matrix in all layers."""
    entries = sum(math.prod(shape) for shape in tensor_shapes(SHAPES[model]).values())
    config, shards = SHAPES[model], told["mesh"]["model"]
    stack = config.num_hidden_layers * config.hidden_size**2
    return 2 * entries // shards, 2 * stack // shards


@pytest.mark.parametrize(("model", "target"), CASES)
def test_a_run_takes_its_weights_and_little_more(model, target):
    code, told = planned(model, target)
    share, stack = shares(model, told)
    taken = told["bytes_per_device"]
    assert (code, told["fits"]) == (0, True)
    assert taken["weights"] == pytest.approx(share, rel=2e-3)  # positions, vectors: whole
    assert taken["peak"] <= 1.02 * share + 1e9
    assert max(p["temporaries"] for p in told["programs"].values()) < min(stack, 1e9)
    assert {"step", "fold"} == set(told["programs"])


@pytest.mark.parametrize(("model", "target"), CASES)
def test_no_weight_is_gathered_or_copied_and_a_layer_adds_up_twice_at_most(model, target):
    _, told = planned(model, target)
    assert told["defects"] == []
    for program in told["programs"].values():
        assert set(program["collectives"]) <= {"all-reduce"}
        assert program["weight_sized_copies"] == []
    assert told["programs"]["fold"]["collectives"] == {}
    layers = SHAPES[model].num_hidden_layers
    if told["mesh"]["model"] > 1:
        assert told["all_reduces_per_layer"] == 2
        # Beside the layers', the embeddings' and the scores'.
        assert told["programs"]["step"]["collectives"]["all-reduce"]["times"] <= 2 * layers + 2


@pytest.mark.parametrize(
    ("target", "data", "shards"),
    [pytest.param("h100x2", 1, 2, marks=GPU), pytest.param("v5e-4", 2, 2, marks=TPU)],
)
def test_long_pages_exchange_each_sublayers_output_and_nothing_else(target, data, shards):
    """Their attention is a kernel, which XLA would gather pages and heads for."""
    model = SHAPES["opt-1.3b"]
    split = ["--set", f"mesh.data={data}", "--set", f"mesh.model={shards}", "--tokens", "2048"]
    _, told = planned("opt-1.3b", target, *split)
    batch = told["batch"]
    assert batch["page_tokens"] > 256
    [(kind, moved)] = told["programs"]["step"]["collectives"].items()
    assert kind == "all-reduce"
    sublayer = 4 * batch["places"] // data * batch["variants"] * model.hidden_size
    # And the embeddings; but the last layer's are of what is read alone.
    assert moved["bytes"] == pytest.approx(2 * sublayer * model.num_hidden_layers, rel=0.05)


SMALL_GPU = """
import dataclasses, functools, jax
from zojax.distributed import make_layout
from zojax.planning.targets import devices_of, find_target
from zojax.scoring import attention_kernel
from zojax.scoring.visibility import Visibility

target = find_target("a100x1")
chip = dataclasses.replace(target.chip, gpu={**target.chip.gpu, "shared": 100 * 1024})
layout = make_layout(1, 1, devices=devices_of(dataclasses.replace(target, chip=chip)))

def given(*shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding())

attend = functools.partial(attention_kernel.attend, backend=attention_kernel.for_gpu())
visibility = Visibility(*[given(2, 600, dtype="int32")] * 3)
for dtype in ("float32", "bfloat16", "float16"):
    for depth in (64, 80, 128):
        jax.jit(attend).lower(*[given(2, 600, 4, depth, dtype=dtype)] * 3, visibility).compile()
"""


@GPU
def test_the_kernel_of_long_pages_fits_the_smallest_gpus():
    """Of 100 kB of shared memory for a block and a kilobyte of the system's, from Ampere on."""
    environment = os.environ | {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "JAX_PLATFORMS": "cpu"}
    script = [sys.executable, "-c", SMALL_GPU]
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@GPU
def test_gpus_read_the_layers_where_they_lie():
    _, told = planned("opt-13b", "h100x1")
    assert told["programs"]["step"]["layer_sized_copies"] == []


@GPU
@pytest.mark.parametrize(
    "settings",
    [
        ["model.dtype=int8", "space.fold=none"],
        ["model.dtype=int4", "space.fold=none"],
        ["model.dtype=float16", "model.activations=float32"],
        ["train.micro_batches=2"],
    ],
    ids=" ".join,
)
def test_a_step_has_few_layers_at_a_time_beside_its_weights(settings):
    """However XLA reads them: 40 layers of OPT-13B are 25 GB in 16 bits."""
    options = [option for setting in settings for option in ("--set", setting)]
    _, told = planned("opt-13b", "h100x1", *options)
    assert told["programs"]["step"]["temporaries"] < 1e9


@pytest.mark.parametrize(
    "target", [pytest.param("h100x1", marks=GPU), pytest.param("v5e-1", marks=TPU)]
)
def test_an_8b_model_trains_in_7_gb_with_int4(target):
    settings = ["--set", "model.dtype=int4", "--set", "space.fold=none"]
    code, told = planned("Meta-Llama-3-8B", target, *settings)
    assert code == 0
    assert told["bytes_per_device"]["peak"] < 7e9
    assert told["programs"]["step"]["temporaries"] < 0.5e9


@GPU
def test_across_data_nothing_but_scores_is_exchanged():
    _, told = planned("opt-13b", "h100x8")
    assert told["mesh"] == {"data": 8, "model": 1}
    variants, examples, candidates = 2, 16, 2
    [(kind, moved)] = told["programs"]["step"]["collectives"].items()
    assert (kind, moved["times"]) == ("all-reduce", 1)
    assert moved["bytes"] == 4 * examples * candidates * (variants + 1)


@GPU
def test_what_does_not_fit_ends_in_exit_code_3_and_the_fewest_devices_that_have_room():
    code, told = planned("opt-66b", "h100x1")
    assert (code, told["fits"], told["programs"]) == (3, False, {})
    assert told["smallest_that_fits"]["target"] == "h100x3"
    assert told["smallest_that_fits"]["fits"] is True


@TPU
def test_a_model_that_fits_on_a_chip_in_16_bits_takes_four_in_32():
    code, told = planned("opt-6.7b", "v5e-1")
    assert (code, told["fits"]) == (0, True)
    code, told = planned("opt-6.7b", "v5e-1", "--set", "model.dtype=float32")
    assert (code, told["smallest_that_fits"]["target"]) == (3, "v5e-4")
