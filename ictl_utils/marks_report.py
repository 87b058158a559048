"""Tables for gradebooks: all marks, and the shapes that Canvas and Moodle import."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from .config import require
from .marking import NOT_FOUND, UNREAD, Record, file_name, half_points
from .snapshots import write_bytes
from .submissions import Submission

DAY = 86_400.0


@dataclass(frozen=True)
class Late:
    """When work was due, and what a day costs."""

    due: float | None = None  # seconds since 1970
    percent: float = 0.0  # of the marks reached, for every day begun

    def __post_init__(self) -> None:
        require(0 <= self.percent <= 100, f"late={self.percent} percent a day; expected 0 to 100.")

    def days(self, one: Submission) -> int:
        """Days begun after the due time; Canvas' files carry no time of submission, and its mark counts as one day."""
        if self.due is None:
            return 0
        if one.layout == "canvas" and not one.timed:
            return int(one.late_mark)
        return math.ceil(max(0.0, one.submitted - self.due) / DAY)

    def mark(self, total: float, days: int) -> float:
        """What is left of a total."""
        return half_points(total * max(0.0, 1 - self.percent / 100 * days))


@dataclass(frozen=True)
class Row:
    """One student in the tables."""

    record: Record
    submission: Submission
    days: int
    final: float
    remarks: tuple[str, ...]


def rows(records: list[Record], submissions: list[Submission], late: Late, remarks: list[str]) -> list[Row]:
    """Records with what depends on the time of submission, and with remarks on each."""
    found = []
    for record, one in zip(records, submissions, strict=True):
        own = [record.problem] if record.problem else []
        own += [words for words in remarks if words.startswith(f"{one.id}: ")]
        days = late.days(one)
        if one.late_mark and not one.timed:
            own.append("marked late by Canvas; how many days is not known without submitted.csv"
                       + (", and one is counted" if days else ""))  # fmt: skip
        absent = [] if record.problem else [m for m in record.questions if m.rule in (NOT_FOUND, UNREAD)]
        own += [f"{m.question}: {m.message}" for m in absent]
        found.append(Row(record, one, days, late.mark(record.total, days), tuple(own)))
    return found


def check_out(out: Path, assignment: str) -> None:
    """Refuse a place that cannot be a folder, and a folder that holds the marks of another assignment.

    Raises:
        IctlError: it is one of these.
    """
    blocked = [path for path in (out, *out.parents) if os.path.lexists(path) and not os.path.isdir(path)]
    require(not blocked, f"--out {out} cannot hold the marks, because {blocked[0] if blocked else out} is no folder; "
                         "name a new folder, or that of an earlier run.")  # fmt: skip
    held = {name.partition(".")[0] for _, questions in earlier(out) for name in questions} - {assignment}
    require(not held, f"{out} holds the marks of {', '.join(sorted(held))}; expected a new folder for {assignment}, "
                      f"or its own: name one with --out, such as --out {out / assignment}.")  # fmt: skip


def earlier(out: Path) -> list[tuple[str, list[str]]]:
    """Name and questions of the records that runs have left in ``out``; other files are left alone."""
    found = []
    for path in sorted((out / "records").glob("*.json")):
        try:
            found.append((path.stem, [m["question"] for m in json.loads(path.read_bytes())["questions"]]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def remove_gone(out: Path, found: list[Row]) -> list[str]:
    """Remove record and page of students whose submission is no longer there; returns what was done, in words."""
    here = {file_name(row.record) for row in found}
    gone = [name for name, _ in earlier(out) if name not in here]
    for name in gone:
        (out / "feedback" / f"{name}.html").unlink(missing_ok=True)
        (out / "records" / f"{name}.json").unlink(missing_ok=True)
    return [f"{name}: no longer among the submissions; the page and record of an earlier run are removed."
            for name in gone]  # fmt: skip


def safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = " ".join(str(text).split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def write_tables(found: list[Row], assignment: str, folder: Path) -> list[Path]:
    """``marks.csv``, ``canvas.csv`` and ``moodle.csv``."""
    tables = {"marks": marks_table(found), "canvas": canvas_table(found, assignment), "moodle": moodle_table(found)}
    paths = [folder / f"{name}.csv" for name in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(table)
        write_bytes(path, text.getvalue().encode("utf-8-sig" if path.stem != "canvas" else "utf-8"))
    return paths


def marks_table(found: list[Row]) -> list[list]:
    """Everything: points by question, total, days late, mark, how answers were found, remarks."""
    names = [m.question for m in found[0].record.questions] if found else []
    head = ["student", "id", "file", "submitted", *names, "total", "of", "days late", "mark", "to be read", "found by",
            "remarks"]  # fmt: skip
    return [head] + [
        [safe(r.record.student), safe(r.record.id), safe(r.record.file), when(r.submission.submitted),
         *(m.points for m in r.record.questions), r.record.total, r.record.of, r.days, r.final,
         " ".join(to_read(r.record)), ways(r.record),
         safe("; ".join(r.remarks))]
        for r in found
    ]  # fmt: skip


def canvas_table(found: list[Row], assignment: str) -> list[list]:
    """For "Import grades" of Canvas, which finds students by ID."""
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", assignment]
    possible = ["    Points Possible", "", "", "", "", found[0].record.of if found else ""]
    return [head, possible] + [
        [safe(r.record.student), safe(r.record.id) if r.submission.layout == "canvas" else "", "",
         safe(r.record.id) if r.submission.layout not in ("canvas", "moodle") else "", "", r.final]
        for r in found
    ]  # fmt: skip


def moodle_table(found: list[Row]) -> list[list]:
    """For "Upload grading worksheet" of Moodle, which finds students by identifier."""
    head = ["Identifier", "Full name", "Email address", "Grade", "Feedback comments"]
    return [head] + [
        [f"Participant {r.record.id}" if r.submission.layout == "moodle" else safe(r.record.id),
         safe(r.record.student), "", r.final, safe(short(r))]
        for r in found
    ]  # fmt: skip


def short(row: Row) -> str:
    """Feedback in one line."""
    parts = [f"{m.question} {m.points:g}/{m.of}" + (f" ({spoken(m.rule)})" if m.rule else "")
             for m in row.record.questions]  # fmt: skip
    late = f"; {row.days} day{'s' * (row.days > 1)} late" if row.days else ""
    waiting = " and ".join(to_read(row.record))
    late += f"; provisional, still to be read: {waiting}" if waiting else ""
    problem = f" {row.record.problem}" if row.record.problem else ""
    return f"{row.record.total:g} of {row.record.of:g} points{late}:{problem} " + ", ".join(parts)


def spoken(rule: str) -> str:
    """A rule's name, or a mistake's (the name of a function), in words."""
    return rule.replace("_", " ")


def to_read(record: Record) -> list[str]:
    """Questions whose points stand for their form alone, until a person has read the answers."""
    return [m.question for m in record.questions if m.read and m.points]


def ways(record: Record) -> str:
    """How the answers were found: ``5 function name, 1 cell marker, 2 not found``."""
    counts: dict[str, int] = {}
    for m in record.questions:
        counts[m.way or "not found"] = counts.get(m.way or "not found", 0) + 1
    return ", ".join(f"{n} {way}" for way, n in sorted(counts.items()))


def when(seconds: float) -> str:
    """A time for people and spreadsheets, local."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""
