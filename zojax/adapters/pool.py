"""The adapter pool: a fixed number of slots of a fixed rank, for adapters of unrelated users.

It is allocated once. What comes and goes are the slots' contents, written in place by one program
whose slot is an argument, so that nothing that reads the pool is ever compiled again.
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
from zojax.models.layers import is_shared

Tree = Any


@dataclasses.dataclass(frozen=True)
class Occupancy:
    """Which slots hold an adapter, and how often each is in use; a new one for every change.

    Attributes:
        uses: of every slot; None where it is free. Slot 0 is the base model's for ever.
    """

    uses: tuple[int | None, ...]

    def first_free(self) -> int:
        """A slot to fill.

        Raises:
            InputError: there is none.
        """
        if None not in self.uses:
            raise InputError(f"all {len(self.uses) - 1} slots of the adapter pool are taken")
        return self.uses.index(None)

    def with_uses(self, slot: int, uses: int | None) -> "Occupancy":
        """With another count of one slot."""
        return Occupancy((*self.uses[:slot], uses, *self.uses[slot + 1 :]))

    def uses_of(self, slot: int) -> int:
        """How often a slot is in use; ``ValueError`` if it holds nothing."""
        uses = self.uses[slot] if 0 <= slot < len(self.uses) else None
        if uses is None:
            raise ValueError(f"slot {slot} of the adapter pool holds no adapter")
        return uses


class AdapterPool:
    """Adapters of rank r or less in slots 1, 2, …; slot 0 is all zeros, which is the base model.

    An adapter is taken into a slot and put out again; while somebody holds it (a request that is
    being answered), it cannot be put out. Slots never share an array. It is not to be called from
    several threads at once.

    Args:
        sites: the matrices that an adapter may have factors at.
        num_slots: of adapters, the base model's beside them.
        rank: r; smaller ones are padded with zeros.

    Attributes:
        arrays: the tree that a model takes: at every site ``u (slots, …, m, r)`` and
            ``v (slots, …, n, r)``, float32. Its buffers are used up by the next :meth:`insert`.

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
            raise ValueError(f"no matrices, and so without factors: {first_few(vectors)}")
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
        """Puts an adapter into a free slot, and gives its number; nobody holds it yet.

        Args:
            adapter: an adapter state of low-rank factors, such as those of
                :func:`zojax.adapters.lora.load_lora`.

        Raises:
            InputError: no slot is free, or it does not fit: another site, something beside
                factors, another shape, a larger rank.
        """
        slot = self._occupancy.first_free()
        self.arrays = _write(self.arrays, self._padded(adapter), slot)
        self._occupancy = self._occupancy.with_uses(slot, 0)
        return slot

    def evict(self, slot: int) -> None:
        """Frees a slot; what it holds is overwritten by the next adapter there.

        Raises:
            ValueError: it is in use, holds nothing, or is the base model's.
        """
        if self._occupancy.uses_of(slot) or slot == 0:
            raise ValueError(f"slot {slot} of the adapter pool is in use")
        self._occupancy = self._occupancy.with_uses(slot, None)

    def acquire(self, slot: int) -> None:
        """Counts one more who uses a slot; ``ValueError`` if it holds nothing."""
        uses = self._occupancy.uses_of(slot)
        self._occupancy = self._occupancy.with_uses(slot, uses + 1)

    def release(self, slot: int) -> None:
        """Counts one less; ``ValueError`` if nobody uses it."""
        uses = self._occupancy.uses_of(slot)
        if uses == 0:
            raise ValueError(f"slot {slot} of the adapter pool is released, but nobody holds it")
        self._occupancy = self._occupancy.with_uses(slot, uses - 1)

    def _padded(self, adapter: Tree) -> Tree:
        """It with factors of rank r at all sites, on the host: no program is made of it."""
        flat: dict[str, Any] = dict(traverse_util.flatten_dict(adapter, sep="/"))
        padded = {path: np.zeros(shape, np.float32) for path, shape in self._shapes.items()}
        for path, leaf in flat.items():
            self._check(path, leaf)
            padded[path][..., : leaf.shape[-1]] = leaf
        for site in {path.rpartition("/")[0] for path in flat}:
            u, v = (flat.get(f"{site}/{factor}") for factor in "uv")
            if u is None or v is None or u.shape[-1] != v.shape[-1]:
                raise InputError(f"adapter: {site} needs u and v, both of one rank")
        return nest(padded)

    def _check(self, path: str, leaf: Any) -> None:
        """Raises ``InputError`` if a leaf has no place here."""
        if path not in self._shapes:
            known = first_few(sorted({path.rpartition("/")[0] for path in self._shapes}))
            raise InputError(
                f"adapter: the pool has no place for {path}; it has u and v of {known}"
            )
        if is_shared(leaf):
            raise InputError(f"adapter: {path} is shared with others: give it its own arrays")
        wanted = self._shapes[path]
        if leaf.shape[:-1] != wanted[:-1] or leaf.shape[-1] > self._rank:
            raise InputError(
                f"adapter: {path} has shape {leaf.shape}; the pool takes {wanted} or less rank"
            )


@functools.partial(jax.jit, donate_argnums=0)
def _write(arrays: Tree, adapter: Tree, slot: jax.Array | int) -> Tree:
    """The arrays with an adapter in one slot, in their own buffers."""
    return jax.tree.map(lambda into, leaf: into.at[slot].set(leaf), arrays, adapter)
