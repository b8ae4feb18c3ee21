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


def check_name(name: str) -> str:
    """The name of an optimizer, as it is; ``ValueError`` names those that are nearest to others.

    >>> check_name("lion")
    'lion'
    """
    names = list(dict.fromkeys([*OWN, *OF_OPTAX]))
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0)
    raise ValueError(
        f"should be {', '.join(OWN)} or another optimizer of optax, such as {', '.join(near)}"
    )
