"""The learning rate of every step, as a table."""

import jax
import numpy as np
import optax

from zojax.config import TrainConfig


def depends_on_steps(config: TrainConfig) -> bool:
    """Whether a run's learning rates depend on its number of steps, so that it must not change.

    >>> depends_on_steps(TrainConfig(warmup_steps=5))
    False
    >>> depends_on_steps(TrainConfig(schedule="cosine"))
    True
    """
    return config.schedule != "constant"


def learning_rates(config: TrainConfig, steps: int | None = None) -> np.ndarray:
    """The learning rate of every step, ``(steps,)`` float32, from optax's schedules.

    With ``steps``, only the rates of the first ``steps`` steps, since a configuration from somebody
    else may ask for any number.

    The rate warms up from zero, then stays constant, or falls to zero linearly or as a cosine. It
    is evaluated in float64 on the host, so that every machine gets the same rates. All are 0 while
    the learning rate is still to be found (``auto``).

    >>> learning_rates(TrainConfig(steps=5, learning_rate=1.0, schedule="linear", warmup_steps=1))
    array([0.  , 1.  , 0.75, 0.5 , 0.25], dtype=float32)
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if peak == "auto":
        return np.zeros(config.steps if steps is None else min(steps, config.steps), np.float32)
    decay_steps = max(1, config.steps - warmup)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        schedule = {
            "constant": lambda: optax.constant_schedule(peak),
            "linear": lambda: optax.linear_schedule(peak, 0.0, decay_steps),
            "cosine": lambda: optax.cosine_decay_schedule(peak, decay_steps),
        }[config.schedule]()
        if warmup:
            rising = optax.linear_schedule(0.0, peak, warmup)
            schedule = optax.join_schedules([rising, schedule], [warmup])
        steps = config.steps if steps is None else min(steps, config.steps)
        # NumPy's, so that a constant rate compiles nothing, however many steps there are.
        rates = np.asarray(schedule(np.arange(steps, dtype=np.float64)))
    return np.broadcast_to(rates, steps).astype(np.float32)
