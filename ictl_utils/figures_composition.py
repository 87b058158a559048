"""Figures of two layers: who reads whom, what scores are made of, and which terms matter (P2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .config import require
from .figures_circuits import signed
from .figures_style import INK, PAPER, Plot, canvas, numbers, printable, styled
from .numbers_circuits import RIGHT, Scores, composition

if TYPE_CHECKING:
    from jaxtyping import Float

    from .numbers_base import RunTables

KINDS = {"q": ("Q", "#0072b2", "o"), "k": ("K", "#d55e00", "s"), "v": ("V", "#009e73", "^")}
NORMS = {"right": "right norm", "buggy": "wrong norm"}
TERMS = {"Id": "Id: tokens only", "Q": "Q: query reads heads", "K": "K: key reads heads",
         "both": "both read heads", "position": "positions"}  # fmt: skip
ABOVE = "composition score above random"


# ---- composition ----------------------------------------------------------------------------------


def above_random(run: RunTables, norm: str = RIGHT) -> Scores:
    """Composition scores of all pairs and kinds at the last snapshot, minus the mean of random matrices."""
    random = run.fact("composition_random_mean", norm)
    return {pair: x - random for pair, x in composition(run, norm).items()}


def beyond(run: RunTables, norm: str, n: float = 3) -> list[tuple[str, str, str]]:
    """Pairs and kinds whose score is more than ``n`` standard deviations of random heads above their mean."""
    least = n * run.fact("composition_random_sd", norm)
    found = {pair: x for pair, x in above_random(run, norm).items() if x > least}
    return sorted(found, key=lambda pair: -found[pair])


@styled
def composition_maps(scores: Mapping[str, Scores], outstanding: Mapping[str, set]) -> Plot:
    """Scores above random of every pair of heads: a row a norm, a panel a kind (P2, "Composition").

    Args:
        scores: ``right`` and ``buggy`` -> scores, from :func:`above_random`.
        outstanding: pairs to frame, by norm.
    """
    require(set(scores) <= set(NORMS), f"norms {sorted(scores)} are not among {', '.join(NORMS)}.")
    fig, axes = canvas("Composition above random, every pair of heads", 8.6, 2.7 * len(scores) + 0.3, len(scores), 3)
    for row, (norm, found) in zip(axes, scores.items(), strict=True):
        bound = max(abs(x) for x in found.values())
        for ax, (kind, (name, *_)) in zip(row, KINDS.items(), strict=True):
            mesh = _pair_map(ax, {p[1:]: x for p, x in found.items() if p[0] == kind}, bound,
                             {p[1:] for p in outstanding[norm] if p[0] == kind})  # fmt: skip
            ax.set(title=f"{name}-composition, {NORMS[norm]}", xlabel="reading head", ylabel="writing head")
        fig.colorbar(mesh, ax=list(row), label=ABOVE, shrink=0.85)
    fig.alt = "Maps of composition scores above random, writing against reading head. " + " ".join(
        f"{NORMS[norm].capitalize()}: largest {_words(found)}." for norm, found in scores.items())  # fmt: skip
    return fig


def _pair_map(ax: Axes, values: dict[tuple[str, str], float], bound: float, framed: set[tuple[str, str]]):
    """One square a pair, its number in it."""
    first, second = (sorted({pair[i] for pair in values}) for i in (0, 1))
    table = np.array([[values[a, b] for b in second] for a in first])
    mesh = ax.imshow(table, cmap="RdBu_r", norm=TwoSlopeNorm(0, -bound, bound))
    for (i, j), value in np.ndenumerate(table):
        hue = PAPER if abs(value) > 0.65 * bound else INK
        ax.text(j, i, signed(value, 2), ha="center", va="center", fontsize=7.5, color=hue)
        if (first[i], second[j]) in framed:
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=INK, lw=2.2))
    ax.set_xticks(range(len(second)), second)
    ax.set_yticks(range(len(first)), first)
    ax.grid(False)
    return mesh


@styled
def composition_graph(scores: Mapping[str, Scores], roles: Mapping[str, str]) -> Plot:
    """Lines from writing to reading heads, as thick as their score above random, a panel a norm (P2).

    Args:
        scores: ``buggy`` and ``right`` -> scores above random; what is not above random has no line.
        roles: head -> what it is, written beside it.
    """
    fig, axes = canvas("Which heads compose: width shows the score above random", 9.2, 4.0, cols=len(scores))
    for ax, (norm, found) in zip(axes[0], scores.items(), strict=True):
        first, second = (sorted({pair[i] for pair in found}) for i in (1, 2))
        most = max(max(found.values()), 1e-9)
        for (kind, a, b), x in sorted(found.items(), key=lambda item: item[1]):
            if x > 0.02 * most:
                shift = 0.07 * (list(KINDS).index(kind) - 1)
                ends = first.index(a) + shift, second.index(b) + shift
                ax.plot(ends, [0, 1], color=KINDS[kind][1], lw=9 * x / most, alpha=0.85, solid_capstyle="round")
        for y, heads in enumerate((first, second)):
            for x, head in enumerate(heads):
                words = f"{head}\n{roles[head]}" if head in roles else head
                ax.text(x, y + (0.08 if y else -0.08), words, ha="center", va="bottom" if y else "top", fontsize=9)
        ax.set(title=f"{NORMS[norm]}, largest {most:.2f}", xlim=(-0.6, len(first) - 0.4), ylim=(-0.35, 1.35))
        ax.set_axis_off()
    handles = [Line2D([], [], color=hue, lw=4, label=f"{name}-composition") for name, hue, _ in KINDS.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    fig.alt = "Diagram of composition between the heads of two layers. " + " ".join(
        f"{NORMS[norm].capitalize()}: thickest lines {_words(found)}." for norm, found in scores.items())  # fmt: skip
    return fig


@styled
def norms_against(runs: Sequence[tuple[Scores, Scores]]) -> Plot:
    """The two norms against each other, a point a pair and kind, each over the largest of its run.

    Args:
        runs: a run each: scores above random by the right norm and by the wrong one.
    """
    require(len(runs) > 0, "runs is empty; pass at least one pair of scores.")
    fig, axes = canvas("Wrong norm against right norm, every pair of heads", 5.6, 4.6)
    ax, points = axes[0, 0], []
    for right, buggy in runs:
        most = max(right.values()), max(buggy.values())
        points += [(pair[0], buggy[pair] / most[1], right[pair] / most[0]) for pair in right]
    for kind, (name, hue, mark) in KINDS.items():
        x, y = np.array([p[1:] for p in points if p[0] == kind]).T
        ax.plot(x, y, mark, color=hue, ms=6, alpha=0.75, mec=PAPER, mew=0.5, label=f"{name}-composition")
    for draw in (ax.axhline, ax.axvline):
        draw(0.5, color=INK, lw=1, ls=":")
        draw(0, color="#6b7280", lw=0.8)
    axis = "{} norm: score above random\n(share of the largest)"
    ax.set(xlabel=axis.format("wrong"), ylabel=axis.format("right"))
    fig.legend(loc="outside lower center", ncols=3)
    x, y = np.array([p[1:] for p in points]).T
    fig.alt = (f"Scatter of {len(points)} composition scores by both norms, correlation {np.corrcoef(x, y)[0, 1]:.2f}. "
               f"Over half of the largest: {(y >= 0.5).sum()} by the right norm, {(x >= 0.5).sum()} by the wrong, "
               f"{((x >= 0.5) & (y >= 0.5)).sum()} by both.")  # fmt: skip
    return fig


def _words(scores: Scores, n: int = 3) -> str:
    top = sorted(scores.items(), key=lambda item: -item[1])[:n]
    return ", ".join(f"{KINDS[kind][0]} {a} to {b} {signed(x, 2)}" for (kind, a, b), x in top)


# ---- scores taken apart ---------------------------------------------------------------------------


@styled
def score_terms(terms: Mapping[str, Float[np.ndarray, "pos pos"]], labels: Sequence[str], title: str) -> Plot:
    """A head's scores split by what query and key read; each row minus its mean, which softmax does not see (P2).

    Args:
        terms: from ``QKTerms.grouped``, one example.
        labels: one string a token.
    """
    n = len(labels)
    shown = {name: _centred(numbers(name, x, 2)) for name, x in terms.items()}
    require(all(x.shape == (n, n) for x in shown.values()), f"terms do not have the shape of {n} labels squared.")
    shown = {name: shown[name] for name in TERMS if name in shown} | {"total": sum(shown.values())}
    fig, axes = canvas(title, 8.8, 6.4, 2, 3, sharex=True, sharey=True)
    bound = max(float(np.nanquantile(np.abs(x), 0.995)) for x in shown.values())
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for ax, (name, x) in zip(axes.flat, shown.items(), strict=False):
        mesh = ax.imshow(x, cmap=_map(), norm=TwoSlopeNorm(0, -bound, bound), interpolation="nearest")
        ax.grid(False)
        ax.set_title(TERMS.get(name, "the head's own score"))
        ticks = range(0, n, -(-n // 14))
        ax.set_xticks(ticks, [printable(labels[i])[:9] for i in ticks], rotation=90, fontsize=7)
        ax.set_yticks(ticks, [printable(labels[i])[:9] for i in ticks], fontsize=7)
        ax.tick_params(length=0)
    fig.supxlabel("attended token (key)", fontsize=9.5)
    fig.supylabel("attending token (query)", fontsize=9.5)
    fig.colorbar(mesh, ax=list(axes.flat), label="score above the row's mean (nats)", shrink=0.6)
    spread = {name: float(np.nanstd(x)) for name, x in shown.items()}
    fig.alt = f"{title}. Spread of each part in nats: " + ", ".join(f"{k} {x:.2f}" for k, x in spread.items()) + "."
    return fig


@styled
def query_terms(terms: Mapping[str, Float[np.ndarray, "pos"]], pattern: Float[np.ndarray, "pos"],
                labels: Sequence[str], title: str) -> Plot:
    """One query's scores, token by token and part by part, above the attention they give (P2).

    Args:
        terms: part -> score with each key, up to the query itself.
        pattern: attention to each key.
        labels: one string a key; the last is the query.
    """
    shown = {name: numbers(name, terms[name], 1) for name in TERMS if name in terms}
    table = np.stack([x - x.mean() for x in shown.values()])
    table = np.vstack([table, table.sum(0)])
    names = [TERMS[name] for name in shown] + ["the head's own score"]
    fig, axes = canvas(title, 9.6, 4.3, rows=2, sharex=True, height_ratios=[len(names), 2.2])
    bound, (top, low) = float(np.abs(table).max()), axes[:, 0]
    mesh = top.imshow(table, cmap="RdBu_r", norm=TwoSlopeNorm(0, -bound, bound), aspect="auto")
    top.set_yticks(range(len(names)), names)
    top.grid(False)
    fig.colorbar(mesh, ax=top, label="score above the\nmean (nats)")
    low.bar(np.arange(len(pattern)), numbers("pattern", pattern, 1), color=KINDS["k"][1])
    low.set(ylabel="attention\n(share)", xlabel=f"attended token (key); the query is {printable(labels[-1])}")
    low.set_xticks(range(len(labels)), [printable(label)[:12] for label in labels], rotation=90, fontsize=7.5)
    best = int(np.argmax(pattern))
    parts = ", ".join(f"{name} {signed(x, 1)}" for name, x in zip([*shown, "total"], table[:, best], strict=True))
    fig.alt = (f"{title}. The query {labels[-1]!r} attends most to {labels[best]!r} ({pattern[best]:.2f}); "
               f"its score there, in nats above the mean: {parts}.")  # fmt: skip
    return fig


def _centred(scores: Float[np.ndarray, "pos pos"]) -> Float[np.ndarray, "pos pos"]:
    """Causal scores minus the mean of each row; what a query cannot see is NaN."""
    seen = np.where(np.tri(len(scores), dtype=bool), scores, np.nan)
    return seen - np.nanmean(seen, axis=1, keepdims=True)


def _map():
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad="#eceef1")
