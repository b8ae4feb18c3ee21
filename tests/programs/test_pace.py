"""Programs that are called in turns."""

import jax
import jax.numpy as jnp
import numpy as np

from zojax.programs.pace import PacedProgram, at_once


def test_a_program_is_compiled_once_a_shape_and_what_was_used_the_longest_ago_makes_room(
    monkeypatch,
):
    compiled, compile_ = [], jax.stages.Lowered.compile

    def compiling(lowered, *args, **kwargs):
        _, x = lowered.args_info[0]
        compiled.append(x.shape)
        return compile_(lowered, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiling)
    program = PacedProgram(lambda weights, x: weights + x.sum(), most=2)
    for size in (1, 2, 1, 3, 1, 2):  # 2 was used the longest ago when 3 came, 1 was made first
        assert program(at_once, jnp.float32(1), np.ones(size, np.float32)) == 1 + size
    assert compiled == [(1,), (2,), (3,), (2,)]
