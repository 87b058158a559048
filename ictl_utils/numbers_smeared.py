"""Numbers of the claims about smeared keys, values and queries (B): a row a seed, a column a number."""

from __future__ import annotations

import pandas as pd

from .curves import phase_change
from .numbers_base import RunTables, Zoo, over
from .numbers_shapes import FORMED, gain_over, largest_fall
from .numbers_training import named

GAIN = 0.35  # share of attn-2l's change from which a gain is present


def b01(zoo: Zoo) -> pd.DataFrame:
    """B01: smeared keys give one layer a phase change."""
    return named(zoo, ("key-1l", "attn-2l"), lambda key, two: {
        "gain": gain_over(key, two), "width": key.width / key.length})  # fmt: skip


def b02(zoo: Zoo) -> pd.DataFrame:
    """B02: and heads that match prefixes."""
    return named(zoo, ("key-1l", "attn-2l"), lambda key, two: {
        "prefix": float(key.prefix.max()), "gain": gain_over(key, two)})  # fmt: skip


def b03(zoo: Zoo) -> pd.DataFrame:
    """B03: smeared keys make the change of two layers come earlier; onsets that are both 0 are equal, ratio 1."""
    return named(zoo, ("key-2l", "attn-2l"), lambda key, two: {
        "ratio": over(key.window.start, two.window.start) if key.window.start + two.window.start else 1.0})  # fmt: skip


def b04(zoo: Zoo) -> pd.DataFrame:
    """B04: heads and score move together."""

    def numbers(*runs: RunTables) -> dict[str, float]:
        together, distances = 0, [0.0]
        for r in runs:
            gains, forms = r.change >= GAIN * runs[2].change, r.prefix.max() > FORMED
            if gains and forms:
                onset = phase_change(r.tokens, -r.best_prefix, share=r.share).start
                distances.append(abs(onset - r.window.start) / r.width)
            together += distances[-1] < 1 if gains and forms else not gains and not forms
        return {"together": together, "apart": max(distances)}

    return named(zoo, ("attn-1l", "key-1l", "attn-2l", "key-2l"), numbers)


def b05(zoo: Zoo) -> pd.DataFrame:
    """B05: the score of smeared keys falls in a single step."""

    def numbers(key: RunTables, two: RunTables) -> dict[str, float]:
        end, rest = key.window.end, key.tokens[-1] - key.window.end
        start = max(end, two.window.start)
        at_vanilla = key.fall(start, max(start, two.window.end))
        return {"second": over(largest_fall(key, min(0.2 * key.length, rest), end), key.change),
                "at_vanilla": over(at_vanilla, key.change)}  # fmt: skip

    return named(zoo, ("key-2l", "attn-2l"), numbers)


def b06(zoo: Zoo) -> pd.DataFrame:
    """B06: smeared keys, not values or queries."""
    return named(zoo, ("key-1l", "value-1l", "query-1l"), lambda key, value, query: {
        "ratio": over(max(value.change, query.change), key.change)})  # fmt: skip
