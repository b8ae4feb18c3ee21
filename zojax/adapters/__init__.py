"""Small trees of arrays that, with the frozen base weights, name a model."""

from zojax.adapters.fold import FoldPolicy, fold
from zojax.adapters.lowrank import adapter_state, draw_direction, draw_subspace, zero_params
from zojax.adapters.pool import make_pool
from zojax.adapters.sites import Flat, Site, Sites, Trainable, trainable_sites

__all__ = [
    "Flat",
    "FoldPolicy",
    "Site",
    "Sites",
    "Trainable",
    "adapter_state",
    "draw_direction",
    "draw_subspace",
    "fold",
    "make_pool",
    "trainable_sites",
    "zero_params",
]
