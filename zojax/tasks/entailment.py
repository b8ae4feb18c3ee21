"""RTE and CB: whether one text follows from another, with MeZO's templates."""

from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task

_RTE_WORDS = ("Yes", "No")
_CB_WORDS = ("Yes", "No", "Maybe")
_FIELDS = {"premise": str, "hypothesis": str, "label": int}


def render_rte(record: Record, name: str) -> Example:
    """``Yes`` is label 0, entailment.

    >>> record = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}
    >>> print(render_rte(record, "train:1").prompt)
    It rains.
    Does this mean that "It is wet." is true? Yes or No?
    <BLANKLINE>
    """
    premise, hypothesis = record["premise"], record["hypothesis"]
    prompt = f'{premise}\nDoes this mean that "{hypothesis}" is true? Yes or No?\n'
    return Example(prompt.lstrip(), _RTE_WORDS, record["label"], name)


def render_cb(record: Record, name: str) -> Example:
    """``Yes``, ``No``, ``Maybe`` are labels 0, 1, 2: entailment, contradiction, neutral.

    >>> record = {"premise": "It rains.", "hypothesis": "it is wet", "label": 0}
    >>> print(render_cb(record, "train:1").prompt)
    Suppose It rains. Can we infer that "it is wet"? Yes, No, or Maybe?
    <BLANKLINE>
    """
    premise, hypothesis = record["premise"], record["hypothesis"]
    prompt = f'Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n'
    return Example(prompt, _CB_WORDS, record["label"], name)


RTE = Task(
    "rte",
    hub=("aps/super_glue", "rte"),
    fields=_FIELDS,
    render=render_rte,
    kind="classification",
    candidates=_RTE_WORDS,
)

CB = Task(
    "cb",
    hub=("aps/super_glue", "cb"),
    fields=_FIELDS,
    render=render_cb,
    kind="classification",
    candidates=_CB_WORDS,
    num_dev=100,
)
