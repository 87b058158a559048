"""Figures of one layer's circuits: copying, bugs, eigenvalues, heads that attend by position (P2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from .config import require
from .figures_style import INK, PAPER, Plot, canvas, depth_colours, numbers, printable, styled, token_axis

if TYPE_CHECKING:
    from jaxtyping import Complex, Float

    Curve = tuple[Float[np.ndarray, "snap"], Float[np.ndarray, "snap layer head"]]

TRAINED, INITIAL, NULL = "#d55e00", "#0072b2", "#6e6e6e"
STATISTIC = "copying statistic (−1 to 1)"


def signed(value: float, digits: int) -> str:
    """``+0.52``, with a minus sign that is as wide; no sign on zero."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{value:.{digits}f}") == 0 else text


# ---- skip-trigrams --------------------------------------------------------------------------------


@styled
def pattern_summary(own: Float[np.ndarray, "head"], split: Float[np.ndarray, "head"],
                    chance: tuple[float, Float[np.ndarray, "head"]]) -> Plot:
    """How many tokens each head copies, whole and over a split of the tokenizer (P2, "Skip-trigrams").

    Args:
        own: share of tokens that raise themselves most.
        split: share of words in two tokens whose rest is among the top outs of the whole.
        chance: both shares where outs are dealt at random, the second a head.
    """
    own, split = numbers("own", own, 1), numbers("split", split, 1)
    fig, axes = canvas("Copying patterns, head by head", 8.6, 3.2, cols=2)
    titles = ("[b] ... [a] → [b]: the source itself", "[ab] ... [a] → [b]: the rest of a split word")
    axis = ("sources that raise themselves most\n(share of all tokens)",
            "words whose rest is in the top 1 %\n(share of words in two tokens)")  # fmt: skip
    names = [f"L0H{head}" for head in range(len(own))]
    for ax, values, dealt, title, label in zip(axes[0], (own, split), chance, titles, axis, strict=True):
        ax.bar(names, values, color=TRAINED, width=0.6, label="trained")
        ax.plot(names, np.broadcast_to(dealt, values.shape), "_", ms=34, mew=2.4, color=INK, label="chance")
        ax.set(title=title, ylabel=label)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.grid(False, axis="x")
    axes[0, 0].legend()
    words = "; ".join(f"{name} {a:.3f} and {b:.3f}, by chance {chance[0]:.3f} and {c:.3f}" for name, a, b, c in
                      zip(names, own, split, np.broadcast_to(chance[1], split.shape), strict=True))  # fmt: skip
    fig.alt = f"Bars a head: share of tokens copied, and of words copied over a split of the tokenizer. {words}."
    return fig


@styled
def bug_factors(attention: Float[np.ndarray, "head 2"], raised: Float[np.ndarray, "head 2"],
                destinations: Sequence[str], outs: Sequence[str], source: str) -> Plot:
    """What each head adds for one source: an outer product, so all four cells rise together (P2, "bugs").

    Args:
        attention, raised: from :func:`ictl_utils.circuits_effects.bug_parts`.
        destinations, outs: labels; the first out belongs to the first destination, the second to the second.
    """
    attention, raised = numbers("attention", attention, 2), numbers("raised", raised, 2)
    each = attention[:, :, None] * raised[:, None, :]
    panels = [*each, each.sum(0)]
    fig, axes = canvas(f"Source {printable(source)}: attention times OV, head by head", 2.1 * len(panels) + 0.9, 3.3,
                       cols=len(panels), sharey=True)  # fmt: skip
    bound = max(float(np.abs(panels).max()), 1e-6)
    for i, (ax, panel) in enumerate(zip(axes[0], panels, strict=True)):
        mesh = ax.imshow(panel, cmap="RdBu_r", norm=TwoSlopeNorm(0, -bound, bound))
        for (row, column), value in np.ndenumerate(panel):
            hue, weight = PAPER if abs(value) > 0.7 * bound else INK, "bold" if row == column else "normal"
            ax.text(column, row, signed(value, 1), ha="center", va="center", color=hue, weight=weight)
        ax.grid(False)
        ax.set(title=f"L0H{i}" if i < len(each) else "sum of heads", xticks=[0, 1], yticks=[0, 1])
        ax.set_xticklabels([f"→ {printable(c)}" for c in outs], rotation=30, ha="right")
        ax.set_yticklabels([printable(b) for b in destinations])
    axes[0, 0].set_ylabel("destination (token)")
    axes[0, len(panels) // 2].set_xlabel("out (token)")
    fig.colorbar(mesh, ax=list(axes[0]), label="added for the source (logits)", shrink=0.8)
    total = panels[-1]
    fig.alt = (f"Outer products of attention and OV for the source {source}, {len(each)} heads and their sum. "
               f"In the sum the pairs of the text get {total[0, 0]:+.1f} and {total[1, 1]:+.1f} logits, "
               f"the cross terms {total[0, 1]:+.1f} and {total[1, 0]:+.1f}.")  # fmt: skip
    return fig


@styled
def attention_by_offset(found: Float[np.ndarray, "head offset"], bare: Float[np.ndarray, "head offset"],
                        names: Sequence[str]) -> Plot:
    """Mean attention to each distance back, on text and from positions alone, a panel a head (P2)."""
    found, bare = numbers("found", found, 2), numbers("bare", bare, 2)
    require(found.shape == bare.shape and len(names) == len(found),
            f"found {found.shape}, bare {bare.shape} and {len(names)} names do not match.")  # fmt: skip
    fig, axes = canvas("Attention by distance", 2.4 * len(found) + 0.6, 3.2, cols=len(found), sharey=True)
    at = np.arange(found.shape[1])
    for ax, name, text, alone in zip(axes[0], names, found, bare, strict=True):
        ax.bar(at, text, color=TRAINED, width=0.7, label="on text")
        ax.plot(at, alone, "o-", color=INITIAL, ms=4, lw=1.4, label="from positions alone")
        ax.set(title=f"{name}: {text[:2].sum():.2f} on 0 and 1", xlabel="distance back (tokens)")
    axes[0, 0].set_ylabel("mean attention (share)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    fig.alt = "Mean attention by distance back, a panel a head. On the token itself and the one before: " + "; ".join(
        f"{name} {text[0]:.2f} and {text[1]:.2f} on text, {alone[0]:.2f} and {alone[1]:.2f} from positions alone"
        for name, text, alone in zip(names, found, bare, strict=True)) + "."  # fmt: skip
    return fig


# ---- eigenvalues ----------------------------------------------------------------------------------


@styled
def eigenvalue_planes(initial: Complex[np.ndarray, "head n"], trained: Complex[np.ndarray, "head n"],
                      names: Sequence[str]) -> Plot:
    """Eigenvalues of every head's OV circuit in the complex plane, before and after training (P2, "Copying").

    Each panel is scaled by its own largest eigenvalue; the number is the copying statistic.
    """
    initial, trained = np.asarray(initial), np.asarray(trained)
    require(initial.shape == trained.shape and len(names) == len(trained),
            f"initial {initial.shape}, trained {trained.shape} and {len(names)} names do not match.")  # fmt: skip
    fig, axes = canvas("Eigenvalues of OV circuits, scaled to the largest", 2.15 * len(names) + 0.7, 5.1, 2, len(names),
                       sharex=True, sharey=True)  # fmt: skip
    words = []
    for row, (when, values) in zip(axes, (("initial", initial), ("trained", trained)), strict=True):
        for ax, name, some in zip(row, names, values, strict=True):
            shown, statistic = some / np.abs(some).max(), some.sum().real / np.abs(some).sum()
            for positive, hue, mark in ((True, TRAINED, "o"), (False, INITIAL, "x")):
                chosen = shown[(shown.real > 0) == positive]
                ax.plot(chosen.real, chosen.imag, mark, color=hue, ms=5, mew=1.4, alpha=0.85)
            ax.axhline(0, color="#6b7280", lw=0.8)
            ax.axvline(0, color="#6b7280", lw=0.8)
            ax.set(title=f"{name} {when}: {signed(statistic, 2)}", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
            words.append(f"{name} {when} {statistic:+.2f}")
    axes[1, 0].set_xlabel("real part (share of the largest)")
    axes[1, 0].set_ylabel("imaginary part (share of the largest)")
    handles = [Line2D([], [], ls="", marker="o", color=TRAINED, label="real part positive: towards copying"),
               Line2D([], [], ls="", marker="x", mew=1.4, color=INITIAL, label="negative or zero")]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    fig.alt = (f"Eigenvalues of {len(names)} heads in the complex plane, initial weights above, trained below. "
               f"Sum over sum of sizes: {', '.join(words)}.")  # fmt: skip
    return fig


@styled
def copying_histogram(trained: Float[np.ndarray, "head"], initial: Float[np.ndarray, "head"],
                      null: Float[np.ndarray, "n"], label: str) -> Plot:
    """Copying statistic of heads after training, before it, and of random heads (P2, "Detecting copying")."""
    groups = {name: numbers(name, x, 1) for name, x in (("trained", trained), ("initial", initial), ("null", null))}
    fig, axes = canvas(f"{label}: copying statistic of every head", 6.4, 3.6)
    ax, edges = axes[0, 0], np.linspace(-1, 1, 21)
    shares = {name: np.histogram(x, edges)[0] / len(x) for name, x in groups.items()}
    ax.stairs(shares["trained"], edges, fill=True, color=TRAINED, alpha=0.8, label=f"trained, {len(trained)} heads")
    ax.stairs(shares["initial"], edges, color=INITIAL, lw=2, label="the same heads before training")
    ax.stairs(shares["null"], edges, color=NULL, lw=2, ls="--", label=f"random heads, {len(null)} drawn")
    ax.axvline(0.5, color=INK, lw=1, ls=":")
    ax.set(xlabel=STATISTIC, ylabel="heads (share)", xlim=(-1.02, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    fig.legend(loc="outside lower center", ncols=2)
    fig.alt = (f"Histogram of the copying statistic of {label} heads. Trained: {(groups['trained'] > 0.5).sum()} of "
               f"{len(trained)} above 0.5, median {np.median(trained):.2f}. Initial: from {np.min(initial):.2f} to "
               f"{np.max(initial):.2f}. Random heads: standard deviation {np.std(null):.3f}.")  # fmt: skip
    return fig


@styled
def copying_over_training(runs: Mapping[str, Sequence[Curve]], null: Float[np.ndarray, "n"]) -> Plot:
    """Copying statistic of every head over training, coloured by layer, a panel a model.

    Args:
        runs: model label -> tokens and statistics of each seed; with several, a bold line is the median of a layer.
        null: statistics of random heads; two standard deviations around 0 are shaded.
    """
    require(len(runs) > 0 and all(map(len, runs.values())), "runs is empty; pass at least one run a label.")
    fig, axes = canvas("Copying statistic of every head over training", 3.0 * len(runs) + 1.2, 3.6, cols=len(runs),
                       sharey=True)  # fmt: skip
    deepest, words = max(group[0][1].shape[1] for group in runs.values()), []
    hues = depth_colours(deepest)
    for ax, (label, group) in zip(axes[0], runs.items(), strict=True):
        _layers(ax, [(tokens, numbers(label, values, 3)) for tokens, values in group], hues)
        ax.axhspan(-2 * np.std(null), 2 * np.std(null), color=NULL, alpha=0.25, lw=0)
        ax.set(title=label if len(group) == 1 else f"{label}, {len(group)} seeds", ylim=(-1.05, 1.05))
        token_axis(ax)
        last = np.stack([values[-1] for _, values in group], axis=1)
        words += [f"{label} layer {i}: {(x > 0.5).sum()} of {x.size} above 0.5" for i, x in enumerate(last)]
    axes[0, 0].set_ylabel(STATISTIC)
    handles = [Line2D([], [], color=hue, lw=2, label=f"layer {i}") for i, hue in enumerate(hues)]
    handles.append(Line2D([], [], color=NULL, lw=7, alpha=0.35, label="random heads"))
    fig.legend(handles=handles, loc="outside lower center", ncols=6)
    fig.alt = f"Copying statistic over training tokens, a line a head. At the end: {'; '.join(words)}."
    return fig


def _layers(ax: Axes, group: Sequence[Curve], hues: Sequence[str]) -> None:
    """A line a head; thin ones, and the median of all heads of a layer, where there are several seeds."""
    one, grid = len(group) == 1, min((tokens for tokens, _ in group), key=len)
    for layer, hue in enumerate(hues[: group[0][1].shape[1]]):
        lines = [(tokens, head) for tokens, values in group for head in values[:, layer].T]
        for tokens, head in lines:
            ax.plot(tokens, head, color=hue, lw=1.2 if one else 0.7, alpha=1 if one else 0.5, zorder=2 + layer)
        if not one:
            middle = np.median([np.interp(grid, tokens, head) for tokens, head in lines], axis=0)
            ax.plot(grid, middle, color=hue, lw=2.6, zorder=12 + layer)
