"""Figures of literal and abstract copying: second copies, example heads, shares against chance, the category task.

All for P1, Argument 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .claims import load_claims
from .config import require
from .figures_cooccurrence import Groups, check_groups, seeds_line
from .figures_style import INK, Plot, canvas, colour, line, numbers, square, styled, token_axis
from .figures_training import MATCHING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

MATCHES, OTHER, PAPER_HEAD, CHANCE = "#d55e00", "#0072b2", "#aa4499", "#e69f00"
GREY = "#6b7280"


# ---- literal copying ------------------------------------------------------------------------------


@styled
def second_copies(groups: Groups) -> Plot:
    """Random tokens repeated: loss on the first and the second copy, and the difference, over training.

    Args:
        groups: label -> runs, as :func:`ictl_utils.figures_cooccurrence.measured` gives them.
    """
    check_groups(groups)
    fig, axes = canvas("A block of random tokens, and its second copy", 9.2, 3.9, cols=3, sharey=False)
    words = []
    for label, runs in groups.items():
        look, ends = {"color": colour(label), "ls": line(label)}, []
        losses = [[(r.tokens, r.series(f"repeats_{copy}_nats")) for r in runs] for copy in ("first", "second")]
        gain = [(x, first - second) for (x, first), (_, second) in zip(*losses, strict=True)]
        for ax, curves in zip(axes[0], (*losses, gain), strict=True):
            ends.append(seeds_line(ax, curves, **look)[-1])
        words.append(f"{label} ends at {ends[0]:.1f} and {ends[1]:.1f} nats, difference {ends[2]:.1f}")
    top = max(ax.get_ylim()[1] for ax in axes[0, :2])
    titles = ("First copy", "Second copy", "First minus second")
    for ax, title, name in zip(axes[0], titles, ("loss (nats)", "loss (nats)", "difference (nats)"), strict=True):
        ax.set(title=title, ylabel=name, ylim=(0, top) if ax is not axes[0, 2] else None)
        token_axis(ax)
    handles = [Line2D([], [], color=colour(label), ls=line(label), lw=2.1, label=label) for label in groups]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)
    fig.alt = "Loss on random tokens and on their second copy over training. " + "; ".join(words) + "."
    return fig


def paper_heads() -> list[tuple[str, float, float]]:
    """Name, copying and prefix-matching score of P1's three example heads, as claim D04 registers them."""
    text = next(claim.paper_value for claim in load_claims() if claim.id == "D04")
    scores = re.findall(r"([\d.]+)/([\d.]+)", text)
    return [(name, float(a), float(b))
            for name, (a, b) in zip(("literal", "translation", "pattern"), scores, strict=True)]  # fmt: skip


@styled
def example_heads(groups: Groups) -> Plot:
    """Prefix matching and copying of the best head of each run, and of the paper's three example heads."""
    check_groups(groups)
    fig, axes = canvas("Best heads of our models, and the paper's example heads", 6.4, 4.5)
    ax, best = axes[0, 0], []
    for label, runs in groups.items():
        for run in runs:
            at = np.unravel_index(run.prefix[-1].argmax(), run.prefix[-1].shape)
            x, y = run.prefix[-1][at], run.per_head("copying")[-1][at]
            ax.plot(x, y, "o", color=colour(label), ms=8, mec="white", zorder=3)
            best.append(f"{label} {x:.2f} and {y:+.2f}")
    for name, copying, prefix in paper_heads():
        ax.plot(prefix, copying, "D", color=PAPER_HEAD, ms=8, mfc="none", mew=1.8, zorder=3)
        ax.annotate(name, (prefix, copying), xytext=(-9, 0), textcoords="offset points", ha="right", va="center")
    ax.axhline(0, color=GREY, lw=0.8)
    ax.set(xlabel=MATCHING, ylabel="copying score (−1 to 1)", xlim=(-0.03, 1.05), ylim=(-1.05, 1.05))
    handles = [Line2D([], [], ls="", marker="o", ms=8, color=colour(label), label=label) for label in groups]
    handles += [Line2D([], [], ls="", marker="D", ms=7, color=PAPER_HEAD, mfc="none", mew=1.8, label="P1's heads")]
    fig.legend(handles=handles, loc="outside lower center", ncols=7, handletextpad=0.2)
    theirs = "; ".join(f"{name} {prefix:.2f} and {copying:+.2f}" for name, copying, prefix in paper_heads())
    fig.alt = (f"Scatter of prefix matching and copying. Best head of each of {len(best)} runs: {'; '.join(best)}. "
               f"The paper's example heads: {theirs}.")  # fmt: skip
    return fig


# ---- shares against chance ------------------------------------------------------------------------


@styled
def heads_against_chance(
    values: Mapping[str, Float[np.ndarray, "layer head"]], marked: Mapping[str, Bool[np.ndarray, "layer head"]],
    chance: float, title: str, axis: str, null: Mapping[str, Float[np.ndarray, "n"]] | None = None,
    bound: float | None = None, mark: str = "prefix matching above 0.4",
) -> Plot:
    """A dot a head, a row a model, against what chance gives.

    Args:
        values: label -> score of every head.
        marked: label -> heads shown in colour.
        chance: what even attention gives.
        axis: name of the score with its unit.
        null: label -> the best head's score with everything but its attention shuffled; its 95 % point is drawn.
        bound: the registered bound, where there is one.
        mark: what the coloured heads have in common.
    """
    require(bool(values) and values.keys() == marked.keys(),
            "values and marked must name the same models, at least one.")
    fig, axes = canvas(title, 7.4, 1.6 + 0.5 * len(values))
    ax, words = axes[0, 0], []
    for row, (label, of) in enumerate(values.items()):
        score, chosen = numbers(f"values[{label!r}]", of, 2), np.asarray(marked[label])
        ax.plot(score[~chosen], np.full((~chosen).sum(), row), "o", color=OTHER, mfc="none", ms=7, mew=1.4)
        ax.plot(score[chosen], np.full(chosen.sum(), row), "o", color=MATCHES, ms=8)
        if null is not None:
            ax.plot([np.quantile(null[label], 0.95)] * 2, [row - 0.3, row + 0.3], color=GREY, lw=2.4)
        words.append(f"{label} best {score.max():.2f}")
    ax.axvline(chance, color=INK, lw=1.2, ls="--")
    if bound is not None:
        ax.axvline(bound, color=CHANCE, lw=1.8)
    ax.set(yticks=range(len(values)), yticklabels=list(values), ylim=(len(values) - 0.4, -0.6), xlabel=axis)
    ax.grid(False, axis="y")
    fig.legend(handles=_chance_key(null is not None, bound is not None, mark), loc="outside lower center", ncols=3)
    fig.alt = f"{title}: {axis} of every head, chance {chance:.2f}. " + "; ".join(words) + "."
    return fig


def _chance_key(null: bool, bound: bool, mark: str) -> list[Line2D]:
    dots = [Line2D([], [], ls="", marker="o", ms=8, color=MATCHES, label=mark),
            Line2D([], [], ls="", marker="o", ms=7, color=OTHER, mfc="none", mew=1.4, label="other heads"),
            Line2D([], [], color=INK, lw=1.2, ls="--", label="even attention")]  # fmt: skip
    dots += [Line2D([], [], color=GREY, lw=2.4, label="best head, shuffled: 95 % point")] if null else []
    return dots + ([Line2D([], [], color=CHANCE, lw=1.8, label="registered bound")] if bound else [])


# ---- the category task ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Learning:
    """One model on the category task over training."""

    label: str
    tokens: Float[np.ndarray, "snap"]
    accuracy: Float[np.ndarray, "snap"]  # of labels whose kind has occurred, no word twice
    share: Float[np.ndarray, "snap"]  # of the best head's attention to earlier labels that is on its kind's


@styled
def category_learning(found: Sequence[Learning], chance: float) -> Plot:
    """Accuracy on the category task, and the best head's share of attention on labels of the same kind, over training.

    Args:
        found: one a model and seed.
        chance: the share for even attention to earlier labels.
    """
    require(len(found) > 0, "found is empty; pass at least one model.")
    fig, axes = canvas("The category task over training, no word twice", 8.8, 3.7, cols=2)
    for one in found:
        look = {"color": colour(one.label), "ls": line(one.label), "lw": 1.8}
        for ax, values in zip(axes[0], (one.accuracy, one.share), strict=True):
            ax.plot(one.tokens, values, marker="o", ms=3.5, **look)
    axes[0, 0].set(title="Right labels", ylabel="top prediction is right (share)")
    axes[0, 1].set(title="Best head: labels of the same kind", ylabel="share of attention to earlier labels")
    axes[0, 1].axhline(chance, color=INK, lw=1.2, ls="--", label="even attention")
    for ax in axes[0]:
        ax.set_ylim(-0.03, 1.05)
        token_axis(ax)
    labels = dict.fromkeys(one.label for one in found)
    handles = [Line2D([], [], color=colour(x), ls=line(x), lw=1.8, label=x) for x in labels]
    handles.append(Line2D([], [], color=INK, lw=1.2, ls="--", label="even attention"))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    ends = "; ".join(f"{one.label} {one.accuracy[-1]:.2f} and {one.share[-1]:.2f}" for one in found)
    fig.alt = f"Accuracy and attention share over training, at the end: {ends}. Even attention gives {chance:.2f}."
    return fig


@styled
def word_matches(matches: Float[np.ndarray, "word word"], kinds: int, name: str) -> Plot:
    """How well each word as the query matches each word that stood before a label, sorted by kind, from the weights.

    Args:
        matches: row: word of the query; column: word that earlier heads moved to the label.
        kinds: how many kinds of words there are, side by side.
        name: of the head.
    """
    found = square("matches", matches, [""] * len(matches))
    size = len(found) // kinds
    require(size * kinds == len(found), f"{len(found)} words do not make {kinds} kinds of the same size.")
    fig, axes = canvas(f"{name}: which words match, by the weights", 5.6, 4.9)
    ax, bound = axes[0, 0], float(np.abs(found).max()) or 1.0
    mesh = ax.imshow(found, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    ends, middles = np.arange(1, kinds) * size - 0.5, (np.arange(kinds) + 0.5) * size - 0.5
    for end in ends:
        _cross(ax, end)
    names = [chr(ord("A") + i) for i in range(kinds)]
    ax.set(xticks=middles, xticklabels=names, yticks=middles, yticklabels=names,
           xlabel="word that stood before a label (by kind)", ylabel="word of the query (by kind)")  # fmt: skip
    ax.grid(False)
    ax.tick_params(length=0)
    fig.colorbar(mesh, ax=ax, label="match (score before softmax, not scaled)", shrink=0.8)
    kind = np.arange(len(found)) // size
    same, own = kind[:, None] == kind, np.eye(len(found), dtype=bool)
    rest = f", others of its kind {found[same & ~own].mean():.0f}" if size > 1 else ""
    fig.alt = (f"Map of {len(found)} by {len(found)} words for {name}. Mean match: the same word "
               f"{found[own].mean():.0f}{rest}, words of other kinds {found[~same].mean():.0f}.")  # fmt: skip
    return fig


def _cross(ax: Axes, at: float) -> None:
    ax.axhline(at, color=INK, lw=0.6)
    ax.axvline(at, color=INK, lw=0.6)


@styled
def accuracy_without(values: Mapping[str, Float[np.ndarray, "seed"]], chance: float) -> Plot:
    """Accuracy on the category task with heads knocked out: a bar a set of heads, a dot a seed.

    Args:
        values: name of the set -> accuracy, one a seed.
        chance: accuracy of guessing among the labels of the sequence.
    """
    require(bool(values), "values is empty; pass at least one set of heads.")
    fig, axes = canvas("What the category task needs", 7.4, 1.5 + 0.36 * len(values))
    ax, places, words = axes[0, 0], np.arange(len(values)), []
    for place, (name, each) in zip(places, values.items(), strict=True):
        ax.barh(place, np.median(each), color=OTHER if place else INK, height=0.6, alpha=0.75)
        ax.plot(each, np.full(len(each), place), "o", color=INK, ms=4.5, mfc="white")
        words.append(f"{name} {np.median(each):.2f}")
    ax.axvline(chance, color=CHANCE, lw=2, ls="--", label="guessing among the labels there are")
    ax.set(yticks=places, yticklabels=list(values), xlim=(0, 1.05), xlabel="right labels (share; dots: seeds)")
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    fig.legend(loc="outside lower center")
    fig.alt = f"Accuracy with heads knocked out, chance {chance:.2f}. " + "; ".join(words) + "."
    return fig
