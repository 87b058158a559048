"""Questions, and answers run on their cases: which rule is broken, which typical mistake was made."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .answers import AnswerError, from_bytes, to_bytes
from .grading_room import NoLarger
from .grading_rules import Rule, agrees
from .grading_words import described, difference, error_words, unchanged

NOT_DONE, FAILED, CHANGED, NO_DATA, NOTHING, KIND = (
    "not done yet", "an error", "inputs stay as they are", "an answer is plain data", "an answer comes back",
    "function or value")  # fmt: skip
COPY_HINT = ("Work on a copy, `x.clone()` of a tensor or `x.copy()` of an array: `x += 1`, `x[0] = 1` and operations "
             "with an underscore at their end alter what they are given.")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One set of inputs of a student's function, and what is special about it."""

    given: dict[str, Any]  # keyword arguments: tensors, arrays, numbers, text, models
    note: str = ""  # "two tokens": named in messages
    each: str = ""  # input that is a list: one call for each of its entries, and the answer is the list of results
    largest: int = 0  # no tensor of more numbers may be made; 0: any


@dataclass(frozen=True)
class Question:
    """One exercise; ``kind`` is "function", or "value" where the answer is an object."""

    name: str  # "a1.q3"
    title: str
    answer: str  # name of the function or variable that the student writes
    points: int
    minutes: int
    difficulty: int  # 1, 2 or 3
    cases: Callable[[int], list[Case]]  # seed -> cases; seed 0 gives the public ones
    rules: tuple[Rule, ...]  # in the order in which they are told
    hint: str = ""
    kind: str = "function"
    read: bool = False  # rules look at its form alone; a person reads it, and its points are provisional till then


@dataclass(frozen=True)
class Outcome:
    """What an answer gave on one case: a value, or the error it ended with."""

    value: Any = None
    raised: str = ""  # name of the exception's class
    words: str = ""  # what to tell about the error, with the line of the student's code
    changed: tuple[str, ...] = ()  # names of inputs that the answer altered


@dataclass(frozen=True)
class Mistake:
    """A typical mistake: what it gives on the public cases, and what a student who makes it is told."""

    name: str
    message: str
    outcomes: list[Outcome]


@dataclass(frozen=True)
class Expected:
    """Right values of one question on the public cases, and its typical mistakes."""

    values: list[Any]
    mistakes: list[Mistake]


@dataclass(frozen=True)
class Finding:
    """A rule that is broken, or a mistake that was recognised."""

    rule: str
    words: str
    hint: str = ""
    note: str = ""  # of the case
    typical: bool = False  # a mistake was recognised


def examine(question: Question, answer: Any, cases: list[Case], known: Expected) -> Finding | None:
    """The first thing to tell about an answer: a wrong kind, an error, a typical mistake or a broken rule."""
    wrong_kind = _wrong_kind(question, answer)
    if wrong_kind:
        return wrong_kind
    outcomes = [run(question, answer, case) for case in cases]
    if any(outcome.raised == NotImplementedError.__name__ for outcome in outcomes):
        return Finding(NOT_DONE, next(o.words for o in outcomes if o.raised == NotImplementedError.__name__))
    return recognise(question, outcomes, known) or first_broken(question, cases, outcomes, known.values)


def run(question: Question, answer: Any, case: Case) -> Outcome:
    """What ``answer`` gives on ``case``: called with copies of the inputs, random numbers seeded, no gradients."""
    given = copy.deepcopy(case.given)
    try:
        with _seeded(), torch.no_grad(), NoLarger(case.largest) if case.largest else contextlib.nullcontext():
            value = _called(answer, given, case.each) if question.kind == "function" else answer
        changed = tuple(k for k, x in given.items() if not unchanged(x, case.given[k]))
        return Outcome(from_bytes(to_bytes(value)), changed=changed)
    except AnswerError as error:
        return Outcome(raised=AnswerError.__name__, words=str(error))
    except NotImplementedError as error:
        return Outcome(raised=type(error).__name__, words=str(error))
    except (Exception, SystemExit) as error:
        return Outcome(raised=type(error).__name__, words=error_words(error))


def _called(function: Callable, given: dict[str, Any], each: str) -> Any:
    """What a function gives; with ``each``, the list of what it gives for every entry of that input."""
    function = fitted(function, list(given))
    return [function(**{**given, each: x}) for x in given[each]] if each else function(**given)


def fitted(function: Callable, names: list[str]) -> Callable:
    """The function, callable by the question's keywords also where its parameters have other names."""
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError:
        with contextlib.suppress(TypeError):
            inspect.signature(function).bind(*names)
            return lambda **given: function(*(given[name] for name in names))
    except ValueError:
        pass
    return function


def recognise(question: Question, outcomes: list[Outcome], known: Expected) -> Finding | None:
    """The typical mistake that gives the same outcomes on all of the public cases, if there is one."""
    tolerance = tolerance_of(question)
    right = [Outcome(value) for value in known.values]
    if agrees_on_all(outcomes, right, tolerance):
        return None
    for mistake in known.mistakes:
        if agrees_on_all(outcomes, mistake.outcomes, tolerance):
            return Finding(mistake.name, mistake.message, typical=True)
    return None


def first_broken(question: Question, cases: list[Case], outcomes: list[Outcome], values: list) -> Finding | None:
    """The rule to tell: rules in their order, structural ones first; each on all cases."""
    for case, outcome, value in zip(cases, outcomes, values, strict=True):
        if outcome.raised:
            rule = NO_DATA if outcome.raised == AnswerError.__name__ else FAILED
            return Finding(rule, outcome.words, "", case.note)
        if outcome.changed:
            return Finding(CHANGED, f"your code alters {' and '.join(outcome.changed)}.", COPY_HINT, case.note)
        if outcome.value is None and value is not None:
            return Finding(NOTHING, "your function returns None.", "Does it end in `return ...`?", case.note)
    ordered = sorted(question.rules, key=lambda rule: (not rule.structural, rule.tolerance is not None))
    for rule in ordered:
        for case, outcome, value in zip(cases, outcomes, values, strict=True):
            words = _broken(rule, case, outcome, value)
            if words:
                return Finding(rule.name, words, rule.hint or question.hint * (rule is ordered[-1]), case.note)
    return None


def judge(question: Question, case: Case, outcome: Outcome, value: Any) -> Finding | None:
    """The first rule that is broken on one case; ``value`` is what the solution gives."""
    return first_broken(question, [case], [outcome], [value])


def told(name: str, finding: Finding) -> str:
    """The message of a finding, at most about 15 lines."""
    if finding.rule == NOT_DONE:
        other = "" if finding.words.startswith(name) or not finding.words else f" It uses {finding.words}"
        return f"{name}: not done yet.{other}"
    note = f' (case "{finding.note}")' if finding.note else ""
    what = "a typical mistake" if finding.typical else FAILED if finding.rule == FAILED else f"broken: {finding.rule}"
    lines = [f"{name}: {what}{note}", *finding.words.splitlines()[:20]]
    return "\n".join(lines + ([f"Hint: {finding.hint}"] if finding.hint else []))


def tolerance_of(question: Question) -> float:
    """Tolerance of the question's ``agrees``, or that of a plain one."""
    return next((r.tolerance for r in question.rules if r.tolerance is not None), agrees().tolerance)


def agrees_on_all(outcomes: list[Outcome], stored: list[Outcome], tolerance: float) -> bool:
    """Whether outcomes are the stored ones on all cases: same values, errors and changed inputs."""
    return all(_same(a, b, tolerance) for a, b in zip(outcomes, stored, strict=True))


def _broken(rule: Rule, case: Case, outcome: Outcome, value: Any) -> str | None:
    """What a rule says; a rule that cannot be worked out for this answer counts as broken."""
    try:
        return rule.broken(case.given, outcome.value, value)
    except Exception as error:
        return f"it cannot be worked out for yours, {described(outcome.value)} ({type(error).__name__})."


def _wrong_kind(question: Question, answer: Any) -> Finding | None:
    """An answer of the wrong kind, before anything is run."""
    name = question.answer
    if question.kind == "function" and not callable(answer):
        return Finding(KIND, f"expected the function `{name}` itself; this is {described(answer)}.",
                       f'Hand over the function without calling it: check("{question.name}", {name}).')  # fmt: skip
    if question.kind == "value" and answer is None:
        return Finding(NOT_DONE, "")
    if question.kind == "value" and callable(answer) and not isinstance(answer, torch.nn.Module):
        return Finding(KIND, f"expected the value `{name}`; this is a function.", "Hand over what it returns.")
    return None


def _same(yours: Outcome, stored: Outcome, tolerance: float) -> bool:
    """Whether two outcomes are the same: errors of one class, or equal values and the same inputs changed."""
    if yours.raised or stored.raised:
        return yours.raised == stored.raised
    if yours.value is None or stored.value is None or yours.changed != stored.changed:
        return yours.value is stored.value and yours.changed == stored.changed
    return difference(yours.value, stored.value, tolerance) is None


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Random numbers from seed 0 inside; afterwards the states are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
