"""COPA: which of two sentences is a premise's cause or effect, with MeZO's template."""

import reprlib

from zojax.errors import InputError
from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task

_CONJUNCTIONS = {"effect": "so", "cause": "because"}


def render_copa(record: Record, name: str) -> Example:
    """The prompt is the premise with `` so`` or `` because``; the choices are the candidates.

    >>> record = {"premise": "It rained.", "question": "effect", "label": 0}
    >>> example = render_copa({**record, "choice1": "I got wet.", "choice2": "It hailed."}, "a:1")
    >>> example.prompt, example.candidates
    ('It rained so', (' I got wet.', ' it hailed.'))
    """
    question = record["question"]
    if question not in _CONJUNCTIONS:
        raise InputError(
            f"{name}: question is {reprlib.repr(question)}, neither 'cause' nor 'effect'"
        )
    conjunction = _CONJUNCTIONS[question]
    premise = record["premise"].rstrip().removesuffix(".")
    candidates = tuple(f" {_inside_a_sentence(record[c])}" for c in ("choice1", "choice2"))
    prompt = f"{premise} {conjunction}".lstrip()
    return Example(prompt, candidates, record["label"], name, content_free=conjunction)


def _inside_a_sentence(choice: str) -> str:
    """A choice with its first word in lower case, unless that is ``I``."""
    first, *others = choice.split(" ")
    return " ".join([first if first == "I" else first.lower(), *others]).rstrip(" ")


COPA = Task(
    "copa",
    hub=("aps/super_glue", "copa"),
    fields={"premise": str, "choice1": str, "choice2": str, "question": str, "label": int},
    render=render_copa,
    kind="likelihood",
    num_dev=100,
)
