"""Diagrams of an induction head, and the head that is built by hand: its slots, and how sharp it must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from .config import require
from .figures_style import FAINT, PAPER, Plot, canvas, numbers, printable, styled
from .figures_training import MATCHING

if TYPE_CHECKING:
    from jaxtyping import Float

MATCH, MOVE, COPY, GREY = "#d55e00", "#009e73", "#0072b2", "#6b7280"
MONO = "DejaVu Sans Mono"


def _token(ax: Axes, at: tuple[float, float], text: str, edge: str = FAINT, size: tuple[float, float] = (0.84, 0.42)
           ) -> None:
    """A token, or what is known at its position, in a box around ``at``."""
    corner = at[0] - size[0] / 2, at[1] - size[1] / 2
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.08", fc=PAPER, ec=edge,
                                lw=1.2 if edge == FAINT else 2.0, zorder=4))  # fmt: skip
    ax.text(*at, text, ha="center", va="center", family=MONO, fontsize=8.6, zorder=5)


def _arc(ax: Axes, start: tuple[float, float], end: tuple[float, float], hue: str, rise: float = 0.0, ls: str = "-"
         ) -> None:
    """An arrow that passes ``rise`` above the middle between its ends, in units of the y axis."""
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 2 * rise
    _arrow(ax, Path([start, middle, end], [Path.MOVETO, Path.CURVE3, Path.CURVE3]), hue, ls)


def _arrow(ax: Axes, path: Path, hue: str, ls: str = "-") -> None:
    ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=13, color=hue, lw=1.9, ls=ls, zorder=3))


def _earlier(labels: Sequence[str], run: int = 1) -> int:
    """Place of the last earlier occurrence of the last ``run`` labels; raises IctlError where there is none."""
    last = list(labels[-run:])
    found = [i for i in range(run - 1, len(labels) - 1) if list(labels[i - run + 1 : i + 1]) == last]
    require(bool(found), f"the last {run} of {list(labels)} did not occur before; let the tokens end with a repeat.")
    return found[-1]


def _bare(ax: Axes, n: int, low: float, high: float) -> None:
    ax.set(xlim=(-0.75, n + 0.75), ylim=(low, high))
    ax.set_axis_off()


@styled
def induction_diagram(labels: Sequence[str]) -> Plot:
    """What an induction head does at the last token: find the earlier copy, attend to what followed, copy it (P1).

    Raises:
        IctlError: the last token has not occurred before.
    """
    at, before = len(labels) - 1, _earlier(labels)
    fig, axes = canvas("What an induction head does", max(6.0, 0.95 * (at + 2.6)), 2.7)
    ax = axes[0, 0]
    _bare(ax, len(labels), -1.25, 1.4)
    marks = {before: GREY, before + 1: MATCH, at: GREY}
    for x, label in enumerate(labels):
        _token(ax, (x, 0), printable(label), marks.get(x, FAINT))
    _token(ax, (at + 1, 0), printable(labels[before + 1]), COPY)
    _arc(ax, (at, -0.22), (before, -0.22), GREY, -0.6, "--")
    ax.text((at + before) / 2, -0.9, "finds its own token, earlier", ha="center", va="top", color=GREY, fontsize=9)
    _arc(ax, (at, 0.22), (before + 1, 0.22), MATCH, 0.75)
    ax.text((at + before + 1) / 2, 1.04, "attends to what followed it", ha="center", color=MATCH, fontsize=9)
    ax.text(at + 1, 0.45, "predicts it again", ha="center", color=COPY, fontsize=9)
    fig.alt = (f"Diagram: at the last token {labels[at]!r} the head finds the same token at place {before}, attends to "
               f"{labels[before + 1]!r}, which followed it, and predicts {labels[before + 1]!r}.")  # fmt: skip
    return fig


@styled
def mechanism_diagram(labels: Sequence[str]) -> Plot:
    """How two heads make an induction head: keys moved on by one; and keys and queries both, two tokens matched (P1).

    Args:
        labels: tokens whose last two have occurred before, in that order.

    Raises:
        IctlError: they have not.
    """
    _earlier(labels, 2)
    wide = max(7.0, 0.98 * (len(labels) + 1.8))
    fig, axes = canvas("How a previous-token head makes an induction head", wide, 6.6, 2)
    for ax, run in zip(axes[:, 0], (1, 2), strict=True):
        _mechanism(ax, labels, run)
    axes[0, 0].set_title("K-composition: the key says what stood before it", fontsize=9.5)
    axes[1, 0].set_title("Key and query: both say what stood before, and two tokens match", fontsize=9.5)
    fig.alt = (
        "Two diagrams on the same tokens. In the first, a head of layer 0 moves each token to the position after it. "
        f"The last token, {labels[-1]!r}, looks for keys that say 'before me stood {labels[-1]!r}', finds the one at "
        f"{labels[_earlier(labels) + 1]!r}, and copies that token. In the second, the query as well has been told what "
        f"stood before it, {labels[-2]!r}, so that the head can ask for both tokens."
    )
    return fig


def _mechanism(ax: Axes, labels: Sequence[str], run: int) -> None:
    """One panel: tokens below, what layer 0 adds at key and query in the middle, the induction head above."""
    at, key, words = len(labels) - 1, _earlier(labels, run) + 1, [printable(label) for label in labels]
    _bare(ax, len(labels), -0.4, 3.55)
    for x, word in enumerate(words):
        _token(ax, (x, 0), word)
        ax.plot([x, x], [0.21, 1.0], color=FAINT, lw=3, zorder=1)
    known = [_known(words, place, n) for place, n in ((key, run), (at, run - 1))]
    tall = [0.42 + 0.25 * n for n in (run, run - 1)]
    for place, text, edge, high in zip((key, at), known, (MOVE, MATCH), tall, strict=True):
        _token(ax, (place, 1.0 + high / 2), text, edge, (0.84 if "\n" not in text else 1.85, high))
    moves = [(key - n, key - 0.12 * n) for n in range(1, run + 1)] + [(at - n, at - 0.12 * n) for n in range(1, run)]
    for source, to in moves:
        _arc(ax, (source, 0.22), (to, 0.98), MOVE, 0.1)
    _arc(ax, (at, 1.0 + tall[1]), (key + 0.2, 1.0 + tall[0]), MATCH, 0.55)
    ax.text((at + key) / 2, 1.65 + sum(tall) / 2, "QK: my token is the one before yours" if run == 1
            else "QK: my two tokens are the two before yours", ha="center", color=MATCH, fontsize=9)  # fmt: skip
    _token(ax, (at, 3.2), words[key], COPY)
    corner = [(key - 0.3, 1.0 + tall[0]), (key - 0.3, 3.2), (at - 0.43, 3.2)]
    _arrow(ax, Path(corner), COPY)
    ax.text((at + key) / 2, 3.28, "OV: copied to the prediction", ha="center", color=COPY, fontsize=9)
    ax.text(-0.7, 1.15, "layer 0 moves\ntokens on", va="bottom", color=MOVE, fontsize=9)


def _known(words: Sequence[str], at: int, run: int) -> str:
    """What a position knows: its token, and ``run`` tokens that earlier heads have moved there."""
    lines = [f"{name}: {words[at - n - 1]}" for n, name in enumerate(("before", "2 before")[:run])]
    return "\n".join([words[at], *lines])


@styled
def slot_contents(parts: Mapping[str, Float[np.ndarray, "pos word"]], labels: Sequence[str], words: Sequence[str]
                  ) -> Plot:
    """What the slots of the hand-built model's residual stream hold at every position, one panel a slot.

    Args:
        parts: name of the slot -> 1 where it holds a whole token, from ``circuits_induction.slots``.
        labels: the token at each position.
        words: the tokens that columns stand for.
    """
    require(bool(parts), "parts is empty; pass at least one slot.")
    fig, axes = canvas("The residual stream of the hand-built model", 2.9 * len(parts) + 0.9, 0.9 + 0.3 * len(labels),
                       cols=len(parts), sharey=True)  # fmt: skip
    for ax, (name, held) in zip(axes[0], parts.items(), strict=True):
        mesh = ax.imshow(numbers(name, held, 2), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.set(title=name, xticks=range(len(words)), yticks=range(len(labels)))
        ax.set_xticklabels(map(printable, words), rotation=90, family=MONO)
        ax.set_yticklabels(map(printable, labels), family=MONO)
        ax.grid(False)
        ax.tick_params(length=0)
    axes[0, 0].set_ylabel("token at each position")
    fig.supxlabel("token that the slot holds", fontsize=9.5)
    fig.colorbar(mesh, ax=axes[0, -1], label="amount (1: a whole token)")
    last = {name: words[int(np.argmax(held[-1]))] for name, held in parts.items()}
    fig.alt = "Maps of slots by position. At the last position: " + "; ".join(
        f"{name}: {word!r} ({parts[name][-1].max():.2f})" for name, word in last.items()) + "."
    return fig


@styled
def sharpness(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Plot:
    """Prefix matching of the hand-built induction head when one of its two heads is made less sharp."""
    require(bool(curves), "curves is empty; pass at least one.")
    fig, axes = canvas("How sharp must the two heads be?", 6.2, 3.6)
    ax = axes[0, 0]
    for (name, (x, y)), hue, mark in zip(curves.items(), (MOVE, MATCH, COPY), "osD", strict=False):
        ax.plot(x, y, marker=mark, ms=5, lw=1.9, color=hue, label=name)
    ax.set(xlabel="factor on the scores of that head (1: as built)", ylabel=MATCHING, ylim=(-0.03, 1.05))
    fig.legend(loc="outside lower center", ncols=2)
    fig.alt = "Prefix matching against sharpness. " + "; ".join(
        f"{name}: {y[0]:.2f} at factor {x[0]:g}, {y[-1]:.2f} at {x[-1]:g}" for name, (x, y) in curves.items()) + "."
    return fig
