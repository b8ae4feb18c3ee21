"""Headers that somebody forged, checksums and all: one line, whatever they say."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import campaigns
from tests.journal.forging import DELETED, forge, sealed
from tests.journal.test_journal_reader import documents_example
from zojax.journal import replay
from zojax.journal.file import read_journal
from zojax.training.schedules import learning_rates

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"key_data": DELETED}, "key_data: Field required"),
    ({"key_data": []}, "key_data"),
    ({"key_data": [0]}, "key_data.1: Field required"),
    ({"key_data": [0, 42, 1]}, "key_data: Tuple should have at most 2 items"),
    ({"key_data": [0, -1]}, "key_data.1: Input should be greater than or equal to 0 (it is -1)"),
    ({"key_data": [0, 2**32]}, "key_data.1: Input should be less than 4294967296"),
    ({"key_data": [0, 42.0]}, "key_data.1: Input should be a valid integer"),
    ({"key_data": "threefry"}, "key_data: Input should be a valid tuple"),
    ({"key_data": {"0": 0}}, "key_data: Input should be a valid tuple"),
    ({"key_impl": None}, "key_impl: Input should be 'threefry2x32' (it is None)"),
    ({"key_impl": "rbg"}, "key_impl: Input should be 'threefry2x32' (it is 'rbg')"),
    ({"key_impl": ["threefry2x32"]}, "key_impl: Input should be 'threefry2x32'"),
    ({"num_queries": 0}, "num_queries: Input should be greater than or equal to 1"),
    ({"num_queries": True}, "num_queries: Input should be a valid integer"),
    ({"num_queries": 10**12}, "num_queries: Input should be less than or equal to 65536"),
    ({"num_variants": -2}, "num_variants: Input should be greater than or equal to 1"),
    ({"num_variants": "2"}, "num_variants: Input should be a valid integer"),
    ({"base_hash": "\x1b[31mred"}, "base_hash: String should match pattern"),
    ({"base_hash": 5}, "base_hash: Input should be a valid string"),
    ({"zojax": ["0.1.0"]}, "zojax: Input should be a valid string"),
    ({"jax": "9" * 101}, "jax: String should have at most 100 characters"),
    ({"config": 5}, "config: Input should be a valid dictionary"),
    ({"config": []}, "config: Input should be a valid dictionary"),
    ({"settings": {"jax_enable_x64": [1]}}, "settings.jax_enable_x64"),
]


@pytest.fixture(scope="module")
def journal(trained):
    return read_journal(trained / "journal.zj")


@pytest.mark.parametrize(("changes", "reason"), campaigns.some_of(REFUSED, 24))
def test_a_header_that_no_run_writes_is_refused_by_all(
    changes, reason, journal, run, refusal, tmp_path
):
    path = forge(journal, tmp_path / "journal.zj", changes)
    for command in (["show"], ["show", "--json"], ["verify"], ["replay"]):
        line = refusal(run("journal", *command, path))
        assert line.startswith(f"{path}: header: {reason}")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": DELETED}, "its header has no configuration, so it belongs to no run"),
        ({"config": {}}, "config in its header: model is missing"),
        ({"config.model": 5}, "config in its header: model=5: should be"),
        ({"config.train.steps": -1}, "config in its header: train.steps=-1: should be greater"),
        (
            {"config.train.steps": 3, "config.train.schedule": "linear"},
            "holds 4 steps of a run of 3",
        ),
        ({"config.estimator.name": "[/x]"}, "config in its header: estimator.name='[/x]': should"),
        ({"config.train.learning_rate": 1e-3}, "the learning rate of step 0 cannot come from"),
        ({"key_data": [7, 7]}, "the key of step 0 cannot come from the run in the header"),
        ({"base_hash": "0123"}, "was made with another base model than"),
        ({"base_hash": DELETED}, "was made with another base model than"),
    ],
)
def test_a_header_of_another_run_is_not_replayed(changes, reason, journal, run, refusal, tmp_path):
    path = forge(journal, tmp_path / "journal.zj", changes)
    assert refusal(run("journal", "replay", path)).startswith(f"{path}: {reason}")
    assert run("journal", "show", path)[0] == 0


def test_records_with_other_numbers_of_scalars_are_not_replayed(journal, run, refusal, tmp_path):
    changes = {"config.estimator.num_queries": 2}
    path = forge(journal, tmp_path / "journal.zj", changes)
    for options in ([], ["--average-last", 2]):
        line = refusal(run("journal", "replay", path, *options))
        assert "num_queries in its header is 1, but a run of its configuration has 2" in line


def test_of_steps_beyond_all_measure_only_those_in_the_file_are_looked_at(
    journal, run, tmp_path, monkeypatch
):
    sizes = []

    def spy(config, steps=None):
        rates = learning_rates(config, steps)
        sizes.append(len(rates))
        return rates

    monkeypatch.setattr(replay, "learning_rates", spy)
    path = forge(journal, tmp_path / "journal.zj", {"config.train.steps": 10**7})
    code, out, err = run("journal", "verify", path)
    assert (code, err) == (0, "")
    assert out.startswith("OK, 4 steps")
    assert sizes == [4]


def test_names_are_printed_as_plain_text(journal, run, tmp_path):
    """No markup, no link, no escape sequence, nothing hidden: of header, path or error."""
    hostile = "[/x][link=http://a]b[/link]\x1b]8;;http://c\x07d\u202e"
    seen = r"[/x][link=http://a]b[/link]\x1b]8;;http://c\x07d\u202e"
    directory = tmp_path / "[/x][bold]"
    directory.mkdir(parents=True)
    changes = {"config.model.path": hostile, "zojax": hostile, "jax": "[red]1"}
    path = forge(journal, directory / "journal.zj", changes)
    code, out, _ = run("journal", "show", directory)
    assert code == 0
    assert "\x1b" not in out
    flat = "".join(out.split())
    for text in (f"{seen}(float32)", f"zojax{seen}", "jax[red]1", "[/x][bold]/journal.zj"):
        assert text in flat
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = run("journal", "verify", directory)
    assert code == 1
    assert f"{directory}/journal.zj: damaged from byte" in out


def test_the_documents_smallest_example_is_read_by_show_and_verify(run, refusal, tmp_path):
    path = tmp_path / "journal.zj"
    path.write_bytes(documents_example())
    code, out, err = run("journal", "show", path)
    assert (code, err) == (0, "")
    assert re.search(r"steps +1, 0 skipped", out)
    code, out, _ = run("journal", "show", "--json", path)
    assert json.loads(out)["header"] == {
        "key_data": [0, 42],
        "key_impl": "threefry2x32",
        "num_queries": 1,
        "num_variants": 2,
    }
    code, out, _ = run("journal", "verify", path)
    assert code == 0
    assert out.startswith("OK, 1 steps (118 bytes); it belongs to no run: its header has no")
    assert "no configuration" in refusal(run("journal", "replay", path))


TEXTS = [b"", b"5", b"null", b"[]", b"{", b"\xff\xfe", b'{"a":' * 500, b"[" * 100_000, b'"\\ud800"']


@pytest.mark.parametrize("text", [*TEXTS, b'{"key_data":[0,1],"key_data":[0,2]}', b"9" * 5000])
def test_a_header_that_is_no_json_object_is_refused(text, run, refusal, tmp_path):
    path = tmp_path / "journal.zj"
    path.write_bytes(sealed(text))
    for command in ("show", "verify", "replay"):
        assert refusal(run("journal", command, path)).startswith(f"{path}: header: ")


FIELDS = [
    "key_data",
    "key_impl",
    "num_queries",
    "num_variants",
    "base_hash",
    "data_hash",
    "zojax",
    "jax",
    "settings",
    "config",
    "config.model",
    "config.model.path",
    "config.model.dtype",
    "config.train",
    "config.train.steps",
    "config.train.learning_rate",
    "config.train.schedule",
    "config.train.warmup_steps",
    "config.train.seed",
    "config.train.optimizer",
    "config.train.optimizer_args",
    "config.estimator",
    "config.estimator.name",
    "config.estimator.rank",
    "config.estimator.interval",
    "config.space",
    "config.space.name",
    "config.data",
    "config.data.task",
    "config.data.candidates",
    "config.run",
    "config.run.dir",
    "config.mesh",
    "config.new",
]
NAMES = st.text(max_size=8) | st.sampled_from(["name", "steps"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["[/x]", "\x1b[2J", "lozo", "mezo", "full", "cosine", "adam", 10**12, 1e300]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["name", "steps"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(FIELDS), VALUES | st.just(DELETED), max_size=3))
def test_whatever_a_header_says_ends_in_one_line(changes, journal, run, tmp_path):
    deepest_first = sorted(changes, key=lambda name: -name.count("."))
    path = forge(journal, tmp_path / "journal.zj", {name: changes[name] for name in deepest_first})
    for command in (["show"], ["show", "--json"], ["verify"]):
        code, out, err = run("journal", *command, path)
        assert code in (0, 2)
        assert "\x1b" not in out + err
        assert (err == "") == (code == 0)
        assert err.count("\n") == (code == 2)
        if code == 2:
            assert err.startswith(f"zojax: error: {path}: ")
