"""Inputs on which the answers of assignment 3 are tried: small, random, seeded."""

from __future__ import annotations

import numpy as np
import torch

from .config import ModelConfig
from .grading import Case
from .metrics import random_blocks, repeated_blocks
from .model import Transformer
from .tokens import BOS, Tokens


def toy_model(seed: int, n_layers: int = 2, n_heads: int = 3, d_vocab: int = 20, n_ctx: int = 24) -> Transformer:
    """A small attention-only transformer with random weights, large enough for every head to matter."""
    cfg = ModelConfig(n_layers=n_layers, d_model=8 * n_heads, n_heads=n_heads, n_ctx=n_ctx, d_vocab=d_vocab)
    model = Transformer(cfg, seed).requires_grad_(False).eval()
    for name, factor in (("W_Q", 4), ("W_K", 4), ("W_V", 6), ("W_O", 6), ("W_U", 6)):
        getattr(model, name).mul_(factor)
    return model



def logits(seed: int) -> list[Case]:
    rng = torch.Generator().manual_seed(3100 + seed)
    found = []
    for shape, scale, note in (((3, 6, 9), 2, ""), ((1, 2, 5), 2, "two tokens"), ((2, 5, 7), 300, "large logits")):
        tokens = torch.randint(0, shape[2], shape[:2], generator=rng)
        found.append(Case({"logits": scale * torch.randn(shape, generator=rng), "tokens": tokens}, note))
    tokens = torch.stack([torch.randperm(8, generator=rng)[:5] for _ in range(2)])
    sure = 60.0 * torch.nn.functional.one_hot(tokens.roll(-1, 1), 8)
    return [*found, Case({"logits": sure, "tokens": tokens}, "a model that is sure of every next token")]


def padded(seed: int) -> list[Case]:
    rng = np.random.default_rng(3200 + seed)

    def case(n: int, pos: int, lengths: list[int], note: str = "") -> Case:
        losses = rng.gamma(2.0, 1.5, (n, pos))
        losses[np.arange(pos) >= np.array(lengths)[:, None] - 1] = rng.uniform(0, 20)
        return Case({"losses": losses, "lengths": np.array(lengths)}, note)

    drawn = [*rng.integers(3, 9, 4).tolist(), 9]
    return [case(5, 8, drawn), case(3, 4, [5, 5, 5], "no padding"), case(2, 6, [7, 2], "one real loss in a window"),
            case(4, 3, [4, 2, 2, 3], "few windows reach the end")]  # fmt: skip


def windows(seed: int) -> list[Case]:
    rng = np.random.default_rng(3300 + seed)

    def case(n: int, pos: int, late: tuple[int, int], early: tuple[int, int], note: str = "") -> Case:
        level, slope = rng.normal(4, 1, (n, 1)), np.linspace(0, -1.5, pos)
        losses = np.abs(level + slope + rng.normal(0, 0.5, (n, pos)))
        return Case({"losses": losses, "late": late, "early": early}, note)

    first = int(rng.integers(2, 5))
    return [
        case(7, 16, (13, 17), (first, first + 3)),
        case(12, 20, (20, 21), (2, 3), "one token late, one early"),
        case(2, 9, (6, 10), (1, 3), "two windows"),
        case(5, 12, (2, 5), (9, 13), "late and early exchanged"),
    ]


def probes(seed: int) -> list[Case]:
    rng = np.random.default_rng(3400 + seed)
    kinds = [
        (4, 8, 4, 20, ""),
        (2, 25, 4, 60, "25 tokens, four times"),
        (3, 5, 3, 0, "no more ids than tokens of a block"),
        (1, 1, 2, 4, "one token, twice"),
    ]
    cases = []
    for n, length, repeats, more, note in kinds:
        ids, draw = np.sort(rng.choice(np.arange(1, 200), length + more, replace=False)), int(rng.integers(99))
        cases.append(Case({"ids": ids, "n": n, "length": length, "repeats": repeats, "seed": draw}, note))
    several = cases[0].given | {"seed": [draw, draw + 1, draw]}
    return [*cases, Case(several, "one seed twice and another one", each="seed")]


def _pattern(rng: torch.Generator, *shape: int) -> torch.Tensor:
    scores = 2 * torch.randn(*shape, shape[-1], generator=rng)
    return scores.masked_fill(torch.ones(shape[-1], shape[-1], dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def patterns(seed: int) -> list[Case]:
    rng = torch.Generator().manual_seed(3500 + seed)
    back = torch.eye(7).roll(1, 0)
    back[0] = torch.eye(7)[0]
    cases = [Case({"pattern": _pattern(rng, 3, 2, 6)}), Case({"pattern": _pattern(rng, 1, 1, 2)}, "two tokens")]
    return [*cases, Case({"pattern": back.expand(2, 3, 7, 7).clone()}, "heads that always attend to the token before")]


def matching(seed: int) -> list[Case]:
    rng = torch.Generator().manual_seed(3600 + seed)

    def case(rows: list[list[int]], note: str = "", perfect: bool = False) -> Case:
        tokens = torch.tensor(rows)
        pattern = _pattern(rng, *tokens.shape)
        if perfect:  # all attention on the token after the latest earlier copy, else on <bos>
            pattern = torch.zeros_like(pattern)
            for b, i in np.ndindex(*tokens.shape):
                earlier = [j for j in range(i) if rows[b][j] == rows[b][i]]
                pattern[b, i, earlier[-1] + 1 if earlier else 0] = 1.0
        return Case({"pattern": pattern, "tokens": tokens}, note)

    block = (1 + torch.randperm(20, generator=rng)[:4]).tolist()
    odd = (30 + torch.randperm(20, generator=rng)[:6]).tolist()
    a, b, c, *rest = odd
    return [
        case([[BOS, *block * 3], [BOS, *block[::-1] * 3]]),
        case([[BOS, a, b, c, a, rest[0], b, a]], "gaps"),
        case([[BOS, a, a, a, b]], "a token right after itself"),
        case([[BOS, *block * 4]], "a perfect induction head", perfect=True),
        case([[BOS, *block, *block], [BOS, *odd, a, c]], "few of the tokens come back"),
        case([[BOS, *block, BOS, *block[:3]], [BOS, a, b, BOS, c, BOS, a, b, c]], "<bos> within the row too"),
    ]


def series(seed: int) -> list[Case]:
    rng = np.random.default_rng(3700 + seed)

    def case(tokens: np.ndarray, bends: list, half: int, share: float, note: str = "") -> Case:
        at = tokens / tokens[-1]
        score = -sum(size / (1 + np.exp(-(at - middle) / width)) for middle, width, size in bends)
        return Case({"tokens": tokens, "score": score, "half": half, "share": share}, note)

    even, middle = np.linspace(0, 1e6, 41), float(rng.uniform(0.35, 0.6))
    uneven = np.concatenate([[0.0], np.geomspace(1e3, 2e6, 30)])
    noisy = case(even, [(middle, 0.05, 0.6)], 4, 0.5, "a noisy score")
    noisy.given["score"] = noisy.given["score"] + rng.normal(0, 0.01, len(even))
    return [
        case(even, [(middle, 0.04, 0.5), (0.88, 0.02, 0.15)], 2, 0.3),
        case(uneven, [(middle, 0.05, 0.5)], 2, 0.2, "snapshots close together at first"),
        case(even, [(0.2, 0.02, 0.3), (0.7, 0.025, 0.5)], 1, 0.3, "two falls"),
        noisy,
        case(even, [(0.02, 0.02, 0.6)], 2, 0.1, "a fall at the very beginning"),
    ]


def vectors(seed: int) -> list[Case]:
    rng = np.random.default_rng(3800 + seed)

    def case(snaps: int, tokens: int, note: str = "") -> Case:
        at = np.linspace(0, 1, snaps)[:, None]
        one, two, level = rng.normal(0, 2, (3, tokens))
        losses = 6 + level - at * np.abs(one) + 0.6 * np.sin(3 * at) * two + rng.normal(0, 0.05, (snaps, tokens))
        return Case({"losses": losses}, note)

    return [case(8, 30), case(12, 5, "few tokens"), case(5, 60, "more tokens than snapshots")]


def pairs(seed: int) -> list[Case]:
    """The one answer, judged by two lines at a time."""
    return [Case({"lines": lines}) for lines in ("AB", "CD", "EF", "GH", "IJ")]


def models(seed: int) -> list[Case]:
    rng = np.random.default_rng(3900 + seed)
    tokens = Tokens("none", 20, np.arange(20, dtype=np.uint16), np.arange(20, dtype=np.uint16), None, "", 1, 0)

    def case(lengths: list[int], late: tuple[int, int], early: tuple[int, int], note: str = "", **of: int) -> Case:
        texts = {}
        for name, shift in (("train", 7), ("held_out", 0)):
            windows = rng.integers(1, 20, (len(lengths), 17))
            found = np.roll(np.array(lengths), shift)
            windows[:, 0], windows[np.arange(17) >= found[:, None]] = BOS, BOS
            texts[name] = (torch.from_numpy(windows), torch.from_numpy(found))
        draw = int(rng.integers(1000))
        probes = {"fixed": repeated_blocks(tokens, 3, 5, 4, ranks=(0, 20), seed=draw),
                  "random": random_blocks(tokens, 18, 6, ranks=(0, 20), seed=draw)}  # fmt: skip
        given = {"model": toy_model(draw, **of), "texts": texts, "probes": probes, "late": late, "early": early}
        return Case(given, note)

    return [
        case([17, 9, 13, 17, 14, 17, 6, 16], (11, 13), (2, 5)),
        case([17] * 5, (12, 16), (1, 4), "no padding"),
        case([17, 14, 15, 12, 13], (10, 12), (3, 6), "one layer", n_layers=1),
        case([17, 15, 8, 16, 17], (12, 14), (2, 4), "three layers of two heads", n_layers=3, n_heads=2),
    ]
