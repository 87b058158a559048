"""Assignment 5, "A small research project": cases and rules of its exercises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .grading import Case, Question
from .grading_rules import Rule, agrees, finite, holds, keys
from .grading_words import word_count
from .research import (
    ARMS,
    arms_fault,
    choice_fault,
    claim_fault,
    configs_fault,
    fields_fault,
    is_number,
    prediction_fault,
    rows_fault,
    runs_fault,
    seal,
)
from .research_report import (
    interval_fault,
    kept_fault,
    labels_fault,
    limits_fault,
    names_fault,
    points_fault,
    sentence_fault,
    title_fault,
    unit_fault,
    verdict_fault,
    word_fault,
)

WORDS = ("holds", "fails", "open")
CHOICE = ("claim", "preset", *ARMS, "why")
PREDICTION = ("measure", "direction", "holds_beyond", "fails_below", "because", "against")
EVIDENCE = ("choice", "prediction", "seal", "rows")


def value_case(seed: int) -> list[Case]:
    """The one case of an answer that is a value."""
    return [Case({})]


# ---- rules ------------------------------------------------------------------------------------------


def of_answer(name: str, fault: Callable[[Any], str | None], hint: str = "") -> Rule:
    """A rule that looks at the answer alone."""
    return holds(name, lambda given, answer: fault(answer), hint)


def sentences(least: int, *names: str) -> Rule:
    """Each of the named entries is text of at least ``least`` words."""

    def fault(answer: dict) -> str | None:
        for name in names:
            n = word_count(answer[name])
            if n < least:
                return f"{name!r} has {n} words; expected a sentence of at least {least}."
        return None

    return of_answer("reasons in words", fault, "Write for a reader who has not seen your notebook.")


def _pair(answer: Any) -> str | None:
    ok = isinstance(answer, list | tuple) and len(answer) == 2 and all(map(is_number, answer))
    return None if ok else f"yours is {str(answer)[:80]}; expected two finite numbers, (low, high)."


def _ordered(answer: Any) -> str | None:
    low, high = answer
    return None if low <= high else f"low={low:.4g} is above high={high:.4g}."


def _found(given: dict) -> np.ndarray:
    one, other = given["baseline"], given["variant"]
    return np.array([other[seed] - one[seed] for seed in one if seed in other])


def _around_what_was_found(given: dict, answer: Any) -> str | None:
    found = _found(given)
    low, high = answer
    if low - 1e-6 <= found.mean() <= high + 1e-6:
        return None
    return f"({low:.4g}, {high:.4g}) does not hold the mean of the differences seed by seed, {found.mean():.4g}."


def _no_spread_no_width(given: dict, answer: Any) -> str | None:
    found = _found(given)
    width = answer[1] - answer[0]
    if np.ptp(found) < 1e-9 and width > 1e-6:
        return f"all seeds give the difference {found[0]:.4g}, but yours is {width:.4g} wide."
    return None


def _one_word(answer: Any) -> str | None:
    return None if answer in WORDS else f"yours is {str(answer)[:60]!r}; expected one of {', '.join(WORDS)}."


def _sure_side(given: dict, answer: str) -> str | None:
    """What a word rules out, whatever the exact criterion is."""
    return word_fault(answer, given["low"], given["high"], given["prediction"])


def _sealed(answer: dict) -> str | None:
    wanted = seal(answer["choice"], answer["prediction"])
    return None if answer["seal"] == wanted else (
        f"the seal is {answer['seal']!r}, but this choice and this prediction have {wanted!r}.")  # fmt: skip


def _choice_and_prediction(answer: dict) -> str | None:
    return choice_fault(answer["choice"]) or prediction_fault(answer["prediction"])


def _evidence(answer: dict) -> str | None:
    found = answer["evidence"]
    return _choice_and_prediction(found) or rows_fault(found) or arms_fault(found) or runs_fault(found)


# ---- cases ------------------------------------------------------------------------------------------


def _interval_cases(seed: int) -> list[Case]:
    rng = np.random.default_rng(500 + seed)

    def arm(n: int, mean: float) -> dict[int, float]:
        return {s: round(float(x), 4) for s, x in enumerate(rng.normal(mean, 0.2, n))}

    baseline, shift = arm(4, 0.5), round(float(rng.uniform(0.1, 0.4)), 4)
    shuffled = dict(reversed(arm(5, 0.2).items()))
    return [
        Case({"baseline": arm(5, -0.4), "variant": arm(5, -0.9)}, "five seeds"),
        Case({"baseline": arm(2, 0.1), "variant": arm(2, 0.6)}, "two seeds"),
        Case({"baseline": arm(5, 0.4), "variant": shuffled}, "the seeds come in another order"),
        Case({"baseline": arm(3, 0.4), "variant": arm(6, 0.2)}, "the variant has more seeds"),
        Case({"baseline": baseline, "variant": {s: x + shift for s, x in baseline.items()}}, "one difference"),
        Case({"baseline": arm(4, 0.4), "variant": {s + 1: x for s, x in arm(4, 0.1).items()}},
             "each arm has a seed that the other lacks"),
    ]


def _verdict_cases(seed: int) -> list[Case]:
    """Intervals as seen along the predicted direction; odd seeds exchange the directions."""
    rng = np.random.default_rng(600 + seed)
    least, most = round(float(rng.uniform(0.05, 0.15)), 3), round(float(rng.uniform(0.3, 0.6)), 3)
    bits = rng.uniform(0.01, 0.04, 6).round(3)
    one, other = ("lower", "higher") if seed % 2 else ("higher", "lower")
    along = [
        (most + bits[0], most + 0.3, one, "it is wholly beyond the bound"),
        (-most - 0.3, -most - bits[1], one, "it is clearly the other way"),
        (-0.3, most + bits[2], one, "it reaches from the wrong side to beyond the bound"),
        (-0.2, least - bits[3], other, "it is next to nothing, or the other way"),
        (most - bits[4], most + 0.3, other, "it is across the upper bound, its middle beyond it"),
        (bits[5], (least + most) / 2, other, "it is more than nothing and less than the bound"),
    ]
    bounds, found = {"measure": "icl_nats", "holds_beyond": most, "fails_below": least}, []
    for near, far, way, note in along:
        low, high = (near, far) if way == "higher" else (-far, -near)
        given = {"low": float(low), "high": float(high), "prediction": bounds | {"direction": way}}
        found.append(Case(given, f"{way} was predicted, and {note}"))
    return found


# ---- questions --------------------------------------------------------------------------------------

QUESTIONS = (
    Question(
        "a5.q1", "One claim, one change", "choice", 2, 10, 1, value_case,
        (keys(*CHOICE),
         of_answer("the claim is registered", claim_fault, "The first column of the table of claims has the ids."),
         of_answer("both arms can be trained", configs_fault, "The fields are those of ModelConfig and TrainConfig."),
         of_answer("one field differs", fields_fault, "Build both arms from one dict of common fields."),
         sentences(8, "why")),
        kind="value",
    ),
    Question(
        "a5.q2", "A prediction that can lose", "prediction", 3, 15, 2, value_case,
        (keys(*PREDICTION), of_answer("measure, direction and bounds", prediction_fault),
         sentences(10, "because", "against")),
        kind="value", read=True,
    ),
    Question(
        "a5.q3", "How sure are a few seeds?", "interval", 3, 15, 2, _interval_cases,
        (Rule("two numbers", lambda g, a, e: _pair(a), "Return a tuple (low, high).", structural=True),
         of_answer("low is not above high", _ordered),
         holds("around the mean difference", _around_what_was_found, "Which two runs belong together?"),
         holds("no spread, no width", _no_spread_no_width), agrees(1e-3)),
        "Work one case by hand: the differences, their mean, their standard deviation, and how many there are.",
    ),
    Question(
        "a5.q4", "The verdict, before the data", "verdict", 2, 10, 2, _verdict_cases,
        (Rule("one of three words", lambda g, a, e: _one_word(a), structural=True),
         holds("the verdict does not contradict its interval", _sure_side), agrees()),
        "Turn the sign first, so that the predicted direction is always upwards; two comparisons remain.",
    ),
    Question(
        "a5.q5", "Run it", "evidence", 4, 25, 2, value_case,
        (keys(*EVIDENCE), finite(), of_answer("choice and prediction are sound", _choice_and_prediction),
         of_answer("the seal fits", _sealed, "Was something changed after the runs? Then train again, and say so."),
         of_answer("the table is sound", rows_fault), of_answer("the arms have the same seeds", arms_fault),
         of_answer("each row belongs to its run", runs_fault, "Paste what the training cell prints, unchanged.")),
        kind="value",
    ),
    Question(
        "a5.q6", "Show every run", "picture", 2, 15, 2, value_case,
        (keys("title", "xlabel", "ylabel", "names", "points", "measure", "values"),
         of_answer("title and both axes", labels_fault), of_answer("the axis has its unit", unit_fault),
         of_answer("both arms are named", names_fault),
         of_answer("every run is a point", points_fault, "A bar of means hides how many runs there are."),
         of_answer("the title says what one sees", title_fault)),
        kind="value",
    ),
    Question(
        "a5.q7", "What came out", "conclusion", 2, 10, 2, value_case,
        (keys("prediction", "evidence", "interval", "verdict", "sentence"),
         of_answer("the prediction is the sealed one", kept_fault, "Put it back as it was; comments go into the text."),
         of_answer("the evidence is that of exercise 5", _evidence, "Take `evidence` as the training cell gave it."),
         of_answer("interval: two numbers", lambda a: _pair(a["interval"]) or _ordered(a["interval"])),
         of_answer("the interval is that of the evidence", interval_fault,
                   "Give `values(evidence, arm)` of both arms to your function, and take what it returns."),
         of_answer("one of three words", lambda a: _one_word(a["verdict"])),
         of_answer("verdict and interval fit", verdict_fault),
         sentences(15, "sentence"), of_answer("claim, verdict and size in the sentence", sentence_fault)),
        kind="value",
    ),
    Question(
        "a5.q8", "What it does not show", "limits", 2, 15, 3, value_case,
        (keys("limits", "next"), of_answer("three limits", limits_fault), sentences(12, "next")),
        kind="value", read=True,
    ),
)
