"""Numbers of the claims on heads: what is lost without them, and how their scores go together (C, E01-E05, G12)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from .ablations import FILLS
from .metrics import best_head
from .numbers_base import ATTENTION_ONLY, RunTables, Zoo, by_seed, over
from .survey import FULL
from .survey_facts import THRESHOLD

ALL_ATTENTION = ("attn-1l", *ATTENTION_ONLY)
MLP = tuple(f"mlp-{n}l" for n in (2, 3, 4, 5, 6))
RESAMPLES = 1000
REMARKS = {  # on tests as they were registered
    "C02": f"the effect is read on fewer held-out windows ({FULL.ablations} at the laptop preset) than the gain "
           f"({FULL.icl:,}, those among them)",
}
Models = Sequence[RunTables]
PerHead = Float[np.ndarray, "layer head"]


def over_models(zoo: Zoo, names: Sequence[str], numbers: Callable[[Models], Mapping[str, float]], needed: int = 1
                ) -> pd.DataFrame:
    """Numbers over the models of each seed; a seed counts if the first ``needed`` of ``names`` have it."""
    return by_seed(zoo.seeds(*names[:needed]), lambda seed: numbers(zoo.models(names, seed)))


# ---- statistics -----------------------------------------------------------------------------------


def correlation(x: Float[np.ndarray, "... n"], y: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """Pearson's, over the last axis; NaN where ``x`` or ``y`` does not vary."""
    x, y = (a - a.mean(axis=-1, keepdims=True) for a in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def rank_correlation(x: Float[np.ndarray, "... n"], y: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """Spearman's, over the last axis; ties share their mean rank."""
    return correlation(rankdata(x, axis=-1), rankdata(y, axis=-1))


def interval(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """The registered 95 % interval of the rank correlation: heads drawn again with replacement, seed 0.

    Draws in which a score does not vary have no correlation and are left out.
    """
    drawn = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    low, high = np.nanpercentile(rank_correlation(x[drawn], y[drawn]), (2.5, 97.5))
    return float(low), float(high)


def pooled(models: Models, column: str, snapshot: int = -1, first_layer: int = 0) -> Float[np.ndarray, "head"]:
    """A column of ``heads`` at one snapshot, over all heads from ``first_layer`` on of all models."""
    return np.concatenate([run.per_head(column)[snapshot, first_layer:].ravel() for run in models])


def gained(part: float, whole: float) -> float:
    """``part / whole``; NaN where ``whole`` is not positive: there is no gain then that could be shared out."""
    return over(part, whole) if whole > 0 else float("nan")


# ---- ablations: C01 to C08 ------------------------------------------------------------------------


def induction_mask(run: RunTables) -> Bool[np.ndarray, "layer head"]:
    """Which heads are induction heads."""
    mask = np.zeros(run.prefix.shape[1:], dtype=bool)
    mask[tuple(np.transpose(run.induction))] = True
    return mask


def precision(models: Models) -> float:
    """Share of induction heads among the heads with the largest effects, as many of a model as it has of them."""
    hits = 0
    for run in models:
        largest = np.argsort(-run.effect().ravel(), kind="stable")[: len(run.induction)]
        hits += int(induction_mask(run).ravel()[largest].sum())
    return hits / sum(len(run.induction) for run in models)


def c01(zoo: Zoo) -> pd.DataFrame:
    """C01: are the heads with the largest effects the induction heads?"""
    return over_models(zoo, ATTENTION_ONLY, lambda models: {
        "precision": precision(models),
        "top_best": np.mean([best_head(run.effect()) in run.induction for run in models]),
    })  # fmt: skip


def c02(zoo: Zoo) -> pd.DataFrame:
    """C02: share of what is gained from the start of the window on that all induction heads together carry."""
    def removed(run: RunTables) -> float:
        lost = run.fact("joint_icl_change_nats", "pattern-preserving, induction")
        return gained(lost, run.at("icl_nats", run.window.start) - run.icl[-1])

    return over_models(zoo, ATTENTION_ONLY, lambda models: worst_and_best("removed", map(removed, models)))


def worst_and_best(name: str, values: Iterable[float]) -> dict[str, float]:
    """The smallest value over the models, and the largest; NaN if any is NaN."""
    each = np.array(list(values))
    return {name: each.min(), f"{name}_best": each.max()}


def c03(zoo: Zoo) -> pd.DataFrame:
    """C03: does the effect of the induction heads start with the change, and last?"""
    def numbers(models: Models) -> dict[str, float]:
        before, end = np.transpose([effect_over_training(run) for run in models])
        return {"before": before.max(), **worst_and_best("end", end)}

    return over_models(zoo, ("attn-2l", "attn-3l"), numbers)


def effect_over_training(run: RunTables) -> tuple[float, float]:
    """Mean effect of all heads that ever were induction heads, over its peak: size before the window, and end.

    Size before: mean of absolute values over the snapshots up to the start of the window; the first snapshot counts
    as before where the window begins with it. NaN where the effect was never positive.
    """
    ever = (run.prefix > THRESHOLD).any(axis=0)
    ever = ever if ever.any() else run.prefix.max(axis=0) == run.prefix.max()
    measured, effects = run.ablated()
    mean = effects[:, ever].mean(axis=1)
    early = mean[run.tokens[measured] <= run.window.start]
    return gained(np.abs(early).mean(), mean.max()), gained(mean[-1], mean.max())


def c04(zoo: Zoo) -> pd.DataFrame:
    """C04: share of the other heads without which the model gains more from context."""
    def numbers(models: Models) -> dict[str, float]:
        return {"share": np.concatenate([run.effect()[~induction_mask(run)] < 0 for run in models]).mean()}

    return over_models(zoo, ATTENTION_ONLY, numbers)


def c05(zoo: Zoo) -> pd.DataFrame:
    """C05: does taking out an induction head undo the phase change, token by token?"""
    def numbers(models: Models) -> dict[str, float]:
        along = [run.effect(column="attribution_nats") for run in models]
        mine = [x[induction_mask(run)] for run, x in zip(models, along, strict=True)]
        top = [best_head(-x) in run.induction for run, x in zip(models, along, strict=True)]
        high = interval(pooled(models, "prefix_matching"), np.concatenate([x.ravel() for x in along]))[1]
        return {"top": np.mean(top), "mean": np.concatenate(mine).mean(), "rho_high": high}

    return over_models(zoo, ATTENTION_ONLY, numbers)


def c06(zoo: Zoo) -> pd.DataFrame:
    """C06: C01 with MLPs."""
    return over_models(zoo, MLP, lambda models: {"precision": precision(models)})


def c07(zoo: Zoo) -> pd.DataFrame:
    """C07: does the previous-token head matter through later patterns only?"""
    def ratio(run: RunTables) -> float:
        full, kept = (run.effect(kind)[run.previous_head] for kind in ("full", "pattern-preserving"))
        return over(full, abs(kept))

    return over_models(zoo, ATTENTION_ONLY, lambda models: worst_and_best("ratio", map(ratio, models)))


def c08(zoo: Zoo) -> pd.DataFrame:
    """C08: do zero, mean and resample ablation rank the heads alike?"""
    def rho(run: RunTables) -> float:
        pairs = combinations([run.effect(fill=fill).ravel() for fill in FILLS], 2)
        return min(float(rank_correlation(a, b)) for a, b in pairs)

    return over_models(zoo, ATTENTION_ONLY, lambda models: worst_and_best("rho", map(rho, models)))


# ---- scores: E01 to E05, G12 ----------------------------------------------------------------------


def e01(zoo: Zoo) -> pd.DataFrame:
    """E01: do prefix matching and copying go together?"""
    def numbers(models: Models) -> dict[str, float]:
        prefix, copying = (pooled(models, column) for column in ("prefix_matching", "copying"))
        return {"rho": float(rank_correlation(prefix, copying)), "rho_low": interval(prefix, copying)[0]}

    return over_models(zoo, ALL_ATTENTION, numbers)


def e02(zoo: Zoo) -> pd.DataFrame:
    """E02: does copying, as measured, agree with the eigenvalues of the OV circuit?"""
    return over_models(zoo, ALL_ATTENTION, lambda models: {
        "r": float(correlation(pooled(models, "copying"), pooled(models, "ov_copying")))})  # fmt: skip


def e03(zoo: Zoo) -> pd.DataFrame:
    """E03: does prefix matching, as measured, agree with the trace of the QK circuit?"""
    return over_models(zoo, ATTENTION_ONLY, lambda models: {
        "rho": float(rank_correlation(*(pooled(models, c, first_layer=1) for c in ("prefix_matching", "qk_trace"))))
    })  # fmt: skip


def e04(zoo: Zoo) -> pd.DataFrame:
    """E04: in how many of five depths is the best head in the last layer?"""
    return over_models(zoo, ATTENTION_ONLY, lambda models: {
        "last": sum(best_head(run.prefix[-1])[0] == len(run.prefix[-1]) - 1 for run in models)
    }, needed=len(ATTENTION_ONLY))  # fmt: skip


def e05(zoo: Zoo) -> pd.DataFrame:
    """E05: where the induction heads of deep models with MLPs are; a layer is in the first half if it ends there."""
    def numbers(models: Models) -> dict[str, float]:
        at = [(layer, len(run.prefix[-1])) for run in models for layer, _ in run.induction]
        second = [layer == n - 2 for layer, n in at]
        return {"second": np.mean(second), "elsewhere": np.mean([layer == n - 1 or layer < n // 2 for layer, n in at])}

    return over_models(zoo, ("mlp-5l", "mlp-6l"), numbers, needed=2)


def g12(zoo: Zoo) -> pd.DataFrame:
    """G12: does every model have a previous-token head?"""
    def numbers(models: Models) -> dict[str, float]:
        previous = np.array([run.previous[-1].max() for run in models])
        prefix = np.array([run.prefix[-1].max() for run in models])
        return {"lowest": previous.min(), "without": ((prefix > THRESHOLD) & (previous <= 0.5)).sum()}

    return over_models(zoo, (*ATTENTION_ONLY, *MLP), numbers)


HEADS: dict[str, Callable[[Zoo], pd.DataFrame]] = {
    "C01": c01, "C02": c02, "C03": c03, "C04": c04, "C05": c05, "C06": c06, "C07": c07, "C08": c08,
    "E01": e01, "E02": e02, "E03": e03, "E04": e04, "E05": e05, "G12": g12,
}  # fmt: skip
