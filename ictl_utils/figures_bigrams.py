"""Figures of the bigram table of a text, and of what models know of it (P2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter

from .config import require
from .figures_paths import check_columns
from .figures_style import INK, Plot, canvas, colour, line, styled, token_text
from .figures_training import check_history

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

    from .measure import History

LOG_TEXT = "log-probability in the text (nats)"
LOG_MODEL = "log-probability by the model (nats)"
DIRECT, WHOLE = ("#0072b2", "o", "-"), ("#d55e00", "s", "--")


@styled
def bigram_scatter(tables: Mapping[str, Float[np.ndarray, "row d_vocab"]], text: Float[np.ndarray, "row d_vocab"],
                   title: str) -> Plot:
    """Log-probabilities of a model against those of the text, all bigrams as a density (P2, "Zero-layer").

    Args:
        tables: label -> natural log-probabilities, a row a token before; a panel each.
        text: the same of the text; ``-inf`` leaves a bigram out.

    Raises:
        IctlError: no table, or tables of another shape than ``text``.
    """
    require(len(tables) > 0, "tables is empty; pass at least one.")
    wrong = [label for label, table in tables.items() if table.shape != text.shape]
    require(not wrong, f"the table of {', '.join(wrong)} has another shape than text, {text.shape}.")
    fig, axes = canvas(title, 3.2 * len(tables) + 1.6, 3.9, cols=len(tables), sharex=True, sharey=True)
    use, found = np.isfinite(text), []
    norm = LogNorm(1, max(2.0, use.sum() / 20))
    low = max(-18.0, float(min(text[use].min(), *(np.quantile(t[use], 0.002) for t in tables.values()))))
    for ax, (label, table) in zip(axes[0], tables.items(), strict=True):
        x, y = text[use], np.maximum(table[use], low)
        image = ax.hexbin(x, y, gridsize=42, extent=(low, 0, low, 0), norm=norm, cmap="viridis_r", lw=0)
        ax.plot([low, 0], [low, 0], color="#d55e00", lw=1.2)
        found.append(f"{label}: correlation {np.corrcoef(text[use], table[use])[0, 1]:.2f}")
        ax.set(title=label, xlabel=LOG_TEXT, xlim=(low, 0.2), ylim=(low, 0.2), aspect="equal")
    axes[0, 0].set_ylabel(LOG_MODEL)
    fig.colorbar(image, ax=axes[0, -1], label="bigrams (number)", shrink=0.8)
    fig.alt = f"{title}: density of {int(use.sum())} bigrams around the diagonal. {'; '.join(found)}."
    return fig


@styled
def loss_and_tables(histories: Sequence[History], losses: Sequence[Float[np.ndarray, "snap"]],
                    lines: Mapping[str, float]) -> Plot:
    """Loss of a model over training, and the losses of tables that were counted instead of trained.

    Args:
        histories: one a seed, of one label.
        losses: held-out loss at every snapshot, nats, one a history.
        lines: name -> loss of a table on the same text, nats.

    Raises:
        IctlError: no history, or losses that do not fit.
    """
    require(len(histories) > 0, "histories is empty; pass at least one.")
    require([len(h.tokens) for h in histories] == [len(x) for x in losses], "losses do not fit histories.")
    label = histories[0].label
    fig, axes = canvas(f"{label}: loss over training, beside tables counted from the text", 6.6, 3.7)
    ax = axes[0, 0]
    look = {"color": colour(label), "ls": line(label)}
    for history, loss in zip(histories, losses, strict=True):
        check_history(history)
        ax.plot(history.tokens[1:], loss[1:], lw=0.8, alpha=0.55, **look)
    at = histories[0].tokens[1:]
    middle = np.median([np.interp(at, h.tokens, loss) for h, loss in zip(histories, losses, strict=True)], axis=0)
    ax.plot(at, middle, lw=2.2, **look)
    for name, value in lines.items():
        ax.axhline(value, color=INK, lw=1, ls="--")
        ax.text(1.01, value, name, transform=ax.get_yaxis_transform(), va="center", fontsize=8.8)
    ax.set(xscale="log", xlabel="training tokens", ylabel="held-out loss (nats per token)")
    ax.xaxis.set_major_formatter(FuncFormatter(token_text))
    ends = ", ".join(f"{loss[-1]:.2f}" for loss in losses)
    fig.alt = f"Loss of the {label} model over training tokens, ending at {ends} nats. Lines: " + ", ".join(
        f"{name} {value:.2f} nats" for name, value in lines.items()
    ) + "."  # fmt: skip
    return fig


@styled
def direct_paths(table: pd.DataFrame) -> Plot:
    """What becomes of the direct path as layers are added: distance from the text, and what it resembles.

    Args:
        table: a row a model, index its label; columns ``direct`` and ``whole`` (KL from the text, nats),
            ``log-probability`` and ``lift`` (correlations with the text).

    Raises:
        IctlError: no row, or a column is missing.
    """
    check_columns("table", table, ("direct", "whole", "log-probability", "lift"))
    fig, axes = canvas("The direct path of models with more and more layers", 8.8, 3.6, cols=2)
    x = np.arange(len(table))
    panels = ((("direct", "direct path alone"), ("whole", "whole model after <bos>")),
              (("log-probability", "with the log-probability"), ("lift", "with the lift")))  # fmt: skip
    for ax, panel in zip(axes[0], panels, strict=True):
        for (column, name), (hue, marker, style) in zip(panel, (DIRECT, WHOLE), strict=True):
            ax.plot(x, table[column], color=hue, marker=marker, ls=style, lw=2, label=name)
        ax.set_xticks(x, list(table.index))
        ax.set_xlabel("model (layers)")
        ax.set_ylim(min(0.0, table[[c for c, _ in panel]].to_numpy().min()) - 0.02, None)
        ax.legend()
    axes[0, 0].set(title="Distance from the bigram table", ylabel="KL from the text (nats)")
    axes[0, 1].set(title="What the direct path resembles", ylabel="correlation (−1 to 1)")
    rows = (f"{label}: KL {row['direct']:.2f} nats by the direct path, {row['whole']:.2f} by the whole model; "
            f"correlation {row['log-probability']:.2f} with log-probabilities, {row['lift']:.2f} with lifts"
            for label, row in table.iterrows())  # fmt: skip
    fig.alt = f"Two panels over models. {'. '.join(rows)}."
    return fig
