"""The program of another platform, lowered here and called here."""

import functools

import jax
import numpy as np
from jax.export import DisabledSafetyCheck, export

from zojax.models import Model
from zojax.scoring import from_span, pack, score, shape_needed

# The same products, which XLA may fuse with others.
TOLERANCE = 1e-5


def lowered(model: Model, platform: str) -> tuple[str, np.ndarray]:
    """The scoring program of a platform as text, and its scores on this one."""
    rng = np.random.default_rng(0)
    items = [from_span(rng.integers(3, 97, n).astype(np.int32), 1, n) for n in (5, 12, 9)]
    pages = pack(items, shape_needed(items, 2))
    program = export(
        jax.jit(functools.partial(score, graphdef=model.graphdef)),
        platforms=[platform],
        disabled_checks=[DisabledSafetyCheck.platform()],
    )(model.weights, {}, pages)
    return program.mlir_module(), np.asarray(program.call(model.weights, {}, pages))


def test_gpus_have_each_layer_by_itself_and_score_as_the_loop_over_the_layers_does(rough_model):
    looped, scores = lowered(rough_model, "cpu")
    unrolled, theirs = lowered(rough_model, "cuda")
    assert ("stablehlo.while" in looped, "stablehlo.while" in unrolled) == (True, False)
    np.testing.assert_allclose(theirs, scores, atol=TOLERANCE)
