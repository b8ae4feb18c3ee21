"""What is called right is right, every method is asked the same, and the figures are computed."""

import doctest
import itertools

import fidelity
import float64
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fidelity_methods import METHODS
from fidelity_probes import BASES, draw_probes
from matplotlib.axes import Axes
from rich.console import Console
from setting import make_config

from zojax.config import apply_overrides
from zojax.errors import InputError
from zojax.models.model import abstract
from zojax.runs.setup import load_model, prepare
from zojax.scoring import Item

PROBES, EPSILON = 4, 1e-2


@pytest.fixture(scope="module")
def config(tiny_model, tiny_reviews):
    sizes = ["train.batch_size=4", "data.num_train=40", "data.num_dev=10", "data.num_eval=10"]
    settings = [*sizes, f"estimator.epsilon={EPSILON}"]
    return make_config(tiny_model, str(tiny_reviews), PROBES, settings)


@pytest.fixture(scope="module")
def run(config):
    return prepare(config, Console(quiet=True))


@pytest.fixture(scope="module")
def probes(run):
    return list(draw_probes(run, PROBES))


def slope(model, base, u, v, items) -> float:
    """The loss's derivative along U Vᵀ by autograd; each sequence by itself, without padding."""
    scores = []
    for name, parameter in model.named_parameters():
        parameter.data = base[name].clone()
        parameter.grad = None
    for item in items:
        of_item = []
        for tail in item.candidates:
            tokens = torch.tensor(np.concatenate([item.prompt, tail])).long()
            logprobs_tv = model(input_ids=tokens[None]).logits[0].log_softmax(-1)
            at = range(len(item.prompt) - 1, len(tokens) - 1)
            of_item.append(torch.stack([logprobs_tv[t, tokens[t + 1]] for t in at]).mean())
        scores.append(torch.stack(of_item)[None])
    labels = [torch.tensor([item.label]) for item in items]
    losses = [
        torch.nn.functional.cross_entropy(s, label) for s, label in zip(scores, labels, strict=True)
    ]
    torch.stack(losses).mean().backward()
    parameters = dict(model.named_parameters())
    return sum(float((parameters[n].grad * (u[n] @ v[n].T)).sum()) for n in u)


def test_float64s_projected_gradient_is_the_losss_slope(run, probes, tiny_model):
    model, base = float64.load_model(tiny_model), float64.by_name(run.model.weights)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    u, v = float64.by_name(probes[0].u), float64.by_name(probes[0].v)
    # Candidates of several lengths, and prompts too, so that rows are shared and padded.
    items = [
        Item(np.arange(5, 14), (np.array([20]), np.array([21])), label=1),
        Item(np.arange(5, 7), (np.array([20, 30]), np.array([21, 22, 23])), label=0),
    ]
    found = float64.projected_grad(model, base, u, v, items, 1e-5)
    expected = slope(model, base, u, v, items)
    # A central difference errs by ε² / 6 of the third derivative, here 1e-5 of the slope.
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 1e-3


def test_directions_by_name_are_those_by_site(probes):
    flat = probes[0].u
    named = float64.by_name(flat)
    assert len(named) == sum(len(leaf) for leaf in flat.values())
    for path, leaf in flat.items():
        for layer, part in enumerate(np.asarray(leaf)):
            name = "model.decoder." + path.replace("/", ".").replace("layers", f"layers.{layer}")
            np.testing.assert_array_equal(named[name].numpy(), part)


def test_probes_have_batches_and_directions_of_their_own(probes):
    for a, b in itertools.pairwise(probes):
        assert [i.name for i in a.items] != [i.name for i in b.items]
        assert all((np.asarray(a.u[path]) != np.asarray(b.u[path])).all() for path in a.u)
        assert all((np.asarray(a.v[path]) != np.asarray(b.v[path])).all() for path in a.v)


def test_every_base_rounds_as_it_says():
    matrix = jnp.array([[[127.0, -63.4, 1.0], [0.0, 0.0, 0.0], [0.5, 0.25, -0.127]]])
    third = jnp.full((1, 3), 0.3)
    tree = {"layers": {"fc1": {"weight": matrix, "bias": third}}, "table": {"weight": third}}
    int8 = BASES["int8"](tree)
    fc1 = int8["layers"]["fc1"]
    assert fc1["weight"][0].tolist() == [[127, -63, 1], [0, 0, 0], [127, 64, -32]]
    np.testing.assert_allclose(fc1["scale"][0], [1, 0, 0.5 / 127], rtol=1e-6)
    in_bfloat16 = torch.tensor(0.3).to(torch.bfloat16).item()
    for vector in (fc1["bias"], int8["table"]["weight"]):
        assert set(np.ravel(vector).astype(float)) == {in_bfloat16}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        rounded = BASES[name](tree)["layers"]["fc1"]["weight"].astype(jnp.float32)
        theirs = torch.tensor(np.asarray(matrix)).to(dtype).float().numpy()
        np.testing.assert_array_equal(rounded, theirs)


def test_figures_are_those_worked_out_by_hand():
    assert doctest.testmod(fidelity).failed == 0
    exact = np.array([3.0, -4.0, 0.0])
    assert fidelity.relative_error(np.array([3.0, -4.0, 2.5]), exact) == 0.5
    assert fidelity.relative_error(exact, exact) == 0
    assert fidelity.sign_agreement(np.array([1.0, -1.0, 0.0]), exact) == 1
    assert fidelity.sign_agreement(np.array([-1.0, -1.0, 1.0]), exact) == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def rows(config):
    bases = ("float32", "bfloat16", "int8", "int4 in groups of 64")
    chosen = [m for m in METHODS if m.base in bases]
    measured = fidelity.measure("tiny", config, PROBES, chosen, Console(quiet=True))
    return {row.method: row for row in measured}


def test_all_are_asked_along_the_same_directions(rows):
    # Losses near ln 2 in float32, each rounded by up to 6e-8 or a few times that, are 2e-2 apart
    # for a c of 1; here c is about 1e-1.
    assert rows["zojax float32"].error < 1e-3
    assert rows["in place float32"].error < 1e-2
    for row in rows.values():
        assert row.probes == PROBES


def test_activations_in_float32_leave_the_rounding_of_the_base_alone(rows):
    rounded, kept = rows["zojax bfloat16"], rows["zojax bfloat16, activations float32"]
    assert kept.error < rounded.error / 10
    assert kept.error < kept.error_base / 3
    for base in ("int8", "int4 in groups of 64"):
        whole = rows[f"zojax {base}, activations float32"]
        assert whole.error < rows[f"zojax {base}"].error / 10
        assert whole.error < whole.error_base / 3


def test_what_is_measured_is_what_a_configuration_asks_for(config):
    graphdefs, base = set(), load_model(config)
    for method in METHODS:
        if method.precision is not None:
            settings = [f"model.dtype={method.base.partition(' ')[0]}"]
            if method.precision.int4_group:
                settings += [f"model.group_size={method.base.rpartition(' ')[2]}"]
            if method.precision.exact:
                settings += ["model.activations=float32"]
            model = load_model(apply_overrides(config, settings))
            assert model.graphdef == abstract(model.config, method.precision)[0]
            jax.tree.map(
                np.testing.assert_array_equal,
                model.weights,
                BASES[method.base](base.weights),
            )
            graphdefs.add(model.graphdef)
    assert len(graphdefs) == 4, "exact or not, with scales or without"


def test_the_table_has_every_figure():
    row = fidelity.Row("demo", "zojax float32", 200, 0.995, 1.5e-4, 0.9, 2e-2)
    text = fidelity.table([row], 1e-3, "a machine")
    assert text.startswith("a machine. ε 0.001")
    cells = text.splitlines()[-1].strip("| ").split(" | ")
    expected = ["demo", "zojax float32", "200", "99.5 %", "1.5e-04", "90.0 %", "2.0e-02"]
    assert cells == expected


def test_the_picture_has_both_errors_of_the_first_model_alone(tmp_path, monkeypatch):
    drawn = []
    barh = Axes.barh

    def noted(self, names, values, **settings):
        drawn.append((list(names), list(values)))
        return barh(self, names, values, **settings)

    monkeypatch.setattr(Axes, "barh", noted)
    rows = [
        fidelity.Row("demo", "zojax int8", 200, 1.0, 2e-3, 0.99, 3e-2),
        fidelity.Row("demo", "zojax int4", 200, 1.0, 3e-3, 0.95, 2e-1),
        fidelity.Row("opt-125m", "zojax int8", 3, 1.0, 9e-3, 1.0, 4e-2),
    ]
    fidelity.draw(rows, tmp_path / "picture.png")
    names = ["zojax int8", "zojax int4"]
    assert drawn == [(names, [2e-3, 3e-3]), (names, [3e-2, 2e-1])]
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_no_probes_are_refused():
    with pytest.raises(InputError, match="--probes 0"):
        fidelity.main(["--probes", "0"])
