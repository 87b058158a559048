"""Final scores and onsets by depth and by size, beside the published law (P1, Argument 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .config import one_of, require
from .figures_cooccurrence import measured, narrow
from .figures_style import INK, Plot, canvas, colour, styled, token_text
from .figures_training import ICL, LOSS
from .metrics import best_head
from .numbers_base import Zoo, crossing
from .numbers_shapes import FORMED
from .zoo import LADDER

SIZES = {f"size {i}": f"ladder-{i}" for i in range(1, len(LADDER) + 1)}
"""Label -> name in the zoo, of the ladder of sizes."""
ONSETS = {"narrow": ("start of the narrow window", "^"), "midpoint": ("half of the score's fall", "o"),
          "formed": (f"prefix matching {FORMED}", "s")}  # fmt: skip
BY = {"n_layers": "layers", "parameters": "parameters"}


def finals(zoo: Zoo, names: Mapping[str, str]) -> pd.DataFrame:
    """One row a run of the named models: size, final score and loss, the best head's layer, and onsets in tokens.

    ``law`` is the token count of the published law, 10^5.7 sqrt(windows a step x n_ctx) (Aoyama et al. 2025).
    """
    rows = []
    for label, runs in measured(zoo, names).items():
        for r in runs:
            layer, head = best_head(r.prefix[-1])
            rows.append({
                "label": label, "seed": int(r.run["init_seed"]), "n_layers": int(r.run["n_layers"]),
                "parameters": int(r.run["parameters"]), "icl": r.icl[-1], "icl_se": r.series("icl_se_nats")[-1],
                "loss": r.series("loss_nats")[-1], "layer": layer, "head": f"L{layer}H{head}",
                "prefix": r.prefix[-1].max(), "previous": r.previous[-1].max(), "registered": r.window.start,
                "narrow": narrow(r).start, "midpoint": r.midpoint,
                "formed": crossing(r.tokens, r.best_prefix, FORMED),
                "law": 10**5.7 * math.sqrt(float(r.run["batch_tokens"])),
            })  # fmt: skip
    return pd.DataFrame(rows)


@styled
def final_scores(found: pd.DataFrame, by: str = "n_layers") -> Plot:
    """Final ICL score and loss against depth or size, a point a run, the line through the medians (P1, Argument 6).

    Args:
        found: of :func:`finals`.
        by: ``n_layers`` or ``parameters``.
    """
    one_of("by", by, tuple(BY))
    require(len(found) > 0, "found is empty; none of the models was measured.")
    fig, axes = canvas(f"Score and loss at the end of training, by number of {BY[by]}", 9.2, 3.5, cols=2)
    for ax, column, axis in zip(axes[0], ("icl", "loss"), (ICL, LOSS), strict=True):
        middle = found.groupby(by)[column].median()
        ax.plot(middle.index, middle, color=INK, lw=1.2, zorder=1)
        error = found["icl_se"] if column == "icl" else None
        ax.errorbar(found[by], found[column], yerr=error, ls="", ecolor="#6b7280", capsize=3, zorder=2)
        hues = [colour(f"{n}L") for n in found["n_layers"]]
        ax.scatter(found[by], found[column], s=46, color=hues, ec="white", lw=0.8, zorder=3)
        ax.set_ylabel(axis)
        _size_axis(ax, by, found)
    axes[0, 0].set_ylim(top=0.02)
    fig.alt = f"Final in-context learning score and loss by {BY[by]}; medians over seeds. " + " ".join(
        f"{label}: {rows['icl'].median():.2f} and {rows['loss'].median():.2f} nats."
        for label, rows in found.groupby("label", sort=False))  # fmt: skip
    return fig


@styled
def onsets(found: pd.DataFrame, by: str = "n_layers") -> Plot:
    """Token counts at which the change begins, is half done, and heads have formed, against depth or size.

    The dashed line is the published law; runs in which no head formed have no square.

    Args:
        found: of :func:`finals`.
        by: ``n_layers`` or ``parameters``.
    """
    one_of("by", by, tuple(BY))
    require(len(found) > 0, "found is empty; none of the models was measured.")
    fig, axes = canvas(f"When the change comes, by number of {BY[by]}", 6.4, 3.9)
    ax, hues = axes[0, 0], dict(zip(ONSETS, ("#6e6e6e", "#0072b2", "#d55e00"), strict=True))
    for name, (_, marker) in ONSETS.items():
        rows = found[np.isfinite(found[name])]
        middle = rows.groupby(by)[name].median()
        ax.plot(middle.index, middle, color=hues[name], lw=1.2)
        ax.scatter(rows[by], rows[name], s=40, marker=marker, color=hues[name], alpha=0.75)
    law = float(found["law"].median())
    ax.axhline(law, color=INK, lw=1.2, ls="--")
    ax.set(yscale="log", ylabel="training tokens")
    ax.yaxis.set_major_locator(FixedLocator([base * 10**e for e in range(4, 10) for base in (1, 2, 5)]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(token_text))
    _size_axis(ax, by, found)
    key = [Line2D([], [], color=hues[k], marker=marker, lw=1.2, label=text) for k, (text, marker) in ONSETS.items()]
    key.append(Line2D([], [], color=INK, lw=1.2, ls="--", label="law of Aoyama et al."))
    fig.legend(handles=key, loc="outside lower center", ncols=2)
    fig.alt = f"Onsets in training tokens by {BY[by]}; the law gives {token_text(law)}. " + " ".join(
        f"{label}: score half done at {token_text(rows['midpoint'].median())}."
        for label, rows in found.groupby("label", sort=False))  # fmt: skip
    return fig


def _size_axis(ax: Axes, by: str, found: pd.DataFrame) -> None:
    """Layers as whole numbers, or parameters on a log scale with a mark a model."""
    ax.set_xlabel(f"number of {BY[by]}")
    places = sorted(found[by].unique())
    if by == "parameters":
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(places))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(token_text))
    low, high = (math.log(p) if by == "parameters" else p for p in (places[0], places[-1]))
    margin = 0.06 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    ax.set_xlim(*map(math.exp, ends) if by == "parameters" else ends)
