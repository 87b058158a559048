"""Shapes of a run's curves, as the registered numbers define them: falls, lags, bumps, partings, elbows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from .config import require
from .numbers_base import PER_RUN, RunTables, crossing, over

FORMED = 0.4  # prefix-matching score of a formed head
BEND = 0.15  # of the steepest slope: what makes a non-convex stretch a bump
GAP = 0.05  # nats of loss by which two models part


def largest_fall(run: RunTables, length: float, after: float | None = None) -> float:
    """Largest fall of the curve over any stretch of ``length`` tokens, from ``after`` on (default: the whole run)."""
    first, last = run.tokens[0] if after is None else after, run.tokens[-1] - length
    starts = np.clip(np.concatenate([run.steps, run.steps - length]), min(first, last), last)
    at_start, at_end = (np.interp(x, run.steps, run.curve) for x in (starts, starts + length))
    return float((at_start - at_end).max())


def beginning(run: RunTables, tokens: float) -> RunTables:
    """The beginning of a run as a run of its own: its snapshots up to ``tokens``."""
    kept = run.snapshots.loc[run.snapshots["tokens"] <= tokens, "snapshot"]
    parts = {name: getattr(run, name) for name in PER_RUN}
    return replace(run, **{name: frame[frame["snapshot"].isin(kept)] for name, frame in parts.items()})


def share_in_stretch(run: RunTables, share: float) -> float:
    """Largest share of the change inside a stretch as long as ``share`` of the run; 0 where nothing is gained."""
    return largest_fall(run, share * run.length) / run.change if run.change > 0 else 0.0


def lag(run: RunTables) -> float:
    """Heads' first score of 0.4 minus the midpoint, in widths of the window; infinite if they never reach it."""
    return (crossing(run.tokens, run.best_prefix, FORMED) - run.midpoint) / run.width


def furthest(runs: list[RunTables]) -> float:
    """The lag of the largest size."""
    return max(map(lag, runs), key=abs)


def nearest(runs: list[RunTables]) -> float:
    """The lag of the smallest size."""
    return min(map(lag, runs), key=abs)


def at_ends(run: RunTables, values: str | Float[np.ndarray, "snap"]) -> tuple[float, float]:
    """A column of ``snapshots``, or one value a snapshot, at the start and at the end of the window."""
    return run.at(values, run.window.start), run.at(values, run.window.end)


def fall_in_window(run: RunTables, column: str) -> float:
    """A column of ``snapshots`` at the start minus at the end of the window."""
    start, end = at_ends(run, column)
    return start - end


def slope_by_position(run: RunTables) -> Float[np.ndarray, "snap"]:
    """Least-squares slope of the loss against ln(position), nats, from position 12 to 100 of n_ctx 128.

    In another n_ctx the same fractions of it: the paper's 50 to 400 of 512.
    """
    table = run.positions.sort_values(["snapshot", "position"])
    losses = table["loss_nats"].to_numpy(float).reshape(len(run.tokens), -1)
    n_ctx = losses.shape[1]
    at = np.arange(n_ctx * 50 // 512, n_ctx * 400 // 512 + 1)
    return np.polyfit(np.log(at), losses[:, at].T, 1)[0]


def bumps(run: RunTables) -> list[tuple[float, float]]:
    """First and last token counts of the bumps of the smoothed loss.

    A bump is a stretch after the first tenth of the run in which the second difference is negative throughout
    and along which the slope gets steeper by more than 15 % of the steepest slope after that tenth.
    """
    tenth, slope = run.at_share(0.1), np.diff(run.smooth("loss_nats"))
    bend = np.diff(slope)  # at steps[1:-1]
    steepest = -slope[run.steps[:-1] >= tenth].min()
    concave = (bend < 0) & (run.steps[1:-1] > tenth)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], concave, [False]]))).reshape(-1, 2)
    return [(float(run.steps[a + 1]), float(run.steps[b])) for a, b in edges if -bend[a:b].sum() > BEND * steepest]


def parting(one: RunTables, run: RunTables) -> tuple[float, float]:
    """How far the loss of ``run`` leaves that of ``one`` inside the window of ``run``.

    Returns:
        Share of the first 0.05 nats of the gap that opens inside the window, and the start of the window
        minus the opening of the gap, in widths of the window.

    Raises:
        IctlError: ``one`` ends before ``run``, so that there is no gap to read.
    """
    require(one.tokens[-1] >= 0.999 * run.tokens[-1], f"{one.run['run_id']} ends at {one.tokens[-1]:,} tokens, before "
                                                      f"{run.run['run_id']}; compare runs of one length.")  # fmt: skip
    gap = np.interp(run.steps, one.steps, one.smooth("loss_nats")) - run.smooth("loss_nats")
    later = np.concatenate([[run.at_share(0.1)], run.steps[run.steps > run.at_share(0.1)]])
    opening = min(crossing(later, np.interp(later, run.steps, gap), GAP), float(run.tokens[-1]))
    start, end = np.interp([run.window.start, min(opening, run.window.end)], run.steps, gap)
    inside = 0.0 if opening < run.window.start else float(np.clip((end - start) / GAP, 0, 1))
    return inside, (run.window.start - opening) / run.width


def elbow(path: Float[np.ndarray, "snap 2"]) -> tuple[int, float]:
    """Snapshot farthest from the line through both ends of a path, and the angle there, degrees (0 is straight on)."""
    require(len(path) >= 3, f"a path of {len(path)} snapshots has no elbow; keep at least 3 after the first tenth.")
    (x, y), away = path[-1] - path[0], path - path[0]
    at = 1 + int(np.abs(x * away[1:-1, 1] - y * away[1:-1, 0]).argmax())
    (a, b), (c, d) = path[at] - path[0], path[-1] - path[at]
    return at, float(np.degrees(np.arctan2(abs(a * d - b * c), a * c + b * d)))


def gain_over(run: RunTables, reference: RunTables) -> float:
    """Change of the score over that of another model."""
    return over(run.change, reference.change)
