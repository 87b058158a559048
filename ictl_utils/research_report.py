"""The report of a research project: its figure, its conclusion and its limits, and what is wrong with them."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from .config import require
from .grading_words import word_count
from .research import ARMS, MEASURES, seal, values

ROUNDED = 0.02  # how far an end of an interval in a sentence may be from its value, if not 5 % of it
NEAR = 1e-3  # how far from exact an end of an interval may be, in the unit of the measure


def describe(figure: Any, evidence: dict[str, Any]) -> dict[str, Any]:
    """What a matplotlib figure says and shows, all its axes together, as plain data.

    Raises:
        IctlError: it is no figure.
    """
    require(figure is not None, "draw returned None; it must end with the line `return figure`.")
    require(hasattr(figure, "get_suptitle"), f"draw returned an object of class {type(figure).__name__}; expected the "
            "matplotlib figure.")  # fmt: skip
    titles = [figure.get_suptitle(), *(a.get_title(at) for a in figure.axes for at in ("center", "left", "right"))]
    legends = [*figure.legends, *(found for a in figure.axes if (found := a.get_legend()))]
    texts = [t for a in figure.axes for t in (*a.get_xticklabels(), *a.texts)] + [*figure.texts]
    texts += [t for legend in legends for t in (legend.get_title(), *legend.get_texts())]
    return {
        "title": max(titles, key=word_count), "xlabel": _labels(figure, "x"), "ylabel": _labels(figure, "y"),
        "names": [*(t.get_text() for t in texts), *titles],
        "points": [round(y, 4) for a in figure.axes for y in _heights(a)],
        "measure": evidence["prediction"]["measure"],
        "values": [y for arm in ARMS for y in values(evidence, arm).values()],
    }  # fmt: skip


def _labels(figure: Any, side: str) -> str:
    """The labels of all axes of one side, and the figure's own."""
    found = [getattr(figure, f"get_sup{side}label")(), *(getattr(a, f"get_{side}label")() for a in figure.axes)]
    return "; ".join(dict.fromkeys(text for text in found if text.strip()))


def _heights(axes: Any) -> list[float]:
    """Heights at which something is drawn: points of lines, scattered points, tops of bars."""
    found = [y for line in axes.lines for y in line.get_ydata(orig=False)]
    found += [y for collection in axes.collections for _, y in collection.get_offsets()]
    found += [bar.get_y() + bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")]
    return [float(y) for y in found if np.isfinite(float(y))]


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


def interval_fault(answer: dict) -> str | None:
    """An interval at whose ends a t-test of the rows' differences does not turn significant."""
    found = _differences(answer["evidence"])
    if len(found) < 2:
        return "the rows of your evidence have fewer than two seeds in both arms; no interval can be given."
    low, high = answer["interval"]
    near = max(NEAR, (high - low) / 10_000)
    ends = (_surely(found, "greater", low - near), not _surely(found, "greater", low + near),
            _surely(found, "less", high + near), not _surely(found, "less", high - near))  # fmt: skip
    return None if all(ends) else "the interval is not the one that exercise 3 gives for the rows of your evidence."


def verdict_fault(answer: dict) -> str | None:
    """A verdict that t-tests of the rows' differences against the two bounds do not bear out."""
    prediction, word = answer["prediction"], answer["verdict"]
    found = _differences(answer["evidence"]) * (1 if prediction["direction"] == "higher" else -1)
    most, least = prediction["holds_beyond"], prediction["fails_below"]
    borne_out = {
        "holds": _surely(found, "greater", most - NEAR), "fails": _surely(found, "less", least + NEAR),
        "open": not (_surely(found, "greater", most + NEAR) or _surely(found, "less", least - NEAR)),
    }  # fmt: skip
    wrong = f"{word!r} is not the word that exercise 4 gives for this interval and this prediction."
    return None if borne_out[word] else wrong


def _differences(evidence: dict) -> np.ndarray:
    one, other = (values(evidence, arm) for arm in ARMS)
    return np.array([other[seed] - one[seed] for seed in one if seed in other])


def _surely(found: np.ndarray, side: str, bound: float) -> bool:
    """Whether a one-sided t-test at 2.5 % says that the mean is on this side of the bound."""
    with warnings.catch_warnings():  # differences that are all alike
        warnings.simplefilter("ignore", RuntimeWarning)
        return bool(ttest_1samp(found, bound, alternative=side).pvalue < 0.025)


def sentence_fault(answer: dict) -> str | None:
    """What the concluding sentence leaves out."""
    text, claim = answer["sentence"], answer["evidence"]["choice"]["claim"]
    if claim not in text:
        return f"'sentence' does not name the claim, {claim}."
    if answer["verdict"] not in text:
        return f"'sentence' lacks the verdict, {answer['verdict']!r}."
    numbers = [float(n.replace(",", ".")) for n in re.findall(r"\d+(?:[.,]\d+)?", text.replace(claim, ""))]
    missing = [end for end in answer["interval"] if not any(abs(n - abs(end)) <= max(ROUNDED, 0.05 * abs(end))
                                                            for n in numbers)]  # fmt: skip
    return f"'sentence' lacks a number: {missing[0]:.2f}, an end of your interval." if missing else None


def limits_fault(answer: dict) -> str | None:
    """Fewer than three limits, or one that is no sentence."""
    found = answer["limits"]
    if not isinstance(found, list | tuple) or len(found) < 3:
        return "'limits' must be a list of at least three sentences."
    short = [i for i, text in enumerate(found) if word_count(text) < 10]
    if short:
        return f"limit {short[0] + 1} has {word_count(found[short[0]])} words; expected at least 10."
    return "two limits are the same." if len({str(text).lower() for text in found}) < len(found) else None
