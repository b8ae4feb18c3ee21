"""Whether JAX finds the devices that it is told to use."""

import jax

from zojax.errors import InputError
from zojax.text import plain


def check_platforms() -> None:
    """Starts JAX's devices, before anything that takes long.

    Raises:
        InputError: ``JAX_PLATFORMS`` names none that is here; says which are.
    """
    asked = jax.config.values["jax_platforms"]
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an AssertionError where no GPU is seen
        if not asked:
            raise
        why = plain(str(error).partition(" (set JAX_PLATFORMS=")[0], 300) or "JAX sees none"
        jax.config.update("jax_platforms", "")
        here = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise InputError(
            f"JAX_PLATFORMS={plain(asked, 100)}: no such device here ({why}); here is {here}"
        ) from None
