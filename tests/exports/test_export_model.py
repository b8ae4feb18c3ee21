"""Exported models, loaded by PEFT and transformers, score as the run does."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from rich.console import Console
from safetensors.flax import load_file

from tests.run_fixtures import STYLES
from zojax.adapters import stack_variants
from zojax.commands.export import in_words
from zojax.commands.journal_replay import replay_to
from zojax.errors import InputError
from zojax.exports.export import export_run
from zojax.exports.model import base_tensors
from zojax.hub import load
from zojax.hub.tensor_names import hf_names
from zojax.journal.file import read_journal
from zojax.journal.replay import make_replay
from zojax.journal.segments import header_key
from zojax.models import content_hash
from zojax.runs import run_dir
from zojax.runs.setup import load_model
from zojax.runs.train import train
from zojax.scoring import Item, pack, score, shape_needed
from zojax.training.interval import OwnedWeights
from zojax.training.method import make_method

QUIET = Console(quiet=True)
LOGIT_TOLERANCE = 2e-4
VOCABULARY = 1024
# Scores


SEQUENCES = [np.array(ids, np.int32) for ids in ([2], [2, 40, 7, 300, 1023], [0, 9, 9, 500])]


def run_logits(directory: Path) -> np.ndarray:
    """Logits ``(sequences, vocab)`` from zojax's scoring under the run's last state, unmerged."""
    config = run_dir.read_config(directory)
    journal, base = read_journal(directory / run_dir.JOURNAL), load_model(config)
    method = make_method(config, base)
    replay = make_replay(method, base.weights)
    owned, state = replay(OwnedWeights(base.weights), header_key(journal), journal.records)
    adapter = method.estimator.space.adapter(state.params, state.subspace)
    vocabulary = tuple(np.array([token], np.int32) for token in range(VOCABULARY))
    items = [Item(tokens, vocabulary) for tokens in SEQUENCES]
    pages = pack(items, shape_needed(items))
    pages = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    logits_pc = jax.jit(score, static_argnames=("graphdef", "normalize"))(
        owned.weights, stack_variants([adapter]), pages, graphdef=base.graphdef, normalize=False
    )
    by_example = [np.asarray(logits_pc)[pages.example_pc == i] for i in range(len(items))]
    return np.stack(by_example)


def logits_of(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        rows = [model(torch.tensor(tokens[None], dtype=torch.int64)).logits for tokens in SEQUENCES]
    return np.stack([row[0, -1].numpy() for row in rows])


def assert_moved(logits: np.ndarray, base_model) -> None:
    """Or equal logits would mean little."""
    assert np.abs(logits - logits_of(base_model)).max() > 50 * LOGIT_TOLERANCE


@pytest.mark.parametrize("style", STYLES)
def test_exports_of_trained_runs_score_as_the_runs(style, export_runs, tmp_path):
    directory = export_runs.trained(style)
    expected = run_logits(directory)
    assert_moved(expected, export_runs.transformers_model(export_runs.bases[style]))
    # Three intervals of rank 2 were folded.
    rank = 3 * export_runs.rank if style == "pre-LN" else None
    told = export_run(
        directory, "peft", tmp_path / "peft", QUIET, rank=rank, step=export_runs.steps
    )
    assert told["rank"] == (rank or export_runs.rank)
    assert told["step"] == export_runs.steps
    if rank is None:
        assert told["relative_error"] == told["worst_relative_error"] == 0
        assert "exact" in in_words(told)
    else:
        # The weights were rounded to float32 in each fold: 0.2 · 2**-24 of updates of about 1e-2.
        assert 0 < told["relative_error"] < 1e-5
    logits = logits_of(export_runs.peft_model(style, tmp_path / "peft"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)

    told = export_run(directory, "hf", tmp_path / "hf", QUIET, step=export_runs.steps)
    assert told["dtype"] == "float32"
    logits = logits_of(export_runs.transformers_model(tmp_path / "hf"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)


def test_a_full_run_is_exported_whole_and_refused_as_lora(export_runs, tmp_path):
    directory = export_runs.forge(tmp_path / "run", "as 350M", scale=1.0, trainable="full")
    expected = run_logits(directory)
    assert_moved(expected, export_runs.transformers_model(export_runs.bases["as 350M"]))
    export_run(directory, "hf", tmp_path / "hf", QUIET)
    logits = logits_of(export_runs.transformers_model(tmp_path / "hf"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)
    with pytest.raises(InputError, match="--format hf"):
        export_run(directory, "peft", tmp_path / "peft", QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "run"]


def test_a_lora_run_is_exported_as_the_lora_that_it_is(export_runs, tmp_path):
    settings = {"name": "mezo", "trainable": "lora", "lora_rank": 3}
    directory = export_runs.forge(tmp_path / "run", "pre-LN", scale=30.0, **settings)
    expected = run_logits(directory)
    assert_moved(expected, export_runs.transformers_model(export_runs.bases["pre-LN"]))
    told = export_run(directory, "peft", tmp_path / "peft", QUIET)
    assert (told["rank"], told["relative_error"]) == (3, 0)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    logits = logits_of(export_runs.peft_model("pre-LN", tmp_path / "peft"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)
    export_run(directory, "hf", tmp_path / "hf", QUIET)
    logits = logits_of(export_runs.transformers_model(tmp_path / "hf"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)


def test_a_run_that_folds_into_an_adapter_is_exported_as_the_lora_that_it_is(export_runs, tmp_path):
    """With the columns of the interval at hand, if it has any: none right behind a fold."""
    directory = export_runs.forge(
        tmp_path / "run", "pre-LN", steps=5, fold="adapter", adapter_rank=3
    )
    expected = run_logits(directory)
    assert_moved(expected, export_runs.transformers_model(export_runs.bases["pre-LN"]))
    told = export_run(directory, "peft", tmp_path / "peft", QUIET)
    assert (told["rank"], told["relative_error"]) == (3 + export_runs.rank, 0)
    behind = export_run(directory, "peft", tmp_path / "behind a fold", QUIET, step=4)
    assert (behind["rank"], behind["relative_error"]) == (3, 0)
    logits = logits_of(export_runs.peft_model("pre-LN", tmp_path / "peft"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)


def test_a_mezo_run_is_exported_with_its_last_step(export_runs, tmp_path):
    directory = export_runs.forge(tmp_path / "run", "as 350M", name="mezo")
    expected = run_logits(directory)
    assert_moved(expected, export_runs.transformers_model(export_runs.bases["as 350M"]))
    told = export_run(directory, "peft", tmp_path / "peft", QUIET, rank=16)  # all that there is
    assert told["relative_error"] < 1e-5
    logits = logits_of(export_runs.peft_model("as 350M", tmp_path / "peft"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)
    export_run(directory, "hf", tmp_path / "hf", QUIET)
    logits = logits_of(export_runs.transformers_model(tmp_path / "hf"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)


def test_a_run_on_int8_matrices_is_exported_with_what_they_were_rounded_to(export_runs, tmp_path):
    config = export_runs.config(tmp_path / "run", "as 350M", dtype="int8", fold="none")
    config.model.activations = "float32"
    train(config, QUIET)
    directory = tmp_path / "run"
    expected = run_logits(directory)
    told = export_run(directory, "hf", tmp_path / "hf", QUIET, step=6, dtype="float32")
    assert told["dtype"] == "float32"
    logits = logits_of(export_runs.transformers_model(tmp_path / "hf"))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)
    assert export_run(directory, "hf", tmp_path / "short", QUIET, step=6)["dtype"] == "bfloat16"

    # A LoRA of it belongs to the rounded matrices, which are the model after no step.
    export_run(directory, "hf", tmp_path / "base", QUIET, step=0, dtype="float32")
    base = export_runs.transformers_model(tmp_path / "base")
    assert_moved(expected, base)
    told = export_run(directory, "peft", tmp_path / "peft", QUIET, step=6)
    assert told["relative_error"] == 0
    peft = pytest.importorskip("peft")
    logits = logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)

    replay_to(directory, QUIET, output=tmp_path / "replayed")
    export_run(directory, "hf", tmp_path / "last", QUIET, step=6)
    names = [path.name for path in (tmp_path / "last").glob("*.safetensors")]
    assert names
    for name in names:
        a, b = (load_file(tmp_path / side / name) for side in ("replayed", "last"))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_a_prefix_is_refused_where_nothing_can_hold_it(export_runs, tmp_path):
    settings = {"name": "mezo", "trainable": "prefix"}
    directory = export_runs.forge(tmp_path / "run", "pre-LN", **settings)
    for form in ("peft", "hf"):
        with pytest.raises(InputError, match="prefixes are not part of any weight"):
            export_run(directory, form, tmp_path / form, QUIET)
    export_run(directory, "journal", tmp_path / "journal", QUIET)
    assert (tmp_path / "journal" / "journal.zj").exists()


# Errors that are printed
def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    tensors = load_file(directory / "model.safetensors")
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def test_the_error_of_a_truncated_lora_is_numpys(folded_run, export_runs, tmp_path):
    told = export_run(folded_run, "peft", tmp_path / "peft", QUIET, rank=3)
    export_run(folded_run, "hf", tmp_path / "hf", QUIET)
    before, after = read_tensors(export_runs.bases["pre-LN"]), read_tensors(tmp_path / "hf")
    lost, whole = {}, {}
    for name, weight in before.items():
        if re.search(r"layers\.\d+\..*(proj|fc\d)\.weight", name):
            squares = np.linalg.svd(after[name] - weight, compute_uv=False) ** 2
            lost[name], whole[name] = squares[3:].sum(), squares.sum()
        else:
            np.testing.assert_array_equal(after[name], weight)
    assert len(lost) == 12
    expected = np.sqrt(sum(lost.values()) / sum(whole.values()))
    # The merged weights are rounded to float32 once more than what the LoRA stands for.
    np.testing.assert_allclose(told["relative_error"], expected, rtol=1e-4)
    worst = max(lost, key=lambda name: lost[name] / whole[name])
    assert f"{told['worst_matrix']}.weight" == worst
    np.testing.assert_allclose(
        told["worst_relative_error"], np.sqrt(lost[worst] / whole[worst]), rtol=1e-4
    )
    assert expected > 0.1
    words = in_words(told)
    assert f"rank 3, relative error of the update {expected:.2e}" in words
    assert told["worst_matrix"] in words
    assert "larger --rank" in words
    assert "--format hf" in words


def test_a_folded_run_gets_the_default_rank(folded_run, tmp_path):
    told = export_run(folded_run, "peft", tmp_path / "peft", QUIET)
    assert told["rank"] == 16  # all of these matrices
    assert told["relative_error"] < 1e-6
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 16)
    names = ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]
    assert config["target_modules"] == names


def test_a_run_that_was_not_folded_can_be_given_a_smaller_rank(export_runs, tmp_path):
    told = export_run(
        export_runs.trained("as 350M"),
        "peft",
        tmp_path / "a",
        QUIET,
        rank=1,
        step=export_runs.steps,
    )
    assert told["rank"] == 1
    assert 0.01 < told["relative_error"] < 1


@pytest.fixture(scope="module")
def halves(export_runs, tmp_path_factory) -> Path:
    """A bfloat16 run that was never folded, with updates below the spacing of its weights."""
    directory = tmp_path_factory.mktemp("halves") / "run"
    return export_runs.forge(directory, "pre-LN", scale=0.01, dtype="bfloat16", fold="none")


def test_what_rounding_loses_of_an_unfolded_adapter_is_told(halves, tmp_path):
    whole = export_run(halves, "hf", tmp_path / "whole", QUIET, dtype="float32")
    assert "relative_error" not in whole
    told = export_run(halves, "hf", tmp_path / "halves", QUIET)
    assert told["dtype"] == "bfloat16"
    exact, written = read_tensors(tmp_path / "whole"), read_tensors(tmp_path / "halves")
    config = run_dir.read_config(halves)
    base = load_model(config)
    read = base_tensors(base)
    before = {name: read(name).astype(np.float64) for name in exact}
    error = sum(((written[name] - exact[name]) ** 2).sum() for name in exact)
    update = sum(((exact[name] - before[name]) ** 2).sum() for name in exact)
    # Adding the update to the weights in float32 rounds too, at 2**-24 against 2**-9.
    np.testing.assert_allclose(told["relative_error"], np.sqrt(error / update), rtol=1e-3)
    assert told["relative_error"] > 0.5
    assert "--dtype float32" in in_words(told)
    lora = export_run(halves, "peft", tmp_path / "peft", QUIET)
    assert lora["relative_error"] == 0


def test_a_wider_dtype_has_no_rounding_of_the_narrower(halves, tmp_path):
    """``float32`` of a bfloat16 run is ``W + A Vᵀ``, in float64 from the replayed state."""
    export_run(halves, "hf", tmp_path / "hf", QUIET, dtype="float32")
    config, journal = run_dir.read_config(halves), read_journal(halves / run_dir.JOURNAL)
    base = load_model(config)
    _, state = make_replay(make_method(config, base), base.weights)(
        OwnedWeights(base.weights), header_key(journal), journal.records
    )
    written = read_tensors(tmp_path / "hf")
    flat = traverse_util.flatten_dict(base.weights)
    for name, (path, layer) in hf_names(flat, base.config).items():
        site, at = "/".join(path), ... if layer is None else layer
        expected = np.asarray(flat[path][at]).astype(np.float64)
        if site in state.subspace:
            a, v = (np.float64(tree[site][at]) for tree in (state.params, state.subspace))
            expected = expected + a @ v.T
        np.testing.assert_allclose(written[name], expected, rtol=0, atol=1e-7, err_msg=name)


def test_the_bases_tensors_are_those_that_were_loaded(export_runs):
    model = load(str(export_runs.bases["as 350M"]), dtype=jnp.bfloat16)
    read, flat = base_tensors(model), traverse_util.flatten_dict(model.weights)
    for name, (path, layer) in hf_names(flat, model.config).items():
        expected = flat[path] if layer is None else flat[path][layer]
        assert read(name).dtype == expected.dtype
        np.testing.assert_array_equal(read(name), expected)


def test_a_checkpoint_has_the_weights_of_a_replay_and_what_the_base_has(
    folded_run, export_runs, tmp_path
):
    export_run(folded_run, "hf", tmp_path / "hf", QUIET)
    replayed = replay_to(folded_run, QUIET)
    assert content_hash(load(str(tmp_path / "hf")).weights) == replayed["content_hash"]
    ours, theirs = tmp_path / "hf", export_runs.bases["pre-LN"]
    names = {path.name for path in theirs.iterdir()}
    assert {"vocab.json", "generation_config.json"} < names
    assert {path.name for path in ours.iterdir()} == names | {"README.md"}
    for name in names - {"config.json", "model.safetensors"}:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
