"""Numbers of the claims on pretrained models (A06, A17, E06, E07, E09-E11), from the tables of ``ictl pretrained``.

Each function gives what column ``numbers`` of ``claims.csv`` defines, as the other modules of numbers do, and an empty
frame unless all models of the claim were measured: on the same text, at the end of their training, and for numbers
over training from its first step on. Where the registration leaves a choice, the function says which was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from .numbers_base import PER_RUN, RunTables, Zoo, by_seed, over
from .numbers_heads import correlation, rank_correlation
from .numbers_shapes import FORMED
from .pretrained import end_of
from .tables import SCHEMA, Tables

LARGE = ("pythia-1b", "pythia-1.4b", "pythia-2.8b", "pythia-6.9b")  # at least 1B parameters, embeddings included
SMALL = ("pythia-70m", "pythia-160m", "pythia-410m")
PYTHIA = (*SMALL, *LARGE)
TRAINING = 300e9  # tokens of Pythia's training, as registered
EXACT = 501  # shortest context in which token 500 exists
EARLY, COPIED = 10, 0.5  # token of E09 and E10; prefix-matching score of E07
Runs = Sequence[RunTables]
_UNSEEN = "The models may have been trained on the default corpus: name newer text (--corpus path:GLOB)."
_EARLY = "Smoothed as registered, over a fiftieth of the run, a curve that falls early in it has an onset of 0"
REMARKS = {  # what was seen of a registered test after its registration, and calls that no command makes
    "A06": _UNSEEN,
    "A17": f"{_EARLY}, and the claim is then mixed at best.",
    "D02": "No command does it: ictl_utils.prompts has texts and scores, chapter 10 the calls.",
    "D03": "No command does it: ictl_utils.prompts and category_task have texts and scores, chapter 10 the calls.",
    "D04": "`ictl pretrained NAME` gives copying and prefix-matching scores of every head; no bound is registered.",
    "E07": "The copying score is twice a share minus 1, so that most ordinary induction heads are below 0 too; "
           "ov_copying below 0, in the same table, is the stricter reading.",
    "E09": _UNSEEN, "E10": _UNSEEN,
    "E11": f"{_EARLY}, and the claim is then mixed at best. {_UNSEEN}",
}  # fmt: skip


def zoos(tables: Tables) -> list[Zoo]:
    """A :class:`Zoo` for each text that models were measured on, longest text first.

    Args:
        tables: as :func:`ictl_utils.pretrained_tables.read` gives them.
    """
    runs = tables["runs"]
    none = {name: [] for name in PYTHIA}
    whole = tables | {name: pd.DataFrame(columns=list(SCHEMA[name])) for name in PER_RUN if name not in tables}
    found = []
    for _, group in runs.groupby("settings"):
        ids = {name: part["run_id"].tolist() for name, part in group.groupby("name")}
        found.append((int((group["windows"] * group["n_ctx"]).max()), Zoo(whole, none | ids)))
    return [zoo for _, zoo in sorted(found, key=lambda pair: -pair[0])]


def of_all(zoo: Zoo, names: Sequence[str], numbers: Callable[[Runs], Mapping[str, float]], n_ctx: int = EARLY + 2,
           training: bool = False) -> pd.DataFrame:
    """Numbers that need all the models, each at the end of its training.

    Args:
        n_ctx: shortest context that will do.
        training: whether checkpoints from the first step on are needed, four or more.
    """
    def complete(run: RunTables) -> bool:
        at_end = not run.tokens[-1] < end_of(run.run["name"])  # true of models whose end is not known
        return run.run["n_ctx"] >= n_ctx and at_end and (not training or (len(run.tokens) >= 4 and run.tokens[0] == 0))

    runs = {seed: zoo.models(names, seed) for seed in zoo.seeds(*names)}
    return by_seed([seed for seed in runs if all(map(complete, runs[seed]))], lambda seed: numbers(runs[seed]))


def size(runs: Runs) -> Float[np.ndarray, "size"]:
    """Numbers of weights."""
    return np.array([run.run["parameters"] for run in runs], dtype=float)


def last_losses(run: RunTables) -> Float[np.ndarray, "pos"]:
    """Loss by position of the trained model, nats."""
    rows = run.positions[run.positions["snapshot"] == run.snapshots["snapshot"].iloc[-1]]
    return rows.sort_values("position")["loss_nats"].to_numpy(float)


def trend(runs: Runs, values: Sequence[float]) -> float:
    """Absolute rank correlation of a value a model with the number of its weights."""
    return float(np.abs(rank_correlation(size(runs), np.array(values, dtype=float))))


# ---- trained models ---------------------------------------------------------------------------------


def a06(zoo: Zoo) -> pd.DataFrame:
    """A06: the same in-context learning score whatever the size."""

    def numbers(runs: Runs) -> dict[str, float]:
        scores = np.array([run.series("icl_at_positions_nats")[-1] for run in runs])
        return {"spread": over(np.ptp(scores), abs(scores.mean())), "trend": trend(runs, scores)}

    return of_all(zoo, PYTHIA, numbers, EXACT)


def e06(zoo: Zoo) -> pd.DataFrame:
    """E06: most induction heads of large models lie before half of their depth; nan where there are none."""

    def numbers(runs: Runs) -> dict[str, float]:
        depths = [layer / run.run["n_layers"] for run in runs for layer, _ in np.argwhere(run.prefix[-1] > FORMED)]
        return {"depth": float(np.median(depths)) if depths else float("nan")}

    return of_all(zoo, LARGE, numbers)


def e07(zoo: Zoo) -> pd.DataFrame:
    """E07: heads of large models that match prefixes and do not copy; nan where copying was not measured.

    The scale of the copying score makes the registered bound a weak one (:data:`REMARKS`).
    """

    def count(run: RunTables) -> float:
        copying = run.per_head("copying")[-1]
        return float("nan") if np.isnan(copying).any() else float(((run.prefix[-1] > COPIED) & (copying < 0)).sum())

    return of_all(zoo, PYTHIA, lambda runs: {
        "large": sum(count(run) for run in runs if run.run["name"] in LARGE),
        "small": sum(count(run) for run in runs if run.run["name"] in SMALL),
    })  # fmt: skip


def e09(zoo: Zoo) -> pd.DataFrame:
    """E09: what a larger model gains is there after ten tokens; the reference is the smallest model."""

    def numbers(runs: Runs) -> dict[str, float]:
        reference, *larger = map(last_losses, runs)
        gains = [reference - losses for losses in larger]
        return {"share": min(over(gain[EARLY], gain.mean()) for gain in gains)}

    return of_all(zoo, PYTHIA, numbers)


def e10(zoo: Zoo) -> pd.DataFrame:
    """E10: where the early loss is read does not matter; the last token is that of the windows measured."""

    def numbers(runs: Runs) -> dict[str, float]:
        curves = np.stack([losses[-1] - losses for losses in map(last_losses, runs)])[:, EARLY:]
        return {"apart": float(np.ptp(curves, axis=0).max()), "trend": trend(runs, curves[:, 0])}

    return of_all(zoo, PYTHIA, numbers)


# ---- over training ----------------------------------------------------------------------------------


def a17(zoo: Zoo) -> pd.DataFrame:
    """A17: the window begins within the first hundredths of training.

    The registered curve is smoothed over a fiftieth of the run (see ``claims_terms.csv``). An onset earlier than
    that is not resolved: the curve is already steep where it begins, and the onset is 0.
    """

    def numbers(runs: Runs) -> dict[str, float]:
        onsets = [run.window.start / TRAINING for run in runs]
        return {"onset_min": min(onsets), "onset_max": max(onsets)}

    return of_all(zoo, PYTHIA, numbers, training=True)


def e11(zoo: Zoo) -> pd.DataFrame:
    """E11: larger models learn faster after the change, smaller ones before it.

    Slopes are taken between neighbouring checkpoints that all sizes have. Where the correlation changes its sign more
    than once, that change counts which leaves the fewest intervals with the wrong sign on either side. An onset that
    is not resolved is 0 (:func:`a17`), and the ratio then infinite.
    """

    def numbers(runs: Runs) -> dict[str, float]:
        tokens, signs = slope_signs(runs)
        flips = np.flatnonzero(signs[1:] != signs[:-1]) + 1
        if not len(flips):
            return {"flip": 0.0, "ratio": float("inf")}
        wrong = [min((signs[:i] > 0).sum() + (signs[i:] < 0).sum(), (signs[:i] < 0).sum() + (signs[i:] > 0).sum())
                 for i in flips]  # fmt: skip
        at = tokens[flips[int(np.argmin(wrong))]]
        return {"flip": 1.0, "ratio": over(at, float(np.mean([run.window.start for run in runs])))}

    return of_all(zoo, PYTHIA, numbers, training=True)


def slope_signs(runs: Runs) -> tuple[Float[np.ndarray, "interval"], Float[np.ndarray, "interval"]]:
    """Tokens at which each interval begins, and the sign there of the correlation of size and d loss / d ln(tokens).

    Intervals in which no size differs from another have no sign and are left out.
    """
    shared = sorted(set.intersection(*(set(run.tokens[run.tokens > 0].tolist()) for run in runs)))
    losses = np.stack([[run.series("loss_nats")[run.tokens == t][0] for t in shared] for run in runs])
    slopes = np.diff(losses, axis=1) / np.diff(np.log(shared))
    found = np.sign(correlation(np.log(size(runs)), slopes.T))
    kept = np.isfinite(found) & (found != 0)
    return np.array(shared[:-1])[kept], found[kept]
