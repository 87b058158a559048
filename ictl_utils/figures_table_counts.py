"""The table of all models in numbers: where its rows end, and how often they agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .figures_ablations import kind_of
from .figures_cooccurrence import narrow
from .figures_table import FAMILIES, REFERENCES, Column, columns, first_formed, inside
from .metrics import best_head
from .numbers_base import RunTables, Zoo
from .survey_facts import THRESHOLD

CHANGES = "two or more layers, or smeared keys"  # the models that should change
CONTROLS = "one layer or none, keys not smeared"


def final_numbers(models: Sequence[Column]) -> pd.DataFrame:
    """The ends of the rows as numbers: one row a model, medians over its seeds.

    Args:
        models: measured models, as :func:`all_columns` gives them.
    """
    rows = {}
    for column in models:
        heads = [r.prefix[-1] for r in column.runs if column.layers]
        rows[column.name] = {
            "seeds": len(column.runs),
            "loss (nats per token)": np.median([r.history.loss[-1] for r in column.runs]),
            "ICL score (nats)": np.median([r.icl[-1] for r in column.runs]),
            "best prefix matching": np.median([p.max() for p in heads]) if heads else np.nan,
            f"passes {THRESHOLD} after (million tokens)": np.median([first_formed(r) / 1e6 for r in column.runs]),
            "layer of the best head": np.median([best_head(p)[0] for p in heads]) if heads else np.nan,
            "layers": column.layers,
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    best = [int(x) if x == np.floor(x) else x for x in frame["layer of the best head"]]  # 1, but 1.5 between two seeds
    return frame.assign(**{"layer of the best head": pd.Series(best, frame.index, dtype=object)})


def agreement(zoo: Zoo) -> pd.DataFrame:
    """How often the rows of the table agree: a row a family, its runs that should change counted as ``3 of 5``.

    The last row counts the runs that should not: one layer or none, keys not smeared.
    """
    rows, controls = {}, {}
    for family, title in FAMILIES.items():
        found = [c for c in columns(zoo, family) if c.name not in REFERENCES.get(family, ())]
        runs = [run for column in found for run in column.runs]
        controls |= {str(r.run["run_id"]): r for r in runs if not should_change(r)}
        if any(map(should_change, runs)):
            rows[title] = _counts([run for run in runs if should_change(run)])
    rows[CONTROLS] = _counts(list(controls.values()))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"runs with {CHANGES}")


def should_change(run: RunTables) -> bool:
    """Whether the papers expect induction heads of a run: two or more layers, or smeared keys."""
    return bool(run.run["n_layers"] > 1 or (run.run["n_layers"] == 1 and run.run["smear"] == "key"))


def _counts(runs: list[RunTables]) -> dict[str, object]:
    formed = [run for run in runs if np.isfinite(first_formed(run))]
    deep = [run for run in formed if run.run["n_layers"] > 1]
    known = [run for run in formed if len(run.ablations)]
    tests = {
        "first head inside the window": (formed, lambda r: inside(r, r.window)),
        "inside the narrow window": (formed, lambda r: inside(r, narrow(r))),
        "highest trace is an induction head": (deep, lambda r: _is_induction(r, r.per_head("qk_trace")[-1])),
        "before-and-after: an induction head stands out": (
            known, lambda r: _is_induction(r, -r.effect(column="attribution_nats"))),
        "ICL score: an induction head stands out": (known, lambda r: _is_induction(r, r.effect())),
    }  # fmt: skip
    counts = {name: f"{sum(map(test, group))} of {len(group)}" if group else "-"
              for name, (group, test) in tests.items()}  # fmt: skip
    return {"runs": len(runs), f"a head passes {THRESHOLD}": f"{len(formed)} of {len(runs)}", **counts}


def _is_induction(run: RunTables, scores: np.ndarray) -> bool:
    """Whether the head with the highest score is an induction head; heads without a score do not count."""
    return kind_of(run, best_head(np.nan_to_num(scores, nan=-np.inf))) == "induction"
