"""SST-2: the sentiment of a film review's sentence, with MeZO's template."""

from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task

_WORDS = (" terrible", " great")


def render_sst2(record: Record, name: str) -> Example:
    """``{sentence} It was`` with `` terrible`` (label 0) and `` great`` (label 1).

    >>> render_sst2({"sentence": "a gripping film ", "label": 1}, "train:1").prompt
    'a gripping film It was'
    """
    prompt = f"{record['sentence'].strip()} It was".lstrip()  # "It was" for an empty sentence
    return Example(prompt, _WORDS, record["label"], name, content_free="It was")


SST2 = Task(
    "sst2",
    hub=("nyu-mll/glue", "sst2"),
    fields={"sentence": str, "label": int},
    render=render_sst2,
    kind="classification",
    candidates=_WORDS,
)
