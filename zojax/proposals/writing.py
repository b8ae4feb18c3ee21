"""Writes a proposed configuration as a Python file, with the reasons as comments."""

import os
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from zojax.errors import first_few
from zojax.proposals.proposal import Proposal
from zojax.proposals.words import are_numbers, are_truths, doubted, is_whole
from zojax.text import plain

_WIDTH = 88  # ruff's own, and black's
_NAMED = 6
_LONGEST = 40


def as_python(proposal: Proposal, file: Path) -> str:
    """The text of a configuration file, formatted as ruff formats it.

    Args:
        proposal: the configuration.
        file: where it will be, for the commands in its first comment.
    """
    config = proposal.config
    head = [
        "# A configuration for zojax, proposed by zojax init: change what you know better.",
        "#",  # no name of a file stands in the first two lines, which may tell Python an encoding
        *_comment(f"It {_aim(proposal)} of {plain(config.data.path)}. Next:", ""),
        "#",
        *(f"#     {plain(command)}" for command in next_commands(proposal, file)),
    ]
    body = [
        "",
        "from zojax.config import Config, DataConfig, ModelConfig, RunConfig, TrainConfig",
        "",
        "",
        "def get_config() -> Config:",
        "    data = DataConfig(",
        '        task="custom",',
        *_data(proposal),
        "    )",
        "    train = TrainConfig(",
        *_train(proposal),
        "    )",
        "    return Config(",
        *_model(proposal),
        f"        run=RunConfig({quoted(config.run.dir)}),",
        "        data=data,",
        "        train=train,",
        "    )",
    ]
    return "\n".join([*head, *body]) + "\n"


def next_commands(proposal: Proposal, file: Path) -> list[str]:
    """What to run next, as for a shell."""
    config = shlex.quote(str(file))
    return [
        f"zojax data preview --config {config}",
        f"zojax train --config {config}",
        f"zojax eval {shlex.quote(proposal.config.run.dir)}",
    ]


def reasons(proposal: Proposal) -> dict[str, str]:
    """What was decided and why, a line each, by what it is about."""
    return {
        "label" if proposal.config.data.candidates else "answer": _why_target(proposal),
        "text": _why_texts(proposal),
        "words": _why_words(proposal),
        "check": _doubts(proposal),
        "rows": _why_rows(proposal),
        "bad rows": _why_bad(proposal),
        "length": _why_length(proposal),
        "steps": _why_steps(proposal),
        "rate": _WHY_RATE,
        "loss": _why_loss(proposal),
    }


def quoted(text: str) -> str:
    r"""A text as ruff writes it: in double quotes, unless that takes more backslashes.

    >>> print(quoted("it's"), quoted('a "b"'), quoted("\n"), quoted("'a' \"b\""))
    "it's" 'a "b"' "\n" "'a' \"b\""
    """
    written = repr(text)
    if written.startswith('"') or text.count('"') > text.count("'"):
        return written
    inner = written[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{inner}"'


def _data(proposal: Proposal) -> Iterator[str]:
    data, why = proposal.config.data, reasons(proposal)
    yield f"        path={quoted(str(data.path))},"
    yield from _comment(why["text"])
    yield f"        prompt={quoted(str(data.prompt))},"
    if data.candidates is None:
        yield from _comment(why["answer"])
        yield f"        answer={quoted(str(data.answer))},"
    else:
        yield from _comment(why["label"])
        yield f"        label={quoted(data.label)},"
        yield from _comment(why["words"])
        yield from _comment(why["check"])
        yield "        candidates={"
        for label, word in data.candidates.items():
            count = proposal.choice.target.values[label]
            entry = f"            {_key(label)}: {quoted(word)},"
            rows = f"  # {count:,} row{'s' * (count > 1)}"
            yield entry + rows * (len(entry + rows) <= _WIDTH)
        yield "        },"
    yield from _comment(why["rows"])
    yield f"        num_train={data.num_train},"
    yield f"        num_dev={data.num_dev},"
    yield f"        num_eval={data.num_eval},"
    if data.skip_bad:
        yield from _comment(why["bad rows"])
        yield "        skip_bad=True,"
    yield from _comment(why["length"])
    yield f"        max_length={data.max_length},"
    yield f"        truncate={quoted(data.truncate)},"
    if data.calibration != "none":
        yield f"        calibration={quoted(data.calibration)},  # see objective, below"


def _train(proposal: Proposal) -> Iterator[str]:
    train, why = proposal.config.train, reasons(proposal)
    yield from _comment(why["steps"])
    yield f"        steps={train.steps},"
    yield f"        batch_size={train.batch_size},"
    yield f"        eval_every={train.eval_every},"
    yield from _comment(why["rate"])
    yield f"        learning_rate={quoted(str(train.learning_rate))},"
    yield f"        schedule={quoted(train.schedule)},"
    if train.objective is not None:
        yield from _comment(why["loss"])
        yield f"        objective={quoted(train.objective)},"
        yield f"        batches={quoted(train.batches)},"


def _model(proposal: Proposal) -> Iterator[str]:
    model = proposal.config.model.path
    if not os.path.isdir(model):
        yield from _comment("Larger models learn more; facebook/opt-1.3b, for example, on a GPU.")
    yield f"        model=ModelConfig({quoted(model)}),"


def _comment(text: str, indent: str = " " * 8) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _key(label: str) -> str:
    """A label as a key of the candidates, which the configuration holds as text."""
    if label in ("true", "false"):
        return label.title()
    return label if is_whole(label) else quoted(label)


def _aim(proposal: Proposal) -> str:
    data, target = proposal.config.data, _name(proposal.choice.target.name)
    if data.candidates is None:
        return f"learns to write what stands in column {target}"
    return f"sorts rows into the {len(data.candidates):,} classes of column {target}"


def _why_target(proposal: Proposal) -> str:
    choice = proposal.choice
    told = f"Column {_name(choice.target.name)} is what is learnt: {choice.why}."
    if choice.others:
        told += f" It could also be {_names(choice.others, ' or ')} (--label)."
    return told


def _why_texts(proposal: Proposal) -> str:
    choice = proposal.choice
    names = _names(column.name for column in choice.texts)
    several = len(choice.texts) > 1
    told = f"Columns {names} are read" if several else f"Column {names} is read"
    return told + (f"; not used: {_names(choice.unread)}." if choice.unread else ".")


def _why_words(proposal: Proposal) -> str:
    data, counts = proposal.config.data, proposal.choice.target.values
    if data.candidates is None:
        return ""
    words = first_few((word.strip() for word in data.candidates.values()), _NAMED)
    told = f"The model answers with the labels as words: {words}."
    if are_truths(counts):
        told = f"The model answers with {words} instead of true and false."
    elif are_numbers(data.candidates):
        told = (
            "The labels are numbers, which say little to a model. Words learn better: write what "
            'each number means, such as " bad" and " good".'
        )
    if max(counts.values()) > 0.8 * sum(counts.values()):
        told += " One label has most rows: an accuracy below its share is worth nothing."
    return told


def _doubts(proposal: Proposal) -> str:
    """Which labels may be misspelt."""
    counts = proposal.choice.target.values
    if proposal.config.data.candidates is None or not (found := doubted(counts)):
        return ""

    def shown(label: str, other: str | None) -> str:
        rows = f"{counts[label]:,} row{'s' * (counts[label] > 1)}"
        return f"{_name(label)} ({rows}{'' if other is None else f', like {_name(other)}'})"

    named = first_few((shown(*one) for one in found), _NAMED, longest=3 * _LONGEST)
    return f"May be misspelt: {named}."


def _why_rows(proposal: Proposal) -> str:
    data = proposal.config.data
    if proposal.has_validation:
        held = f"the validation file's {proposal.held_out:,} are held out"
    else:
        held = f"a fifth, {proposal.held_out:,}, is held out"
    if data.num_eval and data.num_eval < proposal.held_out:
        held += f", of which {data.num_eval:,} are evaluated"
    return (
        f"Of {proposal.rows:,} rows, {data.num_train:,} are learnt from and {data.num_dev:,} "
        f"choose the best step; {held}."
    )


def _why_bad(proposal: Proposal) -> str:
    told = list[str]()
    if proposal.bad:
        rows = "row is" if proposal.bad == 1 else "rows are"
        first = plain(proposal.first_bad, 300)
        told.append(f"{proposal.bad:,} bad {rows} left out; the first: {first}.")
    if (room := proposal.lengths.room) > proposal.lengths.limit:
        told.append(
            f"The longest answer needs room for {room:,} tokens, more than the model has; such "
            "rows are left out."
        )
    return " ".join(told)


def _why_length(proposal: Proposal) -> str:
    lengths, limit = proposal.lengths, proposal.config.data.max_length
    about = "" if lengths.is_counted else "at most about "
    most = f"{limit:,}"
    told = f"The longest of {lengths.looked_at:,} examples has {about}{lengths.longest:,} tokens"
    if not lengths.is_counted:
        told += " (an estimate; zojax data preview counts them)"
    if lengths.over:
        told += f", and {lengths.over:,} {'has' if lengths.over == 1 else 'have'} more than {most}"
    return f"{told}. One with more than {most} loses the beginning of its prompt."


def _why_steps(proposal: Proposal) -> str:
    train, data = proposal.config.train, proposal.config.data
    passes = train.steps * train.batch_size / (data.num_train or 1)
    return (
        f"About {passes:,.0f} passes over the rows. Without gradients many steps are needed; if "
        "a run ends too early, give more (--set train.steps=N, and --fresh)."
    )


_WHY_RATE = (
    "The learning rate is found by short trials, which take about half as long as the run; a "
    "number in place of auto spares them. It falls to zero, so that the last steps add little "
    "noise."
)


def _why_loss(proposal: Proposal) -> str:
    if proposal.config.data.candidates is None:
        return ""
    return (
        "Rows of different labels are told apart in pairs, as many of each label in a batch, so "
        "that no step is spent on how much the model likes a word; what that takes off each "
        "word's score is fitted to the rows that choose the best step."
    )


def _name(name: str) -> str:
    return plain(repr(name), _LONGEST)


def _names(names: Iterable[str], last: str = ", ") -> str:
    shown = [_name(name) for name in names]
    more = [f"{len(shown) - _NAMED:,} more"] if len(shown) > _NAMED else []
    return last.join([*shown[:_NAMED], *more])
