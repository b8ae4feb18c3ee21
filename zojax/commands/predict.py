r"""Answer rows without labels, with a run's best model, a base model or a LoRA.

Example:
  zojax predict runs/demo --data reviews.csv --output answers.csv
  zojax predict runs/demo --data reviews.jsonl --output -      # as JSON lines
  zojax predict runs/demo --data a.parquet --output b.parquet --skip-bad
  zojax predict --config configs/opt125m_lozo.py --adapter DIR \
      --data reviews.csv --output answers.jsonl

The output has the rows' own columns and, behind them, prediction, probability
(of the predicted label, among the labels) and a probability_LABEL for each
label; or, if answers are generated, prediction alone. With --skip-bad a column
problem says which rows are bad, and why. A command that was
stopped goes on where it was when it is given again; until it is done, its
answers are in FILE.partial.

In CSV, a text that begins with = + - @ or a tab, and is no number, is written
with a ' before it, since spreadsheets would run it as a formula;
--keep-formulas leaves it as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from zojax.commands.options import (
    COUNT,
    JSON,
    OVERWRITE,
    RUN,
    SET,
    SKIP_BAD,
    Option,
    override_run,
    read_run_journal,
    spare_inputs,
)
from zojax.errors import InputError
from zojax.printing import make_console, say, say_json, warn

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from zojax.config import Config
    from zojax.models import Model
    from zojax.outputs import RowsFile
    from zojax.prediction.partial import Partial
    from zojax.prediction.rows import Survey
    from zojax.scoring import Item

Tree = Any

_REPORT_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", nargs="?", **RUN)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="the rows: .csv, .jsonl or .parquet, with the fields of the run's prompt",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the rows with their predictions: .csv, .jsonl or .parquet; - is standard output",
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="a PEFT LoRA to apply to the base model, instead of the run's",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="base model and task, instead of RUN: FILE or FILE:NAME"
    )
    what = "override a field; with RUN, data.*, mesh.* or run.eval_batch_size (repeatable)"
    setting: Option = SET | {"help": what}
    parser.add_argument("--set", **setting)
    what = "leave the prediction of bad rows empty, and say in a column problem what is wrong"
    skipping: Option = SKIP_BAD | {"help": what}
    parser.add_argument("--skip-bad", **skipping)
    parser.add_argument(
        "--step", **COUNT, help="the model after N steps (default: the best on the dev set)"
    )
    parser.add_argument(
        "--keep-formulas",
        action="store_true",
        help="in CSV, write texts that a spreadsheet would run as formulas as they are",
    )
    overwriting: Option = OVERWRITE | {
        "help": "replace FILE even if it is not an older output of this command, and drop partial "
        "answers of other work"
    }
    parser.add_argument("--overwrite", **overwriting)
    parser.add_argument("--json", **JSON)


def run(args: argparse.Namespace) -> int:
    """Predict, write the table, and print what became of the rows."""
    if (args.run is None) == (args.config is None):
        raise InputError("predict: give either RUN, or --config FILE")
    if args.step is not None and (args.run is None or args.adapter):
        raise InputError("predict: --step needs RUN, without --adapter")

    from zojax.outputs import RowsFile
    from zojax.tasks.records import FORMATS, format_of

    path = Path("/dev/stdout") if str(args.output) == "-" else args.output
    output = RowsFile("--output", path, None, overwrite=args.overwrite)
    if not output.is_stream and format_of(path) not in FORMATS:
        raise InputError(f"--output {args.output}: give a .csv, .jsonl or .parquet, or -")
    output.spare(args.data)

    from zojax.config.loading import load_config, split_name
    from zojax.distributed.platforms import check_platforms
    from zojax.programs.cache import keep_programs
    from zojax.runs import run_dir

    keep_programs()
    check_platforms()
    console = make_console(stderr=True)
    config = (
        override_run(run_dir.read_config(args.run), args.overrides)
        if args.run
        else load_config(args.config, args.overrides)
    )
    spare_inputs(output, config, args.adapter)
    if args.config:
        output.spare(split_name(args.config)[0])
    summary, notes = predict(args, config, output, path, console)
    for note in notes:
        warn(f"note: {note}")
    tell = warn if output.is_stdout else say
    if args.json and not output.is_stdout:
        say_json(summary)
    else:
        tell(f"{args.output}: {in_words(summary)}")
    return 0


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What answers.

    Attributes:
        model: the model.
        pool: its adapter state, stacked alone in slot 1.
        version: what tells it from any other model.
        steps: the number of steps of a run after which it is its model.
    """

    model: Model
    pool: Tree
    version: str
    steps: int | None = None


def predict(
    args: argparse.Namespace, config: Config, output: RowsFile, path: Path, console: Console
) -> tuple[dict[str, Any], list[str]]:
    """Answer all rows and write the table.

    Returns:
        ``output``, ``step`` (of a run's model), ``rows``, ``bad``, ``nonfinite``, ``cut``,
        ``truncated`` and ``seconds``; and a note on each kind of row that did not go as it should.

    Raises:
        InputError: the rows, the model or the adapter are bad, or the output is of other work.
    """
    from zojax.hub.turns import run_tokenizer
    from zojax.prediction import work
    from zojax.prediction.answer import name_columns
    from zojax.prediction.partial import kept_answers
    from zojax.prediction.predictor import Predictor
    from zojax.prediction.rows import survey
    from zojax.prediction.tables import has_columns, import_arrow
    from zojax.tasks.calibrate import OF_DEV_SET
    from zojax.tasks.dataset import get_task
    from zojax.tasks.records import format_of
    from zojax.tasks.task import label_names
    from zojax.tasks.unlabelled import (
        input_fields,
        refuse_unknown_answers,
        unlabelled_example,
    )

    task, data = get_task(config.data), config.data
    if data.num_demos:
        raise InputError(
            f"predict: data.num_demos={data.num_demos}, but it shows no demonstrations before a "
            "row; --set data.num_demos=0"
        )
    refuse_unknown_answers(data, task)
    if path.suffix.lower() == ".parquet" and not output.is_stream:
        import_arrow()
    render = functools.partial(unlabelled_example, data, task)
    with console.status("looking through the rows"):
        fields, setting = input_fields(data, task), "data.prompt" if data.prompt else ""
        found = survey(args.data, fields, setting, render, skip_bad=data.skip_bad)
    ranks = task.kind != "generation"
    labels = label_names(task, task.candidates) if ranks else ()
    columns = name_columns(
        labels, has_probability=ranks, taken=found.columns, has_problem=data.skip_bad
    )
    output.expect(functools.partial(has_columns, names=columns.names))
    of_dev_set = data.calibration in OF_DEV_SET
    offsets_k = _offsets_of_run(args, config) if of_dev_set else None
    dev, calibrated_by = list["Item"](), "" if offsets_k is None else str(offsets_k.tolist())
    if of_dev_set and offsets_k is None:
        dev, calibrated_by = _load_dev(config, console)
    loaded = (_load_base if args.config or args.adapter else _load_run)(args, config, console)
    tokenizer = run_tokenizer(config)
    job = work.Job(args.data, found, columns, output, format_of(path), args.keep_formulas)
    started, place = time.perf_counter(), path.with_name(f"{path.name}.partial")
    identity, size = _identity(config, found, loaded, calibrated_by), work.CHUNK_ROWS
    if tokenizer.chat is not None:
        identity["chat template"] = xxhash.xxh3_128_hexdigest(tokenizer.chat.source.encode())
    keep = kept_answers(place, identity, size, fresh=args.overwrite)
    with nullcontext() if output.is_stream else keep as partial:
        before, buckets = (partial.count, partial.buckets) if partial else (0, [])
        if before:
            rest = "" if before == found.count else "; the rest follows"
            warn(f"{before:,} of {found.count:,} rows were answered before{rest}")
        predictor = Predictor(
            config, task, loaded.model, loaded.pool, tokenizer, render, buckets, offsets_k
        )
        if dev:
            predictor.calibrate(dev)
        with _told_of_a_stop(partial), _progress(console, found.count) as advance:
            tally = work.answer_and_write(job, predictor, partial, advance)
    steps = {} if loaded.steps is None else {"step": loaded.steps}
    counts = {name: getattr(tally, name) for name in ("bad", "nonfinite", "cut", "truncated")}
    summary = {
        "output": str(args.output),
        **steps,
        "rows": tally.rows,
        **{name: count for name, count in counts.items() if count},
        "answered_before": before,
        "seconds": time.perf_counter() - started,
    }
    return summary, [*found.notes(args.data), *tally.notes(task.max_new_tokens)]


def in_words(summary: Mapping[str, Any]) -> str:
    """How many rows were answered, and how fast.

    >>> in_words({"rows": 1500, "answered_before": 500, "seconds": 4.0})
    '1,500 rows, 1,000 of them answered now, in 4.0 s (250 rows/s)'
    """
    rows, before, seconds = (summary[name] for name in ("rows", "answered_before", "seconds"))
    if rows == before:
        return f"{rows:,} rows"
    rate = (rows - before) / seconds
    now = f", {rows - before:,} of them answered now," if before else ""
    return f"{rows:,} rows{now} in {seconds:.1f} s ({rate:,.{0 if rate >= 10 else 1}f} rows/s)"


def _load_dev(config: Config, console: Console) -> tuple[list[Item], str]:
    """The dev set, which calibrates the scores, and its hash."""
    from zojax.runs.setup import data_hash, load_data

    with console.status("reading the dev set"):
        data = load_data(config)
    return data.dev, data_hash(dataclasses.replace(data, train=[], eval=[]), with_answers=False)


def _offsets_of_run(args: argparse.Namespace, config: Config) -> np.ndarray | None:
    """The offsets in the run's result, ``(k,)``; None if they are of another model or dev set."""
    import numpy as np

    from zojax.reporting.progress import read_progress
    from zojax.runs.result import read_result
    from zojax.runs.run_dir import read_config
    from zojax.tasks.dataset import get_task

    if args.run is None or args.adapter is not None:
        return None
    trained, steps = read_config(args.run), len(read_run_journal(args.run).records)
    # A run without skip_bad has met no bad row, so that its dev set is the same with it.
    if dataclasses.replace(config.data, skip_bad=trained.data.skip_bad) != trained.data:
        return None
    best = read_progress(args.run, steps, trained).best_step
    if steps != trained.train.steps or args.step not in (None, best):
        return None
    result = None
    with suppress(InputError):  # a damaged result is as good as none
        result = read_result(args.run, trained, steps)
    if result is None or not (offsets := result.get("offsets")) or result["best_step"] != best:
        return None
    words = get_task(config.data).candidates
    return np.array([offsets[word] for word in words]) if {*offsets} == {*words} else None


def _load_run(args: argparse.Namespace, config: Config, console: Console) -> Loaded:
    from zojax.adapters import stack_variants
    from zojax.journal.file import read_journal
    from zojax.runs import rebuild, run_dir

    journal = read_journal(args.run / run_dir.JOURNAL)
    trained = run_dir.read_config(args.run)
    placed = dataclasses.replace(trained, mesh=config.mesh)
    run = rebuild.load_run(journal, placed, console, args.step)
    if args.step is None and run.steps == 0 and len(journal.records):
        warn(
            f"note: the best step of {args.run} on the dev set is 0, the base model; "
            f"{len(journal.records)} steps are done, choose one with --step N"
        )
    header = journal.header
    digest = xxhash.xxh3_128_hexdigest(journal.records[: run.steps].tobytes())
    version = f"base {header.base_hash}, key {header.key_data}, {run.steps} steps {digest}"
    return Loaded(run.model, stack_variants([run.adapter(run.state)]), version, run.steps)


def _load_base(args: argparse.Namespace, config: Config, console: Console) -> Loaded:
    from zojax.adapters import stack_variants
    from zojax.adapters.lora import load_lora
    from zojax.models import content_hash
    from zojax.runs.setup import load_model

    with console.status("loading the model"):
        model = load_model(config)
        lora = {} if args.adapter is None else load_lora(args.adapter, model)
    version = f"base {content_hash(model.weights)}"
    if args.adapter is not None:
        version += f", adapter {content_hash({'adapter': lora})}"
    return Loaded(model, stack_variants([lora]), version)


def _identity(config: Config, found: Survey, loaded: Loaded, calibrated_by: str) -> dict[str, str]:
    """What must stay the same for work to go on, by the name that an error calls it."""
    import jax

    from zojax.config import to_dict
    from zojax.version import __version__

    tree = to_dict(config)
    data = {name: value for name, value in tree["data"].items() if name != "skip_bad"}
    settings = [data, tree["mesh"], tree["model"], config.run.eval_batch_size]
    return {
        "data": found.digest,
        "dev set": calibrated_by,
        "model": loaded.version,
        "devices": f"{jax.device_count()} {jax.default_backend()}",
        "settings": xxhash.xxh3_128_hexdigest(json.dumps(settings).encode()),
        "version of zojax": __version__,
    }


@contextmanager
def _told_of_a_stop(partial: Partial | None) -> Iterator[None]:
    """Tell where the answers are when the work is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if partial is not None and partial.count:
            warn("")
            warn(f"{partial.path}: has {partial.count:,} answers; the same command goes on with it")
        raise


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many rows are done, their rate and the time left: a bar, or a line a minute."""
    from zojax.reporting.bar import progress_bar

    started = told = time.perf_counter()
    first: int | None = None

    with progress_bar(console, "predict", unit="rows") as update:

        def advance(done: int) -> None:
            nonlocal told, first
            update(done, total)
            now, first = time.perf_counter(), done if first is None else first
            if not console.is_terminal and now > told + _REPORT_SECONDS and done > first:
                told, rate = now, (done - first) / (now - started)
                left = (total - done) / rate
                warn(f"{done:,}/{total:,} rows · {rate:,.0f} rows/s · {left:,.0f} s left")

        yield advance
