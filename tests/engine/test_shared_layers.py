"""Adapters that begin at a layer share the cache of all layers below, and nobody notices."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.engine.conftest import KEY, Asking, adapter_of, ids
from tests.engine.test_pauses import Crowd
from tests.rough_models import PRE_LN
from zojax.adapters import AdapterPool, stack_variants, trainable_sites
from zojax.adapters.sites import nest
from zojax.engine.device import Device
from zojax.engine.ladder import make_ladder
from zojax.engine.requests import GenerateRequest
from zojax.engine.row_programs import copy_row, extend, extend_above
from zojax.engine.row_table import Place, RowTable
from zojax.engine.rows import empty_rows, no_pieces
from zojax.engine.runtime import Runtime
from zojax.engine.shared_layers import NOWHERE, first_layer
from zojax.engine.slots import Registry, Slots
from zojax.generation import generate
from zojax.models import Model, abstract_model
from zojax.programs.compiling import CompilationCounter

LAYERS, SHARED, LENGTH, ROWS, NEW = 5, 3, 96, 4, 6
PROMPT = 40
LADDER = dataclasses.replace(
    make_ladder(LENGTH, ROWS, most_steps=4, first_visible=LENGTH),
    pieces=((1, 16), (4, 16)),  # so that a prompt has several pieces
)


@pytest.fixture(scope="module")
def deep() -> Model:
    """A model of five layers with logits of the order of 1."""
    sizes = {"num_hidden_layers": LAYERS, "max_position_embeddings": LENGTH}
    shapes, rng = abstract_model(dataclasses.replace(PRE_LN, **sizes)), np.random.default_rng(2)

    def leaf(path: tuple[Any, ...], of: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        scale = 1.0 if "embed_positions" in name else 0.15
        noise = scale * rng.standard_normal(of.shape).astype(np.float32)
        return jnp.asarray(("norm" in name and "weight" in name) + noise)

    return dataclasses.replace(shapes, weights=jax.tree.map_with_path(leaf, shapes.weights))


@pytest.fixture(scope="module")
def sites(deep):
    names = ("v_proj", "fc1")
    return tuple(
        site
        for site in trainable_sites(deep.weights, "linear")
        if any(n in site.path for n in names)
    )


def begins_at(layer: int, sites: Any, seed: int) -> dict[str, Any]:
    """A random adapter of the layers from one on."""
    adapter = adapter_of(sites, seed)
    for factors in adapter.values():
        for leaf in factors.values():
            leaf[:layer] = 0
    return adapter


@pytest.fixture(scope="module")
def adapters(sites) -> dict[str, Any]:
    upper = {name: begins_at(SHARED, sites, seed) for seed, name in enumerate("ABC")}
    return {**upper, "top": begins_at(LAYERS - 1, sites, 7), "low": begins_at(SHARED - 1, sites, 8)}


@pytest.fixture(scope="module")
def devices(deep, sites):
    """The pool, and a device that shares and one that does not, both with probes."""
    pool = AdapterPool(sites, num_slots=4, rank=2)
    make = {"slots_per_row": 2}
    shares = Device(deep, pool.arrays, LADDER, KEY, shared_layers=SHARED, **make)
    alone = Device(deep, pool.arrays, LADDER, KEY, **make)
    shares.compile()
    alone.cancel()
    return pool, shares, alone


@pytest.fixture(scope="module")
def sharing(devices, adapters):
    pool, device, _ = devices
    registry = Registry()
    for name, adapter in adapters.items():
        registry.add(name, lambda adapter=adapter: adapter)
    with Runtime(device, Slots(pool), registry) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def offline(deep, adapters):
    """Finds the continuations of prompts of one length under the adapters of these names."""
    slots = {name: i for i, name in enumerate([None, *adapters])}
    pool = stack_variants([_nested(adapter) for adapter in adapters.values()])

    def find(prompts, names) -> list[list[int]]:
        more = 8 - len(names)  # so that one program will do for as many as 8
        found = generate(
            *(deep, [*prompts, *[prompts[0]] * more], lambda ids: ""),
            max_new_tokens=NEW,
            pool=pool,
            slots=[*(slots[name] for name in names), *[0] * more],
            batch_size=8,
        )
        return [one.tokens for one in found[: len(names)]]

    return find


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    return nest(
        {f"{path}/{name}": leaf for path, one in flat.items() for name, leaf in one.items()}
    )


def prompt_of(seed: int, length: int = PROMPT) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, PRE_LN.vocab_size, length).astype(np.int32)


class Counting(Asking):
    """Asks, and tells how many tokens were reused, and of how many the lower layers alone."""

    def __call__(self, request):
        before = self.runtime.core.counts.shared_tokens
        answer = super().__call__(request)
        self.last = answer[2], self.runtime.core.counts.shared_tokens - before
        return answer


@pytest.fixture
def ask(sharing) -> Counting:
    return Counting(sharing)


def test_a_prompt_goes_from_adapter_to_adapter_and_only_upper_layers_are_computed(ask, offline):
    prompt, names = prompt_of(1), [None, "A", "B", "top", "A", None, "C"]
    wanted = offline([prompt] * len(names), names)
    assert len({tuple(tokens) for tokens in wanted}) > 4
    counts = []
    for name, tokens in zip(names, wanted, strict=True):
        assert ids(ask(GenerateRequest(prompt, NEW, adapter=name))) == tokens
        counts.append(ask.last)
    assert counts[:4] == [(0, 0), *[(0, PROMPT - 1)] * 3]
    for reused, shared in counts[4:]:  # its own row may be there still
        assert max(reused, shared) == PROMPT - 1


def test_an_answer_under_one_adapter_is_gone_on_with_under_another(ask, offline):
    """What was decoded is kept, too, and what follows is more than a piece."""
    prompt = prompt_of(2, 24)
    answer = ask(GenerateRequest(prompt, 20, adapter="A"))
    more = np.concatenate([prompt, ids(answer), prompt_of(3, 20)]).astype(np.int32)
    names = ["B", "A", None]
    for name, tokens in zip(names, offline([more] * 3, names), strict=True):
        assert ids(ask(GenerateRequest(more, NEW, adapter=name))) == tokens
        assert ask.last[0] + ask.last[1] in (24 + 19, len(more) - 1)


def test_what_a_row_holds_of_its_own_is_reused_beside_what_it_shares(ask, offline):
    start, end = prompt_of(4), prompt_of(5)
    ask(GenerateRequest(start, 1, adapter="A"))
    both = np.concatenate([start, end])
    for name in ("B", "A", "B"):  # the third finds all that the first has left
        assert ids(ask(GenerateRequest(both, NEW, adapter=name))) == offline([both], [name])[0]
    assert ask.last == (len(both) - 1, 0)


def test_many_at_once_share_what_is_still_being_computed(ask, offline):
    names = ["A", "B", None, "C", "top", "A", "B", "low"]
    prompts = [prompt_of(6), prompt_of(6), prompt_of(6), prompt_of(6)] * 2
    wanted = offline(prompts, names)
    requests = [
        GenerateRequest(prompt, NEW, adapter=name)
        for prompt, name in zip(prompts, names, strict=True)
    ]
    before = ask.runtime.core.counts.shared_tokens
    assert [ids(answer) for answer in ask.all(requests)] == wanted
    assert ask.runtime.core.counts.shared_tokens > before


def test_texts_that_pause_go_on_as_they_were(ask, offline):
    names = ["A", "B", None, "C"]

    def texts(count: int, owner: str) -> list[GenerateRequest]:
        return [GenerateRequest(prompt_of(7), count, adapter=one, owner=owner) for one in names]

    alone = [ids(ask(request)) for request in texts(40, "many")]
    assert [tokens[:NEW] for tokens in alone] == offline([prompt_of(7)] * 4, names)
    crowd = Crowd(ask.runtime, ask, iter(texts(3, "few") * 5), every=2)
    before = ask.runtime.core.counts.paused_texts
    answers = [crowd.start(request) for request in texts(40, "many") * 2]
    assert [ids(ask.finish(one)) for one in answers] == alone * 2
    assert ask.runtime.core.counts.paused_texts > before + 3


def test_an_adapter_that_begins_below_shares_nothing(ask, offline):
    prompt = prompt_of(8)
    [low, base] = offline([prompt] * 2, ["low", None])
    ask(GenerateRequest(prompt, 1))
    assert ids(ask(GenerateRequest(prompt, NEW, adapter="low"))) == low
    assert ask.last == (0, 0)
    assert ids(ask(GenerateRequest(prompt, NEW))) == base
    assert ids(ask(GenerateRequest(prompt, NEW, adapter="low"))) == low
    assert ask.last == (PROMPT - 1, 0)


def test_a_probe_counts_where_it_begins(ask):
    """Those of a row are added: with one that begins below, others of it share, and nobody else."""
    prompt = prompt_of(9)
    pairs = [(None, "low"), ("A", "low"), ("A", "B"), ("A", None), ("low", "B")]
    counts, found = [], []
    for adapter, probe in pairs:
        found.append(ids(ask(GenerateRequest(prompt, NEW, adapter=adapter, probe=probe))))
        counts.append(ask.last)
    all_below = PROMPT - 1
    assert counts == [(0, 0), (0, all_below), (0, 0), (0, all_below), (0, all_below)]
    for seed, (adapter, probe) in enumerate(pairs):
        # Another prompt first fills each row, so that these are computed as a whole.
        for n in range(ROWS):
            ask(GenerateRequest(prompt_of(100 + ROWS * seed + n), 1))
        again = ids(ask(GenerateRequest(prompt, NEW, adapter=adapter, probe=probe)))
        assert ask.last == (0, 0)
        assert again == found[seed]


def test_a_reloaded_adapter_shares_what_lies_below_and_nothing_else(ask, sites, offline, deep):
    prompt, base = prompt_of(10), offline([prompt_of(10)], ["A"])[0]
    counts, answers = [], []
    for seed in (0, 50, 0):  # that of A, another, and A's again
        adapter = begins_at(SHARED, sites, seed)
        ask.runtime.registry.add("changing", lambda adapter=adapter: adapter)
        answers.append(ids(ask(GenerateRequest(prompt, NEW, adapter="changing"))))
        counts.append(ask.last)
    assert counts == [(0, 0), (0, PROMPT - 1), (0, PROMPT - 1)]
    assert answers[0] == answers[2] == base != answers[1]
    low = begins_at(0, sites, 0)
    ask.runtime.registry.add("changing", lambda: low)
    ask(GenerateRequest(prompt, NEW, adapter="changing"))
    assert ask.last == (0, 0)


def test_numbers_that_are_not_finite_stay_above_with_the_one_who_made_them(ask, sites, offline):
    """The lower layers of its row are shared before it is known that the upper ones are lost."""
    huge = {
        path: {name: 1e30 * leaf for name, leaf in factors.items()}
        for path, factors in begins_at(SHARED, sites, 60).items()
    }
    ask.runtime.registry.add("huge", lambda: huge)
    prompt, come = prompt_of(11), {3: "huge", 5: "A"}  # while its pieces are computed
    ask(GenerateRequest(prompt_of(60), 1, adapter="huge"))  # so that it is in a slot
    ask(GenerateRequest(prompt, 1, adapter="A"))
    for seed in (61, 62):  # so that the prompt's row was taken before the other free ones
        ask(GenerateRequest(prompt_of(seed), 1))
    answers, count = {}, itertools.count()

    def also(_: Any) -> None:
        if name := come.get(next(count)):
            answers[name] = ask.start(GenerateRequest(prompt, NEW, adapter=name))[1]

    other = ask.start(GenerateRequest(prompt_of(63), 40), also)[1]
    assert len(ask.finish(other)[0]) == 40
    assert ask.finish(answers["huge"])[1] == "nonfinite"
    assert ids(ask.finish(answers["A"])) == offline([prompt], ["A"])[0]


def test_nothing_is_compiled_after_the_start(ask):
    with CompilationCounter() as counter:
        for name in ("A", "B", None, "low"):
            ask.all([GenerateRequest(prompt_of(12), 50, adapter=name)] * 3)
    assert counter.count == 0


def test_layers_that_are_not_shared_cost_nothing(devices):
    _, shares, alone = devices
    new = {name for name in shares._pending if name not in alone._pending}
    assert new == {("extend above", n, t, v) for n, t, v in LADDER.piece_programs}
    kept, nothing = shares._state, alone._state
    assert nothing.below is None
    assert len(jax.tree.leaves(kept)) == len(jax.tree.leaves(nothing)) + 1
    assert kept.below.x_psn.shape == (ROWS, LENGTH, PRE_LN.hidden_size)
    assert kept.below.x_psn.dtype == np.float32


def test_a_copy_has_what_is_shared_and_zeros_where_the_source_may_be_not_finite(deep):
    make = functools.partial(empty_rows, num_rows=2, length=8, graphdef=deep.graphdef)
    width = PRE_LN.hidden_size
    empty = make(deep.weights, shared_layers=SHARED, width=width)
    full = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), (empty.cache, empty.below))
    k_ypgsd = full[0].k_ypgsd.at[:, 0, :, :3].set(1).at[:SHARED, 0, :, :5].set(1)
    below = dataclasses.replace(full[1], x_psn=full[1].x_psn.at[0, :5].set(1))
    state = dataclasses.replace(empty, cache=full[0]._replace(k_ypgsd=k_ypgsd), below=below)
    found = copy_row(state, 0, 1, 3, 5)
    count_y = jnp.where(jnp.arange(LAYERS) < SHARED, 5, 3)
    kept_ys = np.arange(8) < count_y[:, None]
    heads, depth = k_ypgsd.shape[2], k_ypgsd.shape[4]
    expected = np.broadcast_to(kept_ys[:, None, :, None], (LAYERS, heads, 8, depth))
    np.testing.assert_array_equal(found.cache.k_ypgsd[:, 1], expected)
    expected = np.broadcast_to((np.arange(8) < 5)[:, None], (8, width))
    np.testing.assert_array_equal(found.below.x_psn[1], expected)


def test_what_is_above_takes_its_share_of_the_products():
    """Of three layers one is shared, so that each loop is one layer: XLA counts its body once."""
    width, ffn, tokens = 64, 256, 64
    sizes = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": ffn}
    sizes["num_attention_heads"] = 4
    model = abstract_model(dataclasses.replace(PRE_LN, **sizes))
    make = functools.partial(empty_rows, graphdef=model.graphdef, num_rows=1, length=tokens)
    state = jax.eval_shape(functools.partial(make, shared_layers=1, width=width), model.weights)
    pieces = no_pieces(1, tokens, num_rows=1, vocab_size=PRE_LN.vocab_size)
    static = {"graphdef": model.graphdef, "visible": tokens}

    def flops(function, *args) -> float:
        jitted = jax.jit(functools.partial(function, **static))
        return (
            jitted.lower(model.weights, {}, state, pieces, *args).compile().cost_analysis()["flops"]
        )

    keys, rest = 2 * width * width, 2 * width * width + 2 * width * ffn
    whole = tokens * (3 * keys + 2 * rest) + rest  # of the last layer's output, that of one token
    above = tokens * (2 * keys + rest)
    found = flops(extend_above) / flops(extend, KEY)
    assert found == pytest.approx(above / whole, rel=0.1)


def test_the_first_layer_of_an_adapter_is_the_lowest_that_it_changes(sites, adapters):
    found = {name: first_layer(adapter) for name, adapter in adapters.items()}
    top = {"top": LAYERS - 1, "low": SHARED - 1}
    assert found == {"A": SHARED, "B": SHARED, "C": SHARED, **top}
    whole = adapters["A"]
    assert first_layer(begins_at(LAYERS, sites, 0)) == first_layer({}) == NOWHERE
    assert first_layer({**whole, "embed_tokens": {"weight": {"u": np.zeros((3, 1))}}}) == 0
    assert first_layer({**whole, "layers/self_attn/prefix": {"k": np.zeros((5, 3, 1))}}) == 0


def test_a_row_of_another_version_is_worth_the_share_of_its_lower_layers():
    table, prompt = RowTable((3,), share_below=0.5), prompt_of(0, 60)
    for version, row in ((1, 0), (2, 1)):
        assert table.take(version, prompt_of(version, 40)).row == row
        table.hold(row, prompt[:59] if version == 1 else prompt[:28])
        table.free(row)
    # Half of 59 tokens is more than 28 whole ones, and half of 40 is less.
    assert table.take(2, prompt) == Place(2, 0, 59, source=0)
    table.forget(2)
    table.free(2)
    assert table.take(2, prompt[:41]) == Place(1, 28, 28)


def test_what_is_below_is_shared_where_it_was_computed_under_the_same():
    table, prompt = RowTable((2,), share_below=0.5), prompt_of(0, 60)
    assert table.take((1, 0), prompt, below=(1,)).num_below == 0
    table.hold(0, prompt)
    assert table.take((2, 0), prompt, below=()) == Place(1, 0, 0)
    table.free(1)
    assert table.take((1, 5), prompt, below=(1,)) == Place(1, 0, 59, source=0)


def test_a_row_that_is_forgotten_shares_nothing():
    table, prompt = RowTable((2,), share_below=0.5), prompt_of(0, 60)
    table.take(1, prompt)
    table.hold(0, prompt)
    table.forget(0)
    assert table.take(2, prompt) == Place(1, 0, 0)


def test_a_row_keeps_what_lies_below_while_upper_layers_follow():
    table, prompt = RowTable((3,), share_below=0.5), prompt_of(0, 60)
    table.take(1, prompt)
    table.hold(0, prompt)
    assert table.take(2, prompt) == Place(1, 0, 59, source=0)
    table.hold(1, prompt[:16])
    table.forget(0)
    assert table.take(3, prompt) == Place(2, 0, 59, source=1)
    table.forget(2)
    table.hold(1, np.concatenate([prompt[:10], prompt[:10]]))  # other tokens are the end of it
    table.free(0)
    assert table.take(4, prompt) == Place(0, 0, 0)


def test_few_tokens_are_not_worth_a_call_of_their_own():
    table, prompt = RowTable((1,), share_below=0.5), prompt_of(0, 32)
    table.take(1, prompt)
    table.hold(0, prompt)
    table.free(0)
    assert table.take(2, prompt) == Place(0, 0, 0)
