"""Expected values of an assignment: what its solution and its typical mistakes give on the public cases."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ictl_utils.answers import AnswerError, from_bytes, to_bytes
from ictl_utils.answers_sealed import seal, sketched
from ictl_utils.config import IctlError
from ictl_utils.coursework import DATA_DEPTH, Solution, unpacked
from ictl_utils.grading import Case, Outcome, Question, examine, first_broken, run
from ictl_utils.grading_cases import tolerance_of
from ictl_utils.grading_words import difference

LEAST_MISTAKES = 4
HIDDEN_SEEDS = (1, 2)  # on which the solution is tried besides


def pack(asked: tuple[Question, ...], solved: dict[str, Solution]) -> tuple[bytes, list[str]]:
    """The file of expected values, and one sentence for everything that is wrong."""
    packed, wrong = {}, []
    for q in asked:
        if q.name not in solved:
            wrong.append(f"{q.name} has no answer in the notebook.")
            continue
        try:
            packed[q.name] = packed_question(q, solved[q.name])
        except IctlError as error:
            wrong.append(f"{q.name}: {error}")
            continue
        wrong += problems(q, solved[q.name], packed[q.name])
    return to_bytes(packed, depth=DATA_DEPTH), wrong


def packed_question(q: Question, solution: Solution) -> dict:
    """Outcomes of one question as plain data."""
    cases, judged = q.cases(0), any(rule.tolerance is not None for rule in q.rules)
    outcomes = [run(q, solution.answer, case) for case in cases]
    failed = next((o for o in outcomes if o.raised), None)
    if failed:
        raise AnswerError(f"its solution fails: {failed.words}")
    mistakes = [
        {"name": m.__name__, "message": inspect.cleandoc(m.__doc__ or "").replace("\n", " "),
         "outcomes": [plain(q, o, mistake=True) for o in made(q, m, cases)]}
        for m in solution.mistakes
    ]  # fmt: skip
    keep = judged or q.kind == "function"
    return {"expected": [plain(q, o) if keep else {} for o in outcomes], "mistakes": mistakes}


def made(q: Question, mistake: Callable, cases: list[Case]) -> list[Outcome]:
    """What a typical mistake gives; for a value question the function returns the wrong value."""
    if q.kind == "function":
        return [run(q, mistake, case) for case in cases]
    return [run(q, mistake(), case) for case in cases]


def plain(q: Question, outcome: Outcome, mistake: bool = False) -> dict[str, Any]:
    """One outcome as plain data: sealed for value questions (a mistake's where it can be), sketched for mistakes."""
    if outcome.raised:
        return {"raised": outcome.raised}
    changed = {"changed": list(outcome.changed)} if outcome.changed else {}
    if q.kind == "value":
        try:
            return {"packed": seal(outcome.value, q.name, tolerance_of(q)), **changed}
        except AnswerError:
            if not mistake:
                raise
    return {"packed": sketched(outcome.value), **changed} if mistake else {"value": outcome.value, **changed}


def problems(q: Question, solution: Solution, packed: dict) -> list[str]:
    """What is wrong with a question: its solution must keep all rules, every mistake must get its own message."""
    known, cases, wrong = unpacked(to_bytes({q.name: packed}, depth=DATA_DEPTH))[q.name], q.cases(0), []
    finding = examine(q, solution.answer, cases, known)
    if finding:
        wrong.append(f"{q.name}: its own solution is told `{finding.rule}`: {finding.words}")
    wrong += hidden_problems(q, solution)
    if len(solution.mistakes) < LEAST_MISTAKES:
        wrong.append(f"{q.name} has {len(solution.mistakes)} mistakes; expected at least {LEAST_MISTAKES}.")
    for mistake, stored in zip(solution.mistakes, known.mistakes, strict=True):
        words = mistake_problem(q, mistake, stored.message, cases, known)
        wrong += [f"{q.name.partition('.')[2]}-mistakes: {mistake.__name__} {words}"] if words else []
    return wrong


def mistake_problem(q: Question, mistake: Callable, message: str, cases: list[Case], known) -> str:
    """What is wrong with one typical mistake, or nothing."""
    if not message:
        return "has no docstring to tell."
    outcomes = made(q, mistake, cases)
    if all(o.raised for o in outcomes):
        return f"fails on every case ({outcomes[0].words})."
    finding = examine(q, mistake if q.kind == "function" else mistake(), cases, known)
    if finding is None:
        return "agrees with the solution on the public cases."
    if finding.rule != mistake.__name__:
        return f"is told `{finding.rule}`, the same as another mistake."
    if first_broken(q, cases, outcomes, known.values) is None:
        return "keeps all rules; a rule must tell it from an answer."
    return ""


def hidden_problems(q: Question, solution: Solution) -> list[str]:
    """Whether the solution keeps all rules on other seeds as well."""
    wrong = []
    for seed in HIDDEN_SEEDS if q.kind == "function" else ():
        cases = q.cases(seed)
        outcomes = [run(q, solution.answer, case) for case in cases]
        finding = first_broken(q, cases, outcomes, [o.value for o in outcomes])
        if finding:
            wrong.append(f"{q.name}: with seed {seed} its own solution breaks `{finding.rule}`: {finding.words}")
    return wrong


def same_data(a: bytes, b: bytes, tolerance: float = 1e-3) -> bool:
    """Whether two files of expected values are the same but for the last digits."""
    try:
        return _same(from_bytes(a, depth=DATA_DEPTH), from_bytes(b, depth=DATA_DEPTH), tolerance)
    except AnswerError:
        return False


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return False
        if "sealed" in a and "width" in a:
            return a["width"] == b["width"] and bool(set(a["sealed"]) & set(b["sealed"]))
        return all(_same(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and difference(a, b, tolerance) is None
