"""The report of a research project: its figure, its conclusion and its limits, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .research import ARMS, MEASURES, seal, values


def describe(figure: Any, evidence: dict[str, Any]) -> dict[str, Any]:
    """What the first axes of a matplotlib figure say and show, as plain data."""
    axes = figure.axes[0]
    legend = axes.get_legend()
    points = [float(y) for line in axes.lines for y in line.get_ydata()]
    points += [float(y) for collection in axes.collections for _, y in collection.get_offsets()]
    return {
        "title": axes.get_title() or axes.get_title("left"), "xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel(),
        "names": [t.get_text() for t in (*axes.get_xticklabels(), *(legend.get_texts() if legend else ()))],
        "points": [round(y, 4) for y in points],
        "measure": evidence["prediction"]["measure"],
        "values": [y for arm in ARMS for y in values(evidence, arm).values()],
    }  # fmt: skip


def word_count(x: Any) -> int:
    """Words of a text that have two letters or more, each counted once; 0 where ``x`` is no text."""
    return len({w.strip(".,;:!?()").lower() for w in x.split() if len(w) > 1}) if isinstance(x, str) else 0


def labels_fault(answer: dict) -> str | None:
    """An axis or the title without text."""
    empty = [name for name in ("title", "xlabel", "ylabel") if not str(answer[name]).strip()]
    return f"no text: {', '.join(empty)}." if empty else None


def unit_fault(answer: dict) -> str | None:
    """The vertical axis does not name the measure's unit."""
    unit = MEASURES[answer["measure"]].unit
    return None if unit in answer["ylabel"].lower() else f"the vertical axis says {answer['ylabel']!r}; unit: {unit}."


def names_fault(answer: dict) -> str | None:
    """An arm that neither axis nor legend names."""
    text = " ".join([*map(str, answer["names"]), answer["xlabel"]]).lower()
    missing = [arm for arm in ARMS if arm not in text]
    return f"nowhere on the axis or in the legend: {', '.join(missing)}." if missing else None


def points_fault(answer: dict) -> str | None:
    """Measured values that are not drawn."""
    points = np.array(answer["points"], float)
    lost = [y for y in answer["values"] if not len(points) or np.abs(points - y).min() > 2e-3]
    n = len(answer["values"])
    return f"{len(lost)} of {n} measured values have no point, the first {lost[0]:.4g}." if lost or not n else None


def title_fault(answer: dict) -> str | None:
    """A title that is no finding."""
    n = word_count(answer["title"])
    return None if n >= 4 else f"the title is {answer['title']!r}; expected what one sees, in at least four words."


def word_fault(word: str, low: float, high: float, prediction: dict) -> str | None:
    """Whether a verdict contradicts its interval outright."""
    wrong_side = low <= 0 if prediction["direction"] == "higher" else high >= 0
    where = f"the interval ({low:.4g}, {high:.4g})"
    if word == "holds" and wrong_side:
        return f"'holds', but {where} has values on the side that was not predicted."
    sign = 1 if prediction["direction"] == "higher" else -1
    middle = sign * (low + high) / 2
    if word == "fails" and middle >= prediction["holds_beyond"]:
        return f"'fails', but the middle of {where} is beyond holds_beyond={prediction['holds_beyond']}."
    return None


def kept_fault(answer: dict) -> str | None:
    """Choice or prediction are not those that were sealed."""
    evidence = answer["evidence"]
    if seal(evidence["choice"], answer["prediction"]) == evidence["seal"]:
        return None
    return "choice and prediction no longer give the seal of the evidence: something was changed after the runs."


def middle_fault(answer: dict) -> str | None:
    """An interval that belongs to other rows."""
    baseline, variant = (np.mean(list(values(answer["evidence"], arm).values())) for arm in ARMS)
    mean = variant - baseline
    middle = (answer["interval"][0] + answer["interval"][1]) / 2
    return None if abs(mean - middle) < 2e-3 else (
        f"the interval's middle is {middle:.4g}; the differences of your rows have the mean {mean:.4g}.")  # fmt: skip


def sentence_fault(answer: dict) -> str | None:
    """What the concluding sentence leaves out."""
    text, claim = answer["sentence"], answer["evidence"]["choice"]["claim"]
    if claim not in text:
        return f"'sentence' does not name the claim, {claim}."
    if answer["verdict"] not in text or not any(c.isdigit() for c in text.replace(claim, "")):
        return f"'sentence' lacks the verdict, {answer['verdict']!r}, or the size of the difference in numbers."
    return None


def limits_fault(answer: dict) -> str | None:
    """Fewer than three limits, or one that is no sentence."""
    found = answer["limits"]
    if not isinstance(found, list | tuple) or len(found) < 3:
        return "'limits' must be a list of at least three sentences."
    short = [i for i, text in enumerate(found) if word_count(text) < 10]
    if short:
        return f"limit {short[0] + 1} has {word_count(found[short[0]])} different words; expected at least 10."
    return "two limits are the same." if len({str(text).lower() for text in found}) < len(found) else None
