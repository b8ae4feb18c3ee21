"""Checks that JAX finds the devices that it is told to use."""

import jax

from zojax.errors import InputError
from zojax.text import plain


def check_platforms() -> None:
    """Initializes JAX's devices; call it before anything that takes long.

    Raises:
        InputError: ``JAX_PLATFORMS`` names no platform that this machine has; the message says
            which it has.
    """
    asked = jax.config.values["jax_platforms"]
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an AssertionError if there is no GPU
        if not asked:
            raise
        why = plain(str(error).partition(" (set JAX_PLATFORMS=")[0], 300) or "JAX sees none"
        jax.config.update("jax_platforms", "")
        here = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise InputError(
            f"JAX_PLATFORMS={plain(asked, 100)}: no such device here ({why}); use {here}"
        ) from None
