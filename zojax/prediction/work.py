"""The work on a file of rows: answer chunk after chunk, count what went wrong, write the result."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from zojax.errors import InputError
from zojax.generation.texts import cut_note
from zojax.outputs import RowsFile
from zojax.prediction.answer import Answer, Columns
from zojax.prediction.partial import Partial
from zojax.prediction.predictor import Predictor
from zojax.prediction.rows import Survey, in_chunks, read_rows
from zojax.prediction.tables import changed, extend_parquet, write_csv, write_jsonl, write_parquet
from zojax.scoring import PageShape
from zojax.tasks.records import format_of

CHUNK_ROWS = 512
"""The rows that are answered together; what is lost when the work is stopped."""

_NAMED_BAD_ROWS = 3

Advance = Callable[[int], None]
"""Called with the number of rows answered so far."""


def answer_rows(
    path: Path, predictor: Predictor, start: int = 0
) -> Iterator[tuple[list[Answer], list[PageShape]]]:
    """Yields the answers to each chunk of rows, and the shapes that were needed until then.

    The next chunk is read while the devices compute this one.

    Raises:
        InputError: the file cannot be read, or no row of the first chunk has finite scores.
    """
    waiting: tuple[Callable[[], list[Answer]], list[PageShape]] | None = None
    is_first = not start

    def finish(started: tuple[Callable[[], list[Answer]], list[PageShape]]) -> Any:
        nonlocal is_first
        answers = started[0]()
        if is_first:
            _check_any_finite(answers)
        is_first = False
        return answers, started[1]

    for chunk in in_chunks(read_rows(path), CHUNK_ROWS, skip=start):
        started = predictor.answer(chunk), list(predictor.buckets)
        if waiting is not None:
            yield finish(waiting)
        waiting = started
    if waiting is not None:
        yield finish(waiting)


def _fill(partial: Partial, path: Path, predictor: Predictor, advance: Advance) -> None:
    """Answers the rows that a file of answers does not have yet."""
    advance(partial.count)
    for answers, buckets in answer_rows(path, predictor, partial.count):
        partial.append(answers, buckets)
        advance(partial.count)


def _streamed(path: Path, predictor: Predictor, advance: Advance) -> Iterator[Answer]:
    """Yields the answers to all rows as they come, for an output that cannot go on later."""
    count = 0
    for answers, _ in answer_rows(path, predictor):
        yield from answers
        count += len(answers)
        advance(count)


def _check_any_finite(answers: Iterable[Answer]) -> None:
    ends = [answer.end for answer in answers if answer.end != "bad"]
    if ends and set(ends) == {"nonfinite"}:
        raise InputError(
            f"the model's scores are not finite on the first {len(ends)} rows: its weights hold "
            "numbers that are not finite or overflow model.dtype (float32 has the widest range), "
            "or its training diverged"
        )


@dataclasses.dataclass
class Tally:
    """Counts rows by how they ended.

    Attributes:
        rows: all rows.
        bad: those that are bad.
        nonfinite: those for which the model's scores are not finite.
        cut: generated answers that reached the longest that is generated.
        truncated: prompts of which the model read only the end.
        problems: what is wrong with the first bad rows.
    """

    rows: int = 0
    bad: int = 0
    nonfinite: int = 0
    cut: int = 0
    truncated: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def count(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Yields the answers, and counts each."""
        for answer in answers:
            self.rows += 1
            self.bad += answer.end == "bad"
            self.nonfinite += answer.end == "nonfinite"
            self.cut += answer.end == "length"
            self.truncated += answer.truncated
            if answer.end == "bad" and len(self.problems) < _NAMED_BAD_ROWS:
                self.problems.append(answer.prediction or "")
            yield answer

    def notes(self, max_new_tokens: int) -> list[str]:
        """A line for each kind of row that did not go as it should."""
        notes, of_all = list[str](), f"of {self.rows:,}"
        if self.bad:
            more = self.bad - len(self.problems)
            others = f"; and {more:,} more" if more else ""
            are, their = ("is", "its") if self.bad == 1 else ("are", "their")
            notes.append(
                f"{self.bad:,} {of_all} rows {are} bad, so {their} prediction is empty: "
                f"{'; '.join(self.problems)}{others}"
            )
        if self.nonfinite:
            notes.append(
                f"{self.nonfinite:,} {of_all} rows: the model's scores are not finite, so their "
                "prediction is empty"
            )
        if self.cut:
            notes.append(cut_note(self.cut, self.rows, max_new_tokens))
        if self.truncated:
            are, their = ("is", "its") if self.truncated == 1 else ("are", "their")
            notes.append(
                f"{self.truncated:,} {of_all} prompts {are} too long, so that the model read only "
                f"{their} end (data.truncate=left)"
            )
        return notes


@dataclasses.dataclass(frozen=True)
class Job:
    """What to answer, and where to write it.

    Attributes:
        data: the file of rows.
        found: what is known of it.
        columns: the columns of the predictions.
        output: the file to write.
        form: the output's format: ``csv``, ``parquet``, or anything else for JSON lines.
        keep_formulas: see :func:`zojax.prediction.tables.write_csv`.
    """

    data: Path
    found: Survey
    columns: Columns
    output: RowsFile
    form: str
    keep_formulas: bool = False


def answer_and_write(
    job: Job, predictor: Predictor, partial: Partial | None, advance: Advance
) -> Tally:
    """Answers all rows that have no answer yet, and then writes the table.

    Args:
        job: what to do.
        predictor: answers the rows.
        partial: where to keep the answers until the end; None for an output that is a stream, to
            which rows are written as their answers come.
        advance: called now and then.

    Raises:
        InputError: the rows cannot be read, the output cannot be written, or the model's scores
            are not finite.
    """
    tally = Tally()
    if partial is None:
        answers = _streamed(job.data, predictor, advance)
    else:
        _fill(partial, job.data, predictor, advance)
        answers = partial.answers()
    with job.output.opened() as file:
        _write_table(job, file, tally.count(answers))
    if partial is not None:
        partial.is_done = True
    return tally


def _write_table(job: Job, file: BinaryIO, answers: Iterable[Answer]) -> None:
    columns, found = job.columns, job.found
    if job.form == format_of(job.data) == "parquet":
        extend_parquet(file, job.data, columns.types, map(columns.cells, answers))
        return
    rows = _joined(job.data, columns, answers)
    if job.form == "csv":
        names = [*found.columns, *columns.names]
        write_csv(file, names, rows, keep_formulas=job.keep_formulas)
    elif job.form == "parquet":
        write_parquet(file, found.columns | columns.types, rows)
    else:
        write_jsonl(file, rows)


def _joined(path: Path, columns: Columns, answers: Iterable[Answer]) -> Iterator[Mapping[str, Any]]:
    rows = read_rows(path)
    for answer in answers:
        row, _ = next(rows, (None, None))
        if row is None:
            raise changed(path)
        yield {**(row.record or {}), **columns.cells(answer)}
    if next(rows, None) is not None:
        raise changed(path)
