"""JAX's settings that change numbers: what a run is made with must be what it is rebuilt with.

Most stand at JAX's default, always: the command line takes no notice of an environment that says
otherwise, and a program that has changed them itself is refused. The precision of products is a
user's to choose; a journal's header says what it was, and what rebuilds the run has to agree.
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
"""Other draws, other dtypes, other programs, or an exception where there would be a number."""

CHOSEN = {"jax_default_matmul_precision": None}
"""Other products; with JAX's defaults, which a header leaves out.

How XLA compiles is not among them (``XLA_FLAGS``, ``jax_disable_most_optimizations``): that rounds
last places otherwise, as another processor does, and is promised nothing of.
"""


def ignore_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Takes what is pinned out of the environment; before JAX is imported, which reads it then."""
    for name in PINNED:
        environment.pop(name.upper(), None)


def is_of_environment(error: ValueError) -> bool:
    """Whether JAX, as it was imported, found a value in the environment that it cannot use."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_globals.get("__name__") == "jax._src.config"


def check_settings() -> None:
    """Raises ``InputError`` if this program has changed what numbers depend on."""
    for name, pinned in PINNED.items():
        here = _here(name, pinned)
        if here != pinned:
            raise InputError(
                f"{name} is {here!r} in this program, and zojax's numbers are those of "
                f"{pinned!r}: jax.config.update({name!r}, {pinned!r})"
            )


def chosen_settings() -> dict[str, Any]:
    """What a user has chosen of the settings that are his to choose, for a header."""
    here = {name: _here(name, default) for name, default in CHOSEN.items()}
    return {name: value for name, value in here.items() if value != CHOSEN[name]}


def check_chosen(recorded: Mapping[str, Any], place: object) -> None:
    """Raises ``InputError`` unless what a user may choose is here as in the run that is rebuilt.

    Args:
        recorded: by the run's header.
        place: its journal.
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
                f"{place}: was made with {name} {theirs!r}, and here it is {ours!r}: {fix} in the "
                "environment"
            )


def _here(name: str, default: Any) -> Any:
    import jax

    everywhere = jax.config.values.get(name, default)
    value = getattr(jax.config, name, everywhere)  # a context may have changed it, here
    return getattr(value, "value", value)  # of an enumeration
