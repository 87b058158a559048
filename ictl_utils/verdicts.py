"""The verdict that measured numbers give a registered claim."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

import pandas as pd

from .claims import SCOPES, Claim, holds, share_of_seeds
from .config import IctlError, require

Numbers = Callable[[pd.DataFrame], pd.DataFrame]
VERDICTS = ("reproduced", "contradicted", "mixed", "not testable here")


@dataclass(frozen=True)
class Verdict:
    """What the numbers say about one claim. ``value``, ``low`` and ``high`` are of the claim's first number."""

    id: str
    verdict: str  # one of VERDICTS
    value: float | None  # median over seeds
    low: float | None  # smallest over seeds
    high: float | None  # largest over seeds
    n_seeds: int
    numbers: dict[str, list[float]] = field(hash=False)  # every number, a value a seed
    figure: str = ""
    chapter: str = ""
    how_to_test: str = ""  # filled where the claim is not testable here


def judge(claim: Claim, numbers: pd.DataFrame | None, figure: str = "", chapter: str = "") -> Verdict:
    """The verdict on ``claim``: reproduced or contradicted if that test alone holds, mixed if both or neither.

    Args:
        numbers: a row a seed (the index), a column a number; ``None`` where none can be measured here.

    Raises:
        IctlError: no seed, a number of the claim missing, or NaN: there is no verdict then; or ``None`` for a
            claim that small models decide.
    """
    models = ", ".join(claim.models)
    require(numbers is not None or not claim.testable, f"claim {claim.id}: no numbers; measure them on {models}.")
    if numbers is None or not claim.reproduced_test:
        return Verdict(claim.id, VERDICTS[3], None, None, None, 0, {}, figure, chapter, how_to_test(claim))
    numbers = _checked(claim, numbers)
    first = numbers.iloc[:, 0]
    each = {name: column.tolist() for name, column in numbers.items()}
    return Verdict(claim.id, _decide(claim, numbers), float(first.median()), float(first.min()), float(first.max()),
                   len(numbers), each, figure, chapter)  # fmt: skip


def leave_one_out(claim: Claim, numbers: pd.DataFrame, again: Numbers = lambda rest: rest) -> dict[object, str]:
    """The verdict without each seed in turn, by seed left out; empty for a single seed or a claim without bounds.

    Args:
        again: makes those numbers anew that depend on all seeds.
    """
    if not claim.reproduced_test:
        return {}
    numbers = _checked(claim, numbers)
    rest = {seed: again(numbers.drop(index=seed)) for seed in numbers.index if len(numbers) > 1}
    return {seed: _decided(claim, others) for seed, others in rest.items()}


def alone(claim: Claim, numbers: pd.DataFrame, again: Numbers = lambda one: one) -> dict[object, str]:
    """What the verdict would be with each seed as the only one; arguments as :func:`leave_one_out`."""
    if not claim.reproduced_test:
        return {}
    numbers = _checked(claim, numbers)
    return {seed: _decided(claim, again(numbers.loc[[seed]])) for seed in numbers.index}


def on(claim: Claim, numbers: pd.DataFrame, again: Numbers = lambda rest: rest, *, seeds: set[int]) -> str:
    """What the verdict would be with ``seeds`` alone; empty where they are all there are, or none."""
    kept = [seed for seed in numbers.index if seed in seeds]
    if not claim.reproduced_test or len(kept) in (0, len(numbers)):
        return ""
    return _decided(claim, again(_checked(claim, numbers).loc[kept]))


def _decided(claim: Claim, numbers: pd.DataFrame) -> str:
    """As :func:`judge` would have it, in a word; a median can be undefined without one of the seeds."""
    try:
        return _decide(claim, numbers)
    except IctlError:
        return "undefined"


def judge_all(
    claims: Iterable[Claim], compute: Callable[[Claim], pd.DataFrame | None],
    places: Mapping[str, tuple[str, str]] | None = None,
) -> list[Verdict]:
    """Verdicts on ``claims``, in their order.

    Args:
        compute: the numbers of a claim, as :func:`judge` takes them.
        places: figure and chapter that show each claim, by its id.

    Raises:
        IctlError: as :func:`judge`.
    """
    return [judge(claim, compute(claim), *(places or {}).get(claim.id, ("", ""))) for claim in claims]


def how_to_test(claim: Claim, command: str = "") -> str:
    """What a reader would have to measure, and on which models, and with which command where there is one."""
    needs = " or ".join(SCOPES[letter] for letter in claim.scope)
    command = f" Command: `{command}` for each model." if command else ""
    bounds = {"Reproduced if": claim.reproduced_if, "Contradicted if": claim.contradicted_if}
    tests = " ".join(f"{word}: {bound}." for word, bound in bounds.items() if bound.strip(" -"))
    return f"Needs {needs} ({', '.join(claim.models)}).{command} Measure: {claim.measure}. {tests}"


def to_frame(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """A row a verdict, without the numbers of single seeds."""
    columns = [name for name in Verdict.__dataclass_fields__ if name != "numbers"]
    return pd.DataFrame([{name: getattr(verdict, name) for name in columns} for verdict in verdicts], columns=columns)


def to_json(verdicts: Iterable[Verdict]) -> str:
    """All verdicts with all numbers; infinite numbers as the strings ``"inf"`` and ``"-inf"``."""
    return json.dumps([_plain(asdict(verdict)) for verdict in verdicts], indent=1, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _checked(claim: Claim, numbers: pd.DataFrame) -> pd.DataFrame:
    """The claim's numbers as floats, in the order of the registration."""
    missing = [name for name in claim.numbers if name not in numbers]
    require(not missing, f"claim {claim.id}: {', '.join(missing)} is missing; no verdict without it.")
    require(len(numbers) > 0, f"claim {claim.id}: no seed was measured; no verdict.")
    require(numbers.index.is_unique, f"claim {claim.id}: a seed comes twice in {list(numbers.index)}.")
    numbers = numbers[list(claim.numbers)].astype(float)
    bad = [f"{name} of seed {seed}" for name in numbers for seed in numbers.index[numbers[name].isna()]]
    require(not bad, f"claim {claim.id}: {', '.join(bad)} is NaN; no verdict with it.")
    return numbers


def _decide(claim: Claim, numbers: pd.DataFrame) -> str:
    good, bad = (_over_seeds(claim.seeds, test, numbers) for test in (claim.reproduced_test, claim.contradicted_test))
    return VERDICTS[2] if good == bad else VERDICTS[0] if good else VERDICTS[1]


def _over_seeds(seeds: str, test: str, numbers: pd.DataFrame) -> bool:
    if seeds == "median":
        return holds(test, numbers.median().to_dict())
    n = sum(holds(test, row) for row in numbers.to_dict("records"))
    return n >= share_of_seeds(seeds) * len(numbers) - 1e-9
