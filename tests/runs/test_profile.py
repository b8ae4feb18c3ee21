"""A profile shares a step's time out among its parts, and leaves a run as it would have been."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console
from scaled_step import ScaledStep, make_batch

from zojax.errors import InputError
from zojax.journal.file import read_journal
from zojax.models import abstract_model
from zojax.models.opt import OPTConfig
from zojax.programs.stopping import NEVER
from zojax.runs.profile import PARTS, Event, Profile, largest_parts, operation_names, part_of

# What XLA makes of users' programs.
pytestmark = pytest.mark.usefixtures("compiled_once")

STEP = "jit(train_step)"
LAYER = f"{STEP}/cond/branch_0_fun/while/body/closed_call/jit(run_inner)"


def test_no_trace_is_worth_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "profile").write_text("mine")
    with pytest.raises(InputError, match="is not a directory"):
        Profile(tmp_path / "profile", Console(), NEVER)

    def fail() -> None:
        raise RuntimeError("FAILED_PRECONDITION: no space\nleft")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    programs = SimpleNamespace(step={})
    profile = Profile(tmp_path / "new", Console(soft_wrap=True), NEVER)
    profile.choose(0, [2, 4])
    with profile.tracing(SimpleNamespace(step=2, programs=programs)):
        pass
    assert "the trace failed (FAILED_PRECONDITION: no space left)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        (f"{LAYER}/self_attn/cond/branch_0_fun/ptn,mn->ptm/dot_general", "products of q, k,"),
        (f"{LAYER}/self_attn/attend/BTNH,BSNH->BNTS/dot_general", "attention"),
        (f"{LAYER}/mlp/ptn,mn->ptm/dot_general", "products of the MLP"),
        (f"{LAYER}/mlp/ptn,pnk->ptk/dot_general", "low-rank branch"),
        (f"{LAYER}/dynamic_slice", "copies of a layer's weights"),
        (f"{STEP}/perturb/jit(_normal)/erf_inv", "drawing directions"),
        (f"{STEP}/update/cond/branch_0_fun/jit(_normal)/erf_inv", "the update"),
        (f"{STEP}/head/pcn,pcn->pc/dot_general", "the head"),
        (f"{STEP}/reduce_sum", "the rest"),
    ],
)
def test_operations_belong_to_the_part_that_their_scope_names(operation, part):
    assert part_of(operation).startswith(part)


def test_every_product_of_a_compiled_step_belongs_to_its_part():
    config = OPTConfig(64, 16, 3, 2, 32, 64, 16)
    step = ScaledStep(abstract_model(config), [], make_batch(config, 4, 5))
    step.compile()
    names = operation_names([step.text()]).values()

    def parts(ending: str) -> set[str]:
        return {part_of(name) for name in names if name.endswith(ending)}

    assert parts("ptn,mn->ptm/dot_general") == {
        "products of the MLP",
        "products of q, k, v and out",
    }
    assert parts("ptn,nk->ptk/dot_general") == {"low-rank branch"}
    assert parts("jit(run_inner)/dynamic_slice") == {"copies of a layer's weights"}
    assert "the update" in {part_of(name) for name in names}
    assert "the rest" not in parts("dot_general")


def test_the_parts_and_the_gaps_between_them_make_up_a_step():
    names = operation_names(
        [
            '  %dot.1 = f32[2]{0} dot(%a), metadata={op_name="jit(train_step)/mlp/dot_general"}\n'
            '  ROOT %exp.2 = f32[2]{0} exp(%a), metadata={op_name="jit(train_step)/attend/exp"}\n'
        ]
    )
    ms = 1e6
    events = [Event("dot.1", 0, 6 * ms), Event("exp.2", 4 * ms, 6 * ms), Event("x", 8 * ms, 9 * ms)]
    assert dict(largest_parts(events, names, steps=1)) == pytest.approx(
        {"products of the MLP": 5e-3, "attention": 1e-3, "the rest": 1e-3, "between them": 2e-3}
    )


def test_a_profiled_run_has_the_same_records_and_tells_the_largest_parts(
    run, config_file, first_run, tmp_path
):
    plain, directory = first_run[0], tmp_path / "traced"
    code, out, _ = run(
        "train", "--config", config_file, "--set", f"run.dir={directory}", "--profile"
    )
    assert code == 0
    ours, theirs = (read_journal(d / "journal.zj").records for d in (directory, plain))
    for name in set(ours.dtype.names) - {"checksum"}:  # which the directory's name goes into
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert "part of a step" in out
    assert sum(name in out for name, _ in PARTS) >= 3  # beside what belongs to none of them
    assert "100 %" in out
    assert list((directory / "profile").rglob("*.xplane.pb"))
