"""A folder of submissions to a folder of marks: nothing is marked twice, and nothing stops the batch."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

from tqdm.auto import tqdm

from . import isolation, sandbox
from .config import require
from .extraction import locate, read_cells
from .marking import Key, Record, Work, execute, file_name, find_key, mark, prepare
from .marks_pages import WALLS, Batch, feedback, summary
from .marks_report import Late, rows, write_tables
from .sandbox import Limits, Ran
from .similarity import hints
from .snapshots import write_bytes
from .submissions import Submission, find


def grade(
    folder: Path, assignment: str, out: Path, *, solutions: Path | None = None, late: Late | None = None,
    limits: Limits | None = None, jobs: int | None = None,
) -> Batch:  # fmt: skip
    """Mark every submission below ``folder``; writes tables, feedback and a summary to ``out``.

    Raises:
        IctlError: no submissions, no instructor notebook, one that breaks its own rules, or solutions that
            submissions could read.
    """
    key, limits, late = find_key(assignment, solutions), limits or Limits(), late or Late()
    jobs = os.cpu_count() or 1 if jobs is None else jobs
    require(jobs >= 1, f"jobs={jobs} must be at least 1.")
    sandbox.check_hidden(key.notebook)
    inside = Path(out).resolve().is_relative_to(Path(folder).resolve())
    require(not inside, f"{out} lies within {folder}; write the marks to another folder.")
    found = find(folder)
    if late.due is not None and not any(one.timed for one in found.submissions):
        found.remarks.append("Times of submission are those of the files; submitted.csv (id,time) gives better ones.")
    known = {one.id: _earlier(out, one, key, limits) for one in found.submissions}
    todo = [one for one in found.submissions if known[one.id] is None]
    failed = []
    if todo:
        isolation.hide_memory()
        walls = sandbox.in_force(key.notebook)
        key.expected  # noqa: B018 (run the instructor's notebook before any submission)
        for record, broken in _records(todo, key, limits, jobs):
            known[record.id], record.walls = record, walls
            failed += [f"{record.file}: {broken}"] if broken else []
            if not broken:
                write_bytes(_path(out, record), json.dumps(asdict(record), indent=1, ensure_ascii=False).encode())
    return _write(Path(out), assignment, [known[one.id] for one in found.submissions], found.submissions,
                  late, Batch(assignment, [], found.remarks, failed, {}, []), key)  # fmt: skip


def _write(out: Path, assignment: str, records: list[Record], submissions: list[Submission], late: Late,
           batch: Batch, key: Key) -> Batch:  # fmt: skip
    """All files but the records, which are there already."""
    made = rows(records, submissions, late, batch.remarks)
    sources = {r.id: {m.question: m.source for m in r.questions if m.source} for r in records}
    walls = {name: all(r.walls.get(name, False) for r in records) for name in WALLS}
    batch = replace(batch, rows=made, walls=walls, hints=hints(sources, stubs(key)))
    write_tables(made, assignment, out)
    for row in made:
        write_bytes(out / "feedback" / f"{file_name(row.record)}.html", feedback(row, assignment))
    write_bytes(out / "summary.html", summary(batch))
    return batch


def _records(todo: list[Submission], key: Key, limits: Limits, jobs: int) -> Iterator[tuple[Record, str]]:
    """Records as they are done, with what went wrong with the machinery; ``jobs`` processes at a time."""
    with warnings.catch_warnings(), _pool(jobs) as pool:
        warnings.simplefilter("ignore")  # of students' sources
        waiting, queue = {}, iter(todo)
        with tqdm(total=len(todo), desc="submissions", unit="file", disable=None) as bar:
            while True:
                for one in itertools.islice(queue, 2 * jobs - len(waiting)):
                    work = _guarded(lambda one=one: prepare(one, key), Work(one, problem="it cannot be read."))[0]
                    waiting[pool.submit(_guarded, lambda work=work: execute(work, limits), Ran())] = work
                if not waiting:
                    return
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield _judged(done, waiting.pop(done), key, limits)
                    bar.update()


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for processes; on the way out, also by an interrupt, what still runs is ended."""
    try:
        with ThreadPoolExecutor(jobs) as pool:
            try:
                yield pool
            finally:
                sandbox.STOP.set()
    finally:
        sandbox.STOP.clear()


def _judged(done: Future, work: Work, key: Key, limits: Limits) -> tuple[Record, str]:
    """The record of a process that has ended."""
    ran, broken = done.result()
    empty = mark(replace_problem(work, broken or ran.broken), Ran(), key, limits)
    if broken or ran.broken:
        return empty, broken or ran.broken
    return _guarded(lambda: mark(work, ran, key, limits), empty)


def replace_problem(work: Work, problem: str) -> Work:
    """The same submission, as one that could not be run."""
    return replace(work, places=[], problem=work.problem or problem or "it could not be judged.")


def _guarded(action: Callable, otherwise):
    """The action's result, or ``otherwise`` and the error in words: one submission never stops the batch."""
    try:
        return action(), ""
    except Exception as error:
        return otherwise, f"the grader failed with {type(error).__name__}: {error}"[:500]


def _path(out: Path, record: Record) -> Path:
    return Path(out) / "records" / f"{file_name(record)}.json"


def _earlier(out: Path, one: Submission, key: Key, limits: Limits) -> Record | None:
    """What an earlier run found for the same file, with the same key, by the same code."""
    digest = hashlib.sha256(one.content).hexdigest()
    blank = Record(key.digest(limits), one.student, one.id, one.file, digest)
    try:
        record = Record.of_plain(json.loads(_path(out, blank).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    same = all(getattr(record, name) == getattr(blank, name) for name in ("key", "student", "id", "file", "sha256"))
    return record if same and bool(record.problem) >= bool(one.problem) else None


def stubs(key: Key) -> dict[str, str]:
    """Answer cells as the student edition ships them, where it lies beside the instructor's folder."""
    path = key.notebook.parents[1] / key.notebook.name
    if not path.is_file():
        return {}
    return {place.question: place.source for place in locate(read_cells(path.read_bytes()), key.questions)}
