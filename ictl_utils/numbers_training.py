"""Numbers of the claims about training: the phase change and repeated random tokens (A and D01).

Each function gives what column ``numbers`` of ``claims.csv`` defines: a row a seed, a column a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from .curves import loss_pca
from .numbers_base import ATTENTION_ONLY, RunTables, Zoo, by_seed, over
from .numbers_shapes import (
    at_ends,
    bumps,
    elbow,
    fall_in_window,
    furthest,
    gain_over,
    nearest,
    parting,
    share_in_stretch,
    slope_by_position,
)

OTHER_CORPUS = tuple(f"docs-{name}" for name in ATTENTION_ONLY)

# ---- models of a seed -------------------------------------------------------------------------------


def each(zoo: Zoo, names: tuple[str, ...], numbers: Callable[[list[RunTables]], dict[str, float]]) -> pd.DataFrame:
    """Numbers over those of the models that have the seed; the first of them must have it."""
    return by_seed(zoo.seeds(names[0]), lambda seed: numbers(zoo.models(names, seed)))


def named(zoo: Zoo, names: tuple[str, ...], numbers: Callable[..., dict[str, float]]) -> pd.DataFrame:
    """Numbers that need all the models."""
    return by_seed(zoo.seeds(*names), lambda seed: numbers(*zoo.models(names, seed)))


# ---- the score over training (A01-A05, A14-A16) -----------------------------------------------------


def a01(zoo: Zoo) -> pd.DataFrame:
    """A01: the score changes abruptly in models of two and more layers."""
    return each(zoo, ATTENTION_ONLY, lambda runs: {
        "share20": min(share_in_stretch(r, 0.2) for r in runs),
        "share50_best": max(share_in_stretch(r, 0.5) for r in runs),
    })  # fmt: skip


def a02(zoo: Zoo) -> pd.DataFrame:
    """A02: and then stays flat."""

    def numbers(runs: list[RunTables]) -> dict[str, float]:
        ends = [(r.window.end, float(r.tokens[-1]), r.jump) for r in runs]
        gains = [over(r.fall(end, last), jump) for r, (end, last, jump) in zip(runs, ends, strict=True)]
        best = int(np.argmin(gains))
        (end, last, jump), middle = ends[best], (ends[best][0] + ends[best][1]) / 2
        halves = (runs[best].fall(end, middle), runs[best].fall(middle, last))
        return {
            "drift": np.abs(gains).max(),
            "rest": min((r.tokens[-1] - r.window.end) / r.length for r in runs),
            "gain_best": gains[best], "steady_best": over(min(halves), jump),
        }  # fmt: skip

    return each(zoo, ATTENTION_ONLY, numbers)


def a03(zoo: Zoo) -> pd.DataFrame:
    """A03: a one-layer model gains little."""
    return named(zoo, ("attn-1l", "attn-2l"), lambda one, two: {"ratio": gain_over(one, two)})


def a04(zoo: Zoo) -> pd.DataFrame:
    """A04: most of the final gain forms in the window."""

    def numbers(runs: list[RunTables]) -> dict[str, float]:
        shares = [over(r.jump, -r.icl[-1]) for r in runs]
        return {"share": np.min(shares), "share_best": np.max(shares)}

    return each(zoo, ATTENTION_ONLY, numbers)


def a05(zoo: Zoo) -> pd.DataFrame:
    """A05: the same gain whatever the depth."""

    def numbers(*runs: RunTables) -> dict[str, float]:
        last = np.array([r.icl[-1] for r in runs])
        return {"spread": over(np.ptp(last), abs(last.mean())), "growth": over(last[-1], last[0]),
                "monotone": float((np.diff(last) < 0).all())}  # fmt: skip

    return named(zoo, ATTENTION_ONLY, numbers)


def a14(zoo: Zoo) -> pd.DataFrame:
    """A14: A01 and A08 on another corpus."""
    return each(zoo, OTHER_CORPUS, lambda runs: {
        "share20": min(share_in_stretch(r, 0.2) for r in runs), "lag": furthest(runs),
        "share20_best": max(share_in_stretch(r, 0.2) for r in runs), "lag_best": nearest(runs),
    })  # fmt: skip


def a15(zoo: Zoo) -> pd.DataFrame:
    """A15: the schedule does not place the window."""

    def numbers(*runs: RunTables) -> dict[str, float]:
        usual, half, double = ((r.window.start + r.window.end) / 2 for r in runs)
        return {"half": over(half, usual) - 1, "double": over(double, usual) - 1}

    return named(zoo, ("attn-2l", "attn-2l-warm-half", "attn-2l-warm-double"), numbers)


def a16(zoo: Zoo) -> pd.DataFrame:
    """A16: the same onset whatever the depth; ``law`` is that of a later paper, 10^5.7 sqrt(tokens a step)."""

    def numbers(*runs: RunTables) -> dict[str, float]:
        onsets = np.array([r.window.start for r in runs])
        mean = math.exp(np.log(onsets).mean()) if onsets.all() else 0.0
        return {"spread": over(onsets.max(), onsets.min()),
                "law": mean / (10**5.7 * math.sqrt(runs[0].run["batch_tokens"]))}  # fmt: skip

    return named(zoo, ATTENTION_ONLY, numbers)


# ---- losses over training (A07, A10-A13, D01) -------------------------------------------------------


def a07(zoo: Zoo) -> pd.DataFrame:
    """A07: before the change the loss stops falling early in the context."""

    def numbers(runs: list[RunTables]) -> dict[str, float]:
        slopes = [at_ends(r, slope_by_position(r)) for r in runs]
        return {"before": min(start for start, _ in slopes), "after": max(end for _, end in slopes),
                "steeper_best": max(start - end for start, end in slopes)}  # fmt: skip

    return each(zoo, ATTENTION_ONLY, numbers)


def a10(zoo: Zoo) -> pd.DataFrame:
    """A10: a bump in the loss, only of models of two and more layers."""

    def numbers(seed: int) -> dict[str, float]:
        hits = [any(start <= r.window.end and end >= r.window.start for start, end in bumps(r))
                for r in zoo.models(ATTENTION_ONLY, seed)]  # fmt: skip
        return {"bump": float(np.mean(hits)), "bump_2l": float(hits[0]),
                "bump_1l": float(bool(bumps(zoo.run("attn-1l", seed))))}  # fmt: skip

    return by_seed(zoo.seeds("attn-2l", "attn-1l"), numbers)


def a11(zoo: Zoo) -> pd.DataFrame:
    """A11: the losses of deeper models leave that of one layer in the window."""

    def numbers(seed: int) -> dict[str, float]:
        one = zoo.run("attn-1l", seed)
        found = [parting(one, r) for r in zoo.models(ATTENTION_ONLY, seed)]
        return {"inside": min(inside for inside, _ in found), "lead_best": min(lead for _, lead in found)}

    return by_seed(zoo.seeds("attn-2l", "attn-1l"), numbers)


def a12(zoo: Zoo) -> pd.DataFrame:
    """A12: paths of per-token losses turn at the window."""

    def numbers(seed: int) -> dict[str, float]:
        runs = [*zoo.models(ATTENTION_ONLY, seed), zoo.run("attn-1l", seed)]
        later = [np.flatnonzero(r.tokens > r.at_share(0.1)) for r in runs]
        vectors = [np.stack(r.token_losses["losses_nats"].to_list())[i] for r, i in zip(runs, later, strict=True)]
        elbows = [elbow(path) for path in loss_pca(vectors)[0]]
        at = [r.tokens[i[turn]] for r, i, (turn, _) in zip(runs, later, elbows, strict=True)]
        inside = [r.window.start <= t <= r.window.end for r, t in zip(runs, at, strict=True)]
        angles = [angle for _, angle in elbows]
        return {"inside": float(np.mean(inside[:-1])), "angle_min": min(angles[:-1]), "angle_max": max(angles[:-1]),
                "angle_1l": angles[-1]}  # fmt: skip

    return by_seed(zoo.seeds("attn-2l", "attn-1l"), numbers)


def a13(zoo: Zoo) -> pd.DataFrame:
    """A13: what changes in the window is the loss on repeated bigrams."""

    def numbers(runs: list[RunTables]) -> dict[str, float]:
        repeated, mismatch, new = (np.array([-fall_in_window(r, f"loss_{kind}_nats") for r in runs])
                                   for kind in ("repeated", "mismatch", "new"))  # fmt: skip
        return {"repeated": repeated.max(), "ratio": np.max(list(map(over, mismatch, repeated))),
                "first_seen": new.mean(), "advantage_best": (mismatch - repeated).max()}  # fmt: skip

    return each(zoo, ATTENTION_ONLY, numbers)


def d01(zoo: Zoo) -> pd.DataFrame:
    """D01: random tokens are copied, seen on their second copy."""

    def numbers(runs: list[RunTables]) -> dict[str, float]:
        falls = [fall_in_window(r, "repeats_second_nats") for r in runs]
        return {"fall": min(falls), "fall_best": max(falls)}

    return each(zoo, ATTENTION_ONLY, numbers)


# ---- induction heads over training (A08, A09) -------------------------------------------------------


def a08(zoo: Zoo) -> pd.DataFrame:
    """A08: induction heads form in the window."""
    return same_sign(each(zoo, ATTENTION_ONLY, lambda runs: {"lag": furthest(runs), "lag_best": nearest(runs)}))


def same_sign(numbers: pd.DataFrame) -> pd.DataFrame:
    """Numbers of A08 with the one that depends on all seeds: to be made anew where a seed is left out."""
    if not len(numbers):
        return numbers
    return numbers.assign(same_sign=float(np.sign(numbers["lag_best"]).nunique() == 1))


def a09(zoo: Zoo) -> pd.DataFrame:
    """A09: a one-layer model never forms them."""
    return named(zoo, ("attn-1l",), lambda one: {"prefix": float(one.per_head("prefix_random").max())})
