"""Pictures of attention and of losses on the tokens of a text: the still twins of the views in ``viz``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from .config import require
from .figures_style import INK, PAPER, Plot, canvas, per_token, printable, square, styled

if TYPE_CHECKING:
    from jaxtyping import Float

MONO = "DejaVu Sans Mono"
LINE = 84  # characters of a line of coloured text
LONGEST = 14  # characters of a token on an axis


@styled
def attention_pattern(
    pattern: Float[np.ndarray, "pos pos"], labels: Sequence[str], title: str = "Attention pattern"
) -> Plot:
    """One attention pattern: from each token (row) to itself and those before it (columns).

    Args:
        pattern: shares of attention, rows sum to 1.
        labels: one string a token.
        title: what is shown, for example ``L1H2 after 6M training tokens``.

    Raises:
        IctlError: a shape that does not match ``labels``.
    """
    shares = square("pattern", pattern, labels)
    side = min(7.6, max(3.6, 1.7 + 0.17 * len(labels)))
    fig, axes = canvas(title, side + 0.8, side + 0.3)
    mesh = _pattern(axes[0, 0], shares)
    _token_ticks(axes[0, 0], labels, side)
    axes[0, 0].set(xlabel="attended token (source)", ylabel="attending token (destination)")
    fig.colorbar(mesh, ax=axes[0, 0], label="attention (share)", shrink=0.7)
    fig.alt = f"{title}: attention over {len(labels)} tokens. {_where(shares, labels)}"
    return fig


@styled
def attention_heads(
    patterns: Float[np.ndarray, "head pos pos"],
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    title: str = "Attention patterns",
) -> Plot:
    """The attention patterns of several heads side by side, on the same tokens.

    Args:
        patterns: shares of attention, one pattern a head.
        labels: one string a token.
        names: one name a head, such as ``L1H2``; default ``head 0``, ``head 1``, ...

    Raises:
        IctlError: shapes or counts that do not match.
    """
    shares = square("patterns", patterns, labels, 3)
    names = head_names(shares, names)
    cols = min(4, len(names))
    rows = -(-len(names) // cols)
    fig, axes = canvas(title, 2.3 * cols + 0.4, 2.45 * rows + 0.9, rows, cols, sharex=True, sharey=True)
    for ax, share, name in zip(axes.flat, shares, names, strict=False):
        _pattern(ax, share)
        ax.set_title(name)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    fig.supxlabel("position of the attended token", fontsize=9.5)
    fig.supylabel("position of the attending token", fontsize=9.5)
    fig.alt = f"{title} of {len(names)} heads over {len(labels)} tokens. " + " ".join(
        f"{name}: {_where(share, labels)}" for share, name in zip(shares, names, strict=True)
    )
    return fig


@styled
def token_losses(
    labels: Sequence[str],
    values: Float[np.ndarray, "pos"],
    title: str = "Loss of every token",
    unit: str = "loss (nats)",
) -> Plot:
    """A text with every token on a background that shows its value; blue to red around 0 if any is negative.

    Args:
        labels: one string a token.
        values: one number a token, in ``unit``.

    Raises:
        IctlError: another number of values than labels.
    """
    numbers = per_token("values", values, labels)
    norm, cmap = token_scale(numbers)
    words = [printable(label) or "·" for label in labels]
    places, rows = _lay_out(words, ["\n" in label or "↵" in label for label in labels])
    fig, axes = canvas(title, 8.6, 1.1 + 0.24 * rows)
    ax = axes[0, 0]
    ax.set(xlim=(0, LINE), ylim=(rows, 0))
    ax.set_axis_off()
    for word, back, (row, column) in zip(words, cmap(norm(numbers)), places, strict=True):
        ax.barh(row + 0.5, len(word), left=column, height=0.92, color=back, lw=0.5, edgecolor=PAPER)
        ax.text(column, row + 0.5, word, color=ink_on(back), va="center", family=MONO, fontsize=10.4)
    bar = ScalarMappable(norm, cmap)
    fig.colorbar(bar, ax=ax, label=unit, orientation="horizontal", shrink=0.4, aspect=30)
    order = np.argsort(numbers)
    high, low = _words(labels, numbers, order[::-1][:3]), _words(labels, numbers, order[:3])
    fig.alt = f"{title}: {len(labels)} tokens coloured by {unit}. Highest {high}; lowest {low}."
    return fig


def token_scale(values: Float[np.ndarray, "pos"]):
    """Norm and colour map for values a token: white to red from 0 up, or blue to red around 0."""
    bound = max(float(np.abs(values).max()), 1e-6)
    if values.min() < 0:
        return TwoSlopeNorm(0.0, -bound, bound), matplotlib.colormaps["RdBu_r"]
    return Normalize(0.0, bound), matplotlib.colormaps["Reds"]


def ink_on(back: tuple[float, ...]) -> str:
    """Dark or white text, whichever reads better on ``back`` (red, green, blue, 0 to 1)."""
    return INK if np.dot(back[:3], (0.2126, 0.7152, 0.0722)) > 0.4 else "#ffffff"


def head_names(patterns: Float[np.ndarray, "head pos pos"], names: Sequence[str] | None) -> list[str]:
    """``names`` checked against ``patterns``, or numbered heads; raises IctlError."""
    if names is None:
        return [f"head {i}" for i in range(len(patterns))]
    require(
        len(names) == len(patterns),
        f"names has {len(names)} entries for {len(patterns)} heads; pass one a head.",
    )
    return [str(name) for name in names]


def _pattern(ax: Axes, shares: Float[np.ndarray, "pos pos"]):
    """Draw one causal pattern; what a token cannot see is grey."""
    seen = np.ma.masked_where(~np.tri(len(shares), dtype=bool), shares)
    cmap = matplotlib.colormaps["Blues"].with_extremes(bad="#eceef1")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax.imshow(seen, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")


def _token_ticks(ax: Axes, labels: Sequence[str], side: float) -> None:
    """Token labels on both axes; every second, third, ... where they would overlap."""
    every = -(-len(labels) // int(side * 7))
    ticks = np.arange(0, len(labels), every)
    short = [printable(labels[i]) for i in ticks]
    short = [x if len(x) <= LONGEST else x[: LONGEST - 1] + "…" for x in short]
    ax.set_xticks(ticks, short, rotation=90, family=MONO, fontsize=8)
    ax.set_yticks(ticks, short, family=MONO, fontsize=8)
    ax.tick_params(length=0)


def _where(shares: Float[np.ndarray, "pos pos"], labels: Sequence[str]) -> str:
    """In words: the shares on the first token and on the token before, and the strongest other link."""
    rest = np.tril(shares, -2)[:, 1:]
    words = (
        f"on average {shares[:, 0].mean():.2f} goes to the first token, "
        f"{np.diag(shares, -1).mean() if len(shares) > 1 else 0:.2f} to the token before"
    )
    if rest.size and rest.max() > 0.1:
        to, source = np.unravel_index(rest.argmax(), rest.shape)
        words += f", and most further back from {labels[to]!r} to {labels[source + 1]!r} ({rest.max():.2f})"
    return words + "."


def _lay_out(words: Sequence[str], ends: Sequence[bool]) -> tuple[list[tuple[int, int]], int]:
    """Row and column of every word, wrapped at ``LINE`` characters and at line ends; how many rows."""
    places, row, column = [], 0, 0
    for word, end in zip(words, ends, strict=True):
        if column and column + len(word) > LINE:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if end else (row, column + len(word))
    return places, places[-1][0] + 1


def _words(labels: Sequence[str], values: Float[np.ndarray, "pos"], order: Float[np.ndarray, "some"]) -> str:
    return ", ".join(f"{labels[i]!r} {values[i]:.2f}" for i in order)
