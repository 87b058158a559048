"""Figures of the residual stream, of who reads whom, and of the paths to the logits (P2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .config import require
from .figures_style import INK, PAPER, Plot, canvas, depth_colours, numbers, styled

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

DIRECT, VIRTUAL = "#6e6e6e", "#d55e00"
LINES = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#aa4499", ":"))


def check_columns(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise IctlError unless ``table`` has rows, and all of ``columns``."""
    missing = [column for column in columns if column not in table]
    require(not missing, f"{name} lacks the column {', '.join(missing)}; it has {', '.join(map(str, table))}.")
    require(len(table) > 0, f"{name} has no rows; pass at least one.")


# ---- the residual stream --------------------------------------------------------------------------


@styled
def stream_parts(shares: pd.DataFrame, label: str) -> Plot:
    """Length of what each part writes to the residual stream, and its share of the whole (P2, "Residual stream").

    Args:
        shares: a row a part, columns ``length`` and ``share`` (``circuits_stream.stream_shares``).
        label: of the model.

    Raises:
        IctlError: no row, or a column is missing.
    """
    check_columns("shares", shares, ("length", "share"))
    fig, axes = canvas(f"{label}: what sums to the final residual stream", 8.4, 1.5 + 0.27 * len(shares), cols=2,
                       sharey=True)  # fmt: skip
    layers = [int(name[1]) if name[:1] == "L" and name[1:2].isdigit() else -1 for name in map(str, shares.index)]
    hues = [depth_colours(max(layers) + 1)[layer] if layer >= 0 else DIRECT for layer in layers]
    for ax, column, axis in zip(axes[0], ("length", "share"), ("mean length of the part (no unit)",
                                                              "share of the whole stream"), strict=True):  # fmt: skip
        ax.barh(np.arange(len(shares)), shares[column], color=hues, height=0.72)
        ax.set_xlabel(axis)
        _room(ax, shares[column])
        for y, value in enumerate(shares[column]):
            ax.text(max(value, 0), y, f" {value:.2f}", va="center", fontsize=8.5)
    axes[0, 0].set_yticks(np.arange(len(shares)), list(shares.index))
    axes[0, 0].set_ylim(len(shares) - 0.4, -0.6)
    words = ", ".join(f"{name} {value:.2f}" for name, value in shares["share"].items())
    fig.alt = f"Bars: parts of the residual stream of the {label} model. Shares of the whole: {words}."
    return fig


def _room(ax: Axes, values: Sequence[float]) -> None:
    """Room for the numbers beside the bars."""
    low, high = min(0.0, min(values)), max(values)
    ax.set_xlim(low - 0.03 * (high - low if low else 0), high + 0.17 * (high - low))


@styled
def read_map(panels: Mapping[str, pd.DataFrame], title: str, unit: str, chance: float | None = None) -> Plot:
    """Maps side by side: a row a part that writes, a column a head that reads, the number in the cell (P2).

    Args:
        panels: what is read (queries, keys, values) -> table; all of one shape.
        unit: what the numbers are, for the colour bar.
        chance: what no relation gives; colours then show the difference from it.

    Raises:
        IctlError: no panel, or panels of different shapes.
    """
    require(len(panels) > 0, "panels is empty; pass at least one table.")
    shapes = {table.shape for table in panels.values()}
    require(len(shapes) == 1, f"panels have different shapes: {sorted(shapes)}; pass tables of one shape.")
    rows, cols = shapes.pop()
    fig, axes = canvas(title, 2.1 + 0.62 * cols * len(panels), 1.75 + 0.36 * rows, cols=len(panels), sharey=True)
    middle, spread = chance or 0.0, 1 - (chance or 0.0)
    low, cmap = (middle - spread, "RdBu_r") if chance else (0, "Blues")
    for ax, (name, table) in zip(axes[0], panels.items(), strict=True):
        cells = numbers(name, table.to_numpy(), 2)
        image = ax.imshow(cells, cmap=cmap, vmin=low, vmax=1, aspect="auto")
        _cells(ax, cells, image)
        ax.set_xticks(np.arange(cols), list(table.columns))
        ax.set_yticks(np.arange(rows), list(table.index))
        ax.set(title=name, xlabel="reading head (layer, number)")
        ax.tick_params(length=0)
    axes[0, 0].set_ylabel("written by (part)")
    fig.colorbar(image, ax=axes[0, -1], label=unit).ax.set_ylim(min(0.0, low) if chance is None else 0.0, 1)
    fig.alt = f"{title}: {unit}. " + " ".join(_strongest(name, table) for name, table in panels.items())
    return fig


def _cells(ax: Axes, cells: Float[np.ndarray, "row column"], image) -> None:
    """Write each number into its cell, dark or light."""
    ax.grid(False)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(cells):
        back = image.cmap(image.norm(value))[:3]
        ink = INK if np.dot(back, (0.2126, 0.7152, 0.0722)) > 0.4 else PAPER
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=ink)


def _strongest(name: str, table: pd.DataFrame) -> str:
    row, column = np.unravel_index(table.to_numpy().argmax(), table.shape)
    return f"{name}: most in {table.columns[column]} from {table.index[row]}, {table.iat[row, column]:.2f}."


@styled
def spectra(shares: Mapping[str, Float[np.ndarray, "d_model"]], title: str) -> Plot:
    """How many directions hold how much of a matrix: running sum of squared singular values (P2, "Observations").

    Args:
        shares: name -> share of each direction, largest first, summing to 1.

    Raises:
        IctlError: nothing to draw.
    """
    require(len(shares) > 0, "shares is empty; pass at least one spectrum.")
    fig, axes = canvas(title, 5.6, 3.6)
    ax, words = axes[0, 0], []
    for i, (name, values) in enumerate(shares.items()):
        sums = np.cumsum(numbers(name, values, 1))
        ax.plot(np.arange(1, len(sums) + 1), sums, color=LINES[i % 4][0], ls=LINES[i % 4][1], lw=2, label=name)
        words.append(f"{name} needs {int(np.argmax(sums > 0.9 - 1e-9)) + 1} of {len(sums)} directions for nine tenths")
    ax.set(xlabel="directions, largest first (number)", ylabel="squared length they hold (share)", ylim=(0, 1.03))
    ax.legend(loc="lower right")
    fig.alt = f"{title}: running sums. {'; '.join(words)}."
    return fig


# ---- paths ----------------------------------------------------------------------------------------


@styled
def path_sizes(table: pd.DataFrame, label: str, most: int = 25) -> Plot:
    """Size of every path's logits, and how far it raises the right token (P2, "Path expansion").

    Args:
        table: ``circuits_stream.path_sizes``.
        label: of the model.
        most: at most so many paths, the largest.

    Raises:
        IctlError: no row, or a column is missing.
    """
    check_columns("table", table, ("heads", "last", "size", "right"))
    shown = table.sort_values("size", ascending=False).head(most)
    fig, axes = canvas(f"{label}: the paths that sum to the logits", 8.6, 1.7 + 0.22 * len(shown), cols=2, sharey=True)
    layers = depth_colours(int(table["last"].max()) + 1)
    looks = [_path_look(*row, layers) for row in zip(shown["heads"], shown["last"], strict=True)]
    for ax, column, axis in zip(axes[0], ("size", "right"), ("size: spread over the vocabulary (nats)",
                                                            "right token raised by (nats)"), strict=True):  # fmt: skip
        ax.barh(np.arange(len(shown)), shown[column], color=[hue for hue, _ in looks], height=0.72)
        ax.set_xlabel(axis)
    axes[0, 0].set_yticks(np.arange(len(shown)), list(shown.index), fontsize=8)
    axes[0, 0].set_ylim(len(shown) - 0.4, -0.6)
    kinds = dict.fromkeys(sorted(looks, key=lambda look: look[1]))  # direct, heads of layer 0, 1, ..., virtual
    handles = [Line2D([], [], color=hue, lw=6, label=kind) for hue, kind in kinds]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    top = ", ".join(f"{name} {size:.2f}" for name, size in shown["size"].head(3).items())
    fig.alt = (
        f"Bars for {len(shown)} of {len(table)} paths of the {label} model. Largest: {top} nats. By number of heads "
        "they raise the right token by "
        + ", ".join(f"{total:.2f} nats ({int(n)} heads)" for n, total in table.groupby("heads")["right"].sum().items())
        + "."
    )
    return fig


def _path_look(heads: int, last: int, layers: Sequence[str]) -> tuple[str, str]:
    """Colour of a path, and the words for its kind."""
    if heads == 0:
        return DIRECT, "direct path"
    return (VIRTUAL, "virtual heads") if heads > 1 else (layers[int(last)], f"heads of layer {int(last)}")
