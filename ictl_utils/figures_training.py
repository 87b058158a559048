"""Curves over training: one colour a model label, a thin line a seed, a bold median, the window shaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .config import require
from .figures_style import Plot, canvas, colour, line, styled, token_axis, token_text
from .numbers_shapes import FORMED

if TYPE_CHECKING:
    from jaxtyping import Float

    from .measure import History
    from .metrics import Window

LOSS = "held-out loss (nats per token)"
ICL = "ICL score: late − early loss (nats)"
MATCHING = "prefix matching (share of attention)"
SHADED = 3  # labels; the windows of more would hide each other


@styled
def training_curves(histories: Mapping[str, Sequence[History]]) -> Plot:
    """Loss, ICL score and the best head's prefix matching over training (P1, Argument 1).

    Args:
        histories: model label -> its seeds.

    Raises:
        IctlError: no history, or one without snapshots.
    """
    _check(histories)
    fig, axes = canvas("Loss, in-context learning and prefix matching over training", 9.6, 3.5, cols=3)
    panels = (
        (lambda h: h.loss, "Loss", LOSS),
        (lambda h: h.icl, "In-context learning", ICL),
        (_best, "Prefix matching, best head", MATCHING),
    )
    for ax, (values, title, label) in zip(axes[0], panels, strict=True):
        _curves(ax, histories, values)
        ax.set(title=title, ylabel=label)
    axes[0, 2].set_ylim(-0.02, 1.02)
    _legend(fig, histories)
    fig.alt = (
        "Three panels over training tokens: loss, ICL score, prefix matching of the best head. "
        + " ".join(
            f"{label} ends at loss {_at(group, lambda h: h.loss, -1):.2f} nats, "
            f"ICL score {_at(group, lambda h: h.icl, -1):.2f} nats, "
            f"prefix matching {_at(group, _best, -1):.2f}{window_words(group)}."
            for label, group in histories.items()
        )
    )
    return fig


@styled
def icl_scores(histories: Mapping[str, Sequence[History]]) -> Plot:
    """ICL score over training, one colour a label; negative means gain from context (P1, Argument 1)."""
    return _one_panel(histories, lambda h: h.icl, "In-context learning score over training", ICL)


@styled
def loss_curves(histories: Mapping[str, Sequence[History]]) -> Plot:
    """Held-out loss over training, one colour a label (P1, Argument 1)."""
    return _one_panel(histories, lambda h: h.loss, "Held-out loss over training", LOSS)


def check_history(history: History) -> None:
    """Raise IctlError unless ``history`` holds at least one snapshot and its token counts ascend."""
    require(
        len(history.tokens) > 0,
        f"the history of {history.label!r} holds no snapshot; measure a run that has some.",
    )
    require(
        bool((np.diff(history.tokens) > 0).all()),
        f"the tokens of {history.label!r} must ascend over snapshots.",
    )


def window_of(history: History) -> Window | None:
    """Phase change of ``history``, or None where no induction head formed: the rule always finds a window."""
    if len(history.tokens) < 4 or np.max(history.prefix_matching[-1], initial=0.0) <= FORMED:
        return None
    return history.window


def shade(ax: Axes, group: Sequence[History], hue: str) -> None:
    """Shade the phase-change window of ``group``: the median over its seeds, in training tokens."""
    window = _window(group)
    if window:
        ax.axvspan(*window, color=hue, alpha=0.13, lw=0, zorder=0)


def window_patch(groups: Sequence[Sequence[History]]) -> list[Patch]:
    """A legend entry for the shading, if any of ``groups`` has a window."""
    return (
        [Patch(color="#6b7280", alpha=0.25, lw=0, label="phase change")] if any(map(_window, groups)) else []
    )


def window_words(group: Sequence[History]) -> str:
    """The phase-change window of ``group`` in words, for alt text."""
    window = _window(group)
    return f", phase change from {token_text(window[0])} to {token_text(window[1])} tokens" if window else ""


def _window(group: Sequence[History]) -> tuple[float, float] | None:
    found = [(window.start, window.end) for window in map(window_of, group) if window]
    return tuple(np.median(found, axis=0)) if found else None


def _one_panel(
    histories: Mapping[str, Sequence[History]],
    values: Callable[[History], Float[np.ndarray, "snap"]],
    title: str,
    axis: str,
) -> Plot:
    _check(histories)
    fig, axes = canvas(title, 6.4, 3.7)
    _curves(axes[0, 0], histories, values)
    axes[0, 0].set_ylabel(axis)
    _legend(fig, histories)
    words = window_words if len(histories) <= SHADED else lambda group: ""
    fig.alt = f"{title}, {axis}. " + " ".join(
        f"{label} goes from {_at(group, values, 0):.2f} to {_at(group, values, -1):.2f}{words(group)}."
        for label, group in histories.items()
    )
    return fig


def _check(histories: Mapping[str, Sequence[History]]) -> None:
    require(len(histories) > 0, "histories is empty; pass at least one label with its list of histories.")
    for label, group in histories.items():
        require(len(group) > 0, f"histories[{label!r}] is empty; pass at least one history a label.")
        for history in group:
            check_history(history)


def _best(history: History) -> Float[np.ndarray, "snap"]:
    """Prefix matching of the best head at every snapshot; 0 for a model without heads."""
    flat = np.asarray(history.prefix_matching).reshape(len(history.tokens), -1)
    return flat.max(1, initial=0.0)


def _curves(
    ax: Axes,
    histories: Mapping[str, Sequence[History]],
    values: Callable[[History], Float[np.ndarray, "snap"]],
) -> None:
    for label, group in histories.items():
        look = {"color": colour(label), "ls": line(label)}
        if len(group) > 1:
            for history in group:
                ax.plot(history.tokens, values(history), lw=0.8, alpha=0.55, **look)
        grid = np.unique(np.concatenate([h.tokens for h in group]))
        grid = grid[grid <= min(h.tokens[-1] for h in group)]
        ax.plot(
            grid, np.median([np.interp(grid, h.tokens, values(h)) for h in group], axis=0), lw=2.2, **look
        )
        if len(histories) <= SHADED:
            shade(ax, group, colour(label))
    token_axis(ax)


def _at(
    group: Sequence[History], values: Callable[[History], Float[np.ndarray, "snap"]], snapshot: int
) -> float:
    """Median over seeds at one snapshot."""
    return float(np.median([values(h)[snapshot] for h in group]))


def _legend(fig: Figure, histories: Mapping[str, Sequence[History]]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=colour(label),
            ls=line(label),
            lw=2.2,
            label=label if len(group) == 1 else f"{label} ({len(group)} runs)",
        )
        for label, group in histories.items()
    ] + window_patch(list(histories.values()) if len(histories) <= SHADED else [])
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=5 if fig.get_figwidth() > 8 else 3,
        handlelength=2.6,
    )
