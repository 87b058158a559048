"""Figures of smeared keys (P1, Argument 2): one and two layers, plain and smeared, and what the models learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .config import one_of, require
from .curves import Window, phase_change
from .figures_style import INK, Plot, canvas, colour, depth_colours, line, numbers, styled, token_axis, token_text
from .figures_training import ICL, MATCHING, _curves, shade, window_patch, window_words
from .numbers_shapes import FORMED

if TYPE_CHECKING:
    from jaxtyping import Float

    from .measure import History
    from .numbers_base import RunTables

SHARE = "share of the own key, σ(α)"
SHOWN = {"icl": ("In-context learning score over training", ICL, None),
         "prefix": ("Prefix matching of every head over training", MATCHING, (-0.02, 1.02))}  # fmt: skip
OWN, BEFORE = "#56b4e9", "#e69f00"  # own key and the key before in the drawing


def not_measured(ax: Axes, what: str) -> None:
    """Say in an empty panel that there is nothing to draw yet."""
    ax.text(0.5, 0.5, f"{what}:\nnot measured yet", ha="center", va="center", transform=ax.transAxes, color="#57606a")
    ax.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    ax.grid(False)


def seeds_of(label: str, group: Sequence[object]) -> str:
    """A model's label with its number of seeds, where it has more than one."""
    return label if len(group) < 2 else f"{label} ({len(group)} seeds)"


def tall(rows: Sequence[object]) -> float:
    """Inches for a figure with a row a run."""
    return (0.42 if len(rows) <= 8 else 0.3) * len(rows)


@styled
def smearing() -> Plot:
    """What smearing does to the keys of ``[A] [B] ... [A]``: a drawing, nothing is measured."""
    fig, axes = canvas("A key with and without smearing", 8.6, 3.0, cols=2)
    for ax, smeared in zip(axes[0], (False, True), strict=True):
        for place, (token, before) in enumerate(zip("ABCA", " ABC", strict=True)):
            ax.text(place, 0, f"[{token}]", ha="center", va="center", size=12, family="DejaVu Sans Mono")
            _key(ax, place, token, before if smeared and place else "")
        target = 1 if smeared else 0
        words = "the key of [B] says\n“I follow an A”" if smeared else "the other [A] is found,\nnot [B]"
        arrow = {"arrowstyle": "->", "color": INK, "lw": 1.8, "connectionstyle": "arc3,rad=0.35"}
        ax.annotate("", (target, 1.2), (3, 1.2), arrowprops=arrow)
        ax.text(3.6, 2.0, "query of the last [A]:\nwhere is A?", ha="right", size=8.5)
        ax.text(target - 0.35, -0.62, words, va="center", size=8.5)
        ax.set(xlim=(-0.7, 3.7), ylim=(-1, 2.5), title="Smeared keys" if smeared else "Plain keys")
        ax.set_axis_off()
    handles = [Patch(color=OWN, label="own key"), Patch(color=BEFORE, label="key of the position before")]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    fig.alt = ("Drawing of the tokens A B C A with their keys. Plain: the query of the last A finds the key of the "
               "first A. Smeared: the key of B is half its own and half that of A, so the query finds B.")  # fmt: skip
    return fig


@styled
def share_sweep(shares: Sequence[float], scores: Mapping[str, Sequence[float]]) -> Plot:
    """Prefix matching of a head whose weights are fixed, for every share of the own key.

    Args:
        shares: sigma(alpha), from 0 to 1.
        scores: probe -> a score a share.

    Raises:
        IctlError: another number of scores than shares.
    """
    x = numbers("shares", shares, 1)
    fig, axes = canvas("One hand-built head, smeared more and more", 6.0, 3.7)
    for (name, values), look, mark in zip(scores.items(), ("-", "--", ":"), "os^", strict=False):
        y = numbers(name, values, 1)
        require(len(y) == len(x), f"{name} has {len(y)} scores for {len(x)} shares; pass one a share.")
        axes[0, 0].plot(x, y, look, marker=mark, ms=4, color=colour("1L smeared keys"), label=name)
    axes[0, 0].set(xlabel=SHARE, ylabel=MATCHING, xlim=(1.02, -0.02), ylim=(-0.04, 1.04))
    fig.legend(loc="outside lower center", ncols=2)
    fig.alt = (f"Prefix matching of a hand-built head against the share of the own key, falling from {x.max():.2g} to "
               f"{x.min():.2g}: " + "; ".join(f"{name} from {np.asarray(y)[x.argmax()]:.2f} to "
               f"{np.asarray(y)[x.argmin()]:.2f}" for name, y in scores.items()) + ".")  # fmt: skip
    return fig


@styled
def two_by_two(groups: Mapping[str, Sequence[History]], show: str = "icl") -> Plot:
    """Four models side by side: ICL scores, or prefix matching of every head (P1, Argument 2).

    Args:
        groups: four labels in reading order -> their seeds; a model without any is said to be not measured.
        show: ``icl`` (seeds thin, their median bold) or ``prefix`` (a line a head and seed, coloured by layer).

    Raises:
        IctlError: not four models, or unknown ``show``.
    """
    one_of("show", show, tuple(SHOWN))
    require(len(groups) == 4, f"{len(groups)} models were given; pass four, plain and smeared.")
    title, axis, limits = SHOWN[show]
    fig, axes = canvas(title, 8.6, 5.6, 2, 2, sharex=True, sharey=True)
    for ax, (label, group) in zip(axes.flat, groups.items(), strict=True):
        ax.set_title(seeds_of(label, group))
        if not group:
            ax.text(0.5, 0.5, "not measured yet", ha="center", transform=ax.transAxes, color="#57606a")
        elif show == "icl":
            _curves(ax, {label: group}, lambda history: history.icl)
        else:
            _heads(ax, group)
        token_axis(ax)
        ax.label_outer()
    axes[0, 0].set_ylim(limits)
    fig.supylabel(axis, fontsize=9.5)
    layers = [Line2D([], [], color=c, lw=2, label=f"layer {i}") for i, c in enumerate(depth_colours(2))]
    legend = (layers if show == "prefix" else []) + window_patch(list(groups.values()))
    if legend:
        fig.legend(handles=legend, loc="outside lower center", ncols=3)
    fig.alt = f"{title}, four panels. " + " ".join(_ends(label, group, show) for label, group in groups.items())
    return fig


@styled
def learned_shares(groups: Mapping[str, Sequence[RunTables]]) -> Plot:
    """The share of the own key that each head learns, over training and against its prefix matching.

    Args:
        groups: label -> runs of smeared models; a model without any is said to be not measured.
    """
    fig, axes = canvas("What share of its own key does a head keep?", 8.8, 0.9 + 2.7 * len(groups), len(groups), 2,
                       width_ratios=(1.35, 1))  # fmt: skip
    hues, words = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.2, 1, 256))), []
    for (over, at_end), (label, group) in zip(axes, groups.items(), strict=True):
        over.set_title(seeds_of(label, group))
        if not group:
            not_measured(over, label)
            not_measured(at_end, label)
        for run in group:
            shares, ends = run.per_head("sigma_alpha"), run.prefix[-1]
            for at in np.ndindex(ends.shape):
                over.plot(run.tokens, shares[:, *at], color=hues(ends[at]), lw=1.3 + 1.5 * ends[at])
                at_end.plot(ends[at], shares[-1, *at], "os^"[at[0] % 3], color=hues(ends[at]), mec=INK, mew=0.5)
        token_axis(over)
        for ax in (over, at_end) if group else ():
            ax.axhline(0.5, color=INK, lw=0.8, ls=":")
            ax.set(ylim=(-0.03, 1.03), ylabel=SHARE)
        at_end.set(xlabel=f"{MATCHING}\nat the end", xlim=(-0.03, 1.03) if group else None)
        words += [_share_words(label, run) for run in group] or [f"{label}: not measured yet."]
    fig.colorbar(ScalarMappable(Normalize(0, 1), hues), ax=axes, label="prefix matching at the end", shrink=0.8)
    fig.alt = "Share of the own key of every head over training, and against prefix matching. " + " ".join(words)
    return fig


@styled
def windows_side_by_side(groups: Mapping[str, Sequence[RunTables]]) -> Plot:
    """Where score and heads change, run by run: bars from the start to the end of the window.

    Hollow bars: no head formed in that run, and the rule, which always finds a stretch, found one anyway.
    """
    rows = [(label, run) for label, group in groups.items() for run in group]
    missing = [label for label, group in groups.items() if not group]
    require(bool(rows), "no run is there; pass at least one.")
    fig, axes = canvas("Windows of change, model by model", 8.4, 1.8 + tall(rows))
    ax, names, words = axes[0, 0], [], []
    for y, (label, run) in enumerate(rows):
        formed, heads = bool(run.prefix.max() > FORMED), heads_window(run)
        look = {"color": colour(label)} if formed else {"fc": "none", "ec": colour(label), "ls": "--"}
        ax.barh(y - 0.17, run.width, 0.34, run.window.start, **look)
        if formed:
            ax.barh(y + 0.17, heads.end - heads.start, 0.2, heads.start, fc="white", ec=colour(label), hatch="////")
        ax.plot(run.midpoint, y - 0.17, "|", color=INK, ms=11, mew=1.8)
        names.append(f"{label}, seed {run.run['init_seed']}")
        more = f"heads {_span(heads)}" if formed else "no head formed"
        words.append(f"{names[-1]}: score {_span(run.window)}, {more}.")
    ax.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlim(-0.01 * rows[0][1].length, max(run.tokens[-1] for _, run in rows))
    token_axis(ax)
    fig.legend(handles=[Patch(color="#6b7280", label="window of the score"),
                        Patch(fc="none", ec="#6b7280", ls="--", label="the same, no head formed"),
                        Patch(fc="white", ec="#6b7280", hatch="////", label="window of the heads"),
                        Line2D([], [], color=INK, marker="|", ls="", ms=11, mew=1.8, label="half of the change")],
               loc="outside lower center", ncols=4, columnspacing=1.2)  # fmt: skip
    fig.alt = "Bars over training tokens. " + " ".join(words + [f"{label}: not measured yet." for label in missing])
    return fig


@styled
def fall_rates(groups: Mapping[str, Sequence[RunTables]]) -> Plot:
    """How fast the score falls over training: one hump is one step (P1, Argument 2).

    Args:
        groups: label -> runs; seeds thin, their median bold, windows shaded.
    """
    fig, axes = canvas("Speed at which the in-context learning score falls", 7.4, 3.7)
    ax, words = axes[0, 0], []
    for label, group in groups.items():
        look, rates = {"color": colour(label), "ls": line(label)}, [fall_rate(run) for run in group]
        for run, rate in zip(group, rates if len(rates) > 1 else (), strict=False):
            ax.plot(run.steps, rate, lw=0.8, alpha=0.55, **look)
        if group:
            middle = np.median([np.interp(group[0].steps, r.steps, y) for r, y in zip(group, rates, strict=True)], 0)
            ax.plot(group[0].steps, middle, lw=2.2, label=seeds_of(label, group), **look)
            shade(ax, [run.history for run in group], colour(label))
            words.append(f"{label} is fastest at {token_text(group[0].steps[middle.argmax()])} tokens.")
        else:
            ax.plot([], [], label=f"{label}: not measured yet", **look)
            words.append(f"{label}: not measured yet.")
    ax.axhline(0, color="#6b7280", lw=0.8)
    ax.set_ylabel("fall of the ICL score\n(nats per million tokens)")
    token_axis(ax)
    fig.legend(loc="outside lower center", ncols=2, handlelength=2.6)
    fig.alt = "Fall of the smoothed ICL score per million training tokens. " + " ".join(words)
    return fig


def heads_window(run: RunTables) -> Window:
    """Phase change of the heads: the rule of the score applied to minus the highest prefix-matching score."""
    return phase_change(run.tokens, -run.best_prefix, share=run.share)


def fall_rate(run: RunTables) -> Float[np.ndarray, "step"]:
    """Fall of the smoothed score at :attr:`RunTables.steps`, nats per million training tokens."""
    return -np.gradient(run.curve, run.steps) * 1e6


def _key(ax: Axes, place: int, token: str, before: str) -> None:
    """A key as a box: its own half, and the half of the position before where it is smeared."""
    parts = [(before, BEFORE), (token, OWN)] if before else [(token, OWN)]
    for i, (word, hue) in enumerate(parts):
        wide = 0.7 / len(parts)
        left = place - 0.35 + i * wide
        ax.add_patch(Rectangle((left, 0.55), wide, 0.6, fc=hue, ec="white", lw=1.5))
        ax.text(left + wide / 2, 0.85, word, ha="center", va="center", size=11)


def _heads(ax: Axes, group: Sequence[History]) -> None:
    for history in group:
        hues = depth_colours(2)[: history.prefix_matching.shape[1]]
        for layer, hue in enumerate(hues):
            ax.plot(history.tokens, history.prefix_matching[:, layer], color=hue, lw=1.1)
    shade(ax, group, INK)


def _ends(label: str, group: Sequence[History], show: str) -> str:
    if not group:
        return f"{label}: not measured yet."
    ends = [h.icl[-1] if show == "icl" else h.prefix_matching[-1].max() for h in group]
    return f"{label} ends at {np.median(ends):.2f}{window_words(group)}."


def _share_words(label: str, run: RunTables) -> str:
    layer, head = np.unravel_index(int(run.prefix[-1].argmax()), run.prefix[-1].shape)
    share = run.per_head("sigma_alpha")[-1, layer, head]
    return (f"{label}, seed {run.run['init_seed']}: L{layer}H{head}, with prefix matching "
            f"{run.prefix[-1].max():.2f}, ends at {share:.2f}.")  # fmt: skip


def _span(window: Window) -> str:
    return f"{token_text(window.start)} to {token_text(window.end)}"
