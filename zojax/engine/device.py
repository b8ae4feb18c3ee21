"""The device's side of the runtime: rows, and every program that works on them or scores pages.

All programs are compiled when it is made; a call never compiles. Results are arrays on the device,
so that the host can go on before they are there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from zojax.distributed import layout_of, put, put_pages
from zojax.engine.ladder import Ladder
from zojax.engine.masks import num_words
from zojax.engine.requests import MAX_LOGPROBS
from zojax.engine.row_programs import advance, clear_row, copy_row, extend, extend_above, nudge
from zojax.engine.rows import Chosen, Pieces, RowState, empty_rows, no_pieces, slots_of
from zojax.models import Model
from zojax.programs.compiling import PendingProgram, shapes_of
from zojax.scoring import Pages, PageShape, Ranked, pack, score_and_rank

Tree = Any

MAX_BIASES = 512
"""The most tokens with a bias in a request."""


class Device:
    """The rows, and the compiled programs.

    Args:
        model: the base model.
        pool: adapter states stacked on a leading slot axis; ``{}`` for the base model alone. Later
            pools have the same shapes.
        ladder: the shapes of all calls.
        key: the key that sampling draws from.
        slots_per_row: the number of slots whose branches are added for a row or page: with 2, it
            may have a probe beside its adapter.
        shared_layers: the number of lowest layers that adapters share which begin above them; 0 if
            rows keep nothing for that.

    Attributes:
        ladder: the shapes of all calls.
        slots_per_row: the number of slots of a row or page.
        shared_layers: the number of lowest layers that are shared.
        share_below: the share of all layers that these are.
        num_programs: the number of programs.
        vocab_size: the number of the model's tokens.
    """

    def __init__(
        self,
        model: Model,
        pool: Tree,
        ladder: Ladder,
        key: jax.Array,
        *,
        slots_per_row: int = 1,
        shared_layers: int = 0,
    ):
        if slots_per_row not in (1, 2):
            raise ValueError(f"slots_per_row={slots_per_row}: a row has an adapter, or a probe too")
        self.ladder, self.slots_per_row = ladder, slots_per_row
        self.shared_layers = shared_layers
        self.share_below = shared_layers / model.config.num_hidden_layers
        self._layout = layout_of(model.weights)
        self._weights, self._pool = model.weights, pool
        self._key = put(key, self._layout.sharding())
        self._static = {"graphdef": model.graphdef}
        sizes = {
            "num_rows": ladder.num_rows,
            "length": ladder.length,
            "slots_per_row": slots_per_row,
            "shared_layers": shared_layers,
            "width": model.config.hidden_size,
        }
        make = functools.partial(empty_rows, **sizes, **self._static)
        shapes = jax.eval_shape(make, model.weights)
        self._of_state = self._shardings(shapes)
        self._empty = jax.jit(make, out_shardings=self._of_state)
        self.reset()
        self.vocab_size = self._state.bias_pv.shape[1]
        self._pending = dict(self._trace_all())
        self.num_programs = len(self._pending)
        self._programs: dict[Any, Callable[..., Any]] = {}

    def compile(self, on_progress: Callable[[int], None] = lambda done: None) -> None:
        """Waits until all programs are compiled.

        Args:
            on_progress: called with the number of programs that are compiled.
        """
        for name, pending in self._pending.items():
            self._programs[name] = pending.get()
            on_progress(len(self._programs))

    def cancel(self) -> None:
        """Cancels what is not compiled yet; for when it is not wanted any more."""
        for pending in self._pending.values():
            pending.cancel()

    def reset(self) -> None:
        """Makes all rows free."""
        self._state: Any = None  # so that the old rows make room first
        self._state = self._empty(self._weights)

    def no_pieces(self, n: int, t: int) -> Pieces:
        """Pieces that are all fillers, on the host."""
        sizes = {"num_rows": self.ladder.num_rows, "vocab_size": self.vocab_size}
        return no_pieces(n, t, **sizes, slots_per_row=self.slots_per_row)

    def no_slots(self, pages: int) -> np.ndarray:
        """The slots of pages without an adapter, on the host: ``(pages, s)`` int32."""
        return np.zeros((pages, self.slots_per_row), np.int32)

    def set_pool(self, pool: Tree) -> None:
        """Takes another pool of the same shapes, for later calls."""
        self._pool = pool

    def extend(self, pieces: Pieces, visible: int) -> Chosen:
        """Takes pieces of prompts into their rows; ``(n,)`` first tokens."""
        name = ("extend", *pieces.tokens_nt.shape, visible)
        args = (self._weights, self._pool, self._state, self._put(pieces), self._key)
        self._state, chosen = self._programs[name](*args)
        return chosen

    def extend_above(self, pieces: Pieces, visible: int) -> jax.Array:
        """The same where rows hold the shared layers; something that is there when it is done."""
        name = ("extend above", *pieces.tokens_nt.shape, visible)
        args = (self._weights, self._pool, self._state, self._put(pieces))
        self._state, done = self._programs[name](*args)
        return done

    def advance(self, steps: int, rows: int, visible: int) -> Chosen:
        """Adds up to ``steps`` tokens to live rows, all among the first; ``(k, p)`` new tokens."""
        args = (self._weights, self._pool, self._state, self._key, self._put(np.int32(steps)))
        self._state, chosen = self._programs["advance", rows, visible](*args)
        return chosen

    def advance_masked(self, masks: Mapping[int, np.ndarray], visible: int) -> Chosen:
        """Adds a token to live rows and, by masks, to other rows; ``(1, p)`` new tokens."""
        allowed_pw = np.zeros((self.ladder.num_rows, num_words(self.vocab_size)), np.uint32)
        for row, allowed_w in masks.items():
            allowed_pw[row] = allowed_w
        args = (self._weights, self._pool, self._state, self._key, self._put(allowed_pw))
        self._state, chosen = self._programs["advance masked", visible](*args)
        return chosen

    def score(self, pages: Pages, slots_ps: np.ndarray, *, ranks: bool = False) -> Ranked:
        """The log-probability of every scored token, and if wanted the most probable tokens.

        Args:
            pages: the pages.
            slots_ps: their slots, as of :meth:`no_slots`.
            ranks: whether the most probable tokens are wanted.
        """
        pages = _in_slots(pages, slots_ps)
        num_pages, tokens = pages.tokens_pt.shape
        shape = PageShape(num_pages, tokens, pages.reads_pr.shape[1], pages.targets_pc.shape[1])
        program = self._programs["score", shape]
        return program(
            self._weights, self._pool, put_pages(pages, self._layout), self._put(np.bool_(ranks))
        )

    def copy_row(self, source: int, row: int, num_reused: int, num_below: int) -> None:
        """Copies what one row holds of the first tokens, and of the shared layers, into another."""
        args = map(self._number, (source, row, num_reused, num_below))
        self._state = self._programs["copy"](self._state, *args)

    def nudge(self, row: int, biases: dict[int, float], added: Sequence[int]) -> None:
        """Sets what is added to a row's logits, and which tokens were added to it."""
        tokens, values = (np.zeros(MAX_BIASES, dtype) for dtype in (np.int32, np.float32))
        tokens[:] = self.vocab_size
        tokens[: len(biases)], values[: len(biases)] = list(biases), list(biases.values())
        before = np.full(self.ladder.length, self.vocab_size, np.int32)
        before[: len(added)] = added
        args = (self._number(row), *map(self._put, (tokens, values, before)))
        self._state = self._programs["nudge"](self._state, *args)

    def clear(self, row: int) -> None:
        """Ends a row, and forgets what it holds."""
        self._state = self._programs["clear"](self._state, self._number(row))

    def _put(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: put(leaf, self._layout.sharding()), tree)

    def _number(self, value: int) -> jax.Array:
        return self._put(np.int32(value))

    def _shardings(self, shapes: RowState) -> RowState:
        """The cache is split over its heads like the weights; everything else is on all devices."""
        axes = (None, None, "kv_heads", None, None)
        whole: Any = self._layout.sharding()
        of_cache: Any = self._layout.sharding(axes, shapes.cache.k_ypgsd.shape)
        of_all = jax.tree.map(lambda _: whole, shapes)
        return dataclasses.replace(of_all, cache=jax.tree.map(lambda _: of_cache, shapes.cache))

    def _trace_all(self) -> Any:
        """Every program's name, and the program while it is compiled, the most urgent first."""
        whole: NamedSharding = self._layout.sharding()
        state = shapes_of(self._state)
        model = (shapes_of(self._weights), shapes_of(self._pool), state)
        steps = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        chosen: Any = Chosen(whole, whole, whole, whole)
        rows: dict[str, Any] = {"donate_argnums": 2, "out_shardings": (self._of_state, chosen)}
        key = shapes_of(self._key)
        for n, t, visible in self.ladder.piece_programs:
            function = functools.partial(extend, visible=visible, **self._static)
            pieces = _structs(self.no_pieces(n, t), whole)
            yield ("extend", n, t, visible), _ahead(function, (*model, pieces, key), **rows)
            if self.shared_layers:
                function = functools.partial(extend_above, visible=visible, **self._static)
                name, outs = ("extend above", n, t, visible), (self._of_state, whole)
                options: dict[str, Any] = {**rows, "out_shardings": outs}
                yield name, _ahead(function, (*model, pieces), **options)
        for count, visible in self.ladder.advance_programs:
            sizes = {"rows": count, "visible": visible, "most_steps": self.ladder.most_steps}
            function = functools.partial(_advance, {**sizes, **self._static})
            yield ("advance", count, visible), _ahead(function, (*model, key, steps), **rows)
        words = (self.ladder.num_rows, num_words(self.vocab_size))
        masks = jax.ShapeDtypeStruct(words, jnp.uint32, sharding=whole)
        for visible in self.ladder.visible:
            sizes = {"rows": self.ladder.num_rows, "visible": visible, "most_steps": 1}
            function = functools.partial(_advance_masked, {**sizes, **self._static})
            yield ("advance masked", visible), _ahead(function, (*model, key, masks), **rows)
        ranks = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
        for shape in self.ladder.pages:
            function = functools.partial(score_and_rank, count=MAX_LOGPROBS, **self._static)
            empty = _in_slots(pack([], shape), self.no_slots(shape.pages))
            pages = put_pages(_structs(empty, None), self._layout)
            args = (*model[:2], pages, ranks)
            yield ("score", shape), _ahead(function, args, out_shardings=Ranked(*[whole] * 3))
        tokens = jax.ShapeDtypeStruct((MAX_BIASES,), jnp.int32, sharding=whole)
        values = jax.ShapeDtypeStruct((MAX_BIASES,), jnp.float32, sharding=whole)
        of_state: dict[str, Any] = {"donate_argnums": 0, "out_shardings": self._of_state}
        yield "copy", _ahead(copy_row, (state, *[steps] * 4), **of_state)
        added = jax.ShapeDtypeStruct((self.ladder.length,), jnp.int32, sharding=whole)
        yield "nudge", _ahead(nudge, (state, steps, tokens, values, added), **of_state)
        yield "clear", _ahead(clear_row, (state, steps), **of_state)


def _advance(static: dict[str, Any], *args: Any) -> tuple[RowState, Chosen]:
    *others, steps = args
    return advance(*others, steps=steps, **static)


def _advance_masked(static: dict[str, Any], *args: Any) -> tuple[RowState, Chosen]:
    *others, allowed_pw = args
    return advance(*others, steps=1, allowed_pw=allowed_pw, **static)


def _in_slots(pages: Pages, slots_ps: np.ndarray) -> Pages:
    """Pages in these slots, as a model takes them: ``(p,)`` if each page has one."""
    return dataclasses.replace(pages, slot_p=slots_of(slots_ps))


def _structs(tree: Any, sharding: NamedSharding | None) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _ahead(function: Callable[..., Any], args: Any, **options: Any) -> PendingProgram[Any]:
    jitted = jax.jit(function, **options)
    return PendingProgram(lambda: jitted.lower(*args).compile)
