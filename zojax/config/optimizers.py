"""The names of optimizers; :mod:`zojax.training.optimizers` has what they stand for.

They stand here, apart from optax, so that a configuration is read in less time than its import
takes.
"""

import difflib

OWN = ("sgd", "momentum", "adam")
"""What a configuration sets by fields of its own."""

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
_LONGEST = 500  # characters to look for


def check_name(name: str) -> str:
    """The name of an optimizer, as it is; ``ValueError`` names those that are like another.

    >>> check_name("lion")
    'lion'
    >>> check_name("sgdd")
    Traceback (most recent call last):
    ValueError: should be sgd, momentum, adam or another optimizer of optax; did you mean sgd?
    """
    names = list(dict.fromkeys([*OWN, *OF_OPTAX]))
    if name in names:
        return name
    # In the names' order at first, so that the same is said at every call.
    near = difflib.get_close_matches(name.lower()[:_LONGEST], names, n=1, cutoff=0.6)
    fix = f"; did you mean {near[0]}?" if near else f", such as {', '.join(_USUAL)}"
    raise ValueError(f"should be {', '.join(OWN)} or another optimizer of optax{fix}")
