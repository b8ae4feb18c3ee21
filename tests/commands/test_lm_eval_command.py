"""``zojax lm-eval``: lm-eval's tasks on the engine."""

import functools
import importlib.util
import json

import pytest

import zojax
from tests.harness.small_tasks import write_tasks
from zojax.commands import lm_eval
from zojax.harness import tasks
from zojax.harness.tasks import TaskManager


@pytest.fixture(scope="module")
def small_tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("lm-eval") / "tasks", zojax.demo.REVIEWS)


@pytest.fixture
def evaluate(run, small_tasks):
    def evaluate(*options: object, model: object = zojax.demo.MODEL):
        return run("lm-eval", "--model", model, "--include-path", small_tasks, *options)

    return evaluate


@pytest.fixture
def only_own_tasks(monkeypatch):
    """Without lm-eval's own tasks, which take half a minute to read."""
    own = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr(
        tasks, "TaskManager", lambda **given: own(include_path=given.get("include_path"))
    )


def test_the_results_are_a_table_and_a_file_with_every_example(evaluate, tmp_path):
    output = tmp_path / "results.json"
    asked = ("--tasks", "small_choice", "--limit", 4, "--num-fewshot", 2)
    code, out, _ = evaluate(*asked, "--output", output, "--log-samples")
    assert code == 0
    [row] = [line for line in out.splitlines() if "small_choice" in line and "acc " in line]
    results = json.loads(output.read_text())
    assert f"{results['results']['small_choice']['acc,none']:.2f}" in row
    samples = results["samples"]["small_choice"]
    assert len(samples) == 4
    assert all(s["arguments"][0][0].count("It was") == 3 for s in samples), "two are solved"
    assert results["config"]["model_args"] == {"model": str(zojax.demo.MODEL)}


def test_a_run_is_evaluated_after_the_step_that_is_asked_for(run, small_tasks, trained):
    asked = ("--tasks", "small_last_word", "--include-path", small_tasks, "--limit", 3)
    code, out, _ = run("lm-eval", trained, *asked, "--step", 4, "--json", "--log-samples")
    assert code == 0
    engine = zojax.load_run(trained, step=4)
    for sample in json.loads(out)["samples"]["small_last_word"]:
        context, last = sample["arguments"][0]
        [[expected]] = engine.score([context], [last])
        assert float(sample["resps"][0][0][0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tasks", "no_such"), "--tasks no_such: there is no such task; lm-eval ls tasks"),
        (("--tasks", "smal_choice"), "--tasks smal_choice: .* did you mean small_choice?"),
        (("--tasks", "broken"), "--tasks broken: cannot be loaded ("),
        (("--tasks", "small_answers", "--gen-kwargs", "num_beams=2"), "generate with num_beams"),
    ],
)
def test_tasks_that_cannot_be_are_one_line(
    evaluate, refusal, only_own_tasks, small_tasks, options, says
):
    (small_tasks / "broken.yaml").write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs:\n  data_files: /no/such.jsonl\n"
        "output_type: multiple_choice\ntest_split: train\ndoc_to_text: a\n"
    )
    code, out, err = evaluate(*options)
    line = err.splitlines()[-1]
    assert (code, out) == (2, "")
    start, _, rest = says.partition(" .* ")
    assert line.startswith("zojax: error: ")
    assert start in line
    assert rest in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--step", 3), "lm-eval: --step goes with RUN"),
        (("--log-samples",), "--log-samples goes with --output FILE or --json"),
        (("--limit", 0), "--limit 0: give more than 0"),
        (("--batch-size", 0), "--batch-size 0: give 1 or more"),
        (("--max-length", 1), "--max-length 1: give 2 or more"),
        (("--seed", -1), "--seed -1: give 0 or more"),
    ],
)
def test_options_that_say_nothing_are_refused(evaluate, refusal, options, says):
    assert says in refusal(evaluate("--tasks", "small_choice", *options))


def test_neither_a_run_nor_a_model_is_refused(run, refusal):
    assert refusal(run("lm-eval", "--tasks", "a")) == "lm-eval: give RUN, or --model M"


def test_what_is_missing_can_be_installed(run, refusal, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        lm_eval.importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name)
    )
    line = refusal(run("lm-eval", "--tasks", "a"))
    assert line == "lm-eval: lm_eval is missing; install it with pip install 'zojax[lm-eval]'"
