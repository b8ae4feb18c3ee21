"""JAX's settings that change numbers: a run must be rebuilt with those it was made with.

Most must have JAX's default value: the command line ignores an environment that says otherwise,
and a program that has changed them is refused. The precision of products is the user's choice: a
journal's header records it, and whoever rebuilds the run must use the same.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from zojax.errors import InputError

PINNED = {
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_transfer_guard": None,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}
"""Other values would give other draws, dtypes or programs, or an exception instead of a number."""

CHOSEN = {"jax_default_matmul_precision": None}
"""Settings that a user may choose, with JAX's defaults, which a header leaves out.

Settings of XLA's compiler (``XLA_FLAGS``, ``jax_disable_most_optimizations``) are not among them:
they change the rounding of the last digits, as another processor does, and nothing is promised
about that.
"""


def ignore_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove pinned settings from the environment; call it before JAX is imported and reads it."""
    for name in PINNED:
        environment.pop(name.upper(), None)


def is_of_environment(error: ValueError) -> bool:
    """Whether the error comes from JAX's import, which found an invalid environment variable."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__") == "jax._src.config"


def check_settings() -> None:
    """Raise ``InputError`` if this program has changed a setting on which numbers depend."""
    for name, pinned in PINNED.items():
        here = _here(name, pinned)
        if here != pinned:
            raise InputError(
                f"{name} is {here!r} in this program, but zojax's numbers need "
                f"{pinned!r}: jax.config.update({name!r}, {pinned!r})"
            )


def chosen_settings() -> dict[str, Any]:
    """The settings that the user has changed and may change, for a header."""
    here = {name: _here(name, default) for name, default in CHOSEN.items()}
    return {name: value for name, value in here.items() if value != CHOSEN[name]}


def check_chosen(recorded: Mapping[str, Any], place: object) -> None:
    """Raise ``InputError`` unless the chosen settings here equal those of the run to rebuild.

    Args:
        recorded: the settings in the run's header.
        place: the run's journal, for errors.
    """
    here = chosen_settings()
    for name in sorted(recorded.keys() | here.keys()):
        if name not in CHOSEN:
            raise InputError(f"{place}: was made with {name}, which this zojax does not know")
        theirs, ours = (settings.get(name, CHOSEN[name]) for settings in (recorded, here))
        if theirs != ours:
            variable = name.upper()
            fix = f"unset {variable}" if theirs == CHOSEN[name] else f"set {variable}={theirs}"
            raise InputError(
                f"{place}: was made with {name} {theirs!r}, but here it is {ours!r}: {fix} in the "
                "environment"
            )


def _here(name: str, default: Any) -> Any:
    import jax

    everywhere = jax.config.values.get(name, default)
    value = getattr(jax.config, name, everywhere)  # a context may have changed it, here
    return getattr(value, "value", value)  # of an enumeration
