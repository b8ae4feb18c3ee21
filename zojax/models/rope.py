"""Rotary positions (RoFormer, 2104.09864) and the scalings with which contexts are lengthened.

A head's entries i and i + d/2 are a point in a plane, which is turned by position · frequency_i.
Only differences of positions then matter to attention. Axes: p pages, t tokens, h heads, d a head's
size, e = d/2 planes.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from zojax.config.fields import NonNegativeFloat, Positive, Switch
from zojax.errors import InputError
from zojax.models.config_json import PLACE
from zojax.models.family import Rows
from zojax.reading import validate
from zojax.text import plain

Base = Annotated[Positive, Field(gt=1)]

_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
"""The known types, and what each needs. The frequencies of others depend on a text's length."""


@dataclasses.dataclass(frozen=True)
class Rope:
    """Which frequencies a model has; named as in ``config.json`` of transformers 5.

    Attributes:
        rope_theta: the base of the frequencies ``theta^(−2i/d)``.
        rope_type: how they are scaled.
        factor: how many times longer a context shall be.
        original_max_position_embeddings: the length of texts before the scaling.
        low_freq_factor: llama3: waves longer than the original length over this are stretched.
        high_freq_factor: llama3: waves shorter than the original length over this are kept.
        attention_factor: yarn: what cosines and sines are multiplied by; None for its default.
        beta_fast: yarn: planes that turn more often than this within the original length are kept.
        beta_slow: yarn: planes that turn less often than this are stretched.
        mscale: yarn: a weight in the default of ``attention_factor``.
        mscale_all_dim: yarn: the same for its denominator.
        truncate: yarn: whether the limits between kept and stretched planes are whole numbers.
    """

    rope_theta: Base = 10_000.0
    rope_type: Literal["default", "linear", "llama3", "yarn"] = "default"
    factor: Positive | None = None
    original_max_position_embeddings: Rows | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: NonNegativeFloat | None = None
    mscale_all_dim: NonNegativeFloat | None = None
    truncate: Switch = True


def read_rope(raw: Mapping[str, Any], default_theta: float = 10_000.0) -> Rope:
    """Reads rotary positions from a parsed ``config.json``.

    Published files have ``rope_theta`` and ``rope_scaling``; transformers 5 writes
    ``rope_parameters``, which holds both.

    Args:
        raw: the parsed file.
        default_theta: the base if the file has none.

    Raises:
        InputError: the scaling is not known, or lacks something.

    Example:
        >>> read_rope({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}).factor
        2.0
        >>> read_rope({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})
        Traceback (most recent call last):
        zojax.errors.InputError: config.json scales rotary positions by 'dynamic'; zojax knows \
default, linear, llama3, yarn
    """
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    return parse_rope(given, raw, raw.get("rope_theta") or default_theta)


def parse_rope(given: Any, raw: Mapping[str, Any], theta: Any) -> Rope:
    """Reads one object of ``rope_scaling`` or ``rope_parameters``; see :func:`read_rope`."""
    values = {k: v for k, v in validate(dict[str, Any], given, PLACE).items() if v is not None}
    if any(isinstance(value, Mapping) for value in values.values()):
        raise InputError(f"{PLACE} has rotary positions for each kind of layer, not for all")
    kind = values.get("rope_type") or values.get("type") or "default"
    known = ", ".join(_NEEDS)
    if not isinstance(kind, str) or kind not in _NEEDS:
        raise InputError(
            f"{PLACE} scales rotary positions by {plain(repr(kind), 40)}; zojax knows {known}"
        )
    for name in _NEEDS[kind]:
        if name not in values:
            raise InputError(f"{PLACE} scales rotary positions by {kind!r}, but lacks {name}")
    parts = values.get("partial_rotary_factor", raw.get("partial_rotary_factor") or 1)
    if parts != 1:
        raise InputError(f"{PLACE} rotates a part of each head only; zojax knows whole heads only")
    if kind in ("llama3", "yarn"):
        values.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    names = [field.name for field in dataclasses.fields(Rope) if field.name in values]
    own = {**{name: values[name] for name in names}, "rope_type": kind}
    rope = validate(Rope, {"rope_theta": theta, **own}, f"{PLACE}: rotary positions")
    low, high = rope.low_freq_factor, rope.high_freq_factor
    if low is not None and high is not None and low >= high:
        raise InputError(f"{PLACE}: low_freq_factor {low} is not below high_freq_factor {high}")
    return rope


def write_rope(rope: Rope) -> dict[str, Any]:
    """The entries of ``config.json`` for rotary positions, in the form that any version reads.

    >>> write_rope(Rope(rope_theta=5e5))
    {'rope_theta': 500000.0, 'rope_scaling': None}
    """
    return {"rope_theta": rope.rope_theta, "rope_scaling": write_scaling(rope)}


def write_scaling(rope: Rope) -> dict[str, Any] | None:
    """The object ``rope_scaling`` of ``config.json``, or None if nothing is scaled."""
    if rope.rope_type == "default":
        return None
    values = dataclasses.asdict(rope)
    del values["rope_theta"]
    if rope.truncate:
        del values["truncate"]
    return {name: value for name, value in values.items() if value is not None}


def frequencies(rope: Rope, d: int) -> tuple[np.ndarray, float]:
    """The frequency of each plane ``(e,)``, and what cosines and sines are multiplied by.

    They are computed in float32, as in the programs with which the models were trained.

    >>> [round(float(f), 3) for f in frequencies(Rope(rope_theta=100.0), 4)[0]]
    [1.0, 0.1]
    """
    waves_e = np.float32(rope.rope_theta) ** (np.arange(0, d, 2, dtype=np.float32) / np.float32(d))
    own_e = np.float32(1) / waves_e
    if rope.rope_type == "default":
        return own_e, 1.0
    assert rope.factor is not None, "read_rope asks for it"
    stretched_e = own_e / np.float32(rope.factor)
    if rope.rope_type == "linear":
        return stretched_e, 1.0
    if rope.rope_type == "llama3":
        kept_e = _kept_by_llama3(rope, own_e)
        return (kept_e * own_e + (1 - kept_e) * stretched_e).astype(np.float32), 1.0
    kept_e = _kept_by_yarn(rope, d)
    return (kept_e * own_e + (1 - kept_e) * stretched_e).astype(np.float32), _yarn_size(rope)


def _kept_by_llama3(rope: Rope, own_e: np.ndarray) -> np.ndarray:
    """The share of each frequency that stays as it is, from 0 to 1."""
    length: Any = rope.original_max_position_embeddings
    low: Any = rope.low_freq_factor
    high: Any = rope.high_freq_factor  # parse_rope asks for all three
    turns_e = length * own_e / (2 * math.pi)
    return np.clip((turns_e - low) / (high - low), 0, 1)


def _kept_by_yarn(rope: Rope, d: int) -> np.ndarray:
    """Like :func:`_kept_by_llama3`, linear in the plane's number (YaRN, 2309.00071)."""
    length = rope.original_max_position_embeddings
    assert length is not None

    def plane(turns: float) -> float:
        """The plane that turns so often within the original length."""
        return d * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    first, last = plane(rope.beta_fast or 32.0), plane(rope.beta_slow or 1.0)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, d - 1)
    last += 0.001 * (first == last)
    return 1 - np.clip((np.arange(d // 2, dtype=np.float32) - first) / (last - first), 0, 1)


def _yarn_size(rope: Rope) -> float:
    factor = rope.factor
    assert factor is not None
    if rope.attention_factor is not None:
        return rope.attention_factor

    def size(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return size(rope.mscale) / size(rope.mscale_all_dim)
    return size(1.0)


def turns(
    ropes: Sequence[Rope | None], d: int, layer: jax.Array | int, positions_pt: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The cosines and sines ``(p, t, 1, e)`` by which one layer turns queries and keys.

    Args:
        ropes: the rotary positions of every layer; None for a layer without, which turns nothing.
        d: the size of a head.
        layer: the layer's index, which may be traced.
        positions_pt: the tokens' positions.
    """
    kinds = list(dict.fromkeys(ropes))
    tables = [frequencies(r, d) if r else (np.zeros(d // 2, np.float32), 1.0) for r in kinds]
    kind: Any = 0
    if len(kinds) > 1:
        kind = jnp.asarray([kinds.index(rope) for rope in ropes], jnp.int32)[layer]
    frequencies_e = jnp.asarray(np.stack([table for table, _ in tables]))[kind]
    size = jnp.asarray([size for _, size in tables], jnp.float32)[kind]
    angles_pt1e = positions_pt[:, :, None, None].astype(jnp.float32) * frequencies_e
    return size * jnp.cos(angles_pt1e), size * jnp.sin(angles_pt1e)


def turned(x_pthd: jax.Array, cos_pt1e: jax.Array, sin_pt1e: jax.Array) -> jax.Array:
    """Queries or keys, turned by the angles of their tokens, in float32."""
    a_pthe, b_pthe = jnp.split(x_pthd, 2, axis=-1)
    return jnp.concatenate(
        [a_pthe * cos_pt1e - b_pthe * sin_pt1e, b_pthe * cos_pt1e + a_pthe * sin_pt1e], axis=-1
    )
