"""What is read from XLA's optimised programs: how often lines run, exchanges, copies of weights."""

import jax
import jax.numpy as jnp
import pytest

from zojax.planning import hlo, traffic

# What XLA makes of users' programs.
pytestmark = pytest.mark.usefixtures("compiled_once")

# As XLA writes them for TPUs and GPUs, shortened; shapes of 3 layers of 256 x 512 on a device.
TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[3,256,512]{2,1,0})->f32[4]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%write_row (p.1: bf16[3,256,512]) -> bf16[3,256,512] {
  %p.1 = bf16[3,256,512]{2,1,0} parameter(0)
  %row = bf16[1,256,512]{2,1,0} broadcast(%p.1), dimensions={}
  ROOT %set = bf16[3,256,512]{2,1,0} dynamic-update-slice(%p.1, %row, %p.1)
}

%widen (p.2: bf16[256,512]) -> f32[256,512] {
  %p.2 = bf16[256,512]{1,0} parameter(0)
  ROOT %wide = f32[256,512]{1,0} convert(%p.2)
}

%slices (p.3: bf16[3,256,512]) -> (bf16[1,256,512], bf16[3,256,512], bf16[1,256,512]) {
  %p.3 = bf16[3,256,512]{2,1,0} parameter(0)
  %slice.1 = bf16[1,256,512]{2,1,0} dynamic-slice(%p.3), dynamic_slice_sizes={1,256,512}
  %set.1 = bf16[3,256,512]{2,1,0} dynamic-update-slice(%p.3, %slice.1)
  ROOT %c = (bf16[1,256,512], bf16[3,256,512], bf16[1,256,512]) tuple(%slice.1, %set.1, %slice.1)
}

%body (carry: (s32[], bf16[3,256,512], f32[4,512])) -> (s32[], bf16[3,256,512], f32[4,512]) {
  %carry = (s32[]{:T(128)}, bf16[3,256,512]{2,1,0:T(8,128)(2,1)}, f32[4,512]) parameter(0)
  %w = bf16[3,256,512]{2,1,0} get-tuple-element(%carry), index=1
  %x = f32[4,512]{1,0} get-tuple-element(%carry), index=2
  %reduced = f32[4,512]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
  %near = bf16[1,256,512]{2,1,0:T(8,128)(2,1)S(1)} copy(%w)
  %f32layer = f32[256,512]{1,0} fusion(%w), kind=kLoop, calls=%widen
  %cut = (bf16[1,256,512], bf16[3,256,512], bf16[1,256,512]) fusion(%w), kind=kLoop, calls=%slices
  %in_place = bf16[3,256,512]{2,1,0} fusion(%w), kind=kLoop, calls=%write_row
  ROOT %out = (s32[], bf16[3,256,512]{2,1,0}, /*index=2*/f32[4,512]) tuple(%x, %in_place, %reduced)
}

%condition (carry.1: (s32[], bf16[3,256,512], f32[4,512])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, bf16[3,256,512]{2,1,0}, f32[4,512]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %limit = s32[]{:T(128)} constant(39)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (w.1: bf16[3,256,512], x.1: f32[4,512]) -> f32[4,512] {
  %w.1 = bf16[3,256,512]{2,1,0} parameter(0)
  %x.1 = f32[4,512]{1,0} parameter(1)
  %tuple.1 = (s32[], bf16[3,256,512]{2,1,0}, f32[4,512]{1,0}) tuple(%x.1, %w.1, %x.1)
  %loop = (s32[], bf16[3,256,512], f32[4,512]) while(%tuple.1), condition=%condition, body=%body
  %fetch = (bf16[3,256,512]{2,1,0:T(8)S(1)}, bf16[3,256,512], u32[]{:S(2)}) copy-start(%w.1)
  %turned = bf16[512,3,256]{2,1,0} transpose(%w.1), dimensions={2,0,1}
  %begun = (f32[4,128], f32[4,512]) all-gather-start(%x.1), replica_groups=[1,4]<=[4]
  %done = f32[4,512]{1,0} all-gather-done(%begun)
  %scores = (f32[32], f32[2]) all-reduce-start(%x.1), replica_groups=[2,2]<=[2,2]T(1,0)
  ROOT %end = (f32[32]{0}, f32[2]{0}) all-reduce-done(%scores)
}
"""


@pytest.fixture(scope="module")
def program() -> hlo.Program:
    return hlo.parse(TEXT)


def test_a_loop_is_counted_by_the_number_that_its_condition_names(program):
    times = {instruction.name: count for instruction, count in hlo.executed(program)}
    assert times["reduced"] == 39
    assert times["loop"] == times["done"] == 1
    assert "wide" not in times  # what is fused does not run by itself


def test_exchanges_are_counted_once_each_with_the_devices_that_take_part(program):
    found = traffic.collectives(program, num_devices=4)
    assert sorted(found) == sorted(
        [
            traffic.Collective("all-reduce", 4 * 4 * 512, devices=2, times=39),
            traffic.Collective("all-gather", 4 * 4 * 512, devices=4, times=1),
            traffic.Collective("all-reduce", 4 * (32 + 2), devices=2, times=1),
        ]
    )


@pytest.mark.parametrize(
    ("kind", "devices", "sent"),
    [("all-reduce", 4, 2 * 3 / 4), ("all-gather", 4, 3 / 4), ("all-reduce", 1, 0)],
)
def test_a_ring_sends_what_it_must(kind, devices, sent):
    assert traffic.Collective(kind, 1000, devices, times=3).sent_bytes == 3 * 1000 * sent


def test_copies_of_weights_are_found_whatever_their_layout_and_dtype(program):
    """But no write in place, and no copy into a memory that is nearer than the main one."""
    found = traffic.weight_copies(program, [(3, 256, 512)])
    assert sorted((c.name, c.num_bytes, c.times, c.whole) for c in found) == [
        ("cut", 2 * 256 * 512, 39, False),
        ("cut", 2 * 256 * 512, 39, False),
        ("f32layer", 4 * 256 * 512, 39, False),
        ("turned", 2 * 3 * 256 * 512, 1, True),
    ]


def test_a_real_programs_loop_is_counted_and_its_copies_are_found():
    """As XLA writes it for this machine."""

    def f(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(x: jax.Array, m: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ m), None

        return jax.lax.scan(body, x, w)[0], jnp.transpose(w, (0, 2, 1)) + 1.0

    shapes = jax.ShapeDtypeStruct((7, 96, 96), jnp.float32), jax.ShapeDtypeStruct((4, 96), "f4")
    program = hlo.parse(jax.jit(f).lower(*shapes).compile().as_text())
    assert 7 in {count for _, count in hlo.executed(program)}
    whole = [copy for copy in traffic.weight_copies(program, [(7, 96, 96)]) if copy.whole]
    assert {(copy.num_bytes, copy.times) for copy in whole} == {(4 * 7 * 96 * 96, 1)}
