"""BoolQ and MultiRC: yes or no to a question about a text, with MeZO's templates."""

from zojax.errors import InputError, first_few
from zojax.tasks.example import Example
from zojax.tasks.labels import as_label, label_error
from zojax.tasks.row import Record
from zojax.tasks.task import Task

_BOOLQ_WORDS = ("Yes", "No")
_TRUTH = {"true": 0, "1": 0, "false": 1, "0": 1}
_LABELS = {"true": "Yes", "false": "No"}
_MULTIRC_WORDS = ("No", "Yes")


def render_boolq(record: Record, name: str) -> Example:
    """``Yes`` is candidate 0, so ``answer: true`` becomes label 0.

    SuperGLUE's records, which say ``label: 1`` for yes, are accepted too, but their passages begin
    with a title, unlike MeZO's.

    >>> record = {"passage": "Tin melts.", "question": "does tin melt", "answer": True}
    >>> print(render_boolq(record, "train:1").prompt)
    Tin melts. Does tin melt?
    <BLANKLINE>
    """
    field = "answer" if "answer" in record else "label"
    if field not in record:
        raise InputError(f"{name}: no field 'answer'; there are {first_few(record)}")
    truth = as_label(record[field], _TRUTH)
    if truth is None:
        raise label_error(name, field, record[field], _LABELS)
    question = record["question"]
    if not question.endswith("?"):
        question += "?"
    prompt = f"{record['passage']} {question[0].upper()}{question[1:]}\n"
    return Example(prompt.lstrip(), _BOOLQ_WORDS, _TRUTH[truth], name)


def render_multirc(record: Record, name: str) -> Example:
    """``No`` is label 0, ``Yes`` is label 1.

    >>> record = {"paragraph": "Al ran.", "question": "Who?", "answer": "Al", "label": 1}
    >>> print(render_multirc(record, "train:1").prompt)
    Al ran.
    Question: Who?
    I found this answer "Al". Is that correct? Yes or No?
    <BLANKLINE>
    """
    question = f"Question: {record['question']}"
    found = f'I found this answer "{record["answer"]}". Is that correct? Yes or No?'
    prompt = f"{record['paragraph']}\n{question}\n{found}\n"
    return Example(prompt.lstrip(), _MULTIRC_WORDS, record["label"], name)


BOOLQ = Task(
    "boolq",
    hub=("google/boolq", None),
    fields={"passage": str, "question": str},
    render=render_boolq,
    kind="classification",
    candidates=_BOOLQ_WORDS,
)

MULTIRC = Task(
    "multirc",
    hub=("aps/super_glue", "multirc"),
    fields={"paragraph": str, "question": str, "answer": str, "label": int},
    render=render_multirc,
    kind="classification",
    candidates=_MULTIRC_WORDS,
)
