"""Diagrams: the architecture, the paths through one head, and a head that moves information (P2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .config import require
from .figures_style import FAINT, INK, PAPER, Plot, canvas, depth_colours, printable, square, styled

if TYPE_CHECKING:
    from jaxtyping import Float

QK, OV, DIRECT = "#d55e00", "#0072b2", "#6e6e6e"
STREAM = "#8a94a0"
MONO = "DejaVu Sans Mono"


def _box(ax: Axes, at: tuple[float, float], text: str, size: tuple[float, float], edge: str = INK, fill: str = PAPER,
         **kwargs) -> None:
    """A rounded box around its centre ``at``, with a text in it."""
    (x, y), (w, h) = at, size
    style = "round,pad=0,rounding_size=0.1"
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=style, fc=fill, ec=edge, lw=1.3, zorder=4))
    ax.text(x, y, text, ha="center", va="center", zorder=5, **kwargs)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0,
           width: float = 1.6, head: str = "-|>") -> None:
    look = f"arc3,rad={bend}"
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle=head, mutation_scale=12, color=colour, lw=width,
                                 connectionstyle=look, shrinkA=0, shrinkB=0, zorder=3))  # fmt: skip


def _bare(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.set(xlim=x, ylim=y)
    ax.set_axis_off()


@styled
def architecture(n_layers: int, n_heads: int) -> Plot:
    """One position of an attention-only transformer: heads read the residual stream and add to it (P2, "Overview").

    Raises:
        IctlError: no layer, or more than six layers or eight heads.
    """
    require(1 <= n_layers <= 6 and 1 <= n_heads <= 8, f"{n_layers} layers of {n_heads} heads do not fit the diagram.")
    top = 2.6 * n_layers + 2.4
    fig, axes = canvas("The residual stream of one position, from token to logits", 7.6, 0.62 * top + 0.9)
    ax = axes[0, 0]
    _bare(ax, (-3.1, 10.4), (-0.6, top + 0.5))
    _arrow(ax, (0, 0.2), (0, top - 0.3), STREAM, width=5)
    _box(ax, (0, 0), "token", (1.9, 0.7))
    ax.text(1.15, 0, "W_E: the token's row starts the stream", va="center", fontsize=8.8)
    for layer, colour in enumerate(depth_colours(n_layers)):
        _layer(ax, layer, n_heads, colour)
    _box(ax, (0, top), "logits", (1.9, 0.7))
    ax.text(1.15, top, "W_U reads the end of the stream", va="center", fontsize=8.8)
    ax.text(-0.5, top / 2, "residual stream x", rotation=90, ha="center", va="center", color="#57606a", fontsize=9)
    fig.alt = (
        f"Diagram: a token's embedding starts a vertical line, the residual stream. In each of {n_layers} layers "
        f"{n_heads} heads side by side read the stream, each on its own, and what they return is added to it. "
        "At the top the unembedding reads the stream and gives the logits. Nothing else connects the layers."
    )
    return fig


def _layer(ax: Axes, layer: int, n_heads: int, colour: str) -> None:
    """Heads of one layer beside the stream, with one line that reads and one that adds."""
    low = 1.15 + 2.6 * layer
    places = 1.9 + np.arange(n_heads) * min(1.55, 6.6 / n_heads)
    wide = 0.84 * (places[1] - places[0]) if n_heads > 1 else 1.3
    ax.plot([0, places[-1]], [low, low], color=colour, lw=1.6, zorder=2)
    ax.plot([0.28, places[-1]], [low + 1.8, low + 1.8], color=colour, lw=1.6, zorder=2)
    for head, x in enumerate(places):
        _arrow(ax, (x, low), (x, low + 0.55), colour)
        _arrow(ax, (x, low + 1.25), (x, low + 1.8), colour, head="-")
        _box(ax, (x, low + 0.9), f"L{layer}H{head}", (wide, 0.7), edge=colour, fontsize=8.8)
    _arrow(ax, (0.6, low + 1.8), (0.3, low + 1.8), colour)
    _box(ax, (0, low + 1.8), "+", (0.56, 0.5), edge=colour, fontsize=11)
    right = places[-1] + 0.75
    ax.text(right, low, "read (LayerNorm)", va="center", fontsize=8.8)
    ax.text(right, low + 1.8, "add", va="center", fontsize=8.8)


@styled
def paths_through_head(name: str = "a head of layer 0") -> Plot:
    """Which weights lie on the three kinds of path of a one-layer model (P2, "One-layer models").

    Args:
        name: what the head is called in the diagram.
    """
    fig, axes = canvas("Three paths: where to look (QK), what to bring (OV), and past the head (direct)", 8.2, 4.5)
    ax = axes[0, 0]
    _bare(ax, (-1.9, 11.9), (-0.7, 7.1))
    _look(ax)
    _bring(ax)
    ax.text(-1.8, 6.6, name, fontsize=10, weight="bold", va="center")
    ax.text(-1.8, 6.0, "QK circuit: W_E W_QK W_Eᵀ", color=QK, fontsize=9.5, va="center")
    ax.text(-1.8, 5.5, "OV circuit: W_E W_OV W_U", color=OV, fontsize=9.5, va="center")
    ax.text(-1.8, 5.0, "direct path: W_E W_U", color=DIRECT, fontsize=9.5, va="center")
    fig.alt = (
        "Diagram of the paths through one head. QK circuit: source and destination token each pass W_E and meet in "
        "W_QK, which gives a score and from it the share of attention A. OV circuit: the source token passes W_E, "
        "W_OV and W_U and changes the logits at the destination, weighted by A. Direct path: the destination token "
        "passes W_E and W_U only."
    )
    return fig


def _look(ax: Axes) -> None:
    """Both tokens, their embeddings, and the QK circuit where they meet."""
    for x, who in ((0.6, "source token"), (9.4, "destination token")):
        _box(ax, (x, 0), who, (3.0 if x > 1 else 2.4, 0.75))
        _box(ax, (x, 1.7), "W_E", (1.3, 0.7), edge=STREAM)
        _arrow(ax, (x, 0.38), (x, 1.35), STREAM, width=3)
    _box(ax, (5, 1.7), "W_QK\n= W_Q W_Kᵀ", (2.2, 1.0), edge=QK)
    _arrow(ax, (8.75, 1.7), (6.1, 1.7), QK)
    _arrow(ax, (1.25, 1.7), (3.9, 1.7), QK)
    ax.text(7.4, 1.92, "query", ha="center", color=QK, fontsize=8.8)
    ax.text(2.6, 1.92, "key", ha="center", color=QK, fontsize=8.8)
    _arrow(ax, (5, 2.2), (5, 3.45), QK)
    ax.text(5.15, 2.75, "score → share of attention A", va="center", color=QK, fontsize=8.8)


def _bring(ax: Axes) -> None:
    """The OV circuit from the source, the direct path past it, and the logits."""
    _box(ax, (5, 3.95), "W_OV\n= W_V W_O", (2.2, 1.0), edge=OV)
    _arrow(ax, (0.6, 2.05), (3.9, 3.95), OV, bend=-0.25)
    ax.text(0.15, 3.5, "value", ha="center", color=OV, fontsize=8.8)
    _arrow(ax, (6.1, 3.95), (8.75, 5.5), OV)
    ax.text(6.9, 5.0, "result, times A", ha="right", color=OV, fontsize=8.8)
    _arrow(ax, (9.4, 2.05), (9.4, 5.15), DIRECT)
    ax.text(9.6, 3.4, "direct path", color=DIRECT, fontsize=8.8)
    _box(ax, (9.4, 5.5), "W_U", (1.3, 0.7), edge=STREAM)
    _arrow(ax, (9.4, 5.85), (9.4, 6.3), STREAM, width=3)
    _box(ax, (9.4, 6.65), "logits", (2.4, 0.7))


@styled
def information_movement(pattern: Float[np.ndarray, "pos pos"], labels: Sequence[str], name: str,
                         least: float = 0.05) -> Plot:
    """A head carries information between positions: a line from source to destination, as thick as attention (P2).

    Args:
        pattern: shares of attention, rows sum to 1.
        labels: one string a token.
        name: of the head.
        least: smallest share that is drawn.

    Raises:
        IctlError: a shape that does not match ``labels``.
    """
    shares = square("pattern", pattern, labels)
    n = len(labels)
    fig, axes = canvas(f"What {name} moves from where to where", max(5.0, 0.62 * n + 1.2), 3.9)
    ax = axes[0, 0]
    _bare(ax, (-1.4, n - 0.3), (-0.95, 3.95))
    words = [printable(label) for label in labels]
    for x, word in enumerate(words):
        for y, align in ((-0.12, "top"), (3.12, "bottom")):
            ax.text(x, y, word, rotation=90, ha="center", va=align, family=MONO, fontsize=8.5)
        ax.plot([x, x], [0, 3], color=FAINT, lw=4, zorder=1, solid_capstyle="round")
    for to, source in np.argwhere(np.tril(shares) >= least):
        share = shares[to, source]
        ax.plot([source, to], [0, 3], color=OV, lw=0.5 + 4.5 * share, alpha=0.25 + 0.7 * share, solid_capstyle="round")
    ax.text(-0.55, 0, "stream\nbefore", ha="right", va="center", fontsize=8.8)
    ax.text(-0.55, 3, "stream\nafter", ha="right", va="center", fontsize=8.8)
    rest = np.tril(shares, -1)
    to, source = np.unravel_index(rest.argmax(), rest.shape)
    fig.alt = (
        f"Diagram: {n} tokens below and above, joined by lines where {name} attends, as thick as its attention. "
        f"On average {np.diag(shares, -1).mean():.2f} comes from the token before; the strongest line from an earlier "
        f"token goes from {labels[source]!r} to {labels[to]!r} ({rest[to, source]:.2f})."
    )
    return fig
