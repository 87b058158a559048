"""Numbers of the claims on circuits in models of at most two layers (E08, F, G)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from .numbers_base import Heads, RunTables, Zoo, by_seed, over
from .numbers_heads import ALL_ATTENTION, over_models, pooled

Scores = dict[tuple[str, str, str], float]  # kind (q, k, v), first head, second head
RIGHT, BUGGY = "right", "buggy"  # norms of composition scores


def of_model(zoo: Zoo, name: str, numbers: Callable[[RunTables], Mapping[str, float]]) -> pd.DataFrame:
    """Numbers of one model, a row a seed."""
    return by_seed(zoo.seeds(name), lambda seed: numbers(zoo.run(name, seed)))


def second_layer(run: RunTables) -> Heads:
    """Induction heads in the second layer; its best head where it has none."""
    return run.roles.in_layer(1, run.prefix[-1])


def label(head: tuple[int, int]) -> str:
    """``L1H2``, as heads are called in ``facts``."""
    return "L{}H{}".format(*head)


# ---- no and one layer: F01 to F08 -----------------------------------------------------------------


def f01(zoo: Zoo) -> pd.DataFrame:
    """F01: how near a model without layers comes to the bigrams of the text."""
    return of_model(zoo, "attn-0l", lambda run: {
        "kl": run.fact("bigram_kl_nats", "model from text"), "r": run.fact("bigram_correlation", "all next tokens"),
    })  # fmt: skip


def f02(zoo: Zoo) -> pd.DataFrame:
    """F02: how far the sum over paths is from the logits."""
    return of_model(zoo, "attn-1l", lambda run: {"error": run.fact("path_sum_error_logits")})


def f03(zoo: Zoo) -> pd.DataFrame:
    """F03: share of copying heads."""
    return of_model(zoo, "attn-1l", lambda run: {"share": (run.per_head("ov_copying")[-1] > 0.5).mean()})


def f04(zoo: Zoo) -> pd.DataFrame:
    """F04: OV statistic of initial weights."""
    return over_models(zoo, ALL_ATTENTION, lambda models: {"mean": pooled(models, "ov_copying", 0).mean()})


def f05(zoo: Zoo) -> pd.DataFrame:
    """F05: heads that attend to the present and the previous token."""
    def numbers(run: RunTables) -> dict[str, float]:
        positional = run.previous[-1] + run.per_head("present_token")[-1] > 0.5
        return {"count": positional.sum(), "share": positional.mean()}

    return of_model(zoo, "attn-1l", numbers)


def f06(zoo: Zoo) -> pd.DataFrame:
    """F06: skip-trigram bugs; NaN for a model with no quadruple to test."""
    def numbers(run: RunTables) -> dict[str, float]:
        return {"share": run.fact("cross_terms_raised") if run.fact("cross_terms") else float("nan")}

    return of_model(zoo, "attn-1l", numbers)


def f07(zoo: Zoo) -> pd.DataFrame:
    """F07: families of skip-trigrams that some head shows."""
    return of_model(zoo, "attn-1l", lambda run: {"families": every(run, "family_found").sum()})


def f08(zoo: Zoo) -> pd.DataFrame:
    """F08: heads that put split tokens together."""
    return of_model(zoo, "attn-1l", lambda run: {"heads": run.fact("split_token_heads")})


def every(run: RunTables, measure: str) -> np.ndarray:
    """Values of all items of a measure; NaN if there are none."""
    return np.array(list(run.facts_of(measure).values()) or [np.nan])


# ---- composition: E08, G01 to G04 -----------------------------------------------------------------


def e08(zoo: Zoo) -> pd.DataFrame:
    """E08: do the keys or the queries of induction heads read earlier heads?"""
    def numbers(run: RunTables) -> dict[str, float]:
        k, q = (np.array([run.fact(f"score_share_{side}", label(h)) for h in second_layer(run)]) for side in "kq")
        return {"lead": (k - q).min(), "lead_best": (k - q).max()}

    return of_model(zoo, "attn-2l", numbers)


def composition(run: RunTables, norm: str = RIGHT) -> Scores:
    """Composition scores of all kinds and pairs at the last snapshot."""
    if norm == BUGGY:
        found = {kind: run.facts_of(f"composition_{kind}_buggy") for kind in "qkv"}
        return {(kind, *pair.split()): x for kind, scores in found.items() for pair, x in scores.items()}
    last = run.composition[run.composition["snapshot"] == run.snapshots["snapshot"].iloc[-1]]
    return {(kind, f"L{row.from_layer}H{row.from_head}", f"L{row.to_layer}H{row.to_head}"): float(getattr(row, kind))
            for row in last.itertuples() for kind in "qkv"}  # fmt: skip


def g01(zoo: Zoo) -> pd.DataFrame:
    """G01: does K-composition with the previous-token head stand out?"""
    def numbers(run: RunTables) -> dict[str, float]:
        scores, previous = composition(run), label(run.previous_head)
        chosen = max(x for (kind, first, _), x in scores.items() if kind == "k" and first == previous)
        rest = np.array([x for (kind, first, _), x in scores.items() if kind != "k" or first != previous])
        k, other = ([x for (kind, *_), x in scores.items() if (kind == "k") is is_k] for is_k in (True, False))
        return {"z": over(chosen - rest.mean(), rest.std(ddof=1)), "lead": chosen - rest.max(),
                "k_lead": max(k) - max(other)}  # fmt: skip

    return of_model(zoo, "attn-2l", numbers)


def g02(zoo: Zoo) -> pd.DataFrame:
    """G02: share of composition scores below those of random matrices."""
    def numbers(run: RunTables) -> dict[str, float]:
        scores = np.array(list(composition(run).values()))
        return {"share": (scores < run.fact("composition_random_mean", RIGHT)).mean()}

    return of_model(zoo, "attn-2l", numbers)


def g03(zoo: Zoo) -> pd.DataFrame:
    """G03: what the published error in the norm changes."""
    def numbers(run: RunTables) -> dict[str, float]:
        right, buggy = (standing_out(run, norm) for norm in (RIGHT, BUGGY))
        isolated = all(first == label(run.previous_head) for _, first, _ in buggy)
        return {"isolated": isolated, "more": len(right - buggy), "different": len(right ^ buggy)}

    return of_model(zoo, "attn-2l", numbers)


def standing_out(run: RunTables, norm: str) -> set[tuple[str, str, str]]:
    """Pairs and kinds whose score above that of random matrices is at least half of the largest such."""
    random = run.fact("composition_random_mean", norm)
    above = {pair: x - random for pair, x in composition(run, norm).items()}
    return {pair for pair, x in above.items() if x >= max(above.values()) / 2}


def g04(zoo: Zoo) -> pd.DataFrame:
    """G04: are the induction heads, and they alone, positive in OV and QK?"""
    def numbers(run: RunTables) -> dict[str, float]:
        lower = np.minimum(run.per_head("ov_copying")[-1, 1], run.per_head("qk_positivity")[-1, 1])
        mine = np.isin(np.arange(len(lower)), [head for _, head in second_layer(run)])
        return {"lowest": lower[mine].min(), "others": (lower[~mine] > 0.5).sum()}

    return of_model(zoo, "attn-2l", numbers)


# ---- terms and patterns: G05 to G11 ---------------------------------------------------------------


def orders(run: RunTables) -> np.ndarray:
    """Marginal loss reduction of orders 0, 1 and 2, nats."""
    return np.array([run.fact("term_gain_nats", f"order {order}") for order in range(3)])


def g05(zoo: Zoo) -> pd.DataFrame:
    """G05: share of virtual heads in the loss reduction."""
    return of_model(zoo, "attn-2l", lambda run: {"order2": over(orders(run)[2], orders(run).sum())})


def g06(zoo: Zoo) -> pd.DataFrame:
    """G06: which order reduces the loss most."""
    def numbers(run: RunTables) -> dict[str, float]:
        zero, one, two = orders(run)
        return {"one_over_zero": one - zero, "zero_over_two": zero - two}

    return of_model(zoo, "attn-2l", numbers)


def g07(zoo: Zoo) -> pd.DataFrame:
    """G07: how much more the second layer reduces the loss than the first."""
    def numbers(run: RunTables) -> dict[str, float]:
        first, second = (run.fact("layer_gain_nats", pair) for pair in ("first given second", "second given first"))
        return {"ratio": over(second, first) if first > 0 else float("inf")}

    return of_model(zoo, "attn-2l", numbers)


def g08(zoo: Zoo) -> pd.DataFrame:
    """G08: how often random tokens are continued rightly when they come for the third time."""
    return of_model(zoo, "attn-2l", lambda run: {"accuracy": run.series("repeats_accuracy")[-1]})


def g09(zoo: Zoo) -> pd.DataFrame:
    """G09: do induction heads rest on position 0 where nothing matches?"""
    def numbers(run: RunTables) -> dict[str, float]:
        resting = run.per_head("resting")[-1]
        return {"rest": np.mean([resting[head] for head in run.induction])}

    return of_model(zoo, "attn-2l", numbers)


def g10(zoo: Zoo) -> pd.DataFrame:
    """G10: do induction heads need the previous-token head?"""
    def numbers(run: RunTables) -> dict[str, float]:
        falls = [1 - over(run.fact("prefix_without_previous", label(head)), run.prefix[-1][head])
                 for head in second_layer(run)]  # fmt: skip
        return {"fall": np.mean(falls)}

    return of_model(zoo, "attn-2l", numbers)


def g11(zoo: Zoo) -> pd.DataFrame:
    """G11: how much idealised patterns recover of what the heads do."""
    def numbers(run: RunTables) -> dict[str, float]:
        prev, match, two = (run.fact("recovered", name) for name in ("previous", "match", "two-token match"))
        return {"prev": prev, "induction": match, "gain": two - match}

    return of_model(zoo, "attn-2l", numbers)


CIRCUITS: dict[str, Callable[[Zoo], pd.DataFrame]] = {
    "E08": e08, "F01": f01, "F02": f02, "F03": f03, "F04": f04, "F05": f05, "F06": f06, "F07": f07, "F08": f08,
    "G01": g01, "G02": g02, "G03": g03, "G04": g04, "G05": g05, "G06": g06, "G07": g07, "G08": g08,
    "G09": g09, "G10": g10, "G11": g11,
}  # fmt: skip
