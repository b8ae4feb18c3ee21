"""The adapter pool: a fixed number of slots of a fixed rank, for adapters of unrelated users.

The pool is allocated once. One program, which takes the slot as an argument, writes adapters into
slots in place, so that no program that reads the pool is ever compiled again.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from zojax.adapters.sites import Sites, nest
from zojax.errors import InputError, first_few
from zojax.models.branches import is_shared

Tree = Any


@dataclasses.dataclass(frozen=True)
class Occupancy:
    """Which slots hold an adapter, and how many users each has; immutable.

    Attributes:
        uses: the number of users of each slot; None for a free slot. Slot 0 is always taken by the
            base model.
    """

    uses: tuple[int | None, ...]

    def first_free(self) -> int:
        """The first free slot.

        Raises:
            InputError: no slot is free.
        """
        if None not in self.uses:
            raise InputError(f"all {len(self.uses) - 1} slots of the adapter pool are taken")
        return self.uses.index(None)

    def with_uses(self, slot: int, uses: int | None) -> "Occupancy":
        """The occupancy with another number of users for one slot."""
        return Occupancy((*self.uses[:slot], uses, *self.uses[slot + 1 :]))

    def uses_of(self, slot: int) -> int:
        """The number of users of a slot; ``ValueError`` if it holds no adapter."""
        uses = self.uses[slot] if 0 <= slot < len(self.uses) else None
        if uses is None:
            raise ValueError(f"slot {slot} of the adapter pool holds no adapter")
        return uses


class AdapterPool:
    """Adapters of rank r or less in slots 1, 2, …; slot 0 is all zeros, which is the base model.

    Adapters are inserted into slots and evicted; an adapter in use (by a request that is being
    answered) cannot be evicted. Slots never share an array. A pool is not thread-safe.

    Args:
        sites: the matrices at which an adapter may have factors.
        num_slots: the number of slots for adapters, besides the base model's.
        rank: the slots' rank r; factors of adapters of a smaller rank are padded with zeros.

    Attributes:
        arrays: the tree that a model takes: at every site ``u (slots, …, m, r)`` and
            ``v (slots, …, n, r)``, float32. The next :meth:`insert` donates its buffers.

    Example:
        >>> from zojax.adapters import Site
        >>> pool = AdapterPool((Site("w", (3, 2)),), num_slots=4, rank=8)
        >>> slot = pool.insert({"w": {"u": jnp.ones((3, 1)), "v": jnp.ones((2, 1))}})
        >>> slot, pool.arrays["w"]["u"].shape
        (1, (5, 3, 8))
    """

    def __init__(self, sites: Sites, *, num_slots: int, rank: int):
        vectors = [site.path for site in sites if not site.is_matrix]
        if vectors:
            raise ValueError(f"these are not matrices and have no factors: {first_few(vectors)}")
        self._rank = rank
        self._shapes = {
            f"{site.path}/{factor}": (*site.lead, length, rank)
            for site in sites
            for factor, length in zip("uv", site.shape[-2:], strict=True)
        }
        self._occupancy = Occupancy((0, *[None] * num_slots))
        self.arrays: Tree = nest(
            {p: jnp.zeros((1 + num_slots, *s), jnp.float32) for p, s in self._shapes.items()}
        )

    def insert(self, adapter: Tree) -> int:
        """Writes an adapter into a free slot and returns the slot, which has no users yet.

        Args:
            adapter: an adapter state of low-rank factors, such as one from
                :func:`zojax.adapters.lora.load_lora`.

        Raises:
            InputError: no slot is free, or the adapter does not fit: it has another site, something
                besides factors, another shape or a larger rank.
        """
        slot = self._occupancy.first_free()
        self.arrays = _write(self.arrays, self._padded(adapter), slot)
        self._occupancy = self._occupancy.with_uses(slot, 0)
        return slot

    @property
    def num_slots(self) -> int:
        """The number of slots for adapters."""
        return len(self._occupancy.uses) - 1

    @property
    def num_free(self) -> int:
        """The number of slots that hold no adapter."""
        return self._occupancy.uses.count(None)

    def uses(self, slot: int) -> int:
        """The number of users of a slot; ``ValueError`` if it holds no adapter."""
        return self._occupancy.uses_of(slot)

    def evict(self, slot: int) -> None:
        """Frees a slot; the next adapter there overwrites its contents.

        Raises:
            ValueError: the slot is in use, is free already, or is the base model's.
        """
        if self._occupancy.uses_of(slot) or slot == 0:
            raise ValueError(f"slot {slot} of the adapter pool is in use")
        self._occupancy = self._occupancy.with_uses(slot, None)

    def acquire(self, slot: int) -> None:
        """Counts one more user of a slot; ``ValueError`` if it holds no adapter."""
        uses = self._occupancy.uses_of(slot)
        self._occupancy = self._occupancy.with_uses(slot, uses + 1)

    def release(self, slot: int) -> None:
        """Counts one user of a slot less; ``ValueError`` if it has none."""
        uses = self._occupancy.uses_of(slot)
        if uses == 0:
            raise ValueError(f"slot {slot} of the adapter pool is released, but not in use")
        self._occupancy = self._occupancy.with_uses(slot, uses - 1)

    def check(self, adapter: Tree) -> None:
        """Whether an adapter fits, without inserting it; may be called from any thread.

        Args:
            adapter: as :meth:`insert` takes it.

        Raises:
            InputError: it does not fit: it has another site, something besides factors, another
                shape or a larger rank.
        """
        flat: dict[str, Any] = dict(traverse_util.flatten_dict(adapter, sep="/"))
        for path, leaf in flat.items():
            self._check_leaf(path, leaf)
        for site in {path.rpartition("/")[0] for path in flat}:
            u, v = (flat.get(f"{site}/{factor}") for factor in "uv")
            if u is None or v is None or u.shape[-1] != v.shape[-1]:
                raise InputError(f"adapter: {site} needs u and v, both of one rank")

    def _padded(self, adapter: Tree) -> Tree:
        """The adapter with factors of rank r at all sites, on the host, so nothing is compiled."""
        self.check(adapter)
        flat: dict[str, Any] = dict(traverse_util.flatten_dict(adapter, sep="/"))
        padded = {path: np.zeros(shape, np.float32) for path, shape in self._shapes.items()}
        for path, leaf in flat.items():
            padded[path][..., : leaf.shape[-1]] = leaf
        return nest(padded)

    def _check_leaf(self, path: str, leaf: Any) -> None:
        """Raises ``InputError`` if a leaf does not fit into the pool."""
        if path not in self._shapes:
            known = first_few(sorted({path.rpartition("/")[0] for path in self._shapes}))
            raise InputError(
                f"adapter: the pool has no place for {path}; it has u and v of {known}"
            )
        if is_shared(leaf):
            raise InputError(f"adapter: {path} is shared with others; give it its own arrays")
        wanted = self._shapes[path]
        if leaf.shape[:-1] != wanted[:-1] or leaf.shape[-1] > self._rank:
            raise InputError(
                f"adapter: {path} has shape {leaf.shape}; the pool takes {wanted} or a smaller rank"
            )


@functools.partial(jax.jit, donate_argnums=0)
def _write(arrays: Tree, adapter: Tree, slot: jax.Array | int) -> Tree:
    """Writes an adapter into one slot of the arrays, in place."""
    return jax.tree.map(lambda into, leaf: into.at[slot].set(leaf), arrays, adapter)
