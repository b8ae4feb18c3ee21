"""The model in a GGUF file: its architecture from the metadata, and its tensors' names.

The package knows llama.cpp's names of tensors; the families know what else differs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zojax.errors import InputError
from zojax.hub.gguf_file import GgufFile, GgufHeader, Source, read_header
from zojax.hub.tensor_names import hf_names
from zojax.models.family import DecoderConfig, Family, Gguf
from zojax.models.model import abstract
from zojax.models.registry import families
from zojax.models.rope import frequencies, parse_rope
from zojax.text import plain

_ENTRIES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base": "rope_theta",
}
"""Entries of ``config.json`` by their names in the metadata, after that of the architecture."""

_SCALINGS = {
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""Entries of ``rope_scaling`` by their names in the metadata, after ``rope.scaling``."""

_ONLY = {"rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0}
"""Entries that zojax knows with one value only, which is also that of files without them."""

_FACTORS = "rope_freqs.weight"


def read_gguf(path: Path) -> tuple[DecoderConfig, np.dtype, GgufFile]:
    """Reads the architecture and the dtype of a GGUF file, and lists its tensors.

    Raises:
        InputError: the file is damaged, or zojax does not know its architecture.
    """
    header = read_header(path)
    family, gguf = _family(header)
    try:
        raw = _entries(header, gguf)
        config = family.read_config({**raw, **gguf.config(raw)})
    except InputError as error:
        raise InputError(f"{path}: by its metadata, {error}") from error
    return config, header.dtype, GgufFile(header, _sources(header, config, gguf))


def _family(header: GgufHeader) -> tuple[Family, Gguf]:
    name = header.metadata.get("general.architecture")
    known = [(family, family.gguf) for family in families() if family.gguf is not None]
    for family, gguf in known:
        if gguf.architecture == name:
            return family, gguf
    names = ", ".join(repr(gguf.architecture) for _, gguf in known)
    raise InputError(
        f"{header.path}: holds a {plain(repr(name), 40)} model; zojax reads GGUF files of {names}"
    )


def _entries(header: GgufHeader, gguf: Gguf) -> dict[str, Any]:
    """The file's metadata, as the entries of a ``config.json``."""
    start = f"{gguf.architecture}."
    found = {
        name.removeprefix(start): _shortest(value)
        for name, value in header.metadata.items()
        if name.startswith(start)
    }
    raw: dict[str, Any] = {
        entry: _number(name, found[name]) for name, entry in _ENTRIES.items() if name in found
    }
    for needed in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        if type(raw.get(needed)) is not int or raw[needed] < 1:
            raise InputError(f"config.json lacks {needed}")
    if "token_embd.weight" not in header.tensors:
        raise InputError("it has no tensor token_embd.weight")
    shape = header.shape("token_embd.weight")
    if len(shape) != 2:
        raise InputError(f"its tensor token_embd.weight is no matrix but has shape {shape}")
    raw["vocab_size"] = shape[0]
    raw["tie_word_embeddings"] = "output.weight" not in header.tensors
    raw["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    raw["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    raw.setdefault("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
    for name, known in {**_ONLY, "rope.dimension_count": raw["head_dim"]}.items():
        if found.get(name, known) != known:
            raise InputError(f"{name} is {plain(repr(found[name]), 40)}; zojax knows {known} only")
    by_factors = _FACTORS in header.tensors
    raw["rope_scaling"] = _by_factors(header, raw, gguf) if by_factors else _scaling(found)
    return raw


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {plain(repr(value), 40)}, not a number")
    return value


def _scaling(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entries of ``rope_scaling`` by llama.cpp's rules: linear unless a file says otherwise."""
    kind = found.get("rope.scaling.type", "linear")
    factor = found.get("rope.scaling.factor", found.get("rope.scale_linear"))
    if kind == "none" or (kind == "linear" and not factor):
        return None
    others = {
        entry: found[f"rope.scaling.{name}"]
        for name, entry in _SCALINGS.items()
        if f"rope.scaling.{name}" in found
    }
    return {"rope_type": kind, "factor": factor, **others}


def _shortest(value: Any) -> Any:
    """A number as it was written before it became a float32: 1e-05, not 9.999999747e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _by_factors(header: GgufHeader, raw: Mapping[str, Any], gguf: Gguf) -> dict[str, Any]:
    """The scaling from which the file's factors of the frequencies come.

    The files have the factors in place of its numbers, of which but one differs between sizes.
    """
    unknown = InputError(f"{_FACTORS} scales rotary positions as zojax does not know")
    size = raw["head_dim"]
    if gguf.scaling is None or header.shape(_FACTORS) != (size // 2,) or size < 2:
        raise unknown
    factors_e = header.rows(_FACTORS)
    theta = raw.get("rope_theta", 10_000.0)
    scaling = {**gguf.scaling, "factor": _shortest(float(factors_e.max()))}
    own, scaled = parse_rope({}, raw, theta), parse_rope(scaling, raw, theta)
    wanted_e = frequencies(own, size)[0] / frequencies(scaled, size)[0]
    if not np.allclose(factors_e, wanted_e, rtol=1e-3):
        raise unknown
    return scaling


def _sources(header: GgufHeader, config: DecoderConfig, gguf: Gguf) -> dict[str, Source]:
    """Where each tensor of the checkpoint is; those that the model lacks keep their own names."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == gguf.architecture)
    their_names = get_tensor_name_map(arch, config.num_hidden_layers)
    sources: dict[str, Source] = {}
    for name in hf_names(abstract(config)[1], config):
        module, _, kind = name.rpartition(".")
        theirs = f"{their_names.get_name(module)}.{kind}"
        if theirs not in header.tensors:
            continue
        paired = gguf.paired_rows and (".attn_q." in theirs or ".attn_k." in theirs)
        offset = gguf.norm_offset if "norm" in theirs else 0.0
        sources[name] = Source(theirs, config.head_dim if paired else None, offset)
    used = {source.name for source in sources.values()} | {_FACTORS}
    return sources | {name: Source(name) for name in header.tensors if name not in used}
