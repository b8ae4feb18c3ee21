"""Examples of rows that nobody has labelled."""

from typing import Any

from zojax.config import DataConfig
from zojax.config.foreign import is_foreign
from zojax.errors import InputError
from zojax.tasks.chat import joined
from zojax.tasks.custom import CUSTOM
from zojax.tasks.example import Example
from zojax.tasks.task import Record, Task, is_texts, make_example

_TEXT = "?"
_STAND_INS: dict[str, dict[str, Any]] = {
    "squad": {"answers": {"text": [_TEXT]}},
    "drop": {"answers_spans": {"spans": [_TEXT]}},
    "record": {"answers": [_TEXT]},
}
"""What stands in for the answers of the tasks whose rows do not have a label."""


def input_fields(config: DataConfig, task: Task) -> tuple[str, ...]:
    """The fields that a row must have to be answered: all but those that hold the answer."""
    return tuple(field for field in task.fields if field not in _stand_in(config, {}))


def refuse_unknown_answers(config: DataConfig, task: Task) -> None:
    """Refuses a task whose answers cannot be predicted.

    Raises:
        InputError: it has no candidates to choose from; or it is of a user's own module, and has no
            field ``label`` that holds an integer, so that nothing tells what stands in for it.
    """
    if task.kind == "completion":
        raise InputError(
            f"predict: the task {task.name} has no labels to predict; zojax generate continues "
            "prompts"
        )
    if is_foreign(config.task) and task.fields.get("label") not in (int, object):
        raise InputError(
            f"predict: task {config.task} has no field 'label' of int or object, so it is not "
            "known which field holds the answer; name it so, or use data.task='custom'"
        )


def unlabelled_example(config: DataConfig, task: Task, record: Record, name: str) -> Example:
    """Renders a row, whether or not it has a label; its label and answers have no meaning.

    Raises:
        InputError: the row is bad; the message names it.
    """
    example = make_example(task, {**record, **_stand_in(config, record)}, name)
    return joined(config, task)(example, ())


def candidate_name(example: Example, index: int) -> str:
    """The text that a candidate stands for, where each example has candidates of its own."""
    texts = example.candidate_texts or example.candidates
    return texts[index].strip()


def _stand_in(config: DataConfig, record: Record) -> dict[str, Any]:
    """Values for the fields that hold a row's answer, whatever these hold."""
    if config.task == CUSTOM:
        if config.candidates is None:
            return {str(config.answer): _TEXT}
        return {config.label: next(iter(config.candidates))}
    if config.task == "record" and is_texts(record.get("entities")):
        return {"answers": record["entities"][:1]}
    if config.task == "boolq":
        return {"answer": True}
    return _STAND_INS.get(config.task, {"label": 0})
