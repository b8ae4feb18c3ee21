"""Reads configurations in the old spelling: one flat class, which also said what is trained."""

from collections.abc import Mapping
from typing import Any

from zojax.config.estimators import ESTIMATORS
from zojax.config.spaces import SPACES
from zojax.errors import InputError

MOVED = {
    "estimator.trainable": "space.name",
    "estimator.fold": "space.fold",
    "estimator.adapter_rank": "space.adapter_rank",
    "estimator.lora_rank": "space.rank",
    "estimator.lora_alpha": "space.alpha",
    "estimator.lora_targets": "space.targets",
    "estimator.prefix_length": "space.length",
}
"""Old field names and today's names for them."""

_MOVED = {old.partition(".")[2]: new.partition(".")[2] for old, new in MOVED.items()}
_SHARED = ("rank", "interval", "scale")  # every estimator used to have them, used or not


def upgrade(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Converts a configuration to today's spelling; one that already uses it is returned as it is.

    Fields that the chosen estimator or space does not use are dropped.

    >>> upgrade({"estimator": {"name": "mezo", "rank": 2, "trainable": "lora", "lora_rank": 4}})
    {'estimator': {'name': 'mezo'}, 'space': {'name': 'lora', 'rank': 4}}

    Raises:
        InputError: the configuration mixes both spellings.
    """
    old = tree.get("estimator")
    if not isinstance(old, Mapping) or _MOVED.keys().isdisjoint(old):
        return tree
    if "space" in tree:
        name = next(f"estimator.{name}" for name in old if name in _MOVED)
        raise InputError(f"{name} is now {MOVED[name]}; give only that")
    is_lora = old.get("trainable") == "lora"  # other spaces had these fields and ignored them
    space = {
        new: old[name]
        for name, new in _MOVED.items()
        if name in old and (is_lora or not name.startswith("lora_"))
    }
    return {
        **tree,
        "estimator": _used(old),
        "space": {f: v for f, v in space.items() if f in _fields(SPACES, space, "linear")},
    }


def EstimatorConfig(name: str = "lozo", **settings: Any) -> Any:  # noqa: N802
    """Estimator settings in the old spelling; :class:`zojax.config.Config` accepts the result.

    >>> EstimatorConfig("mezo", epsilon=0.01, interval=50)
    MezoConfig(name='mezo', epsilon=0.01, num_queries=1)
    """
    flat = {"name": name, **settings}
    return ESTIMATORS.validate(_used(flat)) if _MOVED.keys().isdisjoint(flat) else flat


def _used(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among these that belong to the estimator itself."""
    own = _fields(ESTIMATORS, flat, "lozo")
    return {f: v for f, v in flat.items() if f in own or f not in (*_MOVED, *_SHARED)}


def _fields(kinds: Any, settings: Mapping[str, Any], default: str) -> Mapping[str, Any]:
    """The field types of the named kind, or the name alone if there is no such kind."""
    name = settings.get("name", default)
    return kinds.types(name) if name in list(kinds.classes) else {"name": str}
