"""Figures of single heads: their scores over training, against each other, and what is lost without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .config import one_of, require
from .figures_style import INK, Plot, canvas, depth_colours, numbers, styled, token_axis, token_text
from .figures_training import ICL, LOSS, MATCHING, check_history, shade, window_patch, window_words

if TYPE_CHECKING:
    from jaxtyping import Float

    from .measure import History

DROPS = ("#d55e00", "#0072b2", "#009e73", "#aa4499")
SCORES = {
    "prefix_matching": ("prefix matching", MATCHING, (-0.02, 1.02)),
    "prefix_random": ("prefix matching at random periods", MATCHING, (-0.02, 1.02)),
    "previous_token": ("previous-token score", "attention to the token before (share)", (-0.02, 1.02)),
    "copying": ("copying score", "copying score (−1 to 1)", (-1.05, 1.05)),
}


@styled
def heads_over_training(history: History, score: str = "prefix_matching") -> Plot:
    """A score of every head over training, coloured by layer, the best head named (P1, Argument 1).

    Args:
        history: one run.
        score: ``prefix_matching``, ``prefix_random``, ``previous_token`` or ``copying``.

    Raises:
        IctlError: unknown score, or a model without heads.
    """
    one_of("score", score, tuple(SCORES))
    name, axis, limits = SCORES[score]
    values, (layer, head) = _heads(history, score), _best_head(history, score)
    fig, axes = canvas(f"{history.label}: {name} of every head over training", 6.4, 3.7)
    ax, colours = axes[0, 0], depth_colours(values.shape[1])
    for i, j in np.ndindex(values.shape[1:]):
        width = 2.6 if (i, j) == (layer, head) else 1.1
        ax.plot(history.tokens, values[:, i, j], color=colours[i], lw=width, zorder=1 + width)
    end = values[-1, layer, head]
    _name(ax, (layer, head), (history.tokens[-1], end), (4, -3), weight="bold", annotation_clip=False)
    shade(ax, [history], INK)
    ax.set(ylabel=axis, ylim=limits)
    token_axis(ax)
    handles = [Line2D([], [], color=c, lw=2, label=f"layer {i}") for i, c in enumerate(colours)]
    fig.legend(handles=handles + window_patch([[history]]), loc="outside lower center", ncols=6)
    fig.alt = (
        f"{name} of {values[0].size} heads of the {history.label} model over training tokens. "
        f"The best at the end is L{layer}H{head} with {end:.2f}{window_words([history])}."
    )
    return fig


@styled
def head_scores(history: History, snapshot: int = -1) -> Plot:
    """Prefix matching against copying, a point a head, coloured by layer (P1, appendix).

    Args:
        history: one run.
        snapshot: index of the snapshot; -1 is the last.

    Raises:
        IctlError: a snapshot that is not there, or a model without heads.
    """
    prefix, copying = _heads(history, "prefix_matching"), _heads(history, "copying")
    require(
        -len(prefix) <= snapshot < len(prefix),
        f"snapshot={snapshot} is not there; {history.label} has {len(prefix)} snapshots.",
    )
    x, y = prefix[snapshot], copying[snapshot]
    fig, axes = canvas(f"{history.label}: prefix matching and copying of every head", 5.6, 4.2)
    ax = axes[0, 0]
    for layer, hue in enumerate(depth_colours(len(x))):
        ax.scatter(x[layer], y[layer], s=48, color=hue, ec="white", lw=0.8, label=f"layer {layer}", zorder=3)
    top = [divmod(int(i), x.shape[1]) for i in np.argsort(-x, axis=None)[:4]]
    for at in [at for at in top if x[at] > 0.1] or top[:1]:
        _name(ax, at, (x[at], y[at]), (6, 5))
    ax.axhline(0, color="#6b7280", lw=0.8)
    when = token_text(history.tokens[snapshot])
    ax.set(xlabel=MATCHING, ylabel=SCORES["copying"][1], title=f"after {when} training tokens")
    ax.set(xlim=(-0.03, 1.05), ylim=(-1.05, 1.05))
    fig.legend(loc="outside lower center", ncols=6)
    best = ", ".join(f"L{i}H{j} {x[i, j]:.2f} with copying {y[i, j]:+.2f}" for i, j in top)
    fig.alt = (
        f"Scatter of {x.size} heads of the {history.label} model after {when} training tokens, "
        f"prefix matching across and copying up. Highest prefix matching: {best}."
    )
    return fig


@styled
def knockout(table: Sequence[Mapping[str, object]]) -> Plot:
    """ICL score and loss of a model with and without some of its heads (P1, Argument 3).

    Args:
        table: rows with ``name``, ``icl`` and ``icl_se`` (nats) and ``loss`` (nats per token); intact first.

    Raises:
        IctlError: no row, or a row without one of these keys.
    """
    require(len(table) > 0, "table is empty; pass at least one row with name, icl, icl_se and loss.")
    for row in table:
        missing = [key for key in ("name", "icl", "icl_se", "loss") if key not in row]
        require(not missing, f"a row of table lacks {', '.join(missing)}; it has {', '.join(map(str, row))}.")
    fig, axes = canvas("What is lost without these heads", 8.6, 1.7 + 0.45 * len(table), cols=2, sharey=True)
    icl, loss = axes[0]
    places = np.arange(len(table))[::-1]
    hues = [INK if i == 0 else DROPS[(i - 1) % len(DROPS)] for i in range(len(table))]
    _bars(icl, places, [float(row["icl"]) for row in table], hues, [float(row["icl_se"]) for row in table])
    _bars(loss, places, [float(row["loss"]) for row in table], hues, None)
    icl.set(
        yticks=places,
        yticklabels=[str(row["name"]) for row in table],
        xlabel=f"{ICL}\n± 1 standard error",
        title="Gain from context (longer bar: more gain)",
    )
    loss.set(xlabel=LOSS, title="Loss")
    fig.alt = "Bars of ICL score and loss. " + " ".join(
        f"{row['name']}: ICL score {row['icl']:.2f} ± {row['icl_se']:.2f} nats, "
        f"loss {row['loss']:.2f} nats per token."
        for row in table
    )
    return fig


def _name(ax: Axes, at: tuple[int, int], point: tuple[float, float], offset: tuple[int, int], **look) -> None:
    """Write the name of head ``at`` (layer, head) beside ``point``, ``offset`` typographic points away."""
    ax.annotate(f"L{at[0]}H{at[1]}", point, xytext=offset, textcoords="offset points", color=INK, **look)


def _bars(
    ax: Axes,
    places: Float[np.ndarray, "row"],
    values: list[float],
    hues: list[str],
    errors: list[float] | None,
) -> None:
    """Horizontal bars, each with its number written past the end of its error bar."""
    ax.barh(
        places, values, height=0.62, color=hues, xerr=errors, error_kw={"ecolor": "#6b7280", "capsize": 3}
    )
    for place, value, error in zip(places, values, errors or [0.0] * len(values), strict=True):
        out = value - error if value < 0 else value + error
        ax.annotate(
            f"{value:.2f}",
            (out, place),
            xytext=(-4 if value < 0 else 4, 0),
            textcoords="offset points",
            va="center",
            ha="right" if value < 0 else "left",
        )
    ax.margins(x=0.18)
    ax.grid(False, axis="y")


def _heads(history: History, score: str) -> Float[np.ndarray, "snap layer head"]:
    check_history(history)
    values = np.asarray(getattr(history, score))
    require(
        values.ndim == 3 and values.size > 0,
        f"{score} of {history.label} has shape {values.shape}; expected (snapshots, layers, heads), none 0.",
    )
    return numbers(f"{score} of {history.label}", values, 3)


def _best_head(history: History, score: str) -> tuple[int, int]:
    """Layer and head with the highest score at the last snapshot."""
    last = _heads(history, score)[-1]
    return divmod(int(last.argmax()), last.shape[1])
