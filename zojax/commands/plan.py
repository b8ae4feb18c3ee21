"""``zojax plan``: plans for targets, and the smallest that has room where one has not."""

from collections.abc import Sequence

from zojax.config import Config, ModelConfig, RunConfig, apply_overrides
from zojax.config.loading import load_config

DEFAULT_MODEL = "facebook/opt-13b"


def read_plan_config(
    config: str | None, model: str | None, overrides: Sequence[str] = ()
) -> Config:
    """What is planned: a file's configuration, or LoZO on SST-2 in bfloat16 as the defaults are.

    Args:
        config: ``FILE`` or ``FILE:NAME``.
        model: in the place of its own.
        overrides: as for training.
    """
    in_place = [] if model is None else [f"model.path={model}"]
    if config is not None:
        return load_config(config, [*in_place, *overrides])
    base = Config(ModelConfig(DEFAULT_MODEL, dtype="bfloat16"), RunConfig("runs/plan"))
    return apply_overrides(base, [*in_place, *overrides])
