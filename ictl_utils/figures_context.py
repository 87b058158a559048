"""Figures of where in the context a model is good, and of how its per-token losses move (P1, Argument 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from .config import require
from .figures_style import INK, Plot, canvas, colour, depth_colours, numbers, styled, token_axis, token_text
from .figures_training import check_history, window_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from .measure import History


@styled
def loss_by_position(history: History, snapshots: Sequence[int] | None = None) -> Plot:
    """Loss at every position of the context, a line a snapshot (P1, "Loss by context index").

    Args:
        history: one run.
        snapshots: indices of snapshots; default six spread over training, the last among them.
    """
    losses, steps = _positions(history), len(history.tokens)
    spread = sorted({*np.linspace(steps // 8, steps - 1, 6).astype(int)})
    chosen = spread if snapshots is None else list(snapshots)
    require(
        len(chosen) > 0 and all(-steps <= i < steps for i in chosen),
        f"snapshots={chosen} must name at least one of the {steps} snapshots of {history.label}.",
    )
    fig, axes = canvas(f"{history.label}: loss by position in the context", 6.4, 3.7)
    ax = axes[0, 0]
    positions, names = np.arange(1, losses.shape[1] + 1), [token_text(history.tokens[i]) for i in chosen]
    for i, name, hue in zip(chosen, names, depth_colours(len(chosen)), strict=True):
        ax.plot(positions, losses[i], color=hue, lw=1.4, label=name)
    _position_axis(ax.xaxis, losses.shape[1])
    ax.set(ylabel="loss (nats)", xlabel="position in the context (tokens)")
    fig.legend(loc="outside right center", title="training\ntokens")
    fig.alt = (
        f"Loss against position in the context for {len(chosen)} snapshots of the {history.label} model. "
        f"At {names[-1]} training tokens it goes from {losses[chosen[-1], 0]:.2f} nats at position 1 "
        f"to {losses[chosen[-1], -1]:.2f} at position {losses.shape[1]}."
    )
    return fig


@styled
def loss_map(history: History) -> Plot:
    """Loss over training and over position in the context, as a map (P1, "2D loss")."""
    losses = _positions(history)
    low, high = np.percentile(losses[1:] if len(losses) > 2 else losses, [1, 99])
    fig = _map(
        history,
        np.arange(1, losses.shape[1] + 1),
        losses,
        ("viridis_r", low, high),
        f"{history.label}: loss over training and position",
        "loss (nats)",
    )
    fig.alt = (
        f"Map of the loss of the {history.label} model: training tokens across, position in the context up. "
        f"It goes from {losses[0].mean():.2f} nats at the first snapshot "
        f"to {losses[-1].mean():.2f} at the last."
    )
    return fig


@styled
def loss_derivative_map(
    history: History, positions: Float[np.ndarray, "place"], derivative: Float[np.ndarray, "snap place"]
) -> Plot:
    """d loss / d ln(position) over training; blue where more context lowers the loss (P1, Argument 1).

    Args:
        history: the run it was computed on.
        positions: places in the context, in tokens from 1 on, ascending.
        derivative: nats per unit of ln(position), as :func:`ictl_utils.metrics.loss_derivative` gives it.
    """
    places, slope = numbers("positions", positions, 1), numbers("derivative", derivative, 2)
    want = (len(history.tokens), len(places))
    require(
        slope.shape == want, f"derivative has shape {slope.shape}; expected (snapshots, positions) = {want}."
    )
    require(places[0] > 0 and bool((np.diff(places) > 0).all()), "positions must be positive and ascending.")
    later = slope[:, len(places) // 2 :].mean(axis=1)
    bound = max(float(np.percentile(np.abs(slope), 98)), 1e-6)
    fig = _map(
        history,
        places,
        slope,
        ("RdBu_r", -bound, bound),
        f"{history.label}: change of loss along the context",
        "d loss / d ln(position) (nats)",
    )
    fig.alt = (
        f"Map of the slope of the loss along the context for the {history.label} model. "
        f"Over the later half of the positions it averages {later[0]:+.2f} nats at the first snapshot and "
        f"{later[-1]:+.2f} at the last; negative means that context helps."
    )
    return fig


@styled
def pca_paths(
    paths: Mapping[str, Float[np.ndarray, "snap 2"]],
    windows: Mapping[str, tuple[int, int] | None] | None = None,
    explained: Sequence[float] | None = None,
) -> Plot:
    """Paths of the per-token loss vectors in their first two principal components (P1, Argument 1).

    Args:
        paths: model label -> [snap, 2], one panel each.
        windows: label -> first and last snapshot of the phase change, as :func:`window_snapshots` gives them.
        explained: shares of variance of the two components, 0 to 1.
    """
    require(len(paths) > 0, "paths is empty; pass at least one label with its path.")
    title = "Per-token losses over training, first two principal components"
    fig, axes = canvas(title, max(4.2, 3.2 * len(paths)), 3.7, cols=len(paths), sharex=True, sharey=True)
    drawn = {label: numbers(f"path of {label}", path, 2) for label, path in paths.items()}
    for ax, (label, path) in zip(axes[0], drawn.items(), strict=True):
        _path(ax, label, path, (windows or {}).get(label))
    shares = ["", ""] if explained is None else [f"; {100 * share:.0f} % of variance" for share in explained]
    for ax in axes[0]:
        ax.set_xlabel(f"component 1 (nats{shares[0]})")
    axes[0, 0].set_ylabel(f"component 2 (nats{shares[1]})")
    fig.legend(handles=_path_key(), loc="outside lower center", ncols=3)
    moves = {label: np.ptp(path, axis=0) for label, path in drawn.items()}
    fig.alt = "Path of each model's per-token losses over training in two principal components: " + "; ".join(
        f"{label} moves by {first:.1f} along the first and {second:.1f} along the second"
        for label, (first, second) in moves.items()
    )
    return fig


def _path_key() -> list[Line2D]:
    start = Line2D([], [], marker="o", color=INK, mfc="white", ls="", label="start")
    end = Line2D([], [], marker="o", color=INK, ls="", label="end")
    return [start, end, Line2D([], [], color=INK, lw=4, alpha=0.35, label="phase change")]


def window_snapshots(history: History) -> tuple[int, int] | None:
    """First and last snapshot of the phase change of ``history``; None where no induction head formed."""
    window = window_of(history)
    if window is None:
        return None
    first, last = np.searchsorted(history.tokens, [window.start, window.end])
    return int(first), int(min(last, len(history.tokens) - 1))


def _positions(history: History) -> Float[np.ndarray, "snap pos"]:
    check_history(history)
    losses = numbers(f"loss_by_position of {history.label}", history.loss_by_position, 2)
    require(
        len(losses) == len(history.tokens),
        f"loss_by_position of {history.label} has {len(losses)} rows for "
        f"{len(history.tokens)} snapshots; measure the run again.",
    )
    return losses


def _position_axis(axis: Axis, longest: int) -> None:
    """Log scale with plain numbers at powers of two."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    ticks = 2 ** np.arange(0, int(np.log2(longest)) + 1)
    axis.set_major_locator(FixedLocator(ticks[:: max(1, len(ticks) // 6)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _map(
    history: History,
    places: Float[np.ndarray, "place"],
    values: Float[np.ndarray, "snap place"],
    scale: tuple[str, float, float],
    title: str,
    unit: str,
) -> Plot:
    """A map of ``values`` with training tokens across and position up; ``scale`` is colour map, low, high."""
    require(len(history.tokens) > 1, f"a map needs two snapshots; the history of {history.label!r} has one.")
    fig, axes = canvas(title, 6.4, 3.9)
    ax, (name, low, high) = axes[0, 0], scale
    mesh = ax.pcolormesh(
        history.tokens, places, values.T, shading="nearest", cmap=name, vmin=low, vmax=high, rasterized=True
    )
    _position_axis(ax.yaxis, int(places[-1]))
    ax.grid(False)
    window = window_of(history)
    if window is not None:
        ax.vlines([window.start, window.end], *ax.get_ylim(), color=INK, ls="--", lw=1.2)
        ax.set_title("dashed lines: phase-change window", fontsize=8.5)
    token_axis(ax)
    ax.set_ylabel("position in the context (tokens)")
    fig.colorbar(mesh, ax=ax, label=unit, extend="both")
    return fig


def _path(ax: Axes, label: str, path: Float[np.ndarray, "snap 2"], window: tuple[int, int] | None) -> None:
    require(path.shape[1] == 2, f"the path of {label} has shape {path.shape}; expected (snapshots, 2).")
    hue = colour(label)
    ax.plot(*path.T, color=hue, lw=1.4, marker=".", ms=4)
    if window is not None:
        ax.plot(
            *path[window[0] : window[1] + 1].T, color=INK, lw=7, alpha=0.3, zorder=1, solid_capstyle="round"
        )
    ax.plot(*path[0], "o", mec=hue, mfc="white", ms=7)
    ax.plot(*path[-1], "o", color=hue, ms=7)
    ax.set_title(label)
