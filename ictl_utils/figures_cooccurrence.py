"""What changes together over training: the score and its window, slopes, the bump, two stages of heads.

All take runs as the measurement tables give them, grouped by label (P1, Argument 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .config import require
from .curves import Window
from .figures_style import INK, Plot, canvas, colour, line, styled, token_axis, token_text
from .figures_training import LOSS
from .metrics import best_head
from .numbers_base import NARROW, REGISTERED, RunTables, Zoo, crossing
from .numbers_shapes import FORMED, GAP, bumps, slope_by_position

Groups = Mapping[str, Sequence[RunTables]]
ATTENTION = {f"{n}L": f"attn-{n}l" for n in range(1, 7)}
"""Label -> name in the zoo, of the attention-only models."""
PREVIOUS, INDUCTION = "#0072b2", "#d55e00"
PANELS = 3
MILLION = 1e6


def measured(zoo: Zoo, names: Mapping[str, str]) -> dict[str, list[RunTables]]:
    """Label -> runs of all seeds, of those of the named models that were measured."""
    return {label: [zoo.run(name, seed) for seed in zoo.seeds(name)] for label, name in names.items()
            if zoo.seeds(name)}  # fmt: skip


def first(groups: Groups, n: int = PANELS) -> dict[str, Sequence[RunTables]]:
    """The first ``n`` groups: as many panels as fit side by side."""
    return dict(list(groups.items())[:n])


def narrow(run: RunTables) -> Window:
    """The window at half of the steepest slope: a reading beside the registered one, chosen after it."""
    return replace(run, share=NARROW).window


def median_window(runs: Iterable[Window]) -> tuple[float, float]:
    """Median start and median end of several windows."""
    start, end = np.median([(w.start, w.end) for w in runs], axis=0)
    return float(start), float(end)


def check_groups(groups: Groups) -> None:
    """Raise IctlError unless there is a label, and a run for each."""
    require(bool(groups) and all(groups.values()), "groups is empty, or a label in it has no run; "
                                                   "leave out models that were not measured (`measured` does).")


def seeds_line(ax: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]], **look) -> np.ndarray:
    """A thin line a seed and a bold median, on the places of the first; returns the median."""
    places = lines[0][0]
    for x, y in lines if len(lines) > 1 else ():
        ax.plot(x, y, lw=0.8, alpha=0.5, **look)
    middle = np.median([np.interp(places, x, y) for x, y in lines], axis=0)
    ax.plot(places, middle, lw=2.1, **look)
    return middle


def shade_narrow(ax: Axes, runs: Sequence[RunTables]) -> None:
    """Shade the narrow window where induction heads formed: the rule finds one in any curve."""
    if np.median([r.best_prefix[-1] for r in runs]) > FORMED:
        ax.axvspan(*median_window(map(narrow, runs)), color=INK, alpha=0.13, lw=0, zorder=0)


@styled
def windows_on_curve(groups: Groups) -> Plot:
    """The smoothed score and its slope, with the registered window and the narrow reading, a column a label."""
    check_groups(groups)
    fig, axes = canvas("The score, its slope, and where the window ends", 0.6 + 2.75 * len(groups), 5.6, 2, len(groups),
                       sharex="col", sharey="row")  # fmt: skip
    words = []
    for (label, runs), (top, low) in zip(groups.items(), axes.T, strict=True):
        look = {"color": colour(label)}
        seeds_line(top, [(r.steps, r.curve) for r in runs], **look)
        slope = [-np.gradient(r.curve, r.steps) * MILLION for r in runs]
        seeds_line(low, [(r.steps, s) for r, s in zip(runs, slope, strict=True)], **look)
        steepest = np.median([np.interp(r.window.steepest, r.steps, s) for r, s in zip(runs, slope, strict=True)])
        spans = median_window(r.window for r in runs), median_window(map(narrow, runs))
        for ax in (top, low):
            for span, alpha in zip(spans, (0.1, 0.22), strict=True):
                ax.axvspan(*span, color=INK, alpha=alpha, lw=0, zorder=0)
        for share, style in ((REGISTERED, ":"), (NARROW, "--")):
            low.axhline(share * steepest, color=INK, lw=1.2, ls=style)
        top.set_title(label)
        token_axis(low)
        words.append(f"{label}: registered window {_span(spans[0])}, narrow {_span(spans[1])} tokens.")
    axes[0, 0].set_ylabel("ICL score (nats)")
    axes[1, 0].set_ylabel("fall of the score\n(nats per million tokens)")
    fig.legend(handles=_rule_key(), loc="outside lower center", ncols=2)
    fig.alt = "Smoothed in-context learning score and its slope over training tokens. " + " ".join(words)
    return fig


def _span(window: tuple[float, float]) -> str:
    return " to ".join(map(token_text, window))


def _rule_key() -> list[Patch | Line2D]:
    shares = ((REGISTERED, ":", 0.1, "registered window"), (NARROW, "--", 0.3, "narrow reading"))
    patches = [Patch(color=INK, alpha=alpha, lw=0, label=name) for _, _, alpha, name in shares]
    lines = [Line2D([], [], color=INK, lw=1.2, ls=ls, label=f"{share:.0%} of the steepest slope")
             for share, ls, _, _ in shares]  # fmt: skip
    return [item for pair in zip(patches, lines, strict=True) for item in pair]


@styled
def slopes_by_position(groups: Groups) -> Plot:
    """Slope of the loss against ln(position) over training, a line a label: the registered number of A07."""
    check_groups(groups)
    fig, axes = canvas("How much a longer context still helps, over training", 6.4, 3.7)
    ends = []
    for label, runs in groups.items():
        middle = seeds_line(axes[0, 0], [(r.tokens, slope_by_position(r)) for r in runs], **_look(label))
        ends.append(f"{label} {middle[-1]:+.2f}")
    axes[0, 0].axhline(0, color=INK, lw=0.8)
    axes[0, 0].set_ylabel("d loss / d ln(position) (nats)")
    token_axis(axes[0, 0])
    fig.legend(handles=_label_key(groups), loc="outside lower center", ncols=3)
    fig.alt = ("Slope of the loss against the logarithm of the position over training tokens. At the end, nats: "
               + ", ".join(ends) + ".")  # fmt: skip
    return fig


@styled
def loss_bump(groups: Groups, one: str = "1L") -> Plot:
    """The loss after the first tenth of the run, its slope, its second difference, and the gap to one layer.

    Args:
        groups: label -> seeds; bumps by the registered rule are drawn thick.
        one: label of the model that gaps are taken to; the fourth panel is empty without it.
    """
    check_groups(groups)
    fig, axes = canvas("The loss, and where it bends", 8.6, 5.4, 2, 2, sharex=True)
    found = []
    for label, runs in groups.items():
        curves = [_later(r, r.smooth("loss_nats")) for r in runs]
        for ax, order in zip(axes.flat[:3], range(3), strict=True):
            seeds_line(ax, [_differences(*c, order) for c in curves], **_look(label))
        for run, curve in zip(runs, curves, strict=True):
            x, bend = _differences(*curve, 2)
            for start, end in bumps(run):
                inside = (x >= start) & (x <= end)
                axes[1, 0].plot(x[inside], bend[inside], color=colour(label), lw=7, alpha=0.35, solid_capstyle="butt")
        found.append(f"{label} {sum(bool(bumps(r)) for r in runs)} of {len(runs)}")
        gaps = [_later(r, np.interp(r.steps, o.steps, o.smooth("loss_nats")) - r.smooth("loss_nats"))
                for r in runs for o in groups.get(one, ()) if o.run["init_seed"] == r.run["init_seed"]]  # fmt: skip
        if gaps and label != one:
            seeds_line(axes[1, 1], gaps, **_look(label))
    _bump_axes(axes, one)
    fig.legend(handles=[*_label_key(groups), Line2D([], [], color=INK, lw=7, alpha=0.35, label="bump")],
               loc="outside lower center", ncols=4)  # fmt: skip
    fig.alt = "Loss, its slope, its second difference and the gap to one layer over training. Runs with a bump: " + (
        ", ".join(found) + ".")  # fmt: skip
    return fig


def _later(run: RunTables, values: Float[np.ndarray, "step"]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values after the first tenth of a run."""
    later = run.steps > run.at_share(0.1)
    return run.steps[later], values[later]


def _differences(x: np.ndarray, y: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of ``y`` of this order, per million tokens to the power of it."""
    step = (x[1] - x[0]) / MILLION
    return (x, y) if not order else (x[order:] - order * step * MILLION / 2, np.diff(y, order) / step**order)


def _bump_axes(axes: np.ndarray, one: str) -> None:
    titles = ("Loss after the first tenth of the run", "Slope", "Second difference (below 0: falls faster)",
              f"Gap: loss of {one} minus loss of the model")  # fmt: skip
    units = (LOSS, "nats per million tokens", "nats per (million tokens)²", "nats")
    for ax, title, unit in zip(axes.flat, titles, units, strict=True):
        ax.set(title=title, ylabel=unit)
        token_axis(ax)
    for ax in axes[0]:
        ax.set_xlabel("")
    axes[1, 0].axhline(0, color=INK, lw=0.8)
    axes[1, 1].axhline(GAP, color=INK, lw=1.2, ls="--")


def stages(run: RunTables) -> dict[str, Float[np.ndarray, "snap"]]:
    """Score over training of the two heads that are highest at the end: previous-token and prefix matching."""
    layer, head = best_head(run.prefix[-1])
    return {"previous-token head": run.previous[:, *run.previous_head], "induction head": run.prefix[:, layer, head]}


def halfway(run: RunTables) -> dict[str, float]:
    """Token count at which each of :func:`stages` first reaches half of its final score."""
    return {name: crossing(run.tokens, score, score[-1] / 2) for name, score in stages(run).items()}


@styled
def two_stages(groups: Groups) -> Plot:
    """Scores of the previous-token head and of the best induction head over training, a panel a label.

    Vertical lines: where each first has half of its final score, the median over seeds.
    """
    check_groups(groups)
    title = "Previous-token head and induction head over training"
    fig, axes = canvas(title, 0.6 + 2.75 * len(groups), 3.9, 1, len(groups), sharey=True)
    hues, words = {"previous-token head": PREVIOUS, "induction head": INDUCTION}, []
    for (label, runs), ax in zip(groups.items(), axes[0], strict=True):
        halves = {name: float(np.median([halfway(r)[name] for r in runs])) for name in hues}
        for name, hue in hues.items():
            style = "-" if name == "induction head" else "--"
            seeds_line(ax, [(r.tokens, stages(r)[name]) for r in runs], color=hue, ls=style)
            ax.axvline(halves[name], color=hue, lw=1.2, ls=":")
        ax.set(title=label, ylim=(-0.02, 1.02))
        token_axis(ax)
        words.append(f"{label}: " + ", ".join(f"{k} at {token_text(v)}" for k, v in halves.items()) + ".")
    axes[0, 0].set_ylabel("score (share of attention)")
    key = [Line2D([], [], color=PREVIOUS, lw=2.1, ls="--", label="previous-token head"),
           Line2D([], [], color=INDUCTION, lw=2.1, label="induction head"),
           Line2D([], [], color=INK, lw=1.2, ls=":", label="half of the final score")]  # fmt: skip
    fig.legend(handles=key, loc="outside lower center", ncols=3)
    fig.alt = f"{title}. Half of the final score, training tokens: " + " ".join(words)
    return fig


def _look(label: str) -> dict[str, object]:
    return {"color": colour(label), "ls": line(label)}


def _label_key(groups: Groups) -> list[Line2D]:
    return [Line2D([], [], lw=2.1, **_look(label), label=label if len(runs) == 1 else f"{label} ({len(runs)} seeds)")
            for label, runs in groups.items()]  # fmt: skip
