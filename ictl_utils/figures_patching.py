"""Figures of activation patching, and of the head detector of TransformerLens beside prefix matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.lines import Line2D

from . import weights
from .config import require
from .figures_ablations import LOOKS, kind_of
from .figures_style import INK, Plot, canvas, colour, numbers, styled
from .figures_training import MATCHING
from .numbers_base import RunTables
from .patching import LEAST, Circuit, Pair, Patched, find_circuit, repeated_pair
from .tokens import Tokens

NAMED = 0.12  # share from which a head is named
RESTORED = "share of the difference that follows"


@styled
def patched_stream(found: Mapping[str, Patched], pair: Pair) -> Plot:
    """What carrying over the residual stream at one place restores, by layer and position, a panel a change.

    Args:
        found: what was changed -> patches of the stream.
        pair: gives the positions of the query and of its token in the first copy; the same in all panels.
    """
    require(bool(found), "found is empty; pass at least one set of patches.")
    fig, axes = canvas("Residual stream carried over at one position", 8.6, 1.4 + 1.35 * len(found), len(found), 1,
                       sharex=True)  # fmt: skip
    marks = {pair.source: "A", pair.source + 1: "B", pair.query: "A"}
    words = []
    for ax, (name, patches) in zip(axes[:, 0], found.items(), strict=True):
        shares = numbers(name, patches.share, 2)
        mesh = ax.pcolormesh(np.arange(shares.shape[1] + 1) - 0.5, np.arange(len(shares) + 1) - 0.5, shares,
                             cmap="RdBu", vmin=-1.1, vmax=1.1)  # fmt: skip
        ax.set(yticks=range(len(shares)), ylabel="before layer", title=name, ylim=(len(shares) - 0.5, -0.5))
        ax.grid(False)
        for at, letter in marks.items():
            ax.annotate(letter, (at, -0.5), (0, 3), textcoords="offset points", ha="center", weight="bold")
        best = [int(row.argmax()) for row in shares]
        each = (f"before layer {i} at {_place(at, pair)} ({shares[i, at]:.2f})" for i, at in enumerate(best))
        words.append(f"{name}: most is restored {', '.join(each)}.")
    axes[-1, 0].set_xlabel("position (0 is <bos>)")
    fig.colorbar(mesh, ax=axes, label="share restored", shrink=0.8)
    fig.alt = "Heat maps of the share restored by the stream at one place. " + " ".join(words)
    return fig


def _place(at: int, pair: Pair) -> str:
    """A position in words."""
    names = {pair.source: "the first A", pair.source + 1: "the B that followed it", pair.query: "the second A"}
    return names.get(at, f"position {at}")


@styled
def roles_by_patching(found: Mapping[str, tuple[Patched, Patched]], kinds: Mapping[str, Mapping[tuple[int, int], str]]
                      ) -> Plot:  # fmt: skip
    """What a head's pattern restores against what its whole output restores, a panel a direction, a point a head.

    Args:
        found: title of the panel -> patches of outputs and of patterns.
        kinds: the same titles -> (layer, head) -> kind by its behaviour: ``induction`` or ``previous-token``.
    """
    require(bool(found), "found is empty; pass at least one direction.")
    fig, axes = canvas("What single heads carry", 0.8 + 4.1 * len(found), 4.2, 1, len(found), sharex=True, sharey=True)
    words = []
    for ax, (title, (z, pattern)) in zip(axes[0], found.items(), strict=True):
        x, y = numbers("pattern", pattern.share, 2), numbers("z", z.share, 2)
        for at in np.ndindex(x.shape):
            hue, _, marker = LOOKS[kinds[title].get(at, "other")]
            ax.errorbar(x[at], y[at], xerr=pattern.se[at], yerr=z.se[at], fmt=marker, color=hue, ms=6, lw=0.8, zorder=3)
        for (a, b), heads in _together(x, y).items():
            ax.annotate("\n".join(heads), (a, b), (7, 6), textcoords="offset points")
        ax.plot([0, 1], [0, 1], color="#6b7280", lw=1, ls=":")
        ax.set(title=title, xlabel=f"pattern alone:\n{RESTORED}")
        top = [divmod(int(i), x.shape[1]) for i in np.argsort(-y, axis=None)[:3]]
        each = ", ".join(f"L{i}H{j} {y[i, j]:.2f} by output and {x[i, j]:.2f} by pattern" for i, j in top)
        words.append(f"{title}: {each}.")
    axes[0, 0].set(ylabel=f"whole output:\n{RESTORED}")
    axes[0, 0].margins(0.12)
    fig.legend(handles=_kinds(), loc="outside lower center", ncols=3, title="by behaviour", title_fontsize=9)
    fig.alt = "Scatter of heads by what patching them does. " + " ".join(words)
    return fig


def _together(x: Float[np.ndarray, "layer head"], y: Float[np.ndarray, "layer head"]
              ) -> dict[tuple[float, float], list[str]]:  # fmt: skip
    """Names of the heads that carry anything, by place; heads too close for a name each share one."""
    found: dict[tuple[float, float], list[str]] = {}
    for layer, head in np.argwhere(np.maximum(x, y) > NAMED):
        here, name = (float(x[layer, head]), float(y[layer, head])), f"L{layer}H{head}"
        near = [at for at in found if abs(at[0] - here[0]) < 0.15 and abs(at[1] - here[1]) < 0.1]
        found.setdefault(near[0] if near else here, []).append(name)
    return found


def _kinds() -> list[Line2D]:
    return [Line2D([], [], color=hue, marker=marker, ls="", label=name) for name, (hue, _, marker) in LOOKS.items()]


@styled
def detector_against_matching(rows: pd.DataFrame, cap: float) -> Plot:
    """Score of the head detector against prefix matching on the same sequences, a point a head, and its cap.

    Args:
        rows: columns ``model``, ``head``, ``matching`` and ``detector``; the hand-built model is marked.
        cap: highest score the detector can give on these sequences.
    """
    require(len(rows) > 0, "rows is empty; pass at least one head.")
    fig, axes = canvas("The same heads, two scores", 6.2, 4.4)
    ax = axes[0, 0]
    for name, group in rows.groupby("model", sort=False):
        made = name == "hand-built"
        look = {"marker": "*", "s": 130} if made else {"marker": "o", "s": 38, "alpha": 0.8}
        hue = INK if made else colour(name)
        ax.scatter(group["matching"], group["detector"], lw=0, color=hue, label=name, zorder=3, **look)
    ax.plot([0, 1], [0, cap], color="#6b7280", lw=1, ls=":")
    ax.axhline(cap, color="#a40e26", lw=1.2, ls="--")
    ax.annotate("highest possible score", (0.02, cap), (0, 4), textcoords="offset points", color="#a40e26")
    ax.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), xlabel=MATCHING, ylabel="head detector (share of all attention)")
    fig.legend(loc="outside lower center", ncols=4)
    best = rows.loc[rows["matching"].idxmax()]
    fig.alt = (f"Scatter of {len(rows)} heads: prefix matching across, head detector up. The dotted line ends "
               f"at {cap:.2f}; {best['head']} of the {best['model']} model has {best['matching']:.2f} and "
               f"{best['detector']:.2f}.")  # fmt: skip
    return fig


def detector_table(scores: Mapping[str, tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "layer head"]]]
                   ) -> pd.DataFrame:  # fmt: skip
    """Rows for :func:`detector_against_matching` from prefix matching and detector scores of each model."""
    rows = [(name, f"L{layer}H{head}", float(matching[layer, head]), float(found[layer, head]))
            for name, (matching, found) in scores.items() for layer, head in np.ndindex(matching.shape)]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "head", "matching", "detector"])


def options_table(scores: Mapping[str, Float[np.ndarray, "layer head"]], heads: Sequence[tuple[int, int]]
                  ) -> pd.DataFrame:  # fmt: skip
    """Scores of some heads under several options: a row an option, a column a head."""
    columns = [f"L{layer}H{head}" for layer, head in heads]
    return pd.DataFrame([[float(found[head]) for head in heads] for found in scores.values()], list(scores), columns)



def circuits_table(runs: Sequence[RunTables], tokens: Tokens, n: int = 16) -> pd.DataFrame:
    """A row a run: which heads patching singles out, which behaviour does, for runs whose weights are at hand.

    ``enough`` and ``needed`` are the two directions of :func:`ictl_utils.patching.patch`; sets of heads as tuples.
    ``gain`` is what the repeat is worth, nats; where that is too little, no head is singled out.

    Args:
        n: sequences a model.
    """
    rows = []
    for run in runs:
        model, found = weights.load(str(run.run["name"]), int(run.run["init_seed"])), {}
        kinds = {at: kind_of(run, at) for at in np.ndindex(run.prefix[-1].shape)}
        pair = repeated_pair(tokens, n)
        gain = float((pair.score(model(pair.repeated)) - pair.score(model(pair.changed))).mean())
        for name, into in (("enough", "changed"), ("needed", "repeated")) if gain >= LEAST else ():
            found[name] = find_circuit(model, tokens, into, n)[0]
        none = Circuit([], [])
        rows.append({
            "model": str(run.run["name"]), "gain": gain, "induction": _named(kinds, "induction"),
            **{f"readers, {k}": tuple(found.get(k, none).readers) for k in ("enough", "needed")},
            "previous": _named(kinds, "previous-token"),
            **{f"carriers, {k}": tuple(found.get(k, none).carriers) for k in ("enough", "needed")},
        })  # fmt: skip
    return pd.DataFrame(rows)


def _named(kinds: Mapping[tuple[int, int], str], kind: str) -> tuple[tuple[int, int], ...]:
    return tuple(at for at, name in kinds.items() if name == kind)
