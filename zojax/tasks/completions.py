"""Rows that hold just what a model should write: a completion of a prompt, or an answer in a chat.

They are OpenAI's formats for fine-tuning. Nothing is added to the texts, and nothing is generated
to evaluate a model: the right answer is scored.
"""

from typing import Any

from zojax.tasks.example import Example
from zojax.tasks.row import BadRowError, Record
from zojax.tasks.task import Task

_ROLES = ("system", "user", "assistant")
_NUM_DEV = 100


def render_completion(record: Record, name: str) -> Example:
    """The prompt and its completion, both as they are.

    >>> render_completion({"prompt": "2 + 2 =", "completion": " 4"}, "sums.jsonl:1").candidates
    (' 4',)
    """
    if not record["completion"]:
        raise BadRowError(f"{name}: completion is empty", "without a completion")
    return Example(record["prompt"], (record["completion"],), 0, name)


def render_conversation(record: Record, name: str) -> Example:
    """The last message, which is the assistant's, after those before it.

    >>> said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    >>> example = render_conversation({"messages": said}, "chats.jsonl:1")
    >>> example.turns, example.prompt, example.candidates
    ((), '2 + 2?', ('4',))
    """
    messages = record["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise _bad(name, "messages should be a list of two or more")
    turns = [_turn(message, f"{name}: messages[{i}]") for i, message in enumerate(messages)]
    roles = [role for role, _ in turns]
    if roles[-2:] != ["user", "assistant"]:
        raise _bad(name, "the last messages should be a user's and the assistant's answer")
    if "system" in roles[1:]:
        raise _bad(name, "a system's message should be the first")
    before = roles[roles[0] == "system" :]
    if before != ["user", "assistant"] * (len(before) // 2):
        raise _bad(name, "the user's and the assistant's messages should alternate")
    if not turns[-1][1].strip():
        raise _bad(name, "the assistant's answer is empty")
    if messages[-1].get("weight") == 0:
        raise _bad(name, "the last answer has weight 0, and it is what is learnt")
    return Example(turns[-2][1], (turns[-1][1],), 0, name, turns=tuple(turns[:-2]))


def _turn(message: Any, name: str) -> tuple[str, str]:
    """A message as its role and its text."""
    if not isinstance(message, dict):
        raise _bad(name, "should have a role and a content")
    known = ("role", "content", "weight")
    more = [key for key, value in message.items() if key not in known and value]
    if message.get("weight") not in (None, 0, 1):
        raise _bad(name, "weight should be 0 or 1")
    if more:
        raise _bad(name, f"has {more[0]!r}, which cannot be learnt from; leave it out")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise _bad(name, f"role should be {', '.join(_ROLES[:-1])} or {_ROLES[-1]}")
    if not isinstance(content, str):
        raise _bad(name, "content should be a text")
    return role, content


def _bad(name: str, what: str) -> BadRowError:
    return BadRowError(f"{name}: {what}", "with bad messages")


COMPLETIONS = Task(
    "completions",
    fields={"prompt": str, "completion": str},
    render=render_completion,
    kind="completion",
    metric="probability",
    num_dev=_NUM_DEV,
)

CONVERSATIONS = Task(
    "conversations",
    fields={"messages": object},
    render=render_conversation,
    kind="completion",
    metric="probability",
    num_dev=_NUM_DEV,
)
