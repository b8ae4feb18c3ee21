"""ReCoRD: which of a passage's entities a query refers to, with MeZO's template."""

import reprlib

from zojax.errors import InputError
from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task

_PLACEHOLDER = "@placeholder"


def render_record(record: Record, name: str) -> Example:
    r"""The prompt is the passage, its highlights as a list, and ``-``; filled-in queries follow.

    Training uses the first answer, evaluation accepts any.

    >>> record = {"passage": "Al ran.\n@highlight\nBo sat", "query": "@placeholder was fast"}
    >>> example = render_record({**record, "entities": ["Bo", "Al"], "answers": ["Al"]}, "train:1")
    >>> print(example.prompt + example.candidates[example.label])
    Al ran.
    - Bo sat
    - Al was fast
    """
    query, entities, answers = record["query"], record["entities"], record["answers"]
    if _PLACEHOLDER not in query:
        raise InputError(f"{name}: query {reprlib.repr(query)} has no {_PLACEHOLDER}")
    if answers[0] not in entities:
        raise InputError(f"{name}: answer {reprlib.repr(answers[0])} is not one of the entities")
    passage = record["passage"].replace("@highlight\n", "- ")
    filled = [f" {query.replace(_PLACEHOLDER, entity)}".rstrip(" ") for entity in entities]
    return Example(
        f"{passage}\n-".lstrip(),
        tuple(filled),
        entities.index(answers[0]),
        name,
        answers=tuple(answers),
        candidate_texts=tuple(entities),
        content_free="-",
    )


RECORD = Task(
    "record",
    hub=("aps/super_glue", "record"),
    fields={"passage": str, "query": str, "entities": list, "answers": list},
    render=render_record,
    kind="likelihood",
    metric="f1",
)
