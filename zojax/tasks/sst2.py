"""SST-2: the sentiment of a film review's sentence, with MeZO's template."""

from collections.abc import Mapping
from typing import Any

from zojax.tasks.example import Example

HUB = ("nyu-mll/glue", "sst2")
FIELDS = ("sentence", "label")
CANDIDATES = (" terrible", " great")


def render(record: Mapping[str, Any], name: str) -> Example:
    """``{sentence} It was`` with `` terrible`` (label 0) and `` great`` (label 1).

    >>> render({"sentence": "a gripping film ", "label": 1}, "train:1").prompt
    'a gripping film It was'
    """
    prompt = f"{record['sentence'].strip()} It was".lstrip()  # of an empty sentence, "It was"
    return Example(prompt, CANDIDATES, record["label"], name)
