"""When things happen in training: the turn of the loss paths, and a timetable of events (P1, Argument 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from .config import require
from .curves import loss_pca
from .figures_context import pca_paths
from .figures_cooccurrence import ATTENTION, PANELS, halfway, narrow
from .figures_style import INK, Plot, canvas, colour, styled, token_axis, token_text
from .numbers_base import RunTables, Zoo, crossing
from .numbers_shapes import FORMED, GAP, bumps, elbow, parting

EVENTS = {
    "window": "score: registered window",
    "narrow": "score: narrow window",
    "midpoint": "score: half of its fall",
    "previous": "previous-token head:\nhalf of its score",
    "matching": "induction head:\nhalf of its score",
    "formed": f"prefix matching {FORMED}",
    "bump": "loss: bump",
    "gap": f"loss: {GAP} nats below 1L",
    "elbow": "loss vectors: elbow",
}
"""Events of a timetable, and their names in figures."""
OF_HEADS = ("previous", "matching", "formed")  # told only where a head passes the threshold

# ---- turns ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Turn:
    """Path of one run's per-token losses after the first tenth of training, and its elbow."""

    path: Float[np.ndarray, "snap 2"]
    tokens: Int[np.ndarray, "snap"]
    at: int  # snapshot of the path that is farthest from the line through its ends
    angle: float  # degrees; 0 is straight on

    def snapshots(self, window: tuple[float, float]) -> tuple[int, int]:
        """First and last snapshot of the path within a window in tokens."""
        first, last = np.searchsorted(self.tokens, window)
        return int(first), int(min(last, len(self.tokens) - 1))


def turns(zoo: Zoo, seed: int, names: Mapping[str, str] = ATTENTION) -> tuple[dict[str, Turn], Float[np.ndarray, "2"]]:
    """Turns of all measured models of a seed in their common plane, as registered (A12), and shares of variance."""
    runs = {label: zoo.run(name, seed) for label, name in names.items() if seed in zoo.seeds(name)}
    require(bool(runs), f"none of {', '.join(names.values())} was measured with seed {seed}.")
    later = {label: np.flatnonzero(r.tokens > r.at_share(0.1)) for label, r in runs.items()}
    paths, shares = loss_pca([r.history.token_losses[later[label]] for label, r in runs.items()])
    return {label: Turn(path, runs[label].tokens[later[label]], *elbow(path))
            for label, path in zip(runs, paths, strict=True)}, shares  # fmt: skip


@styled
def paths_with_elbows(found: Mapping[str, Turn], shares: Sequence[float],
                      windows: Mapping[str, tuple[float, float]] | None = None) -> Plot:
    """Paths of per-token losses with a star at the elbow and its angle (P1, Argument 1).

    Args:
        found: label -> turn, a panel each; as :func:`turns` gives them.
        shares: of variance, of the two components.
        windows: label -> first and last token count to mark.
    """
    spans = {label: turn.snapshots(windows[label]) for label, turn in found.items() if label in (windows or {})}
    fig = pca_paths({label: turn.path for label, turn in found.items()}, spans, shares)
    for ax, (label, turn) in zip(fig.axes, found.items(), strict=True):
        ax.plot(*turn.path[turn.at], "*", ms=15, color=colour(label), mec=INK, mew=0.8, zorder=5)
        ax.set_title(f"{label}: turns by {turn.angle:.0f}° at {token_text(turn.tokens[turn.at])}", fontsize=9.5)
    fig.alt += " Stars mark the elbows: " + ", ".join(
        f"{label} turns by {turn.angle:.0f} degrees after {token_text(turn.tokens[turn.at])} tokens"
        for label, turn in found.items()) + "."  # fmt: skip
    return fig


# ---- timetable ------------------------------------------------------------------------------------


def timetable(zoo: Zoo, names: Mapping[str, str] = ATTENTION, one: str = "attn-1l") -> pd.DataFrame:
    """Columns label, seed, event, start, end (tokens): when each of :data:`EVENTS` happened; empty where it did not.

    Args:
        names: label -> name in the zoo; those not measured are left out.
        one: one-layer model of the same seed, for the gap.
    """
    rows = []
    for seed in sorted({s for name in names.values() for s in zoo.seeds(name)}):
        found = turns(zoo, seed, names)[0]
        base = zoo.run(one, seed) if seed in zoo.seeds(one) else None
        for label, turn in found.items():
            for event, start, end in _events(zoo.run(names[label], seed), base, turn):
                rows.append((label, seed, event, start, end))
    return pd.DataFrame(rows, columns=["label", "seed", "event", "start", "end"])


def _events(run: RunTables, base: RunTables | None, turn: Turn) -> Iterator[tuple[str, float, float]]:
    half, small = halfway(run), narrow(run)
    yield "window", run.window.start, run.window.end
    yield "narrow", small.start, small.end
    yield "midpoint", run.midpoint, run.midpoint
    heads = {"previous": half["previous-token head"], "matching": half["induction head"],
             "formed": crossing(run.tokens, run.best_prefix, FORMED)}  # fmt: skip
    if heads["formed"] < np.inf:  # else there is no induction head whose stages could be told
        for name, at in heads.items():
            yield name, at, at
    for start, end in bumps(run):
        yield "bump", start, end
    opening = _opening(run, base) if base is not None and base is not run else np.inf
    if opening < run.tokens[-1]:
        yield "gap", opening, opening
    yield "elbow", float(turn.tokens[turn.at]), float(turn.tokens[turn.at])


def _opening(run: RunTables, base: RunTables) -> float:
    """Where the loss of ``run`` is first 0.05 nats under that of ``base``; the end of the run if never."""
    return run.window.start - parting(base, run)[1] * run.width


def median_event(table: pd.DataFrame, label: str, event: str) -> float:
    """Median over seeds of the middle of an event, in tokens; NaN where it never happened."""
    rows = table[(table["label"] == label) & (table["event"] == event)]
    return float((rows["start"] + rows["end"]).median() / 2) if len(rows) else float("nan")


@styled
def event_times(table: pd.DataFrame, events: Sequence[str] = tuple(EVENTS), longest: float | None = None) -> Plot:
    """When each event happened, a panel a label, a row an event, a mark a seed (P1, "co-occurrence").

    Args:
        table: of :func:`timetable`.
        events: those shown, keys of :data:`EVENTS`, from the top.
        longest: end of the axis, tokens; default the last event.
    """
    require(len(table) > 0, "the timetable is empty; none of its models was measured.")
    labels = list(dict.fromkeys(table["label"]))
    down, across = -(-len(labels) // PANELS), min(PANELS, len(labels))
    fig, axes = canvas("What happens when", 2.1 + 2.6 * across, 0.7 + (0.9 + 0.4 * len(events)) * down, down, across,
                       sharex=True, sharey=True)  # fmt: skip
    for ax in axes.flat[len(labels):]:
        ax.set_axis_off()
    for label, ax in zip(labels, axes.flat, strict=False):
        rows = table[table["label"] == label]
        near = rows[rows["event"] == "narrow"][["start", "end"]].median()
        if "formed" in set(rows["event"]):
            ax.axvspan(near["start"], near["end"], color=INK, alpha=0.13, lw=0, zorder=0)
        for place, event in enumerate(events):
            none = f"no head over {FORMED}" if event in OF_HEADS and "formed" not in set(rows["event"]) else "none"
            _marks(ax, rows[rows["event"] == event], place, colour(label), none)
        ax.set(title=label, xlim=(-0.02 * (top := longest or table["end"].max()), 1.02 * top))
        token_axis(ax)
        ax.tick_params(labelbottom=True)
    axes[0, 0].set_yticks(range(len(events)), [EVENTS[e] for e in events])
    axes[0, 0].set_ylim(len(events) - 0.4, -0.6)
    fig.alt = "Times of events in training tokens; medians over seeds. " + " ".join(
        f"{label}: " + ", ".join(_said(table, label, e) for e in events) + "." for label in labels)  # fmt: skip
    return fig


def _said(table: pd.DataFrame, label: str, event: str) -> str:
    at = median_event(table, label, event)
    return f"{' '.join(EVENTS[event].split())} {'never' if np.isnan(at) else token_text(at)}"


def _marks(ax: Axes, rows: pd.DataFrame, place: int, hue: str, none: str) -> None:
    """A bar for a stretch and a point for a moment, one a seed, each below the last; a tick at the median moment."""
    if not len(rows):
        ax.text(0.02, place, none, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    seeds = sorted(rows["seed"].unique())
    for start, end, seed in zip(rows["start"], rows["end"], rows["seed"], strict=True):
        y = place + (0.6 * (seeds.index(seed) / (len(seeds) - 1) - 0.5) if len(seeds) > 1 else 0)
        look = {"lw": 7 / len(seeds) ** 0.7} if end > start else {"marker": "o", "ms": 7 / len(seeds) ** 0.4}
        ax.plot([start, end], [y, y], color=hue, alpha=0.75, solid_capstyle="butt", clip_on=False, **look)
    if len(seeds) > 1 and (rows["start"] == rows["end"]).all():
        ax.plot(rows["start"].median(), place, "|", ms=24, mew=1.6, color=INK)
