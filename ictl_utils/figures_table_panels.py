"""What each cell of the table of all models draws, as numbers, and a sentence on it (P1, Model Analysis Table)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .curves import loss_pca
from .figures_ablations import LOOKS, kind_of
from .figures_cooccurrence import narrow
from .figures_style import INK, colour, depth_colours, token_text
from .figures_table import HEAD_ROWS, ROWS, Column, Line, Panel, first_formed, phase_windows, span_text
from .figures_training import window_of
from .metrics import loss_derivative
from .numbers_base import RunTables
from .numbers_shapes import elbow
from .survey_facts import THRESHOLD

MAP = (24, 48)  # rows (position, log) and columns (training tokens, linear) of a map


def panels(group: Sequence[Column]) -> dict[str, list[Panel]]:
    """Row -> a panel a column, for the models of one family; the PCA is fitted on all runs of them together."""
    runs = [run for column in group for run in column.runs]
    found = loss_pca([_later(r)[1] for r in runs])[0] if runs else []
    paths = {str(run.run["run_id"]): path for run, path in zip(runs, found, strict=True)}
    return {row.key: [_panel(row.key, column, paths) for column in group] for row in ROWS}


def _panel(row: str, column: Column, paths: dict[str, np.ndarray]) -> Panel:
    why = _why_not(row, column)
    if why:
        return Panel(why)
    if row == "pca":
        return _pca(column, paths)
    if row in ("loss-map", "derivative"):
        return _map(row, column)
    found = _curves(column, row) if row in ("loss", "icl") else _heads(column.runs[0], row)
    return replace(found, windows=phase_windows(column.runs))


def _why_not(row: str, column: Column) -> str:
    """Why a cell is empty; an empty text where it is not."""
    if not column.runs:
        return "not measured yet"
    run, one = column.runs[0], column.layers == 1
    if row in HEAD_ROWS and not column.layers:
        return "N/A: no heads"
    if row == "trace" and one:
        return "N/A: no earlier layer"
    if row == "attribution" and one and run.run["smear"] == "none":
        return "N/A: one layer"
    if row in ("attribution", "ablation"):
        if run.ablations.empty or run.ablations["attribution_nats"].isna().all():
            return "not measured"
    return ""


def _later(run: RunTables) -> tuple[np.ndarray, np.ndarray]:
    """Token counts and loss vectors after the first tenth of a run: before it all models learn the same."""
    late = run.tokens > run.at_share(0.1)
    return run.tokens[late], run.history.token_losses[late]


def _pca(column: Column, paths: dict[str, np.ndarray]) -> Panel:
    """Every run's path, the first seed bold, its way through the narrow window as a band."""
    run, hue = column.runs[0], colour(column.runs[0].history.label)
    (tokens, _), path = _later(run), paths[str(run.run["run_id"])]
    lines = [Line(f"seed {r.run['init_seed']}", "other seeds", hue, *paths[str(r.run["run_id"])].T, "thin")
             for r in column.runs[1:]]  # fmt: skip
    if window_of(run.history):
        band = path[(tokens >= narrow(run).start) & (tokens <= narrow(run).end)]
        lines += [Line("window", "narrow window", INK, *band.T, "wide")] if len(band) else []
    turn, angle = elbow(path)
    words = f"Farthest from a straight line after {token_text(tokens[turn])} tokens, turning by {angle:.0f} degrees"
    first = Line(f"seed {run.run['init_seed']}", "first seed", hue, *path.T, "bold")
    return Panel(f"{words}{_of(column)}.", (*lines, first))


def _curves(column: Column, row: str) -> Panel:
    """A thin line a seed and the bold median."""
    hue, each = colour(column.runs[0].history.label), [(r.tokens, getattr(r.history, row)) for r in column.runs]
    names, grid = [f"seed {r.run['init_seed']}" for r in column.runs], each[0][0]
    middle = np.median([np.interp(grid, *xy) for xy in each], axis=0)
    thin = [Line(name, "one seed", hue, *xy, "thin") for name, xy in zip(names, each, strict=True)]
    name, group = ("median", "median over seeds") if len(each) > 1 else (names[0], "one seed")
    unit, windows = "nats per token" if row == "loss" else "nats", phase_windows(column.runs)
    words = f"From {middle[0]:.2f} to {middle[-1]:.2f} {unit} ({'median' if len(each) > 1 else names[0]})."
    if windows:
        words += f" Window {span_text(windows[0])} tokens, narrow reading {span_text(windows[1])}."
    return Panel(words, (*(thin if len(each) > 1 else ()), Line(name, group, hue, grid, middle, "bold")))


def _map(row: str, column: Column) -> Panel:
    """Loss, or its derivative, on a regular grid of tokens and log position."""
    run = column.runs[0]
    places, values = np.arange(1, run.history.loss_by_position.shape[1] + 1), run.history.loss_by_position
    if row == "derivative":
        places, values = loss_derivative(run.history.loss_by_position)
    up, middles = np.geomspace(places[0], places[-1], MAP[0]), (np.arange(MAP[1]) + 0.5) / MAP[1] * run.tokens[-1]
    at_snapshots = np.stack([np.interp(np.log(up), np.log(places), line) for line in values])
    grid = np.stack([np.interp(middles, run.tokens, line) for line in at_snapshots.T])
    late = grid[MAP[0] // 2 :].mean(axis=0)
    words = f"At the end {grid[0, -1]:.2f} nats at the first position and {grid[-1, -1]:.2f} at the last"
    if row == "derivative":
        words = (f"On the upper half of the axis {late[MAP[1] // 10]:+.2f} nats on average after a tenth of training, "
                 f"{late[-1]:+.2f} at the end")  # fmt: skip
    return Panel(f"{words}{_of(column)}.", (), grid, (float(up[0]), float(up[-1])), float(run.tokens[-1]))


def _heads(run: RunTables, row: str) -> Panel:
    """A line a head of one run: coloured by layer, or by kind where heads are ablated."""
    at, values = _scores(run, row)
    heads = [h for h in np.ndindex(values.shape[1:]) if np.isfinite(values[:, h[0], h[1]]).all()]
    hues = depth_colours(values.shape[1])
    looks = {h: (f"layer {h[0]}", hues[h[0]]) for h in heads}
    if row in ("attribution", "ablation"):
        order = ("other", "previous-token", "induction")  # the last lies on top
        heads = sorted(heads, key=lambda h: order.index(kind_of(run, h)))
        looks = {h: (f"{kind_of(run, h)} head", LOOKS[kind_of(run, h)][0]) for h in heads}
    sign = -1 if row == "attribution" else 1
    top = max(heads, key=lambda h: sign * values[-1, h[0], h[1]])
    lines = tuple(Line(f"L{i}H{j}", *looks[i, j], run.tokens[at], values[:, i, j]) for i, j in heads)
    return Panel(_head_words(run, row, top, float(values[-1, top[0], top[1]])), lines)


def _scores(run: RunTables, row: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of snapshots, and a score of every head at each."""
    if row in ("attribution", "ablation"):
        return run.ablated("attribution_nats" if row == "attribution" else "icl_change_nats")
    return np.arange(len(run.tokens)), run.prefix if row == "prefix" else run.per_head("qk_trace")


def _head_words(run: RunTables, row: str, top: tuple[int, int], end: float) -> str:
    """What is said of the head ``top`` that stands out at the end."""
    first, kind = first_formed(run), kind_of(run, top)
    formed = f"a head first passes {THRESHOLD} after {token_text(first)} tokens" if np.isfinite(first) else (
        f"no head ever passes {THRESHOLD}")  # fmt: skip
    name, value, more = {
        "prefix": ("Highest", f"{end:.2f}", formed),
        "trace": ("Highest", token_text(end), f"its prefix matching is {run.prefix[-1][top]:.2f}"),
        "attribution": ("Most negative", f"{end:+.2f} nats", f"kind: {kind}"),
        "ablation": ("Largest", f"{end:+.2f} nats", f"kind: {kind}"),
    }[row]  # fmt: skip
    return f"{name} at the end: L{top[0]}H{top[1]} with {value}; {more} (seed {run.run['init_seed']})."


def _of(column: Column) -> str:
    return f" (seed {column.runs[0].run['init_seed']})"
