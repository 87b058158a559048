"""A small research project: a claim, one change, a sealed prediction, two arms trained over seeds, the evidence.

A ``choice`` and a ``prediction`` are plain dicts (assignment 5 says with which keys), ``evidence`` is what
:func:`collect` returns. Functions that end in ``_fault`` return None where all is well, else a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from .claims import load_claims
from .config import IctlError, ModelConfig, TrainConfig, digest, preset, require, run_id

Configs = tuple[ModelConfig, TrainConfig]
ARMS = ("baseline", "variant")
RULER = ("tokens", "batch", "n_ctx", "d_vocab", "snapshots")
"""Fields that say how long is trained and by which rule is measured: never the one thing that is changed."""
COLUMNS = ("arm", "run_id", "seed", "measure", "value", "tokens")
KINDS = {int: "an integer", float: "a number", bool: "True or False", str: "a text in quotes"}
DIRECTIONS = ("higher", "lower")
WINDOWS = 256  # held-out windows behind losses
T95 = {n: round(float(student_t.ppf(0.975, n)), 3) for n in range(1, 31)}
"""Two-sided 95 % quantiles of Student's t, by degrees of freedom."""


@dataclass(frozen=True)
class Measure:
    """A number of a trained model."""

    meaning: str
    unit: str  # a word that stands on the axis of a figure
    low: float  # smallest and largest value that can be
    high: float


MEASURES = {
    "icl_nats": Measure("ICL score: loss late in the context minus loss early", "nats", -math.inf, math.inf),
    "loss_nats": Measure("mean loss on held-out text", "nats", 0.0, math.inf),
    "prefix_matching": Measure("prefix matching of the best head, the paper's probe", "attention", 0.0, 1.0),
    "prefix_random": Measure("prefix matching of the best head, random block lengths and gaps", "attention", 0.0, 1.0),
    "previous_token": Measure("attention of the best head to the token before", "attention", 0.0, 1.0),
    "copying": Measure("copying score of the best head", "score", -1.0, 1.0),
}


# ---- choice and prediction --------------------------------------------------------------------------


def configurations(choice: dict[str, Any]) -> dict[str, Configs]:
    """Both configurations of each arm: the preset with the arm's changes.

    Raises:
        IctlError: no such preset or field, or a bad value.
    """
    return {arm: preset(choice["preset"], **choice[arm]) for arm in ARMS}


def changed(choice: dict[str, Any]) -> list[str]:
    """Names of the fields in which the two arms differ."""
    one, other = ({k: v for cfg in pair for k, v in asdict(cfg).items()} for pair in configurations(choice).values())
    return [name for name in one if one[name] != other[name]]


def choice_fault(choice: dict[str, Any]) -> str | None:
    """What is wrong with a choice: the claim, a configuration, or the number of fields that differ."""
    return claim_fault(choice) or configs_fault(choice) or fields_fault(choice)


def claim_fault(choice: dict[str, Any]) -> str | None:
    """A claim that is not registered."""
    known, claim = [claim.id for claim in load_claims()], choice["claim"]
    if claim in known:
        return None
    capital = str(claim).strip().upper()
    why = "ids have a capital and no spaces" if capital in known else f"ids run from {known[0]} to {known[-1]}"
    return f"claim {claim!r} is not registered; {why}."


def configs_fault(choice: dict[str, Any]) -> str | None:
    """An arm that is no legal configuration."""
    for arm in ARMS:
        try:
            fault = _kind_fault(choice[arm])
            require(fault is None, str(fault))
            preset(choice["preset"], **choice[arm])
        except (IctlError, TypeError) as error:
            return f"{arm}: {error}"
    return None


def fields_fault(choice: dict[str, Any]) -> str | None:
    """Not exactly one field that differs between the arms, or one of the ruler."""
    fields = changed(choice)
    if len(fields) != 1:
        return f"{len(fields)} fields differ between the arms{': ' if fields else ''}{', '.join(fields)}; expected one."
    if fields[0] in RULER:
        return f"{fields[0]} differs; {', '.join(RULER)} are the ruler, and both arms must share them."
    return None


def _kind_fault(fields: Any) -> str | None:
    """A value of an arm that is of another kind than its field."""
    if not isinstance(fields, dict):
        return f"it is {fields!r}; expected a dict of fields."
    for name, default in ((name, x) for cfg in preset("smoke") for name, x in asdict(cfg).items() if name in fields):
        kind, value = type(default), fields[name]
        if not (type(value) is kind or (kind is float and is_number(value))):
            return f"{name} must be {KINDS[kind]}; it is {value!r}."
    return None


def prediction_fault(prediction: dict[str, Any]) -> str | None:
    """What is wrong with a prediction: its measure, its direction or its two bounds."""
    measure, direction = prediction["measure"], prediction["direction"]
    if measure not in MEASURES:
        return f"measure {measure!r} is not known; choose one of {', '.join(MEASURES)}."
    if direction not in DIRECTIONS:
        return f"direction {direction!r} is neither 'higher' nor 'lower'."
    most, least = prediction["holds_beyond"], prediction["fails_below"]
    if not (is_number(most) and is_number(least)):
        return f"holds_beyond={most!r} and fails_below={least!r} must both be numbers, in the unit of the measure."
    if not 0 <= least < most:
        return f"fails_below={least} and holds_beyond={most}; expected 0 <= fails_below < holds_beyond."
    room = MEASURES[measure].high - MEASURES[measure].low
    return f"no difference of {measure} can reach {most}; it is at most {room:g}." if most > room else None


def seal(choice: dict[str, Any], prediction: dict[str, Any]) -> str:
    """A fingerprint of choice and prediction, 16 hex digits: another word or number anywhere gives another one."""
    return digest(choice, prediction)[:16]


def is_number(x: Any) -> bool:
    """Whether ``x`` is one finite number."""
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


# ---- evidence ---------------------------------------------------------------------------------------


def planned(choice: dict[str, Any], seeds: Sequence[int]) -> dict[tuple[str, int], Configs]:
    """Configurations of every run by arm and seed.

    Seeds draw the initial weights; they order the data instead where the initial seed is what is changed.
    """
    name = "data_seed" if changed(choice) == ["init_seed"] else "init_seed"
    arms = configurations(choice)
    return {(arm, seed): (arms[arm][0], replace(arms[arm][1], **{name: seed})) for seed in seeds for arm in ARMS}


def collect(choice: dict[str, Any], prediction: dict[str, Any], seeds: Sequence[int] = (0, 1, 2),
            out: str | Path | None = None, jobs: int | None = None) -> dict[str, Any]:  # fmt: skip
    """Train both arms with the same seeds, measure the last snapshots, and return all as evidence.

    Runs that are on disk already are not trained again. The rows hold the predicted measure and, beside it, the loss.

    Raises:
        IctlError: choice or prediction are not sound, fewer than two seeds, or as :func:`ictl_utils.train.train_many`.
    """
    from .measure import measure_many
    from .train import train_many

    fault = choice_fault(choice) or prediction_fault(prediction)
    require(fault is None, f"nothing was trained: {fault}")
    require(len(set(seeds)) == len(seeds) >= 2, f"seeds={tuple(seeds)}; expected at least two different ones.")
    plan = planned(choice, seeds)
    runs = train_many(list(plan.values()), out, jobs=jobs)
    names = list(dict.fromkeys((prediction["measure"], "loss_nats")))
    histories = measure_many(runs, WINDOWS, jobs=jobs)
    rows = [dict(zip(COLUMNS, (arm, h.run_id, seed, name, _last(h, name), int(h.tokens[-1])), strict=True))
            for name in names for (arm, seed), h in zip(plan, histories, strict=True)]  # fmt: skip
    return {"choice": choice, "prediction": prediction, "seal": seal(choice, prediction), "rows": rows}


def _last(history: Any, measure: str) -> float:
    """The measure at the last snapshot, to 6 decimals; the best head's where every head has one."""
    values = getattr(history, measure.removesuffix("_nats"))[-1]
    best = values.max(initial=MEASURES[measure].low) if values.ndim else values
    return round(float(best), 6)


def as_cell(evidence: dict[str, Any]) -> str:
    """The evidence as Python code to paste into a cell, a row a line."""
    facts = [f'    "{name}": {{\n' + "".join(f"        {k!r}: {v!r},\n" for k, v in evidence[name].items()) + "    },\n"
             for name in ("choice", "prediction")]  # fmt: skip
    rows = "".join(f"        {row!r},\n" for row in evidence["rows"])
    return f'evidence = {{\n{"".join(facts)}    "seal": {evidence["seal"]!r},\n    "rows": [\n{rows}    ],\n}}'


def values(evidence: dict[str, Any], arm: str, measure: str | None = None) -> dict[int, float]:
    """Seed -> value of one arm; the predicted measure unless another one is named."""
    wanted = measure or evidence["prediction"]["measure"]
    return {row["seed"]: row["value"] for row in evidence["rows"] if (row["arm"], row["measure"]) == (arm, wanted)}


def rows_fault(evidence: dict[str, Any]) -> str | None:
    """What is wrong with the table as such: columns, a row that comes twice, a value that cannot be."""
    seen = set()
    for i, row in enumerate(evidence["rows"]):
        if not isinstance(row, dict) or set(row) != set(COLUMNS):
            return f"row {i} is {str(row)[:80]}; expected a dict with {', '.join(COLUMNS)}."
        key = row["arm"], row["seed"], row["measure"]
        if row["arm"] not in ARMS or row["measure"] not in MEASURES or key in seen:
            return f"row {i} ({key}) comes twice, or its arm or measure is not known."
        seen.add(key)
        measure = MEASURES[row["measure"]]
        value, low, high = row["value"], measure.low, measure.high
        if not is_number(value) or not low <= value <= high:
            return f"row {i}: {row['measure']}={value!r} cannot be; expected a number in {low:g} to {high:g}."
    return None


def arms_fault(evidence: dict[str, Any]) -> str | None:
    """Whether the arms cannot be compared: the predicted measure is missing, too few seeds, or not the same seeds."""
    one, other = (values(evidence, arm) for arm in ARMS)
    if set(one) != set(other):
        return f"the baseline has the seeds {sorted(one)}, the variant {sorted(other)}; expected the same."
    if len(one) < 2:
        return f"{evidence['prediction']['measure']} is there for {len(one)} seeds an arm; expected at least two."
    return "both arms have exactly the same values; was the same arm measured twice?" if one == other else None


def runs_fault(evidence: dict[str, Any]) -> str | None:
    """Whether a run is not the one that choice and seed name, or was not trained as long as the choice says."""
    rows = evidence["rows"]
    plan = planned(evidence["choice"], sorted({row["seed"] for row in rows}))
    for row in rows:
        model_cfg, train_cfg = plan[row["arm"], row["seed"]]
        wanted = run_id(model_cfg, train_cfg)
        if row["run_id"] != wanted:
            return f"{row['arm']}, seed {row['seed']}: run {row['run_id']!r}; your choice gives {wanted!r}."
        tokens = train_cfg.steps(model_cfg.n_ctx) * train_cfg.batch * model_cfg.n_ctx
        if row["tokens"] != tokens:
            return f"{row['arm']}, seed {row['seed']}: {row['tokens']} tokens; your choice trains {tokens}."
    return None
