"""Directions of two layers of a quadratic loss, whose gradient and curvature are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.adapters import Site, draw_dense, lowrank
from zojax.probing.choice import all_of, best, choices
from zojax.probing.gradients import by_gradients
from zojax.probing.groups import (
    Curvature,
    OfSite,
    Products,
    bands,
    in_bands,
    measured,
    moving,
    no_batches,
)
from zojax.probing.moments import Measured, Moments, worth
from zojax.probing.passes import RISE, Prober, by_passes, curvatures, make_prober
from zojax.probing.spread import no_spread, spread

PATH, SHAPE, PARTS = "layers/fc1/weight", (2, 3, 4), ((0, 1), (1, 2))
CURVATURE = np.arange(1, 25, dtype=np.float32).reshape(SHAPE) / 10
KEY = jax.random.key(3)
MOVING = {PATH: np.ones(2, bool)}


def objective(weights, variants, batch):
    """``<G, W> + Σ a W² / 2`` of the movement W, so that the gradient at the start is G."""
    branch = variants["layers"]["fc1"]["weight"]
    moved_v = jnp.einsum("vlmk,lnk->vlmn", branch["u"], branch["v"].value)[1:]
    return (batch * moved_v + weights * moved_v**2 / 2).sum((1, 2, 3))


@pytest.fixture(scope="module")
def batches() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    same = rng.normal(size=SHAPE)
    return [(same + 0.5 * rng.normal(size=SHAPE)).astype(np.float32) for _ in range(6)]


def expected(batches, rank: int) -> dict[str, np.ndarray]:
    """The moments of each layer: those of U Vᵀ are the rank times those of the entries."""
    flat = np.stack(batches).reshape(len(batches), SHAPE[0], -1)
    products = np.einsum("ald,bld->lab", flat, flat)
    others = ~np.eye(len(batches), dtype=bool)
    return {
        "signal": rank * products[:, others].mean(-1),
        "squared": rank * np.diagonal(products, axis1=1, axis2=2).mean(-1),
        "curvature": rank * CURVATURE.sum((1, 2)),
    }


def check(found: Products, want: dict[str, np.ndarray], within: float) -> None:
    seen = {PATH: Curvature(np.ones(2), np.ones(2, bool), np.zeros(2))}
    moments = measured(found, seen, PARTS)
    for layer in range(SHAPE[0]):
        of_layer = moments.worth([PATH], slice(layer, layer + 1))
        assert of_layer.signal == pytest.approx(want["signal"][layer], rel=within)
        assert of_layer.squared == pytest.approx(want["squared"][layer], rel=within)


def test_gradients_give_the_moments_of_factors(batches):
    rank = 256  # of what is measured; its scale is that of directions of rank 2
    space = lowrank((Site(PATH, SHAPE),), rank=rank)
    found = by_gradients(
        space,
        objective,
        CURVATURE,
        batches,
        KEY,
        num_groups=6,
        factors={PATH},
        scale={PATH: 2 / rank},
    )
    check(found, expected(batches, 2), within=0.2)


@pytest.fixture(scope="module")
def prober() -> Prober:
    where = lowrank((Site(PATH, SHAPE),), rank=2), draw_dense
    return make_prober(where, objective, CURVATURE, KEY, PARTS)


def test_forward_passes_give_the_same_moments(prober, batches):
    told = []
    found = by_passes(
        prober, batches, num_directions=300, epsilon=0.05, num_groups=3, on_batch=told.append
    )
    check(found, expected(batches, 2), within=0.25)
    assert told == [1, 2, 3, 4, 5, 6]


def test_the_curvature_is_that_of_the_loss_wherever_its_measurement_begins(prober, batches):
    want = expected(batches, 2)["curvature"]
    for epsilon in (1e-3, 30.0):
        found = curvatures(
            prober,
            batches[:1],
            num_directions=200,
            epsilon=epsilon,
            longest={PATH: 100.0},
            moving=MOVING,
        )[PATH]
        assert found.h_l == pytest.approx(want, rel=0.3)
        assert found.is_seen_l.all()


def test_where_no_probe_raises_the_loss_the_curvature_is_the_largest_that_can_be_believed(
    prober, batches
):
    found = curvatures(
        prober, batches[:1], num_directions=2, epsilon=1e-3, longest={PATH: 0.005}, moving=MOVING
    )[PATH]
    assert found.h_l == pytest.approx(2 * RISE / 0.005**2)
    assert not found.is_seen_l.any()


def test_the_measured_rate_and_decrease_are_the_best_of_a_parabola():
    """For one c and one h, a step of rate η changes the loss by −η c² + η² c² h / 2."""
    c, h = 3.0, 4.0
    found = worth(Moments(np.full(5, 5 * c * c), *np.full((2, 5), c * c), np.full(5, h)), EXACT)
    rates = np.linspace(0, 1, 1001)
    change = -rates * c * c + rates**2 * c * c * h / 2
    assert found.rate == pytest.approx(rates[change.argmin()])
    assert found.decrease == pytest.approx(-change.min())


EXACT = no_spread()


def test_the_error_is_the_spread_over_other_batches():
    """Of 400 measurements of one decrease, the spread is what each of them says it is."""
    rng = np.random.default_rng(1)
    gradient = rng.normal(size=50)
    found = []
    for _ in range(400):
        groups = gradient + rng.normal(size=(12, 50))
        products = groups @ groups.T
        squared = np.diagonal(products)
        moments = Moments(products.sum(1), squared, squared, np.full(12, 5.0))
        found.append(worth(moments, EXACT))
    spread = np.std([one.decrease for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.2)


SITES = ("layers/a/weight", "layers/b/weight")


def measure_once(
    rng, gradient: np.ndarray, noise: float, directions: int, curvatures: int = 16
) -> Measured:
    """Two sites of one layer each on 12 batches, probed along directions of 40 entries."""
    groups = no_batches(12, dict.fromkeys(SITES, (1, directions, 1)))
    batches = gradient + noise * rng.normal(size=(12, 2, 40))
    z = rng.normal(size=(2, directions, 40))
    for number, (a, b) in enumerate(np.einsum("gsn,sdn->gsd", batches, z)):
        groups.add(number, {SITES[0]: a[None, :, None], SITES[1]: b[None, :, None]})
    products = groups.products(dict.fromkeys(SITES, 1 / directions))
    rises = rng.chisquare(4, size=(2, curvatures)) / 4  # the curvature along other directions
    curvature = {}
    for path, h in zip(SITES, rises, strict=True):
        variance = h.var(ddof=1, keepdims=True) / curvatures
        curvature[path] = Curvature(h.mean(keepdims=True), np.ones(1, bool), variance)
    return measured(products, curvature, ((0, 1),))


@pytest.mark.parametrize(("noise", "directions"), [(0.0, 60), (1.0, 60), (1.0, 600), (3.0, 30)])
def test_the_error_is_the_spread_over_other_batches_and_other_directions(noise, directions):
    """Where directions decide, where both do, where batches do, and where both do together."""
    rng = np.random.default_rng(5)
    gradient = rng.normal(size=(2, 40))
    found = [all_of(measure_once(rng, gradient, noise, directions)).worth for _ in range(300)]
    spread_of_all = np.std([one.decrease for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread_of_all, rel=0.2)


def test_the_error_is_within_half_where_curvature_has_two_directions():
    """As in each cell of a map: about two in three figures are within it of the middle."""
    rng = np.random.default_rng(7)
    gradient = rng.normal(size=(2, 40))
    found = [all_of(measure_once(rng, gradient, 1.0, 60, 2)).worth for _ in range(300)]
    decreases = np.array([one.decrease for one in found])
    errors = np.array([one.error for one in found])
    assert errors.mean() == pytest.approx(decreases.std(), rel=0.5)
    assert 0.55 < np.mean(abs(decreases - np.median(decreases)) < errors) < 0.8


def test_the_error_of_a_margin_is_its_spread():
    """Of one of two sites and both of them, which share what is measured of the one."""
    rng = np.random.default_rng(6)
    gradient = rng.normal(size=(2, 40)) * np.array([[2.0], [0.5]])
    margins = []
    for _ in range(300):
        once = measure_once(rng, gradient, 1.0, 60)
        alone = next(choice for choice in choices(once) if choice.paths == SITES[:1])
        margins.append(alone.margin(all_of(once)))
    differences, errors = np.array(margins).T
    assert errors.mean() == pytest.approx(differences.std(), rel=0.2)


def some_measured(signal: np.ndarray, noise: float = 0.0) -> Measured:
    """Two sites in three layers, each with c² of 1 and a curvature of 1 in every group."""
    rng = np.random.default_rng(2)
    agreed = signal[..., None] * np.ones(8) + noise * rng.normal(size=(*signal.shape, 8))
    ones = np.ones((3, 8))
    sites = {name: Moments(8 * agreed[at], agreed[at], ones, ones) for at, name in enumerate(SITES)}
    curved = {name: np.ones(3, bool) for name in sites}
    exact = {name: no_spread(3) for name in sites}
    return Measured(((0, 1), (1, 2), (2, 3)), sites, curved, exact)


def test_the_best_choice_is_where_the_signal_is_and_little_has_to_be_computed():
    found = best(some_measured(np.array([[0.1, 0.1, 0.1], [0.1, 0.8, 0.9]])))
    assert found is not None
    assert (found.paths, found.first, found.stop) == (("layers/b/weight",), 1, 3)
    assert found.cost == pytest.approx(2 / 3)
    assert found.is_curved


def test_matrices_of_too_few_layers_are_no_choice():
    found = list(choices(some_measured(np.full((2, 3), 0.1))))
    assert {choice.stop - choice.first for choice in found} == {2, 3}
    assert len(found) == 3 * 3


def test_no_choice_is_made_where_the_curvature_was_not_seen():
    found = some_measured(np.array([[0.1, 0.1, 0.1], [0.1, 0.8, 0.9]]))
    found.is_curved["layers/a/weight"][0] = False
    assert best(found) is None


def test_no_choice_is_made_of_what_the_groups_disagree_about():
    found = some_measured(np.full((2, 3), 0.1), noise=3.0)
    assert best(found) is None
    assert np.isfinite(all_of(found).worth.decrease)


def test_layers_are_taken_together_in_bands():
    each = np.array([[1.0], [2.0], [4.0]])
    one = spread(np.arange(24.0).reshape(4, 3, 2), np.zeros((4, 3, 2)))
    found = in_bands({PATH: OfSite(each, each, each, one)}, bands(3, 2))[PATH]
    assert found.squared_lg.tolist() == [[3.0], [4.0]]
    assert found.spread.directions_kk[:, 0, 0].tolist() == [0.5, 0.25]  # of n and n + 1


def test_what_changes_no_loss_wins_nothing_and_bends_nothing(prober, batches):
    """As a LoRA's A does while its B is zero: the map of all together is that of the others."""
    still = {PATH: np.array([True, False])}
    found = curvatures(
        prober, batches[:1], num_directions=2, epsilon=1e-3, longest={PATH: 100.0}, moving=still
    )[PATH]
    assert found.h_l[0] > 0 == found.h_l[1]
    assert found.is_seen_l.all()
    zeros = np.zeros(4)
    nothing = worth(Moments(zeros, zeros, zeros, zeros), EXACT)
    assert nothing.decrease == nothing.error == 0
    ones, squared = np.ones((2, 3)), np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    products: Products = {PATH: OfSite(ones, ones, squared, no_spread(2))}
    assert moving(products)[PATH].tolist() == [True, False]
