"""Inputs on which the answers of assignment 4 are tried: small, random, seeded."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from .grading import Case
from .grading_a3_cases import toy_model


def layers(seed: int) -> list[Case]:
    """A residual stream, what each head of a layer adds to it, and a head."""
    rng = torch.Generator().manual_seed(4100 + seed)

    def case(batch: int, heads: int, pos: int, width: int, head: int, note: str = "") -> Case:
        results = torch.randn(batch, heads, pos, width, generator=rng)
        return Case({"resid": torch.randn(batch, pos, width, generator=rng), "results": results, "head": head}, note)

    first = int(torch.randint(0, 3, (1,), generator=rng))
    return [case(2, 3, 4, 5, first), case(3, 3, 3, 2, 2, "as many heads as positions"), case(1, 1, 2, 4, 0, "one head")]


def _ids(seed: int, windows: int, pos: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (windows, pos), generator=rng)
    ids[:, 0] = 0
    return ids


def replacements(seed: int) -> list[Case]:
    """A model, tokens, a head, and what it is to write instead."""

    def case(i: int, layer: int, head: int, zero: bool, note: str = "", **of: int) -> Case:
        model, ids = toy_model(4200 + 10 * seed + i, **of), _ids(4250 + 10 * seed + i, 2, 7)
        result = torch.randn(2, 7, model.cfg.d_model, generator=torch.Generator().manual_seed(seed + i))
        given = {"model": model, "tokens": ids, "layer": layer, "head": head, "result": 0 * result if zero else result}
        return Case(given, note)

    return [case(0, 0, 1, True, "zeros in place of a head of the first layer", n_layers=3),
            case(1, 1, 2, False, "a head of the middle layer", n_layers=3),
            case(2, 1, 0, False, "a head of the last layer"),
            case(3, 0, 0, False, "two heads a layer", n_layers=3, n_heads=2)]  # fmt: skip


def kept(seed: int) -> list[Case]:
    """A model, tokens, and heads to take out."""

    def case(i: int, heads: list[list[int]], note: str = "", **of: int) -> Case:
        model = toy_model(4300 + 10 * seed + i, **of)
        return Case({"model": model, "tokens": _ids(4350 + 10 * seed + i, 2, 8), "heads": heads}, note)

    return [case(0, [[0, 1]], "one head of the first layer", n_layers=3),
            case(1, [[0, 0], [0, 2], [2, 1]], "three heads of two layers", n_layers=3),
            case(2, [[1, 0]], "a head of the last layer"), case(3, [], "no head"),
            case(4, [[0, 1], [1, 0]], "two heads of two layers", n_layers=3, n_heads=2)]  # fmt: skip


def fills(seed: int) -> list[Case]:
    """Results of one head on several windows, and what is to stand in for them."""
    rng = torch.Generator().manual_seed(4400 + seed)

    def case(kind: str, *shape: int, note: str = "") -> Case:
        return Case({"results": torch.randn(*shape, generator=rng), "kind": kind}, note or kind)

    return [case("zero", 3, 4, 5), case("mean", 4, 3, 2), case("resample", 4, 3, 5),
            case("resample", 2, 5, 3, note="two windows"), case("mean", 1, 3, 4, note="one window")]  # fmt: skip


def losses(seed: int) -> list[Case]:
    """Losses of the same windows, intact and ablated, and ranges of columns."""
    rng = np.random.default_rng(4500 + seed)

    def case(n: int, pos: int, late: tuple[int, int], early: tuple[int, int], note: str = "") -> Case:
        intact = np.abs(rng.normal(4, 1, (n, 1)) - np.linspace(0, 1, pos) + rng.normal(0, 0.4, (n, pos)))
        ablated = intact + np.linspace(0, 0.8, pos) + rng.normal(0.1, 0.2, (n, pos))
        return Case({"intact": intact, "ablated": ablated, "late": late, "early": early}, note)

    return [case(8, 16, (12, 16), (2, 4)), case(20, 24, (20, 21), (3, 4), "one position late, one early"),
            case(2, 10, (6, 10), (1, 3), "two windows")]  # fmt: skip


def controls(seed: int) -> list[Case]:
    """Heads, the shape of a model, and a number of control sets."""
    rng = np.random.default_rng(4600 + seed)
    draw = [int(x) for x in rng.integers(0, 1000, 5)]

    def case(heads: list[list[int]], n_layers: int, n_heads: int, n: int, i: int, note: str) -> Case:
        return Case({"heads": heads, "n_layers": n_layers, "n_heads": n_heads, "n": n, "seed": draw[i]}, note)

    a, b, c = rng.permutation(24)[:3].tolist()
    given = {"heads": [[0, 3], [1, 20]], "n_layers": 2, "n_heads": 30, "n": 4, "seed": [draw[0], draw[0] + 1, draw[0]]}
    several = Case(given, "one seed twice and another one", each="seed")
    return [case([[1, a], [2, b], [2, c]], 3, 24, 5, 0, "three heads in two layers"),
            case([[3, 0], [4, 0], [4, 1]], 6, 4, 3, 1, "no more than three sets exist"),
            case([[0, 30], [1, 7]], 2, 40, 4, 2, "many heads a layer"),
            case([[1, 2]], 2, 4, 3, 3, "one head"),
            case([[0, 1], [0, 3], [0, 5]], 1, 12, 10, 4, "three heads of one layer"), several]  # fmt: skip


def vectors(seed: int) -> list[Case]:
    """Losses of the same tokens: at the start and end of the change, intact and ablated."""
    rng = np.random.default_rng(4700 + seed)

    def case(n: int, undone: float, note: str = "") -> Case:
        start = rng.gamma(3, 1.5, n)
        change = -rng.gamma(2, 0.5, n)
        intact = start + change + rng.normal(0, 0.05, n)
        ablated = intact - undone * change + rng.normal(0, 0.02, n)
        return Case({"start": start, "end": start + change, "intact": intact, "ablated": ablated}, note)

    return [case(12, 0.7), case(200, 0.3, "many tokens"), case(5, -0.4, "a head that works against the change"),
            case(8, 0.0, "a head that does nothing")]  # fmt: skip


def subsets(seed: int) -> list[Case]:
    """Effects of taking out every set of some heads, by the names of the heads joined by +."""
    rng = np.random.default_rng(4800 + seed)

    def case(heads: list[str], overlap: float, note: str = "") -> Case:
        share = {head: float(rng.uniform(0.1, 0.4)) for head in heads}
        sets = [c for n in range(1, len(heads) + 1) for c in itertools.combinations(heads, n)]
        total = sum(share.values())
        effects = {"+".join(c): sum(share[h] for h in c) * (sum(share[h] for h in c) / total) ** overlap for c in sets}
        return Case({"heads": heads, "effects": effects}, note)

    return [case(["L3H0", "L4H0", "L4H1"], 1.0), case(["L1H0", "L1H2"], -0.5, "two heads that need each other"),
            case(["L0H1", "L1H1", "L1H3", "L2H0"], 0.7, "four heads"), case(["L1H0"], 1.0, "one head")]  # fmt: skip


def once(seed: int) -> list[Case]:
    """A value question has one case."""
    return [Case({})]
