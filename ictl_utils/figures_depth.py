"""Models of different depth and size beside each other: where heads sit, loss by position, slopes (P1, Argument 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from .config import one_of, require
from .curves import smooth_curve
from .figures_cooccurrence import Groups, check_groups, seeds_line
from .figures_heads import SCORES
from .figures_style import INK, Plot, canvas, colour, depth_colours, styled, token_text
from .figures_training import LOSS, MATCHING
from .metrics import best_head
from .numbers_base import RunTables
from .numbers_heads import rank_correlation

POSITIONS = {
    "loss": ("Loss at every position", LOSS),
    "to last": ("Loss at the last position minus loss at every other", "loss at the last position − loss (nats)"),
    "gap": ("Loss at every position minus that of the reference", "loss − loss of the reference (nats)"),
}
WIDE = 0.15  # of ln(position): width of the Gaussian that smooths losses by position


@styled
def heads_by_depth(groups: Groups, columns: int = 3) -> Plot:
    """Prefix matching of every head at the end, ordered by depth, a panel a label, colour by layer (P1, appendix)."""
    check_groups(groups)
    rows = -(-len(groups) // columns)
    fig, axes = canvas("Prefix matching of every head, in order of depth", 3.2 * columns, 0.8 + 2.3 * rows, rows,
                       columns, sharey=True)  # fmt: skip
    for ax in axes.flat[len(groups):]:
        ax.set_axis_off()
    words = []
    for ax, (label, runs) in zip(axes.flat, groups.items(), strict=False):
        for run in runs:
            _by_depth(ax, run.prefix[-1])
        ax.set(title=label, ylim=(-0.02, 1.02), xlabel="head, by depth")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        best = [f"L{layer}H{head}" for layer, head in (best_head(r.prefix[-1]) for r in runs)]
        words.append(f"{label}: highest in {', '.join(best)}.")
    for ax in axes[:, 0]:
        ax.set_ylabel("prefix matching")
    fig.alt = "Prefix matching of every head at the end of training, by depth. " + " ".join(words)
    return fig


def _by_depth(ax: Axes, scores: Float[np.ndarray, "layer head"]) -> None:
    """One point a head; dotted lines between layers."""
    n = scores.shape[1]
    for layer, hue in enumerate(depth_colours(len(scores))):
        ax.scatter(layer * n + np.arange(n), scores[layer], s=34, color=hue, ec="white", lw=0.6, zorder=3)
        if layer:
            ax.axvline(layer * n - 0.5, color="#6b7280", lw=0.8, ls=":")


@styled
def prefix_and_copying(families: Mapping[str, Sequence[RunTables]]) -> Plot:
    """Prefix matching against copying of every head of many models, a panel a family (P1, appendix).

    Args:
        families: name -> runs; the colour tells the number of layers.
    """
    check_groups(families)
    fig, axes = canvas("Prefix matching and copying, every head of every model", 0.6 + 4.4 * len(families), 4.2, 1,
                       len(families), sharey=True)  # fmt: skip
    words, depths = [], set()
    for ax, (family, runs) in zip(axes[0], families.items(), strict=True):
        for run in runs:
            depth = int(run.run["n_layers"])
            depths.add(depth)
            ax.scatter(run.prefix[-1], run.per_head("copying")[-1], s=30, color=colour(f"{depth}L"), alpha=0.75,
                       ec="white", lw=0.5, marker="oDs^vPX"[(depth - 1) % 7], zorder=3)  # fmt: skip
        pairs = [np.concatenate([r.per_head(c)[-1].ravel() for r in runs]) for c in ("prefix_matching", "copying")]
        ax.axhline(0, color="#6b7280", lw=0.8)
        ax.set(title=f"{family}, {len(runs)} runs", xlabel=MATCHING, xlim=(-0.03, 1.05), ylim=(-1.05, 1.05))
        words.append(f"{family}: {pairs[0].size} heads, rank correlation {float(rank_correlation(*pairs)):.2f}.")
    axes[0, 0].set_ylabel(SCORES["copying"][1])
    key = [Line2D([], [], ls="", marker="oDs^vPX"[(d - 1) % 7], color=colour(f"{d}L"), label=f"{d}L")
           for d in sorted(depths)]  # fmt: skip
    fig.legend(handles=key, loc="outside lower center", ncols=7)
    fig.alt = "Scatter of prefix matching and copying at the end of training. " + " ".join(words)
    return fig


def by_position(run: RunTables) -> Float[np.ndarray, "pos"]:
    """Final loss at every position, smoothed along ln(position); position 1 is the first after <bos>."""
    losses = run.history.loss_by_position[-1]
    x = np.log(np.arange(1, len(losses) + 1))
    near = np.exp(-0.5 * ((x[:, None] - x) / WIDE) ** 2)
    return near @ losses / near.sum(axis=1)


@styled
def positions(groups: Groups, kind: str = "loss", reference: str | None = None) -> Plot:
    """Final loss by position, smoothed, a line a label (P1, curiosities: the constant score).

    Args:
        groups: label -> seeds, smallest model first.
        kind: ``loss``, ``to last`` or ``gap``.
        reference: label of the model that ``gap`` is taken to; default the last.
    """
    check_groups(groups)
    one_of("kind", kind, tuple(POSITIONS))
    last = reference or list(groups)[-1]
    one_of("reference", last, tuple(groups))
    base = np.median([by_position(r) for r in groups[last]], axis=0)
    title, axis = POSITIONS[kind]
    fig, axes = canvas(title.replace("the reference", last), 6.4, 3.8)
    ax, hues, ends = axes[0, 0], _palette(groups), []
    for label, runs in groups.items():
        losses = [by_position(r) for r in runs]
        shown = {"loss": losses, "to last": [y[-1] - y for y in losses], "gap": [y - base for y in losses]}[kind]
        places = np.arange(1, len(base) + 1)
        middle = seeds_line(ax, [(places, y) for y in shown], color=hues[label])
        ends.append(f"{label} {middle[min(9, len(middle) - 1)]:.2f} and {middle[-1]:.2f}")
    ax.set(xscale="log", xlabel="position in the context (tokens)", ylabel=axis.replace("the reference", last))
    ax.xaxis.set_major_locator(FixedLocator(2 ** np.arange(0, int(np.log2(len(base))) + 1)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    fig.legend(handles=[Line2D([], [], color=hues[k], lw=2.1, label=k) for k in groups], loc="outside lower center",
               ncols=6)  # fmt: skip
    fig.alt = f"{title}, by position. At position 10 and at the last, nats: " + "; ".join(ends) + "."
    return fig


def loss_slope(run: RunTables) -> tuple[Float[np.ndarray, "step"], Float[np.ndarray, "step"]]:
    """Tokens, and d loss / d ln(tokens) there, nats; the loss smoothed along ln(tokens), over the later half of it."""
    trained = run.tokens > 0
    x, loss = smooth_curve(np.log(run.tokens[trained]), run.series("loss_nats")[trained])
    later = x > x[0] + 0.5 * (x[-1] - x[0])
    return np.exp(x[later]), np.gradient(loss, x)[later]


def order(groups: Groups) -> tuple[Float[np.ndarray, "step"], Float[np.ndarray, "step"]]:
    """Tokens, and the rank correlation over models there of parameters with d loss / d ln(tokens).

    Positive: smaller models improve faster. Needs three models or more.
    """
    require(len(groups) >= 3, f"an order of {len(groups)} models says nothing; at least 3 are needed.")
    places = loss_slope(next(iter(groups.values()))[0])[0]
    slopes = [np.median([np.interp(places, *loss_slope(r)) for r in runs], axis=0) for runs in groups.values()]
    sizes = np.array([float(runs[0].run["parameters"]) for runs in groups.values()])
    return places, rank_correlation(np.broadcast_to(sizes, (len(places), len(sizes))), np.transpose(slopes))


@styled
def loss_slopes(groups: Groups) -> Plot:
    """d loss / d ln(tokens) over training, a line a label, and how its order goes with size (P1, curiosities).

    The lower panel is empty where fewer than three models are given.
    """
    check_groups(groups)
    fig, axes = canvas("How fast the loss falls, by size", 6.4, 5.6, 2, 1, sharex=True, height_ratios=(2, 1))
    (top,), (low,) = axes
    hues, words = _palette(groups), []
    for label, runs in groups.items():
        middle = seeds_line(top, [loss_slope(r) for r in runs], color=hues[label])
        words.append(f"{label} from {middle[0]:+.2f} to {middle[-1]:+.2f}")
    top.set_ylabel("d loss / d ln(tokens) (nats)")
    low.set(ylabel="rank correlation\nwith parameters", ylim=(-1.1, 1.1), xscale="log")
    if len(groups) >= 3:
        low.plot(*order(groups), color=INK, lw=1.5)
    low.axhline(0, color=INK, lw=0.8)
    low.set_xlabel("training tokens")
    low.xaxis.set_major_locator(FixedLocator([base * 10**e for e in range(4, 11) for base in (1, 2, 5)]))
    low.xaxis.set_minor_locator(NullLocator())
    low.xaxis.set_major_formatter(FuncFormatter(token_text))
    fig.legend(handles=[Line2D([], [], color=hues[k], lw=2.1, label=k) for k in groups], loc="outside lower center",
               ncols=6)  # fmt: skip
    fig.alt = "Slope of the loss against the logarithm of training tokens, nats: " + "; ".join(words) + "."
    return fig


def _palette(groups: Groups) -> dict[str, str]:
    """Colour of each label: those of depths for labels such as ``2L``, else from dark to light in their order."""
    if all(re.fullmatch(r"\dL", label) for label in groups):
        return {label: colour(label) for label in groups}
    return dict(zip(groups, depth_colours(len(groups)), strict=True))
