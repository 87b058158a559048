"""What P1 left unexplained, looked for in every run, and later findings on the same runs (P1, "Curiosities")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .ablations import losses_without_each
from .config import require
from .curves import smooth_curve
from .figures_cooccurrence import Groups, check_groups, seeds_line
from .figures_style import INK, Plot, canvas, colour, depth_colours, numbers, styled, token_axis
from .figures_training import LOSS, MATCHING
from .metrics import Windows, best_head, icl_ranges
from .model import Transformer
from .numbers_base import RunTables, Zoo
from .survey_facts import THRESHOLD
from .zoo import entries

SHARE = 0.1  # of the attribution of the strongest head
EFFECT = "effect of knocking the head out (nats)"
HEADS = {"strongest induction head": "#d55e00", "head that costs most": "#0072b2"}
KEYS = 5  # of a legend side by side


def labels_of(runs: Sequence[RunTables]) -> list[str]:
    """Kinds of model among ``runs``, each once."""
    return list(dict.fromkeys(str(r.run["label"]) for r in runs))


def every_run(zoo: Zoo, at_least: int = 1, formed: bool = False) -> list[RunTables]:
    """All measured runs, each once, in the order of the zoo; data orders beyond the first are left out.

    Args:
        at_least: fewest layers.
        formed: only runs that end with an induction head.
    """
    names = [entry.name for entry in entries()]
    found = {zoo.run(name, seed).run["run_id"]: zoo.run(name, seed) for name in names for seed in zoo.seeds(name)}
    return [r for r in found.values() if r.run["n_layers"] >= at_least
            and (not formed or r.best_prefix[-1] > THRESHOLD)]  # fmt: skip


def name_of(run: RunTables) -> str:
    """``attn-2l, seed 0``."""
    return f"{run.run['name']}, seed {run.run['init_seed']}"


def head_name(head: tuple[int, int]) -> str:
    """``L1H2``."""
    return f"L{int(head[0])}H{int(head[1])}"


def early_and_late(run: RunTables) -> tuple[Float[np.ndarray, "snap"], Float[np.ndarray, "snap"]]:
    """Loss at the early and at the late positions of the score, nats, at every snapshot."""
    losses = run.history.loss_by_position
    late, early = icl_ranges(losses.shape[1])
    return losses[:, slice(*early)].mean(1), losses[:, slice(*late)].mean(1)


def falls_after(run: RunTables) -> tuple[float, float]:
    """How far early and late loss fall from the end of the window to the end of the run, nats."""
    start = run.window.end
    return tuple(run.at(x, start) - float(x[-1]) for x in early_and_late(run))


@styled
def constant_score(groups: Groups, runs: Sequence[RunTables]) -> Plot:
    """Early and late loss over training, and how far both fall after the change (P1, "Curiosities").

    Args:
        groups: label -> runs, for the curves.
        runs: for the points.
    """
    check_groups(groups)
    require(len(runs) > 0, "runs is empty; pass at least one.")
    fig, axes = canvas("Early and late loss, and what both do after the change", 9.6, 3.9, cols=2)
    curves, points = axes[0]
    for label, group in groups.items():
        for at, style in ((0, "--"), (1, "-")):
            lines = [smooth_curve(r.tokens, early_and_late(r)[at]) for r in group]
            seeds_line(curves, lines, color=colour(label), ls=style)
    curves.set(title="Loss early (dashed) and late in the context", ylabel=LOSS, ylim=(None, 4.6))
    token_axis(curves)
    falls = np.array([falls_after(r) for r in runs])
    points.scatter(*falls.T, s=44, color=[colour(str(r.run["label"])) for r in runs], ec="white", lw=0.8, zorder=3)
    low, high = min(0.0, float(falls.min())) - 0.01, float(falls.max()) * 1.12 + 0.01
    points.plot([low, high], [low, high], color="#6b7280", lw=1, ls=":")
    points.set(xlim=(low, high), ylim=(low, high), xlabel="fall of the early loss (nats)",
               ylabel="fall of the late loss (nats)", title="After the window, a point a run")  # fmt: skip
    kinds = [k for k in labels_of(runs) if k not in groups]
    keys = [Line2D([], [], color=colour(k), lw=2.1, label=k) for k in groups]
    keys += [Line2D([], [], color=colour(k), marker="o", ls="", label=k) for k in kinds]
    keys.append(Line2D([], [], color="#6b7280", ls=":", label="both fall alike"))
    fig.legend(handles=keys, loc="outside lower center", ncols=6)
    fig.alt = (f"Left: early and late loss over training of {', '.join(groups)}. Right: from the end of the window the "
               f"early loss falls by {np.median(falls[:, 0]):.2f} nats and the late loss by "
               f"{np.median(falls[:, 1]):.2f}, medians of {len(runs)} runs; in {(falls[:, 1] > falls[:, 0]).sum()} of "
               "them the late loss falls further.")  # fmt: skip
    return fig


def attributions(run: RunTables) -> tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "layer head"]]:
    """Attribution of every head to the before-and-after vector, halfway and at the end of the run.

    In shares of that of the strongest head at the end: 1 undoes as much of the change as that head.
    """
    measured, found = run.ablated("attribution_nats")
    half = int(np.abs(run.tokens[measured] - run.at_share(0.5)).argmin())
    return tuple(found[at] / found[-1].min() for at in (half, -1))


def other_heads(runs: Sequence[RunTables]) -> pd.DataFrame:
    """Heads that are no induction heads and whose removal resembles undoing the change, the strongest first.

    A row a head with at least :data:`SHARE` of the strongest head's attribution at the end. ``late`` says whether
    its share at least doubled between halfway and the end.
    """
    rows = []
    for run in runs:
        half, end = attributions(run)
        for head in map(tuple, np.argwhere((run.prefix[-1] <= THRESHOLD) & (end >= SHARE))):
            late = bool(end[head] >= 2 * max(half[head], 0))
            rows.append((name_of(run), head_name(head), float(half[head]), float(end[head]), late))
    found = pd.DataFrame(rows, columns=["run", "head", "halfway", "at the end", "late"])
    return found.sort_values("at the end", ascending=False, ignore_index=True)


@styled
def late_heads(runs: Sequence[RunTables]) -> Plot:
    """Attribution of heads that are no induction heads, halfway against the end of the run, all runs together."""
    require(len(runs) > 0, "runs is empty; pass at least one.")
    labels = labels_of(runs)
    fig, axes = canvas("Heads that are no induction heads: attribution halfway and at the end", 6.4,
                       4.2 + 0.22 * -(-len(labels) // KEYS))  # fmt: skip
    ax, points = axes[0, 0], []
    for run in runs:
        half, end = attributions(run)
        others = run.prefix[-1] <= THRESHOLD
        points.append(np.stack([half[others], end[others]], 1))
        hue = colour(str(run.run["label"]))
        ax.scatter(*points[-1].T, s=26, color=hue, alpha=0.75, lw=0)
    x, y = np.concatenate(points).T
    late = int(other_heads(runs)["late"].sum())
    low, high = min(-0.1, x.min(), y.min()) * 1.1, max(0.5, x.max(), y.max()) * 1.1
    ax.fill([low, SHARE / 2, high / 2, low], [SHARE, SHARE, high, high], color="#fbe3d5", lw=0, zorder=0)
    ax.plot([low, high], [low, high], color="#6b7280", lw=1, ls=":")
    ax.text(low + 0.02, high * 0.93, "grown late", color="#8f3d00", va="top")
    ax.set(xlim=(low, high), ylim=(low, high), xlabel="attribution halfway (share of the strongest head's at the end)",
           ylabel="attribution at the end (share)")  # fmt: skip
    handles = [Line2D([], [], color=colour(k), marker="o", ls="", label=k) for k in labels]
    fig.legend(handles=handles, loc="outside lower center", ncols=KEYS)
    fig.alt = (f"Scatter of {len(x)} heads that are no induction heads in {len(runs)} runs. The largest share at the "
               f"end is {y.max():.2f}; {late} heads grew late.")  # fmt: skip
    return fig


def oddities(runs: Sequence[RunTables]) -> pd.DataFrame:
    """A row a run: spikes of the loss, how peaked ablation is, and induction heads that do the opposite.

    ``largest rise``: of the loss between neighbouring snapshots after the first tenth of the run, nats. ``peak over
    end``: largest over last effect of the head with the largest effect. ``improving``: induction heads without which
    the score is better by over two standard errors. ``anti-copying``: induction heads whose OV eigenvalues sum to
    less than 0. Heads in brackets are induction heads.
    """
    rows = []
    for run in runs:
        loss, (_, effect), (_, error) = run.series("loss_nats"), run.ablated(), run.ablated("icl_change_se_nats")
        rise = np.diff(loss)[run.tokens[1:] > run.at_share(0.1)].max()
        top, matching = best_head(effect.max(0)), run.prefix[-1] > THRESHOLD
        end = effect[-1][top]
        rows.append({
            "run": name_of(run), "layers": int(run.run["n_layers"]), "mlp": bool(run.run["mlp"]),
            "largest rise (nats)": float(rise), "peak over end": float(effect.max() / end) if end > 0 else np.inf,
            "induction heads": int(matching.sum()),
            "improving": int((matching & (effect[-1] < -2 * error[-1])).sum()),
            "anti-copying": int((matching & (run.per_head("ov_copying")[-1] < 0)).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def costly_head(run: RunTables) -> tuple[int, int]:
    """The head that is no induction head and without which the score is best."""
    return best_head(np.where(run.prefix[-1] > THRESHOLD, -np.inf, -run.effect()))


def changes_by_position(model: Transformer, windows: Windows, heads: Sequence[tuple[int, int]]
                        ) -> Float[np.ndarray, "head window pos"]:  # fmt: skip
    """Change of the loss at every position of every window, nats, without each head (pattern-preserving, zero)."""
    found = losses_without_each(model, windows, [[], *([head] for head in heads)])
    return found[1:] - found[0]


@styled
def costs_by_position(changes: Mapping[str, Float[np.ndarray, "pos"]]) -> Plot:
    """What the loss is without a head, minus with it, along the context: early and late bands shaded.

    Args:
        changes: name of the head -> change of the loss at every position, nats, mean over windows.
    """
    require(bool(changes), "changes is empty; pass at least one head.")
    fig, axes = canvas("What a head is worth along the context", 6.6, 3.8)
    ax, words = axes[0, 0], []
    hues = [*HEADS.values(), *depth_colours(max(1, len(changes)))]
    for (name, values), hue in zip(changes.items(), hues, strict=False):
        y = numbers(name, values, 1)
        late, early = icl_ranges(len(y))
        edges = np.unique(np.geomspace(1, len(y), 26).astype(int))
        bins = [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        ax.plot([np.sqrt(a * b) for a, b in bins], [y[a:b].mean() for a, b in bins], color=hue, lw=2, label=name)
        low, high = y[slice(*early)].mean(), y[slice(*late)].mean()
        words.append(f"{name}: {low:+.2f} nats early, {high:+.2f} late.")
    for at in (late, early):
        ax.axvspan(max(1, at[0]), at[1], color=INK, alpha=0.08, lw=0)
    ax.axhline(0, color="#6b7280", lw=0.8)
    ax.set(xscale="log", xlabel="position in the context", ylabel="loss without the head − with it (nats)")
    ax.set_xticks([1, 10, 100], ["1", "10", "100"])
    fig.legend(loc="outside lower center", ncols=2)
    fig.alt = "Change of the loss along the context without a head. " + " ".join(words)
    return fig


@styled
def lasting_and_weight(runs: Sequence[RunTables]) -> Plot:
    """How much of its peak the best prefix matching keeps, and whether a high score means a large effect."""
    require(len(runs) > 0, "runs is empty; pass at least one that ends with an induction head.")
    fig, axes = canvas("How long induction heads last, and how much they carry", 9.4, 3.9, cols=2)
    _lasting(axes[0, 0], runs)
    right, points = axes[0, 1], []
    for run in runs:
        matching = run.prefix[-1] > THRESHOLD
        points.append(np.stack([run.prefix[-1][matching], run.effect()[matching]], 1))
        right.scatter(*points[-1].T, s=40, color=colour(str(run.run["label"])), ec="white", lw=0.6, zorder=3)
    right.axhline(0, color="#6b7280", lw=0.8)
    right.set(xlabel=MATCHING, ylabel=EFFECT, title="Score and effect, a point an induction head")
    handles = [Line2D([], [], color=colour(k), marker="o", lw=1.4, label=k) for k in labels_of(runs)]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)
    kept, both = [r.best_prefix[-1] / r.best_prefix.max() for r in runs], np.concatenate(points)
    fig.alt = (f"Left: at the end of {len(runs)} runs the best head keeps {min(kept):.2f} to {max(kept):.2f} of its "
               f"highest prefix matching. Right: {len(both)} induction heads with effects from {both[:, 1].min():.2f} "
               f"to {both[:, 1].max():.2f} nats.")  # fmt: skip
    return fig


def _lasting(ax: Axes, runs: Sequence[RunTables]) -> None:
    """Best prefix matching over its own peak, over training, from where a head has formed."""
    for run in runs:
        since = run.tokens >= run.tokens[int((run.best_prefix > THRESHOLD).argmax())]
        share = run.best_prefix[since] / run.best_prefix.max()
        ax.plot(run.tokens[since], share, color=colour(str(run.run["label"])), lw=1.4)
    ax.set(ylim=(0, 1.05), ylabel="best prefix matching (share of its peak)", title="Since the first head formed")
    token_axis(ax)
