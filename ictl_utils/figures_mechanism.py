"""Figures of what the weights say against what heads do, of what scores are made of, and of idealised patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from .claims import load_claims
from .config import one_of, require
from .figures_style import INK, PAPER, Plot, canvas, colour, styled, token_text
from .figures_training import MATCHING
from .numbers_heads import correlation, rank_correlation

if TYPE_CHECKING:
    from jaxtyping import Float

    Points = Mapping[str, tuple[Float[np.ndarray, "head"], Float[np.ndarray, "head"]]]

PARTS = {"Id": "#6b7280", "Q": "#aa4499", "K": "#d55e00", "both": "#e69f00", "position": "#56b4e9"}
SPLIT = ("#d55e00", "#e69f00", "#6b7280", "#56b4e9")
BAR, RANGE = "#0072b2", "#e69f00"
MARKS = dict(zip("0123456", "xosD^vP", strict=True))  # by the first character of a label: the number of layers


# ---- weights against behaviour --------------------------------------------------------------------

AXES = {
    "copying": ("Copying: the evaluator against the weights", "OV statistic: eigenvalues, sum over sum of sizes",
                "copying score (−1 to 1)"),
    "prefix": ("Prefix matching: the evaluator against the weights", "trace of the QK circuit through earlier heads",
               MATCHING),
    "alone": ("Prefix matching against the weights alone", "trace of the QK circuit, positions alone", MATCHING),
}  # fmt: skip


@styled
def weights_against_behaviour(points: Points, kind: str) -> Plot:
    """Every head: a number read off the weights across, a score on a probe up, one colour a model (P1, appendix).

    Args:
        points: label -> both numbers of its heads.
        kind: ``copying`` (the correlation is Pearson's), ``prefix`` or ``alone`` (of ranks; the axis is logarithmic
            but around 0).
    """
    one_of("kind", kind, tuple(AXES))
    require(bool(points), "points is empty; pass at least one model.")
    title, xlabel, ylabel = AXES[kind]
    name, of = ("r", correlation) if kind == "copying" else ("rank correlation", rank_correlation)
    fig, axes = canvas(title, 6.6, 4.5)
    ax, said = axes[0, 0], {}
    for label, (x, y) in points.items():
        ax.plot(x, y, MARKS.get(label[0], "*"), color=colour(label), ms=6.5, mec="white", mew=0.6, zorder=3)
        said[label] = f"{label}: {float(of(np.asarray(x), np.asarray(y))):.2f}"
    x, y = (np.concatenate([np.asarray(pair[i], dtype=float) for pair in points.values()]) for i in (0, 1))
    if kind != "copying":
        ax.set_xscale("symlog", linthresh=max(float(np.quantile(np.abs(x), 0.2)), 1e-9))
        ax.xaxis.set_major_formatter(FuncFormatter(token_text))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    handles = [Line2D([], [], ls="", marker=MARKS.get(label[0], "*"), color=colour(label), ms=6.5, label=said[label])
               for label in points]  # fmt: skip
    fig.legend(handles=handles, title=f"{name} within each model", loc="outside lower center", ncols=4)
    fig.alt = f"Scatter of {len(x)} heads, {xlabel} across, {ylabel} up. {name} over all {float(of(x, y)):.2f}. " + (
        f"By model {', '.join(said.values())}.")
    return fig


# ---- what scores and losses are made of -----------------------------------------------------------


@styled
def stacked(rows: Mapping[str, Mapping[str, float]], title: str, axis: str) -> Plot:
    """Parts of a whole as bars side by side, negative ones to the left, a row an item.

    Args:
        rows: item -> part -> share; all items have the same parts.
        axis: what the shares are of.
    """
    require(len({tuple(row) for row in rows.values()}) == 1, "rows need the same parts, at least one row.")
    names = list(next(iter(rows.values())))
    hues = [PARTS.get(name, SPLIT[i % len(SPLIT)]) for i, name in enumerate(names)]
    fig, axes = canvas(title, 7.6, 1.5 + 0.42 * len(rows))
    ax = axes[0, 0]
    for place, row in enumerate(rows.values()):
        ends = {True: 0.0, False: 0.0}  # of the bars to the right, and to the left
        for name, hue in zip(names, hues, strict=True):
            side = row[name] >= 0
            ax.barh(place, row[name], left=ends[side], height=0.62, color=hue, ec=PAPER, lw=0.8)
            ends[side] += row[name]
    ax.axvline(0, color=INK, lw=0.9)
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel=axis)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    handles = [Patch(color=hue, label=name) for name, hue in zip(names, hues, strict=True)]
    fig.legend(handles=handles, loc="outside lower center", ncols=5)
    fig.alt = f"{title}. " + " ".join(
        f"{item}: {', '.join(f'{name} {row[name]:.2f}' for name in names)}." for item, row in rows.items())
    return fig


def bounds(claim: str) -> dict[str, tuple[float, float]]:
    """Number of a claim -> lowest and highest value that speaks for it, as its registered test says."""
    test = next(c.reproduced_test for c in load_claims() if c.id == claim)
    found: dict[str, tuple[float, float]] = {}
    for name, sign, value in re.findall(r"(\w+) ([<>])=? (-?[\d.]+)", test):
        low, high = found.get(name, (-np.inf, np.inf))
        found[name] = (float(value), high) if sign == ">" else (low, float(value))
    return found


@styled
def recovered(values: Mapping[str, Sequence[float]], allowed: Mapping[str, tuple[float, float]] | None = None,
              title: str = "What idealised patterns recover") -> Plot:
    """Share of the loss lost without heads that a pattern in their place keeps: a bar a pattern, a dot a seed.

    Args:
        values: pattern -> shares, one a seed.
        allowed: pattern -> the registered range, drawn behind its bar.
    """
    require(bool(values) and all(len(each) for each in values.values()), "values is empty, or a pattern has no seed.")
    fig, axes = canvas(title, 7.6, 1.3 + 0.42 * len(values))
    ax = axes[0, 0]
    for place, (name, each) in enumerate(values.items()):
        low, high = (allowed or {}).get(name, (np.nan, np.nan))
        if np.isfinite(low):
            ax.barh(place, min(high, 1.1) - low, left=low, height=0.9, color=RANGE, alpha=0.28)
        ax.barh(place, np.median(each), height=0.5, color=BAR, alpha=0.8)
        ax.plot(each, np.full(len(each), place), "o", color=INK, ms=4.5, mfc=PAPER, clip_on=False)
        ax.annotate(f"{np.median(each):.2f}", (max(np.max(each), 0), place), xytext=(7, 0), va="center",
                    textcoords="offset points", bbox={"fc": PAPER, "ec": "none", "pad": 1.0})  # fmt: skip
    ax.axvline(1, color=INK, lw=1.1, ls="--")
    ax.set(yticks=range(len(values)), yticklabels=list(values), xlabel="share of the lost loss recovered (1: all)")
    ax.set_xlim(min(0, *(np.min(each) for each in values.values())), 1.12)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    if allowed:
        fig.legend(handles=[Patch(color=RANGE, alpha=0.28, label="registered range")], loc="outside lower center")
    fig.alt = f"{title}: " + "; ".join(f"{name} {np.median(each):.2f}" for name, each in values.items()) + "."
    return fig
