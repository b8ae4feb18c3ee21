"""Small random models that transformers reads too."""

import dataclasses

import numpy as np
import pytest

from zojax.hub import load
from zojax.hub.saving import save_tensors
from zojax.hub.tensor_names import tensor_shapes
from zojax.models import Model
from zojax.models.opt import OPTConfig

PRE_LN = OPTConfig(
    vocab_size=97,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,
    ffn_dim=40,
    max_position_embeddings=48,
    word_embed_proj_dim=24,
)
STYLES = {
    "pre-LN": PRE_LN,
    "as 350M": dataclasses.replace(PRE_LN, word_embed_proj_dim=16, do_layer_norm_before=False),
}


@pytest.fixture(scope="session")
def rough_models(tmp_path_factory) -> dict[str, Model]:
    """Both styles on disk and loaded, float32, with logits of the order of 1.

    Positions weigh much, or greedy texts would soon repeat one token.
    """
    models, rng = {}, np.random.default_rng(1)
    for style, config in STYLES.items():
        directory, shapes = tmp_path_factory.mktemp("rough"), tensor_shapes(config)

        def noise(name: str, shapes=shapes) -> np.ndarray:
            scale = 1.0 if "embed_positions" in name else 0.15
            return ("norm.weight" in name) + scale * rng.standard_normal(shapes[name])

        save_tensors(config, directory, noise, dtype="float32")
        models[style] = load(str(directory))
    return models


@pytest.fixture(params=STYLES, ids=str)
def rough_model(request, rough_models) -> Model:
    return rough_models[request.param]
