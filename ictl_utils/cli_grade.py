"""``ictl grade``: a folder of submissions to marks, gradebook tables, feedback pages and a summary."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .config import require

if TYPE_CHECKING:
    from .marks_pages import Batch


def grade(
    submissions: Annotated[Path, typer.Argument(
        help="Folder: notebooks, folders or .zip, Moodle's or Canvas' too; or one .zip of these.")],
    assignment: Annotated[str, typer.Option(help="Which one: a1 to a5.")],
    out: Annotated[Path, typer.Option(help="Folder of the marks.")] = Path("marks"),
    solutions: Annotated[Path | None, typer.Option(help="Folder of the instructor notebooks; default: the checkout's."
                                                   )] = None,
    due: Annotated[str | None, typer.Option(help="2026-05-31 or 2026-05-31T23:59, local time; a day ends at 23:59."
                                            )] = None,
    late: Annotated[float, typer.Option(help="Percent of the marks lost for every day begun after it.")] = 0.0,
    jobs: Annotated[int | None, typer.Option(help="Submissions at a time; default: one a core.")] = None,
    seconds: Annotated[int, typer.Option(help="CPU seconds a submission may use; twice as many by the clock.")] = 60,
    memory: Annotated[float, typer.Option(help="GiB a submission may use, beyond the libraries.")] = 2.0,
) -> None:  # fmt: skip
    """Mark a folder of submissions; stopped at any moment, the same command goes on."""
    require(sys.platform != "win32", "ictl grade needs Linux or macOS; on Windows use WSL.")
    from .grading_batch import grade as grade_folder
    from .marking import find_key
    from .marks_report import Late, check_out, remove_gone
    from .sandbox import Limits
    from .submissions import end_or_moment

    when = Late(end_or_moment(due) if due else None, late)
    assignment = find_key(assignment, solutions).assignment
    check_out(out, assignment)
    batch = grade_folder(submissions, assignment, out, solutions=solutions, late=when, jobs=jobs,
                         limits=Limits(seconds, memory))  # fmt: skip
    batch.remarks.extend(remove_gone(out, batch.rows))
    tell(batch, out)
    if batch.failed:
        raise typer.Exit(1)


def tell(batch: Batch, out: Path) -> None:
    """What a lecturer wants to know at once; the rest is in ``summary.html``."""
    from .marks_pages import WALLS

    for name, held in batch.walls.items():
        if not held:
            typer.echo(WALLS[name][1], err=True)
    records = [row.record for row in batch.rows if row.record.problem]
    unread = [f"{r.id}: {r.problem}" for r in records if f"{r.file}: {r.problem}" not in batch.failed]
    for words in (*batch.failed, *batch.remarks, *unread):
        typer.echo(words, err=True)
    totals = [row.final for row in batch.rows]
    median = f"{statistics.median(totals):g} of {batch.rows[0].record.of:g}"
    typer.echo(f"{len(totals)} submission{'s' * (len(totals) != 1)}, median {median} points: "
               f"{out / 'summary.html'}, marks.csv, canvas.csv, moodle.csv, feedback")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to ``ictl``."""
    app.command()(grade)
