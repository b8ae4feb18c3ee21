"""Adapters that PEFT itself has made, read as adapter states: scores, and every refusal."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.rough_models import PRE_LN, STYLES
from zojax.adapters import AdapterPool, stack_variants, trainable_sites
from zojax.adapters.lora import linear_locations, load_lora
from zojax.errors import InputError
from zojax.hub import load
from zojax.hub.saving import save_tensors
from zojax.hub.tensor_names import tensor_shapes
from zojax.models import Model
from zojax.scoring import Item, pack, score, shape_needed

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

LOGIT_TOLERANCE = 2e-4
RNG = np.random.default_rng(0)
SEQUENCES = [RNG.integers(3, PRE_LN.vocab_size, n).astype(np.int32) for n in (1, 5, 12)]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Model]:
    """Bases of both styles on disk and loaded, with logits of the order of 1."""
    loaded, rng = {}, np.random.default_rng(1)
    for name, config in STYLES.items():
        directory, shapes = tmp_path_factory.mktemp("base"), tensor_shapes(config)

        def noise(name: str, shapes=shapes) -> np.ndarray:
            return ("norm.weight" in name) + 0.15 * rng.standard_normal(shapes[name])

        save_tensors(config, directory, noise, dtype="float32")
        loaded[name] = load(str(directory))
    return loaded


def theirs(model: Model):
    return transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).eval()


def their_logits(model) -> np.ndarray:
    """Logits ``(sequences, vocab)`` behind each sequence."""
    with torch.no_grad():
        rows = [model(torch.tensor(tokens[None], dtype=torch.int64)).logits for tokens in SEQUENCES]
    return np.stack([row[0, -1].numpy() for row in rows])


SCORE = jax.jit(score, static_argnames=("graphdef", "normalize"))


def filled(state, model: Model, rank: int = 8):
    """A state of the same meaning whose shapes are those of every other: one program for all."""
    given = traverse_util.flatten_dict(state)
    weights = traverse_util.flatten_dict(model.weights)
    flat = {}
    for path, _ in linear_locations(model).values():
        for side, axis in (("u", -2), ("v", -1)):
            shape = (*weights[path].shape[:-2], weights[path].shape[axis], rank)
            factor = np.zeros(shape, np.float32)
            if (*path, side) in given:
                factor[..., : given[*path, side].shape[-1]] = given[*path, side]
            flat[*path, side] = factor
    assert given.keys() <= flat.keys()
    return traverse_util.unflatten_dict(flat)


def our_logits(model: Model, state) -> np.ndarray:
    """The same from zojax's scoring, under the adapter state in slot 1."""
    vocabulary = tuple(np.array([token], np.int32) for token in range(PRE_LN.vocab_size))
    items = [Item(tokens, vocabulary) for tokens in SEQUENCES]
    pages = pack(items, shape_needed(items))
    pages = dataclasses.replace(pages, slot_p=np.ones_like(pages.slot_p))
    pool = stack_variants([filled(state, model)])
    logits_pc = SCORE(model.weights, pool, pages, graphdef=model.graphdef, normalize=False)
    by_example = [np.asarray(logits_pc)[pages.example_pc == i] for i in range(len(items))]
    return np.stack(by_example)


def make_adapter(model: Model, directory: Path, **settings):
    """An adapter with random A and B that PEFT makes and saves."""
    torch.manual_seed(3)
    settings = {"task_type": "CAUSAL_LM", "init_lora_weights": False, **settings}
    adapted = peft.get_peft_model(theirs(model), peft.LoraConfig(**settings)).eval()
    adapted.save_pretrained(str(directory))
    return adapted


ALL_LINEAR = {
    "r": 4,
    "lora_alpha": 3,
    "target_modules": "all-linear",
    "rank_pattern": {"fc1": 2, r"layers\.1\.self_attn\.q_proj": 7, "v_proj": 1},
    "alpha_pattern": {"fc1": 5, "layers.[02].fc2": 1},
}
ADAPTERS = {
    "q and v": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "all linear layers, ranks and alphas apart": ALL_LINEAR,
    "rsLoRA, a regular expression": {
        "r": 4,
        "target_modules": r".*layers\.[12]\.(fc1|self_attn\.\w_proj)",
        "use_rslora": True,
    },
    "two layers, less one module": {
        "r": 3,
        "target_modules": ["k_proj", "out_proj", "fc2"],
        "layers_to_transform": [0, 2],
        "layers_pattern": "layers",
        "exclude_modules": ["layers.2.fc2"],
    },
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_that_peft_made_has_pefts_logits(adapter, style, models, tmp_path):
    model = models[style]
    expected = their_logits(make_adapter(model, tmp_path, **ADAPTERS[adapter]))
    assert np.abs(expected - their_logits(theirs(model))).max() > 100 * LOGIT_TOLERANCE
    logits = our_logits(model, load_lora(tmp_path, model))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)


def test_what_peft_made_goes_into_a_pool(models, tmp_path):
    model = models["pre-LN"]
    make_adapter(model, tmp_path, **ALL_LINEAR)
    state = load_lora(tmp_path, model)
    pool = AdapterPool(trainable_sites(model.weights, "linear"), num_slots=2, rank=8)
    slot = pool.insert(state)
    inserted = traverse_util.flatten_dict(pool.arrays)
    for path, leaf in traverse_util.flatten_dict(state).items():
        np.testing.assert_array_equal(inserted[path][slot, ..., : leaf.shape[-1]], leaf)


def test_layers_of_smaller_rank_are_padded_with_zeros(models, tmp_path):
    model = models["pre-LN"]
    make_adapter(model, tmp_path, **ALL_LINEAR)
    state = load_lora(tmp_path, model)
    q_proj = state["layers"]["self_attn"]["q_proj"]["weight"]
    assert q_proj["u"].shape == q_proj["v"].shape == (3, 24, 7)
    for side in ("u", "v"):
        assert q_proj[side].dtype == jnp.float32
        assert not q_proj[side][:, :, 4:][np.array([0, 2])].any()
        assert q_proj[side][1].all()
    assert state["layers"]["fc1"]["weight"]["u"].shape == (3, 40, 2)


def test_layers_without_a_lora_are_zero_and_modules_without_are_absent(models, tmp_path):
    make_adapter(models["pre-LN"], tmp_path, **ADAPTERS["two layers, less one module"])
    flat = traverse_util.flatten_dict(load_lora(tmp_path, models["pre-LN"]), sep="/")
    sites = ("layers/self_attn/k_proj", "layers/self_attn/out_proj", "layers/fc2")
    assert flat.keys() == {f"{site}/weight/{side}" for site in sites for side in "uv"}
    for path, factor in flat.items():
        has_lora = [bool(layer.any()) for layer in factor]
        assert has_lora == [True, False, "fc2" not in path]


@pytest.fixture(scope="module")
def pristine(models, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("pristine")
    make_adapter(models["pre-LN"], directory, **ADAPTERS["q and v"])
    return directory


@pytest.fixture
def adapter(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "adapter"))


def edit_config(adapter: Path, **changes) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def edit_tensors(adapter: Path, edit) -> Path:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    return path


def assert_refused(adapter: Path, model: Model, *parts: object) -> None:
    with pytest.raises(InputError) as caught:
        load_lora(adapter, model)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_torch_file_of_halves_is_read_as_it_is(dtype, adapter, models):
    from safetensors.torch import load_file

    path = adapter / "adapter_model.safetensors"
    halves = {name: x.to(getattr(torch, dtype)) for name, x in load_file(path).items()}
    torch.save(halves, adapter / "adapter_model.bin")
    path.unlink()
    u = load_lora(adapter, models["pre-LN"])["layers"]["self_attn"]["v_proj"]["weight"]["u"]
    b = halves["base_model.model.model.decoder.layers.2.self_attn.v_proj.lora_B.weight"]
    np.testing.assert_array_equal(u[2], 2 * b.float().numpy())  # alpha / r = 16 / 8


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"peft_type": "PREFIX_TUNING"}, ["peft_type", "PREFIX_TUNING", "LORA"]),
        ({"bias": "all"}, ["bias='all'"]),
        ({"bias": "lora_only"}, ["bias='lora_only'"]),
        ({"use_dora": True}, ["use_dora=True"]),
        ({"lora_bias": True}, ["lora_bias=True"]),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save=['lm_head']"]),
        ({"trainable_token_indices": [3]}, ["trainable_token_indices=[3]"]),
        ({"of_next_year": {"a": 1}}, ["of_next_year"]),
        ({"init_lora_weights": "pissa"}, ["init_lora_weights='pissa'", "base weights"]),
        ({"r": 0}, ["r: ", "greater than or equal to 1", "(it is 0)"]),
        ({"r": "8"}, ["r: ", "valid integer", "(it is '8')"]),
        ({"r": True}, ["r: ", "(it is True)"]),
        ({"lora_alpha": None}, ["lora_alpha: ", "(it is None)"]),
        ({"rank_pattern": [2]}, ["rank_pattern: ", "(it is [2])"]),
        ({"rank_pattern": {"q_proj": 1.5}}, ["rank_pattern.q_proj: ", "(it is 1.5)"]),
        ({"alpha_pattern": {"(": 2}}, ["alpha_pattern", "'('", "regular expression"]),
        ({"target_modules": None}, ["target_modules.", "(it is None)"]),
        ({"target_modules": "*"}, ["target_modules", "regular expression"]),
        (
            {"target_modules": ["gate_proj"]},
            ["gate_proj", "no linear layer", "model.decoder.layers.2."],
        ),
        ({"layers_to_transform": "1"}, ["layers_to_transform.", "(it is '1')"]),
    ],
)
def test_what_cannot_be_honoured_is_named(changes, parts, adapter, models):
    assert_refused(adapter, models["pre-LN"], edit_config(adapter, **changes), *parts)


Q0 = "base_model.model.model.decoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda t: t.pop(f"{Q0}.lora_B.weight"), ["lacks", f"{Q0}.lora_B.weight"]),
        (
            lambda t: t.update({f"{Q0}.lora_A.weight": torch.zeros(8, 25)}),
            [f"{Q0}.lora_A.weight", (8, 25), (8, 24)],
        ),
        (
            lambda t: t.update({f"{Q0}.lora_B.weight": torch.zeros(24, 4)}),
            [f"{Q0}.lora_B.weight", (24, 4), (24, 8)],
        ),
        (
            lambda t: t.update({f"{Q0}.lora_magnitude_vector": torch.zeros(24)}),
            ["extra", f"{Q0}.lora_magnitude_vector", (24,)],
        ),
        (
            lambda t: t.update({Q0.replace("q_proj", "k_proj.lora_A.weight"): torch.zeros(8, 24)}),
            ["extra", "does not target model.decoder.layers.0.self_attn.k_proj"],
        ),
        (
            lambda t: t.update({Q0.replace(".0.", ".3.") + ".lora_A.weight": torch.zeros(8, 24)}),
            [
                "extra",
                "layers.3.self_attn.q_proj",
                "not a LoRA of one of the model's linear layers",
            ],
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(edit, parts, adapter, models):
    assert_refused(adapter, models["pre-LN"], edit_tensors(adapter, edit), *parts)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task_type": "FEATURE_EXTRACTION"},
        {"target_modules": r"decoder\.layers\.\d\.self_attn\.[qv]_proj"},  # as PEFT saw the names
        {"fan_in_fan_out": True},  # which PEFT ignores on linear layers
    ],
)
@pytest.mark.parametrize("has_head", [True, False])
def test_an_adapter_of_a_model_without_a_head_is_the_same(changes, has_head, adapter, models):
    if has_head and isinstance(changes.get("target_modules"), str):
        changes = {"target_modules": rf"model\.{changes['target_modules']}"}
    expected = load_lora(adapter, models["pre-LN"])
    edit_config(adapter, **changes)
    if not has_head:

        def behead(tensors) -> None:
            for name in [*tensors]:
                tensors[name.replace(".model.decoder.", ".decoder.")] = tensors.pop(name)

        edit_tensors(adapter, behead)
    got = load_lora(adapter, models["pre-LN"])
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_rank_that_the_tensors_do_not_have(adapter, models):
    edit_config(adapter, rank_pattern={"layers.1.self_attn.v_proj": 4})
    name = "base_model.model.model.decoder.layers.1.self_attn.v_proj.lora_A.weight"
    file = adapter / "adapter_model.safetensors"
    assert_refused(adapter, models["pre-LN"], file, name, (8, 24), (4, 24))


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_loras_of_embeddings_and_head_are_refused(module, models, tmp_path):
    make_adapter(models["pre-LN"], tmp_path, target_modules=["fc1", module])
    assert_refused(tmp_path, models["pre-LN"], "extra tensor", module, "linear layer")


def test_an_adapter_of_another_model(models, tmp_path):
    make_adapter(models["as 350M"], tmp_path, target_modules="all-linear")
    assert_refused(tmp_path, models["pre-LN"], "extra tensor", "project_in")


def test_files_that_are_not_there(adapter, models):
    model = models["pre-LN"]
    assert_refused(adapter / "none", model, adapter / "none", "no such directory")
    (adapter / "adapter_model.safetensors").unlink()
    assert_refused(adapter, model, adapter, "adapter_model.safetensors", "adapter_model.bin")
    (adapter / "adapter_config.json").unlink()
    assert_refused(adapter, model, adapter, "adapter_config.json")


def test_a_truncated_file(adapter, models):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(adapter, models["pre-LN"], path, "truncated")
