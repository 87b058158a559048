"""Losses of single tokens and of kinds of token over training (P1, Argument 1, "Per-token losses")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import weights
from .config import require
from .figures_cooccurrence import Groups, check_groups, narrow, seeds_line, shade_narrow
from .figures_style import INK, Plot, canvas, colour, styled, token_axis
from .figures_training import LOSS
from .metrics import one_token_each, token_losses
from .numbers_base import RunTables
from .probes import KINDS_OF_TOKEN, kinds_of_token
from .survey import texts
from .tokens import Tokens

KINDS = {"repeated": ("#0072b2", "-"), "mismatch": ("#d55e00", "--"), "new": ("#6e6e6e", ":")}
CONTEXT = 12  # tokens shown before a single token
NEAR = 3  # snapshots averaged on either side of the window: one loss jumps from snapshot to snapshot


@styled
def losses_by_kind(groups: Groups) -> Plot:
    """Loss on repeated, mismatched and new tokens over training, a panel a label (P1, per-token losses)."""
    check_groups(groups)
    title, n = "Loss by kind of token over training", len(groups)
    fig, axes = canvas(title, 0.6 + 2.75 * n, 3.9, 1, n, sharey=True)
    words = []
    for (label, runs), ax in zip(groups.items(), axes[0], strict=True):
        ends = {}
        for kind in KINDS_OF_TOKEN:
            hue, style = KINDS[kind]
            lines = [(r.tokens, r.series(f"loss_{kind}_nats")) for r in runs]
            ends[kind] = seeds_line(ax, lines, color=hue, ls=style)[-1]
        shade_narrow(ax, runs)
        ax.set_title(label)
        token_axis(ax)
        words.append(f"{label}: " + ", ".join(f"{kind} {end:.2f}" for kind, end in ends.items()) + ".")
    axes[0, 0].set_ylabel(LOSS)
    key = [Line2D([], [], color=hue, ls=ls, lw=2.1, label=kind) for kind, (hue, ls) in KINDS.items()]
    shaded = Patch(color=INK, alpha=0.13, lw=0, label="narrow window")
    fig.legend(handles=[*key, shaded], loc="outside lower center", ncols=4)
    fig.alt = "Loss by kind of token over training tokens. At the end, nats: " + " ".join(words)
    return fig


def followed(run: RunTables, tokens: Tokens) -> tuple[Int[np.ndarray, "snap"], Float[np.ndarray, "snap window"]]:
    """Token counts, and the loss of one token of each held-out window there, nats.

    From the measurement table where ``tokens`` is the text it was measured on, else from shipped weights of the run,
    on this machine's text; without snapshots where none are shipped.
    """
    if tokens.sha == run.run["corpus_sha"]:
        return run.tokens, run.history.token_losses
    seen = sorted(s.tokens for s in weights.shipped() if s.run_id == run.run["run_id"])
    text = texts(tokens, run.history.loss_by_position.shape[1])[0]
    models = [weights.load(str(run.run["name"]), int(run.run["init_seed"]), at) for at in seen]
    return np.array(seen), np.array([one_token_each(token_losses(model, text)) for model in models])


def token_changes(runs: Sequence[RunTables], tokens: Tokens) -> pd.DataFrame:
    """One row a held-out window: its single token, and how its loss changes over the narrow window.

    Columns: ``before`` (the text up to the token), ``token``, ``kind`` (of :data:`ictl_utils.probes.KINDS_OF_TOKEN`),
    ``change`` (nats, between the means of three snapshots before and after; the median over runs). The index is
    the number of the window.

    Raises:
        IctlError: no losses of any of the runs.
    """
    changes = []
    for run in runs:
        seen, losses = followed(run, tokens)
        if len(seen):
            window = narrow(run)
            start, end = np.searchsorted(seen, (window.start, window.end)).clip(max=len(seen) - 1)
            before = losses[max(0, start + 1 - NEAR) : start + 1].mean(axis=0)
            changes.append(losses[end : end + NEAR].mean(axis=0) - before)
    require(bool(changes), "none of the runs has losses of single tokens on this machine's text.")
    text = texts(tokens, runs[0].history.loss_by_position.shape[1])[0]
    places = one_token_each(np.tile(np.arange(text.shape[1] - 1), (len(text), 1)))
    kinds = one_token_each(kinds_of_token(text))
    rows = [("".join(tokens.labels(ids[max(0, at + 1 - CONTEXT):at + 1])), tokens.labels([ids[at + 1]])[0])
            for ids, at in zip(text, places, strict=True)]  # fmt: skip
    found = pd.DataFrame(rows, columns=["before", "token"]).rename_axis("window")
    return found.assign(kind=np.array(KINDS_OF_TOKEN)[kinds], change=np.median(changes, axis=0))


@styled
def single_tokens(runs: Sequence[RunTables], tokens: Tokens, chosen: pd.DataFrame) -> Plot:
    """Loss of single tokens over training, a panel a token, a thin line a seed (P1, Argument 1).

    Args:
        runs: seeds of one model.
        chosen: rows of :func:`token_changes`.
    """
    require(len(chosen) > 0, "chosen is empty; pass at least one row of token_changes.")
    fig, axes = canvas("Loss of single tokens over training", 4.8 * len(chosen), 3.6, 1, len(chosen), sharey=True)
    lines = [(seen, losses) for seen, losses in (followed(run, tokens) for run in runs) if len(seen)]
    words = []
    for ax, (window, row) in zip(axes[0], chosen.iterrows(), strict=True):
        grid = lines[0][0]
        middle = np.median([np.interp(grid, x, y[:, window]) for x, y in lines], axis=0)
        for x, y in lines if len(lines) > 1 else ():
            ax.plot(x, y[:, window], color=INK, lw=0.8, alpha=0.5)
        ax.plot(grid, middle, color=colour(str(runs[0].run["label"])), lw=2.1)
        shade_narrow(ax, runs)
        ax.set_title(f"{row['before'][-30:]}  →  {row['token']}", family="DejaVu Sans Mono", fontsize=8.5)
        token_axis(ax)
        words.append(f"{row['kind']} {row['token']!r} after {row['before'][-30:]!r}: {row['change']:+.2f} nats.")
    axes[0, 0].set_ylabel("loss (nats)")
    fig.alt = "Loss of single held-out tokens over training tokens; change over the narrow window. " + " ".join(words)
    return fig
