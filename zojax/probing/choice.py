"""Which layers and matrices are worth most a second, of all that a configuration can name."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zojax.probing.moments import Measured, Worth
from zojax.probing.spread import standard_error

_MOST_MODULES = 8
"""Of more modules, not all sets are tried, but single ones and all but one."""


class Choice(NamedTuple):
    """Matrices in neighbouring layers.

    Attributes:
        paths: the sites.
        first: the first layer.
        stop: the layer after the last.
        worth: what their directions are worth a step.
        cost: the time of a step over that of a step on all layers, if what lies below is kept.
        is_curved: whether the curvature of all of it was seen; if not, no rate follows from it.
    """

    paths: tuple[str, ...]
    first: int
    stop: int
    worth: Worth
    cost: float
    is_curved: bool

    @property
    def by_second(self) -> float:
        """The decrease of the loss in the time of a step on all layers."""
        return self.worth.decrease / self.cost

    def margin(self, other: "Choice") -> tuple[float, float]:
        """By how much more it decreases the loss a second, and the standard error of that.

        Both are measured on the same batches and directions, so much of what is due to them
        cancels.

        Args:
            other: what has all of these matrices, and may have others.
        """
        ours, theirs = self.worth, other.worth
        without_g = ours.without_g / self.cost - theirs.without_g / other.cost
        slope_of_others = -theirs.slope_k / other.cost
        slope_of_these = ours.slope_k / self.cost + slope_of_others
        of_these = ours.spread.along(slope_of_these)
        of_others = (theirs.spread - ours.spread).along(slope_of_others)
        variances = (a + b for a, b in zip(of_these, of_others, strict=True))
        return self.by_second - other.by_second, standard_error(without_g, *variances)


def all_of(measured: Measured) -> Choice:
    """All sites in all layers."""
    return _choice(measured, tuple(measured.sites), 0, len(measured.parts))


def best(measured: Measured) -> Choice | None:
    """The choice that is best a second, judged by a standard error less than was measured.

    None if nothing is better than all of them by three errors of the difference, since it is the
    best of many; and if curvature was not seen everywhere: what only guesses has room to move, not
    reason to.
    """
    whole = all_of(measured)
    found = max(choices(measured), key=_lower_bound)
    difference, error = found.margin(whole)
    is_good = whole.is_curved and _lower_bound(found) > 0 and difference > 3 * error
    return found if is_good else None


def choices(measured: Measured) -> Iterator[Choice]:
    """All sets of sites in neighbouring parts, two fifths of all of them or more.

    What a step wins says nothing of how long steps go on to win it. A few matrices alone can win as
    much as many do, and have soon learnt what they can.
    """
    count = len(measured.parts)
    fewest = math.ceil(count * 2 / 5)
    edges = itertools.combinations(range(count + 1), 2)
    places = [(first, stop) for first, stop in edges if stop - first >= fewest]
    for paths in _sets(list(measured.sites)):
        for first, stop in places:
            yield _choice(measured, paths, first, stop)


def cells(measured: Measured, paths: Sequence[str]) -> list[Choice]:
    """Some sites in each of the parts, and in all of them."""
    count, chosen = len(measured.parts), tuple(paths)
    each = [_choice(measured, chosen, part, part + 1) for part in range(count)]
    return [*each, _choice(measured, chosen, 0, count)] if count > 1 else each


def _choice(measured: Measured, paths: tuple[str, ...], first: int, stop: int) -> Choice:
    first_layer, num_layers = measured.parts[first][0], measured.parts[-1][1]
    return Choice(
        paths,
        first_layer,
        measured.parts[stop - 1][1],
        measured.worth(paths, slice(first, stop)),
        1 - first_layer / num_layers,
        all(measured.is_curved[path][first:stop].all() for path in paths),
    )


def _lower_bound(choice: Choice) -> float:
    bound = (choice.worth.decrease - choice.worth.error) / choice.cost
    return bound if math.isfinite(bound) and choice.worth.rate > 0 else -math.inf


def _sets(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    few = len(paths) <= _MOST_MODULES
    sizes = range(1, len(paths) + 1) if few else sorted({1, len(paths) - 1, len(paths)})
    for size in sizes:
        yield from itertools.combinations(paths, size)


def suggested_epsilon(curvature: float) -> float:
    """The length of a probe at which curvature alone changes the loss by 0.005 nats.

    A longer one leaves the range in which the loss is a parabola, and a shorter one loses digits.

    >>> suggested_epsilon(2500.0)
    0.002
    """
    return float(f"{math.sqrt(2 * 0.005 / curvature):.0e}")
