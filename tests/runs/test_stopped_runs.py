"""A stop is heard wherever a run is, and the same command then ends as if there had been none."""

import dataclasses
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer

import pytest
from rich.console import Console

from tests.runs.outcomes import outcome
from zojax.config import Config, apply_overrides
from zojax.errors import INTERRUPTED, TERMINATED
from zojax.evaluation import evaluate
from zojax.programs import stopping
from zojax.programs.compiling import Executables, PendingProgram
from zojax.programs.stopping import Stop, Stopped
from zojax.reading import read_json
from zojax.reporting.progress import Progress
from zojax.reporting.reporter import Reporter
from zojax.runs import open_run, run_dir
from zojax.runs import rebuild as rebuilding
from zojax.runs import train as train_module
from zojax.runs.evaluations import Evaluations
from zojax.runs.train import train

QUIET = Console(quiet=True)
STEPS = 4


@pytest.fixture
def config(short_config, tmp_path) -> Config:
    return apply_overrides(short_config, [f"run.dir={tmp_path}/run"])


@pytest.fixture
def stop(monkeypatch) -> Stop:
    """What a signal would ask for; no signals are listened to."""
    stop = Stop()

    @contextmanager
    def listen():
        yield stop

    monkeypatch.setattr(stopping, "listen", listen)
    return stop


@pytest.fixture
def count_batches(monkeypatch):
    """``count_batches(on_batch)``: calls ``on_batch(n)`` as the n-th batch is evaluated."""

    def count_batches(on_batch) -> None:
        real, count = evaluate.compile_buckets, 0

        def compile_buckets(*args, **settings):
            def watched(executable):
                def call(*args):
                    nonlocal count
                    count += 1
                    on_batch(count)
                    return executable(*args)

                return call

            made = real(*args, **settings)
            return pending_programs({bucket: watched(program) for bucket, program in made.items()})

        monkeypatch.setattr(evaluate, "compile_buckets", compile_buckets)

    return count_batches


def pending_programs(programs: dict) -> Executables:
    """Programs that need no compiling."""

    def ahead(program) -> PendingProgram:
        return PendingProgram(lambda: lambda: program)

    return Executables({bucket: ahead(program) for bucket, program in programs.items()})


def go_on(config: Config, monkeypatch) -> dict:
    """Gives the same command again, and nobody stops it."""
    monkeypatch.undo()
    train(config, QUIET)
    return outcome(Path(config.run.dir))


@pytest.mark.parametrize(
    ("batch", "steps", "recorded", "exit_code"),
    [
        (2, 0, 0, INTERRUPTED),
        (5, 0, 0, TERMINATED),
        (8, 2, 1, INTERRUPTED),
        (14, 4, 3, TERMINATED),
    ],
)
def test_no_further_batch_is_evaluated_and_what_is_half_made_is_made_again(
    config, undisturbed, stop, count_batches, monkeypatch, batch, steps, recorded, exit_code
):
    evaluated = []

    def on_batch(number):
        evaluated.append(number)
        if number == batch:
            stop.exit_code = exit_code

    count_batches(on_batch)
    with pytest.raises(Stopped, match=f"^stopped after step {steps} of {STEPS}, noth") as stopped:
        train(config, QUIET)
    assert stopped.value.exit_code == exit_code
    assert evaluated == list(range(1, batch + 1))
    directory = Path(config.run.dir)
    assert not (directory / run_dir.RESULT).exists()
    progress = directory / run_dir.PROGRESS
    assert progress.exists() == (batch > 3)
    assert len(read_json(progress)["dev_accuracy"] if batch > 3 else {}) == recorded
    assert go_on(config, monkeypatch) == undisturbed


def test_a_few_batches_at_most_are_in_flight(config, count_batches, monkeypatch):
    """Or a stop would have to wait for all of them, and their inputs would fill the memory."""
    fetched = []
    count_batches(lambda number: fetched.append((number, len(waited))))
    waited, wait = [], evaluate._wait
    monkeypatch.setattr(evaluate, "_wait", lambda *args: waited.append(wait(*args)))
    train(config, QUIET)
    assert len(fetched) == 15
    assert max(sent - done for sent, done in fetched) == evaluate._IN_FLIGHT


@pytest.mark.parametrize(
    ("program", "steps", "exit_code"),
    [
        ("an evaluation", 0, TERMINATED),
        ("a step", 0, TERMINATED),
        ("an interval's end", 1, INTERRUPTED),
    ],
)
def test_a_stop_is_heard_while_a_program_is_waited_for(
    config, undisturbed, stop, monkeypatch, program, steps, exit_code
):
    """Which would take for ever, since it is held up; a step is not begun without all it needs."""
    release, get, held = Event(), PendingProgram.wait, []

    def hold_all(make):
        PendingProgram(lambda: release.wait() and dict)
        made = make()
        held.extend(made.step.pending.values() if program == "a step" else made._pending.values())
        return made

    def hold_fold(make):
        made = make()
        held.append(PendingProgram(lambda: release.wait() and made.fold.get))
        return dataclasses.replace(made, fold=held[0])

    def watch(name: str, hold):
        real = getattr(open_run, name)
        monkeypatch.setattr(
            open_run, name, lambda *args, **kwargs: hold(lambda: real(*args, **kwargs))
        )

    def get_held(ahead, stop):
        if ahead in held:
            assert not ahead.is_done
            Timer(0.1, setattr, (stop, "exit_code", exit_code)).start()
        return get(ahead, stop)

    watch(
        "make_evaluator" if program == "an evaluation" else "compile_programs",
        hold_fold if program == "an interval's end" else hold_all,
    )
    monkeypatch.setattr(PendingProgram, "wait", get_held)
    try:
        with pytest.raises(Stopped, match=f"after step {steps} of 4"):
            train(config, QUIET)
    finally:
        release.set()
    assert (Path(config.run.dir) / run_dir.PROGRESS).exists() == (program != "an evaluation")
    assert go_on(config, monkeypatch) == undisturbed


def test_a_stop_is_heard_while_the_journal_is_replayed(config, undisturbed, stop, monkeypatch):
    real, replayed = train_module._return_to_best, []

    def return_to_best(*args):
        stop.exit_code = INTERRUPTED
        return real(*args)

    monkeypatch.setattr(train_module, "_return_to_best", return_to_best)
    with pytest.raises(Stopped):
        train(config, QUIET)
    rebuild = rebuilding.rebuild

    def watched(*args, on_progress, **kwargs):
        def told(step):
            replayed.append(step)
            on_progress(step)

        return rebuild(*args, on_progress=told, **kwargs)

    monkeypatch.setattr(rebuilding, "rebuild", watched)
    monkeypatch.setattr("zojax.journal.replay._LEAST_WAIT", 1)  # of so few steps, wait too
    with pytest.raises(Stopped, match="after step 4 of 4"):
        train(config, QUIET)
    assert replayed == [2]  # and not 4
    assert go_on(config, monkeypatch) == undisturbed


class Killed(BaseException):
    """As good as a kill: nothing catches it."""


@pytest.mark.parametrize(
    ("of", "writing", "time"),
    [(Reporter, "evaluation", 1), (Reporter, "evaluation", 3), (Progress, "write", 3)],
)
def test_a_kill_between_two_files_leaves_no_line_twice_and_none_out(
    config, undisturbed, monkeypatch, of, writing, time
):
    real, times = getattr(of, writing), []

    def killed(*args):
        times.append(args)
        if len(times) == time:
            raise Killed
        real(*args)

    monkeypatch.setattr(of, writing, killed)
    with pytest.raises(Killed):
        train(config, QUIET)
    assert go_on(config, monkeypatch) == undisturbed


def test_metrics_that_were_deleted_are_rebuilt(config, undisturbed, stop, monkeypatch):
    directory = Path(config.run.dir)
    on_dev = Evaluations.on_dev

    def stopping_after_two(evaluations):
        on_dev(evaluations)
        if evaluations.trainer.step == 2:
            stop.exit_code = INTERRUPTED

    monkeypatch.setattr(Evaluations, "on_dev", stopping_after_two)
    with pytest.raises(Stopped, match="after step 2 of 4"):
        train(config, QUIET)
    (directory / run_dir.METRICS).unlink()
    assert go_on(config, monkeypatch) == undisturbed
