"""The content hash is of the content, wherever the weights are."""

import jax
import jax.numpy as jnp
import numpy as np

from zojax.models import content_hash, identity


def test_the_hash_is_the_same_on_the_host_and_layer_by_layer_from_a_device(monkeypatch):
    tree = {
        "layers": {"fc1": {"weight": jnp.arange(24.0).reshape(2, 3, 4)}},
        "embed_tokens": {"weight": jnp.ones((5, 4), jnp.bfloat16)},
    }
    here = content_hash(tree)
    assert content_hash(jax.tree.map(np.asarray, tree)) == here
    monkeypatch.setattr(identity, "_is_on_host", lambda leaf: False)
    assert content_hash(tree) == here
