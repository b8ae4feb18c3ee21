"""SQuAD and DROP: a free answer to a question about a text, with MeZO's templates."""

import reprlib
from typing import Any

from zojax.errors import InputError
from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task, is_texts


def render_squad(record: Record, name: str) -> Example:
    r"""Renders a record; training uses the first answer, evaluation accepts any.

    >>> record = {"title": "Al", "context": "Al ran.", "question": " Who ran?"}
    >>> example = render_squad({**record, "answers": {"text": ["Al"]}}, "train:1")
    >>> print(example.prompt)
    Title: Al
    Context: Al ran.
    Question: Who ran?
    Answer:
    >>> example.candidates
    (' Al\n',)
    """
    about = f"Title: {record['title']}\nContext: {record['context']}"
    return _free_answer(about, record, _texts(record, "answers", "text", name), name)


def render_drop(record: Record, name: str) -> Example:
    """Renders a record; training uses the first span, evaluation accepts any, as in MeZO.

    >>> record = {"passage": "Al ran.", "question": "Who ran?"}
    >>> example = render_drop({**record, "answers_spans": {"spans": ["Al"]}}, "train:1")
    >>> print(example.prompt + example.candidates[0])
    Passage: Al ran.
    Question: Who ran?
    Answer: Al
    <BLANKLINE>
    """
    about = f"Passage: {record['passage']}"
    return _free_answer(about, record, _texts(record, "answers_spans", "spans", name), name)


def _texts(record: Record, field: str, part: str, name: str) -> tuple[str, ...]:
    value: Any = record[field]
    texts: Any = value.get(part) if isinstance(value, dict) else None
    if not is_texts(texts):
        raise InputError(
            f"{name}: {field} is {reprlib.repr(value)}, which has no list of texts {part!r}"
        )
    return tuple(texts)


def _free_answer(about: str, record: Record, answers: tuple[str, ...], name: str) -> Example:
    prompt = f"{about}\nQuestion: {record['question'].strip()}\nAnswer:"
    return Example(prompt, (f" {answers[0]}\n",), 0, name, answers=answers)


SQUAD = Task(
    "squad",
    hub=("rajpurkar/squad", None),
    fields={"title": str, "context": str, "question": str, "answers": object},
    render=render_squad,
    kind="generation",
    metric="f1",
    max_new_tokens=50,
)

DROP = Task(
    "drop",
    hub=("ucinlp/drop", None),
    fields={"passage": str, "question": str, "answers_spans": object},
    render=render_drop,
    kind="generation",
    metric="f1",
    max_new_tokens=50,
)
