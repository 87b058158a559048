"""Figures of what is lost without heads (P1, Argument 3): over training, one by one, together, by kind of ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .ablations import FILLS
from .config import one_of, require
from .figures_smeared import not_measured, seeds_of, tall
from .figures_style import INK, Plot, canvas, styled, token_axis, token_text
from .figures_training import ICL, shade
from .numbers_heads import PerHead, rank_correlation
from .survey_facts import THRESHOLD

if TYPE_CHECKING:
    from .numbers_base import RunTables

LOOKS = {"previous-token": ("#0072b2", "--", "s"), "induction": ("#d55e00", "-", "o"), "other": ("#8c959f", "-", "^")}
"""Colour, line and marker of each kind of head, by the registered rules (``claims_terms.csv``)."""
CHANGE = "change of the ICL score (nats)"
COLUMNS = {
    "icl_change_nats": ("Change of the ICL score without a head, over training", CHANGE),
    "attribution_nats": ("Change of losses without a head along the before-and-after vector", "product (nats)"),
}
Groups = Mapping[str, Sequence["RunTables"]]
Head = tuple[int, int]


@dataclass(frozen=True)
class Joint:
    """Induction heads of one run taken out: effects on the ICL score at the last snapshot, nats, patterns kept."""

    single: float  # sum of the effects of taking out one at a time
    together: float  # effect of taking out all at once
    together_se: float  # its standard error over windows
    controls: list[float]  # the same for other heads, as many in every layer, drawn at random
    gain: float  # score at the start of the window minus score at the end: what there is to lose

    @property
    def removed(self) -> float:
        """Share of the gain that taking out all induction heads removes: the number of C02."""
        return self.together / self.gain if self.gain > 0 else float("nan")


def joint_effects(run: RunTables) -> Joint:
    """Single and joint effects of the induction heads of ``run``; an IctlError where none were measured."""
    kind = "pattern-preserving, "
    effects = {k.removeprefix(kind): x for k, x in run.facts_of("joint_icl_change_nats").items() if k.startswith(kind)}
    require("induction" in effects, f"{run.run['run_id']}: no joint ablation was measured; measure it again.")
    error = run.fact("joint_icl_change_se_nats", f"{kind}induction")
    single = float(sum(run.effect()[head] for head in run.induction))
    gain = run.at("icl_nats", run.window.start) - float(run.icl[-1])
    return Joint(single, effects.pop("induction"), error, list(effects.values()), gain)


def kind_of(run: RunTables, head: Head) -> str:
    """``induction``, ``previous-token`` or ``other``: what a head is at the last snapshot, by the registered rules.

    Where no head passes the threshold those would name the best one; here none is an induction head then.
    """
    deep = run.prefix.shape[1] > 1
    if run.prefix[-1][head] > THRESHOLD:
        return "induction"
    return "previous-token" if deep and head == run.previous_head else "other"


@styled
def effects_over_training(groups: Groups, column: str = "icl_change_nats", kind: str = "pattern-preserving",
                          scores: bool = True) -> Plot:  # fmt: skip
    """The effect of each head over training, coloured by kind, below the score (P1, Argument 3).

    Args:
        groups: label -> runs, one column each; all heads of all seeds are drawn.
        column: ``icl_change_nats`` or ``attribution_nats`` (P1, appendix).
        kind: ``pattern-preserving`` or ``full``.
        scores: whether to draw the ICL score above.
    """
    one_of("column", column, tuple(COLUMNS))
    title, axis = COLUMNS[column]
    shape = {"height_ratios": (1, 1.7)} if scores else {}
    fig, axes = canvas(f"{title} ({kind})", 0.9 + 2.45 * len(groups), 4.9 if scores else 3.4, 1 + scores, len(groups),
                       sharey="row", **shape)  # fmt: skip
    words = []
    for column_of_axes, (label, group) in zip(axes.T, groups.items(), strict=True):
        column_of_axes[0].set_title(seeds_of(label, group))
        for run in group:
            if scores:
                column_of_axes[0].plot(run.tokens, run.icl, color=INK, lw=1.0 if len(group) > 1 else 2.0)
            _effect_lines(column_of_axes[-1], run, column, kind)
            words.append(_largest(_name(run), run, column, kind))
        for ax in column_of_axes:
            shade(ax, [run.history for run in group], INK)
            token_axis(ax) if group else not_measured(ax, label)
            ax.label_outer()
        words += [] if group else [f"{label}: not measured yet."]
    axes[0, 0].set_ylabel(ICL.replace(": ", "\n"))
    axes[-1, 0].set_ylabel(axis)
    fig.legend(handles=_legend(lines=True), loc="outside lower center", ncols=3, handlelength=2.6)
    fig.alt = f"{title} ({kind}), a line a head. " + " ".join(words)
    return fig


@styled
def effects_of_heads(groups: Groups, kind: str = "pattern-preserving") -> Plot:
    """The effect of every head at the end of training with its standard error, one row a run (P1, Argument 3)."""
    rows = _runs(groups)
    fig, axes = canvas("What the ICL score loses without each head", 8.2, 1.6 + tall(rows))
    ax, words = axes[0, 0], []
    for y, run in enumerate(rows):
        effects, errors = run.effect(kind), run.effect(kind, column="icl_change_se_nats")
        for i, at in enumerate(np.ndindex(effects.shape)):
            hue, _, mark = LOOKS[kind_of(run, at)]
            ax.errorbar(effects[at], y + 0.5 * (i / effects.size - 0.5), xerr=errors[at], fmt=mark, color=hue, ms=5,
                        elinewidth=0.9, alpha=0.9)  # fmt: skip
        words.append(_largest(_name(run), run, "icl_change_nats", kind))
    ax.axvline(0, color=INK, lw=0.8)
    ax.set(yticks=range(len(rows)), yticklabels=map(_name, rows), ylim=(len(rows) - 0.4, -0.6),
           xlabel="change of the ICL score without the head (nats), ± 1 standard error\n"
                  "left: more gain from context without it; right: less")  # fmt: skip
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3)
    fig.alt = f"Effect of every head on the ICL score ({kind}), one row a run. " + " ".join(words)
    return fig


@styled
def full_against_kept(groups: Groups) -> Plot:
    """Effect of the full ablation of every head against that with patterns preserved; on the diagonal: the same."""
    runs = _runs(groups)
    fig, axes = canvas("Full and pattern-preserving ablation of every head", 5.8, 4.5)
    ax, ends, words, height = axes[0, 0], [], [], -np.inf
    for run in sorted(runs, key=lambda r: r.effect("full")[r.previous_head]):
        kept, full, at = run.effect(), run.effect("full"), run.previous_head
        _points(ax, run, kept, full)
        ends += [kept.min(), kept.max(), full.min(), full.max()]
        words.append(f"{_name(run)}, previous-token head {_head(at)}: {kept[at]:+.2f} nats with patterns kept, "
                     f"{full[at]:+.2f} in full.")  # fmt: skip
        height = max(full[at], height + 0.05)  # labels do not overlap
        if len(runs) <= 5:
            ax.annotate(f"{run.run['label']} {_head(at)}", (kept[at], height), (17, -3), textcoords="offset points")
    edge = np.array([min(ends), max(ends)]) + np.array([-0.05, 0.05]) * (max(ends) - min(ends))
    ax.plot(edge, edge, color=INK, lw=0.8, zorder=0)
    ax.set(xlim=edge, ylim=edge, xlabel="change of the ICL score, patterns kept (nats)",
           ylabel="change of the ICL score, full ablation (nats)")  # fmt: skip
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3)
    fig.alt = "Scatter of the effects of all heads, patterns kept across, full up. " + " ".join(words)
    return fig


@styled
def joint_against_single(groups: Groups) -> Plot:
    """Induction heads one by one, all together, and random other heads of the same layers, one row a run."""
    rows = _runs(groups)
    fig, axes = canvas("All induction heads of a model taken out together", 8.2, 1.7 + tall(rows))
    ax, words = axes[0, 0], []
    for y, run in enumerate(rows):
        found = joint_effects(run)
        ax.barh(y, found.gain, 0.62, color="#e7eaee")
        ax.plot(found.controls, [y] * len(found.controls), "^", color=LOOKS["other"][0], ms=5)
        ax.errorbar(found.together, y, xerr=found.together_se, fmt="o", color=LOOKS["induction"][0], ms=8)
        ax.plot(found.single, y, "D", mfc="none", mec=INK, ms=8, mew=1.4)
        words.append(f"{_name(run)}: {found.together:.2f} ± {found.together_se:.2f} nats together, {found.single:.2f} "
                     f"summed one by one, {np.mean(found.controls or [np.nan]):+.2f} for others; {found.gain:.2f} "
                     "gained.")  # fmt: skip
    ax.axvline(0, color=INK, lw=0.8)
    names = [f"{_name(run)} ({len(run.induction)})" for run in rows]
    ax.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.6),
           xlabel="change of the ICL score (nats), ± 1 standard error")  # fmt: skip
    handles = [Line2D([], [], color="#d0d5db", lw=9, label="gain from the start of the change on"),
               Line2D([], [], color=LOOKS["induction"][0], marker="o", ls="", ms=8, label="all together"),
               Line2D([], [], mfc="none", mec=INK, marker="D", ls="", ms=8, label="sum of one by one"),
               Line2D([], [], color=LOOKS["other"][0], marker="^", ls="", label="as many others")]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2)
    fig.alt = "Joint ablation of induction heads, one row a run. " + " ".join(words)
    return fig


@styled
def fills_against_each_other(groups: Groups) -> Plot:
    """Effects of zero, mean and resample ablation of every head against each other, patterns preserved."""
    runs = _runs(groups)
    fig, axes = canvas("Zero, mean and resample ablation of every head", 8.6, 3.6, cols=3)
    words = []
    for ax, (across, up) in zip(axes[0], combinations(FILLS, 2), strict=True):
        for run in runs:
            x, y = run.effect(fill=across), run.effect(fill=up)
            _points(ax, run, x, y)
            rho = float(rank_correlation(x.ravel(), y.ravel()))
            words.append(f"{_name(run)}, {across} and {up}: rank correlation {rho:.2f}.")
        ax.axline((0, 0), slope=1, color=INK, lw=0.8, zorder=0)
        ax.set(xlabel=f"{across} ablation:\n{CHANGE}", ylabel=f"{up} ablation (nats)")
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3)
    fig.alt = "Scatter of the effects of all heads under three pairs of fills. " + " ".join(words)
    return fig


@styled
def head_bars(run: RunTables, snapshot: int = -1) -> Plot:
    """The effect of every head at one snapshot, with standard errors, on an axis that fits all snapshots."""
    measured, effects = run.ablated()
    errors = run.ablated("icl_change_se_nats")[1]
    require(-len(measured) <= snapshot < len(measured), f"snapshot={snapshot}: ablations are of {len(measured)}.")
    when, heads = token_text(run.tokens[measured[snapshot]]), list(np.ndindex(effects.shape[1:]))
    fig, axes = canvas(f"{_name(run)}, without one head after {when} training tokens", max(6.4, 0.5 * len(heads)), 3.2)
    looks = [LOOKS[kind_of(run, head)][0] for head in heads]
    axes[0, 0].bar(range(len(heads)), effects[snapshot].ravel(), color=looks, yerr=errors[snapshot].ravel(), capsize=3)
    axes[0, 0].axhline(0, color=INK, lw=0.8)
    room = 0.1 * np.ptp(effects)
    axes[0, 0].set(ylim=(effects.min() - room, effects.max() + room), ylabel=CHANGE,
                   xticks=range(len(heads)), xticklabels=map(_head, heads), xlabel="head taken out (patterns kept)")
    fig.legend(handles=_legend(), loc="outside lower center", ncols=3)
    fig.alt = f"Bars of the effect of every head after {when} tokens. {_largest(_name(run), run, at=snapshot)}"
    return fig


def _effect_lines(ax: Axes, run: RunTables, column: str, kind: str) -> None:
    measured, effects = run.ablated(column, kind)
    for at in np.ndindex(effects.shape[1:]):
        hue, look, _ = LOOKS[kind_of(run, at)]
        wide = 0.9 if hue == LOOKS["other"][0] else 1.9
        ax.plot(run.tokens[measured], effects[:, *at], look, color=hue, lw=wide, zorder=1 + wide)
    ax.axhline(0, color=INK, lw=0.8)


def _runs(groups: Groups) -> list[RunTables]:
    found = [run for group in groups.values() for run in group]
    require(bool(found), "no run is there; pass at least one.")
    return found


def _points(ax: Axes, run: RunTables, x: PerHead, y: PerHead) -> None:
    for at in np.ndindex(x.shape):
        hue, _, mark = LOOKS[kind_of(run, at)]
        ax.plot(x[at], y[at], mark, color=hue, mec="white", mew=0.6, ms=6)


def _largest(name: str, run: RunTables, column: str = "icl_change_nats", kind: str = "pattern-preserving", at: int = -1
             ) -> str:  # fmt: skip
    effects = run.ablated(column, kind)[1][at]
    head = np.unravel_index(int(np.abs(effects).argmax()), effects.shape)
    return f"{name}: largest {effects[head]:+.2f} nats, {_head(head)} ({kind_of(run, tuple(map(int, head)))})."


def _legend(lines: bool = False) -> list[Line2D]:
    return [Line2D([], [], color=hue, ls=look if lines else "", marker=None if lines else mark, label=f"{kind} head")
            for kind, (hue, look, mark) in LOOKS.items()]  # fmt: skip


def _name(run: RunTables) -> str:
    return f"{run.run['label']}, seed {run.run['init_seed']}"


def _head(at: Head) -> str:
    return f"L{at[0]}H{at[1]}"
