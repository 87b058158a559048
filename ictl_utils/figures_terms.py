"""Figures of what terms, paths and repeats are worth, and of heads in the plane of positivity (P2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from .config import require
from .figures_circuits import signed
from .figures_style import INK, PAPER, Plot, canvas, colour, line, numbers, styled

if TYPE_CHECKING:
    from jaxtyping import Float

    from .circuits_effects import OnRepeats

INDUCTION, OTHER, CORNER = "#d55e00", "#0072b2", "#e69f00"
GROUPS = ("#d55e00", "#0072b2", "#009e73")


@dataclass(frozen=True)
class Heads:
    """Heads of one layer of one run in the plane of OV and QK positivity."""

    label: str  # of the run
    names: Sequence[str]
    ov: Sequence[float]
    qk: Sequence[float]
    induction: Sequence[bool]


@styled
def positivity_plane(groups: Sequence[Heads]) -> Plot:
    """OV against QK positivity, a point a head; induction heads should have the corner to themselves (P2).

    Args:
        groups: heads of one or several runs; their names are written if it is one.
    """
    require(len(groups) > 0, "groups is empty; pass the heads of at least one run.")
    fig, axes = canvas("OV and QK positivity of every head", 6.2, 5.0)
    ax, inside = axes[0, 0], []
    ax.axvspan(0.5, 1.05, ymin=1.55 / 2.1, color=CORNER, alpha=0.18, lw=0)
    for group in groups:
        for name, x, y, is_one in zip(group.names, group.ov, group.qk, group.induction, strict=True):
            ax.plot(x, y, "o" if is_one else "x", color=INDUCTION if is_one else OTHER, ms=8, mew=1.8, zorder=3)
            corner = x > 0.5 and y > 0.5
            inside += [f"{group.label} {name}"] if corner and not is_one else []
            if len(groups) == 1:
                left = x > 0.75  # a name beside its point, inside the axes
                look = {"textcoords": "offset points", "ha": "right" if left else "left", "fontsize": 8.5}
                ax.annotate(name, (x, y), xytext=(-8 if left else 8, 0), va="center", **look)
    ax.set(xlabel="OV positivity: copying statistic (−1 to 1)", ylabel="QK positivity through earlier heads (−1 to 1)",
           xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))  # fmt: skip
    handles = [Line2D([], [], ls="", marker="o", ms=8, color=INDUCTION, label="induction head"),
               Line2D([], [], ls="", marker="x", ms=8, mew=1.8, color=OTHER, label="other head")]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    mine = [min(x, y) for g in groups for x, y, one in zip(g.ov, g.qk, g.induction, strict=True) if one]
    fig.alt = (f"Scatter of {sum(len(g.names) for g in groups)} heads of {len(groups)} runs. Induction heads: both "
               f"statistics at least {min(mine, default=float('nan')):.2f}. "
               f"Others in the corner above 0.5: {', '.join(inside) or 'none'}.")  # fmt: skip
    return fig


@styled
def gains(groups: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Plot:
    """Loss reductions as bars: the median over seeds, and a dot a seed (P2, "Term importance analysis").

    Args:
        groups: what was measured -> term -> nats, a number a seed; the same terms in each.
        title: what is shown.
    """
    require(len(groups) > 0 and all(len(rows) > 0 for rows in groups.values()), "groups is empty; pass some gains.")
    terms = list(next(iter(groups.values())))
    require(all(list(rows) == terms for rows in groups.values()), "all groups must have the same terms, in one order.")
    fig, axes = canvas(title, 7.4, 1.7 + 0.34 * len(terms) * (len(groups) + 0.5))
    ax, height, words = axes[0, 0], 0.8 / len(groups), []
    for i, ((name, rows), hue) in enumerate(zip(groups.items(), GROUPS, strict=False)):
        for j, term in enumerate(terms):
            place, values = j + (i - (len(groups) - 1) / 2) * height, numbers(term, rows[term], 1)
            middle = float(np.median(values))
            ax.barh(place, middle, height=0.9 * height, color=hue, alpha=0.85, label=name if j == 0 else None)
            if len(values) > 1:
                ax.plot(values, np.full(len(values), place), "o", color=INK, ms=3.5)
            end = max(values.max(), 0.0) if middle >= 0 else min(values.min(), 0.0)
            ax.annotate(signed(middle, 2), (end, place), xytext=(5 if middle >= 0 else -5, 0), va="center",
                        textcoords="offset points", ha="left" if middle >= 0 else "right")  # fmt: skip
            words.append(f"{name}, {term} {signed(middle, 2)}")
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_yticks(range(len(terms)), terms)
    ax.invert_yaxis()
    ax.margins(x=0.14)
    ax.set_xlabel("reduction of the loss (nats)")
    ax.grid(False, axis="y")
    if len(groups) > 1:
        fig.legend(loc="outside lower center", ncols=1 if len(groups) > 2 else 2)
    fig.alt = f"{title}, nats, median over seeds. " + "; ".join(words) + "."
    return fig


@styled
def repeats(models: Mapping[str, OnRepeats], blocks: int) -> Plot:
    """Loss along a block of random tokens that comes several times, and how often it is continued rightly (P2).

    Args:
        models: label -> measurements of :func:`ictl_utils.circuits_effects.on_repeats`.
        blocks: how often the block comes.
    """
    require(len(models) > 0, "models is empty; pass at least one.")
    fig, axes = canvas("Random tokens, repeated", 9.2, 3.7, cols=3, width_ratios=[1.5, 1, 1])
    left, length = axes[0, 0], len(next(iter(models.values())).losses) // blocks
    for label, found in models.items():
        look = {"color": colour(label), "ls": line(label), "label": label}
        left.plot(1 + np.arange(len(found.losses)), found.losses, lw=1.6, **look)
        for ax, values in ((axes[0, 1], found.top), (axes[0, 2], found.among)):
            ax.plot(1 + np.arange(blocks), values, marker="o", lw=1.8, ms=5, **look)
    for i in range(1, blocks):
        left.axvline(i * length + 0.5, color=INK, lw=1, ls=":")
    left.set(title="Loss", xlabel="position of the predicted token", ylabel="loss (nats)", ylim=(0, None))
    for ax, title in ((axes[0, 1], "Right among all tokens"), (axes[0, 2], "Right among the block's")):
        ax.set(title=title, xlabel="copy of the block (1 is the first)", ylabel="highest logit is right (share)",
               ylim=(-0.03, 1.03), xticks=range(1, blocks + 1))  # fmt: skip
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=6)
    shares = {label: [", ".join(f"{x:.2f}" for x in side) for side in (m.top, m.among)] for label, m in models.items()}
    words = (f"{label}: {a} among all tokens, {b} among those of the block." for label, (a, b) in shares.items())
    fig.alt = "Loss along repeated random tokens, and share of right top predictions in each copy. " + " ".join(words)
    return fig


@styled
def path_losses(effects: Mapping[tuple, float]) -> Plot:
    """What the loss gains by each path: single heads as bars, virtual heads as a map (P2, "Virtual heads").

    Args:
        effects: path -> nats, from :func:`ictl_utils.circuits_effects.path_effects` of a model of two layers.
    """
    single = {path[0]: x for path, x in effects.items() if len(path) == 1}
    pairs = {path: x for path, x in effects.items() if len(path) == 2}
    require(min(len(single), len(pairs)) > 0, "effects hold no single or no virtual heads; take a model of two layers.")
    fig, axes = canvas("Loss without one path", 9.4, 3.9, cols=2)
    names = ["direct", *("L{}H{}".format(*head) for head in single)]
    values = [effects[()], *single.values()]
    axes[0, 0].bar(names, values, color=[INK] + [GROUPS[layer % 3] for layer, _ in single])
    axes[0, 0].set(ylabel="loss without the path (nats more)", title="Direct path and single heads")
    axes[0, 0].tick_params(axis="x", rotation=45)
    axes[0, 0].grid(False, axis="x")
    first, second = (sorted({path[i] for path in pairs}) for i in (0, 1))
    table = np.array([[pairs[a, b] for b in second] for a in first])
    bound = max(float(np.abs(table).max()), 1e-9)
    mesh = axes[0, 1].imshow(table, cmap="RdBu_r", vmin=-bound, vmax=bound)
    for (i, j), x in np.ndenumerate(table):
        hue = PAPER if abs(x) > 0.65 * bound else INK
        axes[0, 1].text(j, i, signed(x, 3), ha="center", va="center", fontsize=8, color=hue)
    axes[0, 1].set_xticks(range(len(second)), ["L{}H{}".format(*h) for h in second])
    axes[0, 1].set_yticks(range(len(first)), ["L{}H{}".format(*h) for h in first])
    axes[0, 1].set(title="Virtual heads", xlabel="second head", ylabel="first head")
    axes[0, 1].grid(False)
    fig.colorbar(mesh, ax=axes[0, 1], label="loss without the path\n(nats more)", shrink=0.85)
    fig.alt = (f"Rise of the loss without one path, nats. Direct path {effects[()]:.2f}; single heads from "
               f"{min(single.values()):.3f} to {max(single.values()):.3f}; "
               f"virtual heads from {table.min():.3f} to {table.max():.3f}.")  # fmt: skip
    return fig


@styled
def without_heads(scores: Mapping[str, Float[np.ndarray, "layer head"]], heads: Sequence[tuple[int, int]],
                  chosen: str) -> Plot:
    """Prefix matching of induction heads, intact and with one earlier head knocked out (P2, "Induction heads").

    Args:
        scores: from :func:`ictl_utils.circuits_effects.without_each`.
        heads: the induction heads.
        chosen: the case in which the previous-token head is out, drawn in another colour.
    """
    require(chosen in scores, f"{chosen!r} is not among {', '.join(scores)}.")
    width = 3.4 * len(heads) + 2.6
    fig, axes = canvas("Prefix matching without one head of the first layer", width, 3.6, cols=len(heads), sharey=True)
    for ax, head in zip(axes[0], heads, strict=True):
        _bars(ax, {name: float(x[head]) for name, x in scores.items()}, chosen)
        ax.set_title("L{}H{}".format(*head))
    axes[0, 0].set_ylabel("prefix matching (share of attention)")
    words = ("L{}H{}: ".format(*head) + ", ".join(f"{k} {x[head]:.2f}" for k, x in scores.items()) for head in heads)
    fig.alt = f"Bars of prefix matching with one head knocked out. {'; '.join(words)}."
    return fig


def _bars(ax: Axes, values: Mapping[str, float], chosen: str) -> None:
    hues = [INDUCTION if name == chosen else "#6e6e6e" if name == "intact" else OTHER for name in values]
    bars = ax.bar(range(len(values)), list(values.values()), color=hues, width=0.65)
    ax.bar_label(bars, fmt="%.2f", padding=2)
    ax.set_xticks(range(len(values)), list(values), rotation=30, ha="right")
    ax.set_ylim(0, 1.02)
    ax.grid(False, axis="x")
