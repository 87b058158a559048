"""Checks of the assignments: they run an answer on small cases and say in words which rule it breaks.

``check("a1.q3", attention_pattern)`` in a notebook; ``progress("a1")`` shows how far one is.
"""

from __future__ import annotations

import html
import importlib
import os
from dataclasses import dataclass, field
from typing import Any

from .config import require
from .grading_cases import (
    NOT_DONE,
    Case,
    Expected,
    Finding,
    Mistake,
    Outcome,
    Question,
    examine,
    first_broken,
    judge,
    recognise,
    run,
    told,
)

__all__ = [
    "Case", "Expected", "Finding", "Mistake", "Outcome", "Progress", "Question", "Result", "check", "done",
    "examine",
    "first_broken", "judge", "progress", "recognise", "run", "told",
]  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What :func:`check` found; true where all rules hold."""

    question: str
    passed: bool
    broken: str = ""  # name of the broken rule or of the mistake
    message: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return self.passed

    def _ipython_display_(self) -> None:
        """Nothing: the message has been printed."""


RESULTS: dict[str, Result] = {}
"""The last result of every question in this process."""


def check(name: str, answer: Any) -> Result:
    """Run ``answer`` on the public cases of question ``name`` and print what holds or what is broken.

    Under nbgrader (variable ``NBGRADER_EXECUTION``) an answer that breaks a rule raises AssertionError.

    Raises:
        IctlError: there is no such question.
    """
    coursework = importlib.import_module("ictl_utils.coursework")  # imports this module
    question = coursework.question(name)
    known = coursework.expected(name.partition(".")[0]).get(name)
    cases = question.cases(0)
    require(known is not None and len(known.values) == len(cases),
            f"the package's data do not fit question {name}; write them again with `make assignments`.")  # fmt: skip
    finding = examine(question, answer, cases, known)
    held = ", ".join(dict.fromkeys(rule.name for rule in question.rules))
    message = f"{name} {question.title}: all holds ({held})." if finding is None else told(name, finding)
    result = RESULTS[name] = Result(name, finding is None, finding.rule if finding else "", message)
    print(message)
    if os.environ.get("NBGRADER_EXECUTION") and not result:
        raise AssertionError(message)
    return result


def done(name: str) -> bool:
    """Whether the last :func:`check` of question ``name`` in this session found nothing broken."""
    return bool(RESULTS.get(name))


class Progress:
    """How far one is with an assignment: a table in notebooks, text elsewhere."""

    def __init__(self, assignment: str, questions: tuple[Question, ...]) -> None:
        self.assignment, self.questions = assignment, questions

    def state(self, question: Question) -> str:
        """``not tried``, ``done``, or the name of the rule that the last answer broke."""
        result = RESULTS.get(question.name)
        if result is None or result.broken == NOT_DONE:
            return "not tried"
        return "done" if result else result.broken.replace("_", " ")

    def rows(self) -> list[tuple[str, ...]]:
        """Question, title, points, minutes, difficulty, state."""
        return [(q.name, q.title, str(q.points), str(q.minutes), stars(q.difficulty), self.state(q))
                for q in self.questions]  # fmt: skip

    @property
    def total(self) -> str:
        """How many points the exercises bring that are done."""
        done = sum(q.points for q in self.questions if self.state(q) == "done")
        return f"{done} of {sum(q.points for q in self.questions)} points are done on the public cases."

    def __repr__(self) -> str:
        rows = [HEAD, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        lines = ("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join([*lines, self.total])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in HEAD)
        body = "".join("<tr>" + "".join(f'<td style="text-align:left">{html.escape(x)}</td>' for x in row) + "</tr>"
                       for row in self.rows())  # fmt: skip
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{self.total}</p>"


HEAD = ("question", "title", "points", "minutes", "difficulty", "state")


def stars(difficulty: int) -> str:
    """``★★☆`` for 2 of 3."""
    return "★" * difficulty + "☆" * (3 - difficulty)


def progress(assignment: str) -> Progress:
    """The table of an assignment's questions with the state of each in this session.

    Raises:
        IctlError: there is no such assignment.
    """
    return Progress(assignment, importlib.import_module("ictl_utils.coursework").questions(assignment))
