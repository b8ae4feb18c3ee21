"""Show, verify, replay or audit a run's journal.

Example:
  zojax journal verify runs/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zojax.commands import journal_audit, journal_replay
from zojax.commands.journal_show import show
from zojax.commands.options import COUNT, JSON, SET, add_command, read_run_journal
from zojax.printing import make_console, say_json, say_summary

if TYPE_CHECKING:
    from rich.console import Console

_ACTIONS = {
    "show": "Print the header and the first and last records.",
    "verify": "Check every byte; exit code 1 if the end is damaged.",
    "replay": "Rebuild the trained weights from the base model, without data.",
    "audit": "Score some steps again; exit code 1 if they are not of these data and model.",
}
_EXAMPLES = {
    "replay": (
        "zojax journal replay runs/demo --output out",
        "zojax journal replay runs/demo --average-last 100 --output out",
    ),
    "audit": (
        "zojax journal audit runs/demo --steps 20",
        "zojax journal audit theirs/journal.zj --model facebook/opt-125m \\\n"
        "      --set data.path=data/sst2",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, about in _ACTIONS.items():
        examples = "\n  ".join(_EXAMPLES.get(name, [f"zojax journal {name} runs/demo"]))
        action = add_command(actions, name, f"{about}\n\nExample:\n  {examples}")
        what = "directory of a run, or a journal"
        action.add_argument("path", type=Path, metavar="RUN", help=what)
        if name != "verify":
            action.add_argument("--json", **JSON)
    replay, audit = actions.choices["replay"], actions.choices["audit"]
    replay.add_argument("--output", type=Path, metavar="DIR", help="write a Hugging Face directory")
    for action in (replay, audit):
        action.add_argument("--model", metavar="M", help="base model (default: that in the header)")
    replay.add_argument("--steps", **COUNT, help="steps to replay (default: all)")
    replay.add_argument(
        "--average-last",
        **COUNT,
        help="the mean of the models after each of the last N of these steps, in float32",
    )
    audit.add_argument("--steps", **COUNT, default=20, help="steps to score again (default: 20)")
    audit.add_argument("--seed", **COUNT, default=0, help="of the choice of steps (default: 0)")
    audit.add_argument("--set", **SET)


def run(args: argparse.Namespace) -> int:
    """Run the given action."""
    if args.action == "show":
        show(args.path, make_console(), as_json=args.json)
        return 0
    if args.action == "verify":
        return verify(args.path, make_console())

    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs

    keep_programs()
    check_platforms()
    return _audit(args) if args.action == "audit" else _replay(args)


def _replay(args: argparse.Namespace) -> int:
    summary = journal_replay.replay_to(
        args.path,
        make_console(stderr=True),
        output=args.output,
        model=args.model,
        steps=args.steps,
        average_last=args.average_last,
    )
    say_summary(summary, journal_replay.in_words, as_json=args.json)
    return 0


def _audit(args: argparse.Namespace) -> int:
    found = journal_audit.audit_journal(
        args.path,
        make_console(stderr=True),
        steps=args.steps,
        seed=args.seed,
        model=args.model,
        overrides=args.overrides,
    )
    if args.json:
        say_json(journal_audit.as_dict(found))
    else:
        journal_audit.print_audit(found, make_console())
    return 1 if found.reasons else 0


def verify(path: Path, console: Console) -> int:
    """Check magic, header and every record: checksum, step, key, learning rate, flags.

    Args:
        path: a journal, or the directory of a run.
        console: where to print the result.

    Returns:
        0 if the journal is whole; 1 if its end is damaged, so that a resumed run repeats the lost
        steps.

    Raises:
        InputError: the journal cannot be used as it is.
    """
    from zojax.journal.replay import check_records, run_configuration

    journal = read_run_journal(path)
    header = journal.header
    is_of_run = header.config is not None
    check_records(journal, run_configuration(journal).train if is_of_run else None)
    steps, size = len(journal.records), journal.good_bytes + journal.lost_bytes
    if journal.lost_bytes:
        line = (
            f"{journal.path}: damaged from byte {journal.good_bytes} of {size} on: the first "
            f"{steps} steps are good, {journal.lost_steps} after them are lost"
        )
    else:
        unsaid = "" if is_of_run else "; it belongs to no run: its header has no configuration"
        line = f"OK, {steps} steps ({size} bytes){unsaid}"
    console.print(line, highlight=False, soft_wrap=True)
    return 1 if journal.lost_bytes else 0
