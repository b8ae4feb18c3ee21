"""The score function: pages in, the log-probability of every scored token out."""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from zojax.models import decoder
from zojax.models.branches import STACKED, LayerRange, Layers
from zojax.models.forward import Forward
from zojax.scoring.attention import page_attention
from zojax.scoring.pages import Pages

Tree = Any
"""A nested dict of arrays."""


def score(
    weights: Tree,
    pool: Tree,
    pages: Pages,
    *,
    graphdef: nnx.GraphDef,
    normalize: bool = True,
    variants: int = 1,
) -> jax.Array:
    """Scores every page under its slot's adapter. Pure; jit it with ``graphdef`` bound.

    Args:
        weights: the base model's parameters, as in ``zojax.models.Model.weights``.
        pool: adapter states stacked on a leading slot axis; ``{}`` for the base model.
        pages: the pages to score; logits are computed only at their reads.
        graphdef: the model's structure, static.
        normalize: True returns log-probabilities. False leaves out the vocabulary's log-sum-exp
            and returns bare logits of the scored tokens, which is enough to compare candidates
            that share a read, and costs one column of the head per token instead of all.
        variants: the number of neighbouring pages that are one page in different slots, as
            :func:`repeat_for_slots` makes them; a divisor of the number of pages. Rounding of
            activations then does not hide the differences between their scores, at no cost. Pages
            that differ lose nothing by it. The layers below the first that has an adapter
            (:class:`zojax.models.branches.LayerRange`) are computed once for all of them.

    Returns:
        ``logprob_pc`` in float32; entries with ``weight_pc == 0`` are meaningless.
    """
    model, hidden_prn, forward = _run(weights, pool, pages, graphdef, variants)
    if not normalize:
        hidden_pcn = jnp.take_along_axis(hidden_prn, pages.read_pc[:, :, None], axis=1)
        return decoder.logits_at(model, hidden_pcn, jnp.asarray(pages.targets_pc), forward)
    return _logprobs(decoder.logits(model, hidden_prn, forward), pages)[0]


class Ranked(NamedTuple):
    """Scores, and what else the model held for probable.

    Attributes:
        logprob_pc: the log-probability of each scored token, float32.
        top_pra: the most probable tokens at each read, the most probable first; int32.
        top_logprob_pra: their log-probabilities, float32.
    """

    logprob_pc: Any
    top_pra: Any
    top_logprob_pra: Any


def score_and_rank(
    weights: Tree,
    pool: Tree,
    pages: Pages,
    ranks: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    count: int,
) -> Ranked:
    """Scores every page as :func:`score` does, and finds the most probable tokens at each read.

    Args:
        weights: as for :func:`score`.
        pool: as for :func:`score`.
        pages: as for :func:`score`.
        ranks: whether to find these tokens, which takes a sort; if not, they are zeros.
        graphdef: as for :func:`score`.
        count: the number of tokens to find, static; beyond the vocabulary's size they are zeros.
    """
    model, hidden_prn, forward = _run(weights, pool, pages, graphdef, 1)
    logits_prv = decoder.logits(model, hidden_prn, forward)
    logprob_pc, log_z_pr = _logprobs(logits_prv, pages)
    few = min(count, logits_prv.shape[-1])

    def ranked(logits_prv: jax.Array) -> tuple[jax.Array, jax.Array]:
        top_pra, at_pra = jax.lax.top_k(logits_prv, few)
        wide = (0, 0), (0, 0), (0, count - few)
        return jnp.pad(at_pra, wide), jnp.pad(top_pra - log_z_pr[..., None], wide)

    def unranked(logits_prv: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = (*logits_prv.shape[:2], count)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    return Ranked(logprob_pc, *jax.lax.cond(ranks, ranked, unranked, logits_prv))


def _run(
    weights: Tree, pool: Tree, pages: Pages, graphdef: nnx.GraphDef, variants: int
) -> tuple[Any, jax.Array, Forward]:
    """The model, the hidden states at the pages' reads, and what they were computed with."""
    model = nnx.merge(graphdef, weights)
    forward = _forward(pages, pool, variants)
    layers = only_layers(pool)
    shared = 0 if layers is None else layers.first
    if pages.below_ptn is not None:
        if shared == 0:
            raise ValueError("pages have states below a layer, but no layer is the first")
        x_ptn = jnp.asarray(pages.below_ptn, jnp.float32)
    elif variants > 1 and shared:
        once = jax.tree.map(lambda a: a[::variants], pages)
        below_ptn = states_below(weights, once, graphdef=graphdef, stop=shared)
        x_ptn = jnp.repeat(below_ptn, variants, axis=0)
    else:
        return model, decoder.run(model, jnp.asarray(pages.tokens_pt), forward)[0], forward
    return model, decoder.run_from(model, x_ptn, forward, shared)[0], forward


def states_below(weights: Tree, pages: Pages, *, graphdef: nnx.GraphDef, stop: int) -> jax.Array:
    """The base model's residual stream ``(p, t, n)`` before a layer, float32.

    Args:
        weights: as for :func:`score`.
        pages: the pages to compute it for.
        graphdef: as for :func:`score`.
        stop: the number of layers to run, at least 1; static.
    """
    model = nnx.merge(graphdef, weights)
    forward = _forward(pages, {}, variants=1)
    return decoder.run_below(model, jnp.asarray(pages.tokens_pt), forward, stop)


def _forward(pages: Pages, pool: Tree, variants: int) -> Forward:
    return Forward(
        jnp.asarray(pages.positions_pt),
        jnp.asarray(pages.slot_p),
        page_attention(pages),
        adapters=pool,
        variants=variants,
        reads_pr=jnp.asarray(pages.reads_pr),
    )


def only_layers(pool: Tree) -> Layers | None:
    """The layers that have adapters, if nothing else has one; what lies below is shared by all."""
    table = pool.get(STACKED)
    return table.layers if isinstance(table, LayerRange) and set(pool) == {STACKED} else None


def _logprobs(logits_prv: jax.Array, pages: Pages) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each scored token, and the reads' log-sum-exp."""
    log_z_pr = jax.nn.logsumexp(logits_prv, axis=-1)
    p_p1 = jnp.arange(logits_prv.shape[0])[:, None]
    logit_pc = logits_prv[p_p1, pages.read_pc, pages.targets_pc]
    return logit_pc - jnp.take_along_axis(log_z_pr, pages.read_pc, axis=1), log_z_pr


Slotted = TypeVar("Slotted")
"""Pages or prompts: a dataclass of arrays with a leading page axis, one of them ``slot_p``."""


def repeat_for_slots(pages: Slotted, first_slot: int, num_slots: int) -> Slotted:
    """Repeats pages or prompts for each of ``num_slots`` slots: ``(p · num_slots, …)``.

    The order is page-major, so that pages which are split over devices stay where they are.
    """
    slots = first_slot + jnp.arange(num_slots, dtype=jnp.int32)
    repeated: Any = jax.tree.map(lambda a: jnp.repeat(a, num_slots, axis=0), pages)
    slot_p = jnp.tile(slots, len(repeated.slot_p) // num_slots)
    return dataclasses.replace(repeated, slot_p=slot_p)


def candidate_scores(
    logprob_pc: jax.Array, pages: Pages, *, num_examples: int, num_candidates: int
) -> jax.Array:
    """The mean token log-probability of every candidate: ``(examples, candidates)``.

    Candidates that an example does not have get ``-inf``.
    """
    index = (pages.example_pc, pages.candidate_pc)
    empty = jnp.zeros((num_examples, num_candidates), jnp.float32)
    weight_pc = pages.weight_pc
    total = empty.at[index].add(jnp.where(weight_pc > 0, weight_pc * logprob_pc, 0.0))
    exists = empty.at[index].add(weight_pc) > 0
    return jnp.where(exists, total, -jnp.inf)
