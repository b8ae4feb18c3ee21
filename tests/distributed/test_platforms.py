"""A platform that JAX does not find is a line that says which there is."""

import jax
import pytest

from zojax.distributed.platforms import check_platforms
from zojax.errors import InputError


@pytest.mark.parametrize(
    ("asked", "error", "why"),
    [
        ("cuda", AssertionError(), "JAX sees none"),
        ("cpuu", RuntimeError("Unknown backend 'cpuu' (set JAX_PLATFORMS='' to …)"), "'cpuu'"),
        ("\x1b[31m", RuntimeError("Unknown backend"), "\\x1b[31m"),
    ],
)
def test_a_platform_that_is_not_here(asked, error, why, monkeypatch):
    there, before = jax.devices(), jax.config.values["jax_platforms"]

    def devices() -> list[jax.Device]:
        if jax.config.values["jax_platforms"] == asked:
            raise error
        return there

    monkeypatch.setattr(jax, "devices", devices)
    jax.config.update("jax_platforms", asked)
    try:
        with pytest.raises(InputError) as caught:
            check_platforms()
    finally:
        jax.config.update("jax_platforms", before)
    line = str(caught.value)
    assert why in line
    assert line.isprintable()
    assert line.endswith("use cpu")


def test_a_failure_that_nobody_asked_for_stays_what_it_is(monkeypatch):
    def fail() -> None:
        raise RuntimeError("a driver")

    monkeypatch.setattr(jax, "devices", fail)
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)
    try:
        with pytest.raises(RuntimeError, match="a driver"):
            check_platforms()
    finally:
        jax.config.update("jax_platforms", before)
