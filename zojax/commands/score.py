"""Ranking the candidates of one text under a base model: what ``zojax score`` prints."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zojax.errors import InputError
from zojax.hub import load, load_tokenizer, read_config
from zojax.scoring import pack, score, shape_needed
from zojax.tasks import Example, tokenise


def rank_candidates(
    model_path: str, text: str, candidates: Sequence[str], dtype: str = "float32"
) -> list[dict[str, Any]]:
    """Scores candidates after a text.

    Returns:
        For each candidate, in the order given: ``candidate``, ``logprob`` (sum over its tokens,
        nats), ``mean_logprob``, ``share`` (softmax of the means over the candidates), ``tokens``.

    Raises:
        InputError: no such model, a candidate that cannot be scored, or more tokens than the model
            has positions.
    """
    positions = read_config(model_path).max_position_embeddings
    tokenizer = load_tokenizer(model_path, None)
    item = tokenise(tokenizer, Example(text, tuple(candidates), 0, "--text"))
    length = len(item.prompt) + max(len(candidate) for candidate in item.candidates)
    if length > positions:
        raise InputError(
            f"--text: with its longest candidate it has {length} tokens, but the model has "
            f"{positions} positions"
        )
    model = load(model_path, dtype=jnp.dtype(dtype))
    pages = pack([item], shape_needed([item]))
    logprob_pc = np.asarray(
        jax.jit(score, static_argnames="graphdef")(
            model.weights, {}, pages, graphdef=model.graphdef
        )
    )
    owner_c = np.asarray(pages.candidate_pc)[0]
    sums = np.array([logprob_pc[0, owner_c == i].sum() for i in range(len(candidates))])
    lengths = np.array([len(c) for c in item.candidates])
    means = sums / lengths
    shares = np.exp(means - np.logaddexp.reduce(means))
    return [
        {
            "candidate": candidate,
            "logprob": float(sums[i]),
            "mean_logprob": float(means[i]),
            "share": float(shares[i]),
            "tokens": item.candidates[i].tolist(),
        }
        for i, candidate in enumerate(candidates)
    ]
