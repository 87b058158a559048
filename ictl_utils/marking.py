"""Marks: what a submission's process left, judged here by the rules and by the instructor's own answers.

Marks of a question are its points times the share of hidden cases on which all rules hold, to half points.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .answers import AnswerError, opened, seal
from .config import IctlError, require
from .coursework import instructor_notebook, questions, quiet, solutions
from .extraction import ABSENT, Place, locate, looks_like, prepared, read_cells, worth_running
from .grading import Case, Expected, Mistake, Outcome, Question, first_broken, judge, recognise, run
from .grading_cases import NOT_DONE, tolerance_of
from .sandbox import PACKAGE, Limits, Ran
from .sandbox import run as run_locked
from .sandbox_child import add_questions
from .submissions import Submission

SEEDS = (1001, 1002)
MOST_WORDS = 2000  # characters of a message
MISSING, NOT_FOUND, UNREAD = "nothing came back", "not found", "cannot be read"


@dataclass(frozen=True)
class Key:
    """An assignment as the instructor holds it: questions, hidden cases, right answers, typical mistakes."""

    assignment: str
    notebook: Path
    source: str = ""  # of the questions, where they are not the package's
    seeds: tuple[int, ...] = SEEDS

    @functools.cached_property
    def questions(self) -> tuple[Question, ...]:
        """In order."""
        add_questions(self.assignment, self.source)
        return questions(self.assignment)

    @functools.cached_property
    def cases(self) -> dict[str, list[Case]]:
        """Hidden cases by question."""
        return {q.name: [case for seed in self.seeds for case in q.cases(seed)] for q in self.questions}

    @functools.cached_property
    def expected(self) -> dict[str, Expected]:
        """What solution and mistakes give on the hidden cases; the notebook is run once, here.

        Raises:
            IctlError: a solution is missing, or breaks a rule itself.
        """
        asked, solved = self.questions, solutions(self.notebook)
        missing = [q.name for q in asked if q.name not in solved]
        require(not missing, f"{self.notebook} has no answer to {', '.join(missing)}; add it.")
        with quiet():  # mistakes warn where they go wrong
            return {q.name: self._expected(q, solved[q.name]) for q in asked}

    def _expected(self, q: Question, solution: Any) -> Expected:
        cases = self.cases[q.name]
        right = [run(q, solution.answer, case) for case in cases]
        broken = first_broken(q, cases, right, [outcome.value for outcome in right])
        if broken:
            raise IctlError(f"the instructor's own answer to {q.name} breaks a rule on a hidden case: "
                            f"{broken.rule}: {broken.words}; mend {self.notebook}.")  # fmt: skip
        made = [[run(q, m if q.kind == "function" else m(), case) for case in cases] for m in solution.mistakes]
        mistakes = [Mistake(m.__name__, " ".join((m.__doc__ or "").split()), outcomes)
                    for m, outcomes in zip(solution.mistakes, made, strict=True)]  # fmt: skip
        return Expected([_not_told(q, outcome.value) for outcome in right], mistakes)

    def digest(self, limits: Limits) -> str:
        """Changes when marks could: notebook, questions, seeds, limits, or the code that marks."""
        known = hashlib.sha256(repr((self.assignment, self.source, self.seeds, limits, _code())).encode())
        known.update(self.notebook.read_bytes())
        return known.hexdigest()


@functools.cache
def _code() -> str:
    """Hash of this package's modules."""
    known = hashlib.sha256()
    for path in sorted(PACKAGE.glob("*.py")):
        known.update(path.read_bytes())
    return known.hexdigest()


def _not_told(q: Question, value: Any) -> Any:
    """The right value of a value question, so that messages cannot show it; None where rules alone decide."""
    if q.kind == "function":
        return value
    if not any(rule.tolerance is not None for rule in q.rules):
        return None
    try:
        return opened(seal(value, q.name, tolerance_of(q)), q.name)
    except AnswerError:
        return value


def find_key(assignment: str, folder: Path | None = None) -> Key:
    """The instructor notebook of an assignment (``a1`` or ``A1``), and its questions where they lie beside it.

    Raises:
        IctlError: there is none, or more than one.
    """
    notebook = instructor_notebook(assignment, folder or PACKAGE.parent / "notebooks" / "assignments" / "instructor")
    assignment = notebook.name.partition("_")[0]
    own = notebook.with_name(f"grading_{assignment}.py")
    key = Key(assignment, notebook, own.read_text(encoding="utf8") if own.is_file() else "")
    require(bool(key.questions), f"assignment {assignment} has no questions.")
    return key


@dataclass
class Marked:
    """One question of one submission."""

    question: str
    title: str
    of: int  # points
    points: float = 0.0
    cases: int = 0
    held: int = 0  # cases on which all rules hold
    way: str = ""  # how the answer was found; empty: it was not
    read: bool = False  # a person reads it: the points are provisional
    rule: str = ""  # the first that is broken, or the mistake that was made
    note: str = ""  # of the case
    message: str = ""
    hint: str = ""
    source: str = ""


@dataclass
class Record:
    """All that is kept about one submission; no times in it, so that a second run writes the same bytes."""

    key: str
    student: str
    id: str
    file: str
    sha256: str
    total: float = 0.0
    of: float = 0.0
    questions: list[Marked] = field(default_factory=list)
    problem: str = ""  # of the whole file
    cells: dict[str, str] = field(default_factory=dict)  # cells that failed
    walls: dict[str, bool] = field(default_factory=dict)  # what was closed to the submission

    @classmethod
    def of_plain(cls, data: dict) -> Record:
        """From JSON."""
        return cls(**{**data, "questions": [Marked(**q) for q in data["questions"]]})


@dataclass
class Work:
    """A submission on its way: where its answers are, and the task for its process."""

    submission: Submission
    places: list[Place] = field(default_factory=list)
    task: dict = field(default_factory=dict)
    problem: str = ""


def prepare(one: Submission, key: Key) -> Work:
    """Read a submission without running it."""
    if one.problem:
        return Work(one, problem=one.problem)
    try:
        cells = read_cells(one.content)
        places = locate(cells, key.questions)
    except (IctlError, RecursionError) as error:
        return Work(one, problem=str(error))
    task = {
        "assignment": key.assignment, "source": key.source, "seeds": list(key.seeds),
        "cells": [[c.index, prepared(c)] for c in cells if worth_running(c)],
        "places": {p.question: [p.name, p.cell] for p in places if p.found and not p.stub},
        "expected": {name: len(cases) for name, cases in key.cases.items()},
    }  # fmt: skip
    return Work(one, places, task, "" if all(p.found for p in places) else looks_like(cells, key.assignment))


def execute(work: Work, limits: Limits) -> Ran:
    """Run what there is to run."""
    return run_locked(work.task, limits) if work.task.get("places") else Ran()


def mark(work: Work, ran: Ran, key: Key, limits: Limits) -> Record:
    """Judge what came back."""
    one = work.submission
    record = Record(key.digest(limits), one.student, one.id, one.file, hashlib.sha256(one.content).hexdigest(),
                    of=float(sum(q.points for q in key.questions)), problem=work.problem,
                    cells={str(i): _plain(words) for i, words in sorted(ran.cells.items())})  # fmt: skip
    places = {place.question: place for place in work.places}
    for q in key.questions:
        place = places.get(q.name, Place(q.name, problem="the file could not be read."))
        record.questions.append(mark_question(q, place, ran, key))
    record.total = sum(m.points for m in record.questions)
    return record


def mark_question(q: Question, place: Place, ran: Ran, key: Key) -> Marked:
    """Points and words for one question."""
    cases = key.cases[q.name]
    marked = Marked(q.name, q.title, q.points, cases=len(cases), way=place.way, read=q.read,
                    source=place.source[:20_000])  # fmt: skip
    if not place.found:
        marked.rule, marked.message = NOT_FOUND if place.problem.startswith(ABSENT) else UNREAD, place.problem
        return marked
    if place.stub:
        marked.rule, marked.message = NOT_DONE, "the answer is still what the student edition ships."
        return marked
    known, outcomes = key.expected[q.name], [_outcome(ran, q.name, i) for i in range(len(cases))]
    findings = [judge(q, case, o, v) for case, o, v in zip(cases, outcomes, known.values, strict=True)]
    marked.held = findings.count(None)
    marked.points = half_points(q.points * marked.held / len(cases))
    if marked.held == len(cases):
        marked.message = f"all rules hold on all {len(cases)} cases."
        return marked
    problem = ran.problems.get(q.name, "")
    found = None if problem else recognise(q, outcomes, known) or first_broken(q, cases, outcomes, known.values)
    marked.rule = found.rule if found else "did not finish"
    undone = [o.words for o in outcomes if o.raised == NotImplementedError.__name__]
    if undone and found:
        marked.rule, found = NOT_DONE, replace(found, words=f"it uses an exercise that is not done: {undone[0]}")
    marked.message = _plain(found.words if found else problem)
    marked.hint, marked.note = (found.hint, found.note) if found else ("", "")
    return marked


def half_points(x: float) -> float:
    """To the nearest half, halves of halves up; never more than is due by rounding errors."""
    return math.floor(2 * x + 0.5 + 1e-9) / 2


def _outcome(ran: Ran, name: str, case: int) -> Outcome:
    """What came back for one case, whatever is in it."""
    packed = ran.answers.get((name, case))
    if not isinstance(packed, dict) or not isinstance(packed.get("raised", ""), str):
        return Outcome(raised=MISSING, words="nothing came back: time was up, or the code removed what was written.")
    changed = packed.get("changed", [])
    changed = tuple(str(x)[:40] for x in changed) if isinstance(changed, list) else ("its inputs",)
    return Outcome(packed.get("value"), packed.get("raised", "")[:80], str(packed.get("words", ""))[:1000], changed)


def file_name(record: Record) -> str:
    """Name of a student's files: the id, made safe, unlike any other's."""
    plain = re.sub(r"[^\w.-]+", "_", record.id, flags=re.ASCII).strip("._")[:60] or "student"
    return plain if plain == record.id else f"{plain}-{hashlib.sha256(record.id.encode()).hexdigest()[:8]}"


def _plain(words: str) -> str:
    """Words without what differs from run to run: addresses, the name of the temporary folder."""
    words = re.sub(r"\S{200,}", lambda long: f"{long[0][:100]}...", words[:MOST_WORDS])
    words = re.sub(r"0x[0-9a-fA-F]{4,}", "0x...", words)
    return re.sub(r"\S*ictl_grade_\w+", "...", words)
