"""``zojax journal audit``: what passes, and what is found out, whatever the header says."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.journal.forging import DELETED, forge
from zojax.commands.journal_audit import as_written
from zojax.config import Config, DataConfig, ModelConfig, RunConfig, to_dict
from zojax.errors import InputError
from zojax.files import write_json
from zojax.hub import load, save
from zojax.journal.file import Journal, read_journal
from zojax.journal.replay import step_keys
from zojax.models import content_hash, random_model
from zojax.printing import make_console
from zojax.runs import run_dir
from zojax.runs.audit import Audit, audit
from zojax.runs.setup import load_data, run_data_hash


def audited(journal: Journal, path: Path, steps: int = 4, **places: Path) -> Audit:
    """An audit of a journal, with data and model where the header says or in other places."""
    config = journal.header.configuration(path)
    for part, place in places.items():
        getattr(config, part).path = str(place)
    return audit(journal, config, make_console(quiet=True), steps=steps, seed=0)


LABELS = {"refund": " refund", "other": " other"}


@pytest.fixture
def journal(trained) -> Journal:
    return read_journal(trained / run_dir.JOURNAL)


def forged(journal: Journal, tmp_path: Path, records: np.ndarray, **header: Any) -> Journal:
    """A journal with other records and another header, with all checksums made right."""
    other = dataclasses.replace(journal, records=records)
    return read_journal(forge(other, tmp_path / "journal.zj", header))


def test_an_honest_run_passes_with_its_own_bits(journal, trained):
    found = audited(journal, trained)
    assert found.reasons == []
    assert found.is_exact
    assert [one.step for one in found.scored] == [0, 1, 2, 3]
    record = journal.records[2]
    assert found.scored[2].projected_grads == (record["projected_grad"].tolist(),) * 2


def test_a_changed_projected_gradient_is_found_though_its_step_is_not_scored(
    journal, trained, tmp_path
):
    records = journal.records.copy()
    records["projected_grad"][1] *= 1.001
    found = audited(forged(journal, tmp_path, records), trained, steps=1)
    assert found.reasons == [
        "the projected gradient of step 1 does not follow from the losses beside it"
    ]


def test_losses_that_were_made_up_to_fit_are_found_where_they_are_scored(
    journal, trained, tmp_path
):
    records = journal.records.copy()
    records["losses"][1, ::-1] = journal.records["losses"][1]
    records["projected_grad"][1] *= -1
    found = audited(forged(journal, tmp_path, records), trained)
    assert "the first of them step 1" in found.reasons[0]
    assert [one.agrees for one in found.scored][:2] == [True, False]


def test_other_data_are_found_by_their_hash_and_by_their_losses(
    journal, trained, tiny_reviews, tmp_path
):
    data = shutil.copytree(tiny_reviews, tmp_path / "data")
    lines = (data / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    labels = [row["label"] for row in rows]
    swapped = [{**row, "label": label} for row, label in zip(rows, reversed(labels), strict=True)]
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in swapped))
    found = audited(journal, trained, data=data)
    assert found.reasons == ["it is of other data or another tokenizer"]
    config = journal.header.configuration(trained)
    config.data.path = str(data)
    theirs = run_data_hash(config, load_data(config))
    lying = forged(journal, tmp_path, journal.records, data_hash=theirs)
    assert "have other losses" in audited(lying, trained, data=data).reasons[0]


def test_another_base_is_found_by_its_hash_and_by_its_losses(
    journal, trained, tiny_model, tmp_path
):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    other = random_model(load(str(tiny_model)).config, seed=9)
    save(other, tmp_path / "other")
    shutil.copytree(tmp_path / "other", base, dirs_exist_ok=True)
    assert audited(journal, trained, model=base).reasons == [
        f"it is of another base model than {base}"
    ]
    theirs = content_hash(load(str(base)).weights)
    lying = forged(journal, tmp_path, journal.records, base_hash=theirs)
    assert "have other losses" in audited(lying, trained, model=base).reasons[0]


def test_a_header_that_names_no_base_model_is_a_reason_of_its_own(journal, trained, tmp_path):
    nameless = forged(journal, tmp_path, journal.records, base_hash=DELETED)
    assert audited(nameless, trained).reasons == [
        "its header does not say which base model it is of"
    ]


def test_other_numbers_of_scalars_than_the_method_has_are_refused(journal, trained, tmp_path):
    other = forged(journal, tmp_path, journal.records, **{"config.estimator.num_queries": 2})
    with pytest.raises(InputError, match="num_queries in its header is 1, but a run of its"):
        audited(other, trained)


def test_another_seed_is_found_by_the_key_and_by_the_losses(journal, trained, tmp_path):
    key = jax.random.key(1)
    records = journal.records.copy()
    records["key_data"] = step_keys(key, len(records))
    words = {"key_data": jax.random.key_data(key).tolist()}
    found = audited(forged(journal, tmp_path, records, **words), trained)
    assert found.reasons == ["its key is not of train.seed"]
    lying = forged(journal, tmp_path, records, **words, **{"config.train.seed": 1})
    assert "have other losses" in audited(lying, trained).reasons[0]


def test_the_command_ends_with_1_where_the_journal_is_not_of_these_data(trained, run, tmp_path):
    code, out, _ = run("journal", "audit", trained, "--steps", 2)
    assert code == 0
    assert "as far as 2 of its 4 steps show" in out
    assert "bit for bit" in out
    code, out, _ = run("journal", "audit", trained, "--set", "data.seed=1", "--json")
    assert code == 1
    assert json.loads(out)["verdict"].startswith("not from these data and this base model: ")


def test_the_labels_order_is_that_of_the_run_where_a_journal_has_sorted_them(tmp_path):
    beside = Config(
        ModelConfig("m"), RunConfig("r"), DataConfig("custom", "d", prompt="{a}", candidates=LABELS)
    )
    write_json(tmp_path / "config.json", to_dict(beside))
    data = dataclasses.replace(beside.data, candidates=dict(sorted(LABELS.items())))
    found = as_written(dataclasses.replace(beside, data=data), tmp_path / "journal.zj")
    assert list(found.data.candidates or ()) == list(LABELS)
    other = dataclasses.replace(data, prompt="{b}")
    assert as_written(dataclasses.replace(beside, data=other), tmp_path / "j.zj").data == other


def test_a_run_without_steps_cannot_be_audited(journal, trained):
    empty = dataclasses.replace(journal, records=journal.records[:0])
    with pytest.raises(InputError, match="has no step of its own to score again"):
        audited(empty, trained)
