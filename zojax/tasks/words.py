"""WSC and WiC: what a pronoun refers to, and whether a word means the same; MeZO's templates."""

from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task

_WORDS = ("No", "Yes")


def render_wsc(record: Record, name: str) -> Example:
    """``No`` is label 0, ``Yes`` is label 1; the pronoun is written in lower case.

    >>> record = {"text": "Al ran.", "span1_text": "Al", "span2_text": "He", "label": 1}
    >>> print(render_wsc(record, "train:1").prompt)
    Al ran.
    In the previous sentence, does the pronoun "he" refer to Al? Yes or No?
    <BLANKLINE>
    """
    pronoun, noun = record["span2_text"].lower(), record["span1_text"]
    question = f'In the previous sentence, does the pronoun "{pronoun}" refer to {noun}?'
    prompt = f"{record['text']}\n{question} Yes or No?\n"
    return Example(prompt.lstrip(), _WORDS, record["label"], name)


def render_wic(record: Record, name: str) -> Example:
    """``No`` is label 0, ``Yes`` is label 1.

    >>> record = {"word": "run", "sentence1": "I run.", "sentence2": "A run.", "label": 0}
    >>> print(render_wic(record, "train:1").prompt)
    Does the word "run" have the same meaning in these two sentences? Yes, No?
    I run.
    A run.
    <BLANKLINE>
    """
    question = f'Does the word "{record["word"]}" have the same meaning in these two sentences?'
    prompt = f"{question} Yes, No?\n{record['sentence1']}\n{record['sentence2']}\n"
    return Example(prompt, _WORDS, record["label"], name)


WSC = Task(
    "wsc",
    hub=("aps/super_glue", "wsc.fixed"),
    fields={"text": str, "span1_text": str, "span2_text": str, "label": int},
    render=render_wsc,
    kind="classification",
    candidates=_WORDS,
)

WIC = Task(
    "wic",
    hub=("aps/super_glue", "wic"),
    fields={"word": str, "sentence1": str, "sentence2": str, "label": int},
    render=render_wic,
    kind="classification",
    candidates=_WORDS,
)
