"""Adapters: small trees of arrays that, with the frozen base weights, define a model.

Internal: only the names of :mod:`zojax` itself are public, and this may change in any release.
"""

from zojax.adapters.fold import Fold, FoldPolicy
from zojax.adapters.pool import AdapterPool
from zojax.adapters.sites import (
    Flat,
    Site,
    Sites,
    Trainable,
    in_layers,
    of_modules,
    trainable_sites,
)
from zojax.adapters.space import Draw, Sample, Space, draw_dense
from zojax.adapters.space_factored import draw_factored, factored
from zojax.adapters.space_gathered import Truncation, gathered, truncation
from zojax.adapters.space_lora import lora_space
from zojax.adapters.space_lowrank import adapter_state, lowrank, lowrank_fold
from zojax.adapters.space_prefix import prefix_space
from zojax.adapters.space_seeded import along, seeded, seeded_fold
from zojax.adapters.variants import num_variants, own_arrays, stack_variants

__all__ = [
    "AdapterPool",
    "Draw",
    "Flat",
    "Fold",
    "FoldPolicy",
    "Sample",
    "Site",
    "Sites",
    "Space",
    "Trainable",
    "Truncation",
    "adapter_state",
    "along",
    "draw_dense",
    "draw_factored",
    "factored",
    "gathered",
    "in_layers",
    "lora_space",
    "lowrank",
    "lowrank_fold",
    "num_variants",
    "of_modules",
    "own_arrays",
    "prefix_space",
    "seeded",
    "seeded_fold",
    "stack_variants",
    "trainable_sites",
    "truncation",
]
