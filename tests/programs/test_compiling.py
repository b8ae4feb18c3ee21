"""Programs are compiled in the background, in order, and none that nobody will use."""

from concurrent.futures import CancelledError
from threading import Event, Timer

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zojax.programs.compiling import CompilationCounter, PendingProgram, compile_buckets, shapes_of
from zojax.programs.stopping import NEVER, Halted, Stop
from zojax.scoring import PageShape

BUCKETS = [PageShape(1, tokens, 1, 1) for tokens in (24, 8, 16)]


@pytest.fixture
def held():
    """Nothing is traced before this is set."""
    release = Event()
    hold_until(release)
    yield release
    release.set()


def hold_until(release):
    def trace():
        release.wait()
        return lambda: None

    return PendingProgram(trace)


def compiled(function, *args, **kwargs):
    batches = {b: jax.ShapeDtypeStruct((b.tokens,), jnp.float32) for b in BUCKETS}
    return compile_buckets(function, batches, *args, **kwargs)


def test_each_bucket_gets_its_own_in_their_order():
    traced = []

    def total(x, batch):
        traced.append(batch.shape[0])
        return x + batch.sum()

    executables = compiled(total, jnp.float32(2))
    assert list(executables) == BUCKETS
    for bucket in BUCKETS:
        assert executables[bucket](jnp.float32(2), np.ones(bucket.tokens, np.float32)) == (
            2 + bucket.tokens
        )
        assert executables.pending[bucket].is_done
    assert traced == [24, 8, 16]


def test_what_is_not_there_is_waited_for_unless_a_stop_is_asked_for(held):
    pending, stop = compiled(jnp.sum).pending[BUCKETS[0]], Stop()
    stop.exit_code = 143
    assert not pending.is_done
    with pytest.raises(Halted):
        pending.wait(stop)
    held.set()
    assert pending.wait(NEVER)(np.ones(24, np.float32)) == 24
    assert pending.wait(stop) is pending.get()


def test_nothing_is_traced_after_a_cancel(held):
    traced = []
    executables = compiled(lambda batch: traced.append(batch.shape) or batch)
    executables.cancel()
    held.set()
    hold_until(held).get()
    assert traced == []


def test_what_was_being_traced_at_a_cancel_is_not_compiled():
    begun, release, compiled = Event(), Event(), []

    def trace():
        begun.set()
        release.wait()
        return lambda: compiled.append(1)

    ahead = PendingProgram(trace)
    begun.wait()
    ahead.cancel()
    release.set()
    with pytest.raises(CancelledError):
        ahead.get()
    assert compiled == []


def test_compiling_holds_up_no_tracing():
    release = Event()
    slow, quick = PendingProgram(lambda: release.wait), PendingProgram(lambda: lambda: "quick")
    in_time = Timer(60, release.set)  # or a failure would never end
    in_time.start()
    assert quick.get() == "quick"
    assert not slow.is_done
    in_time.cancel()
    release.set()
    assert slow.get()


def test_arrays_may_be_used_up_before_they_are_traced(held):
    x = jnp.ones(3)
    executables = compiled(lambda x, batch: x + batch.sum(), x)
    jax.block_until_ready(jax.jit(jnp.negative, donate_argnums=0)(x))
    x.delete()
    held.set()
    assert executables[BUCKETS[1]](jnp.ones(3), np.ones(8, np.float32)).tolist() == [9, 9, 9]


def test_shapes_lie_where_the_arrays_do():
    anywhere = jnp.ones((2, 3))
    there = jax.device_put(anywhere, jax.devices()[0])
    shapes = shapes_of([anywhere, there, 1.5])
    assert [(s.shape, s.dtype) for s in shapes[:2]] == [((2, 3), jnp.float32)] * 2
    assert [s.sharding for s in shapes[:2]] == [None, there.sharding]
    assert shapes[2] == 1.5


def test_programs_made_ahead_are_not_counted():
    with CompilationCounter() as compilations:
        dict(compiled(lambda batch: batch * 5.125))
        assert compilations.count == 0
        jax.jit(lambda x: x * 6.125)(jnp.ones(7))
        assert compilations.count > 0


def test_an_error_while_tracing_is_raised_where_the_program_is_asked_for():
    def wrong(batch):
        raise ValueError("a model of stone")

    with pytest.raises(ValueError, match="of stone"):
        compiled(wrong).pending[BUCKETS[0]].wait(NEVER)
