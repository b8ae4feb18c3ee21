"""The names of optimizers; :mod:`zojax.training.optimizers` makes the optimizers.

The names are kept apart from optax so that reading a configuration need not import it, which is
slow.
"""

import difflib

OWN = ("sgd", "momentum", "adam")
"""Optimizers whose settings are fields of the configuration itself."""

OF_OPTAX = (
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "fromage",
    "lamb",
    "lars",
    "lbfgs",
    "lion",
    "nadam",
    "nadamw",
    "noisy_sgd",
    "novograd",
    "optimistic_adam",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "polyak_sgd",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sign_sgd",
    "signum",
    "sm3",
    "yogi",
)


_USUAL = ("adamw", "lion", "adafactor")
_LONGEST = 500  # the maximum number of characters of a name to look up


def check_name(name: str) -> str:
    """Returns the name of an optimizer; ``ValueError`` for any other suggests a similar one.

    >>> check_name("lion")
    'lion'
    >>> check_name("sgdd")
    Traceback (most recent call last):
    ValueError: should be sgd, momentum, adam or another optimizer of optax; did you mean sgd?
    """
    names = list(dict.fromkeys([*OWN, *OF_OPTAX]))
    if name in names:
        return name
    # The names are in a fixed order, so that every call suggests the same one.
    near = difflib.get_close_matches(name.lower()[:_LONGEST], names, n=1, cutoff=0.6)
    fix = f"; did you mean {near[0]}?" if near else f", such as {', '.join(_USUAL)}"
    raise ValueError(f"should be {', '.join(OWN)} or another optimizer of optax{fix}")
