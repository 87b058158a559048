"""Cases of assignment 1, and the random models, texts and patterns they are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from .config import ModelConfig
from .grading import Case
from .model import Transformer

Drawn = Callable[..., Tensor]


# ---- what the cases are made of ---------------------------------------------------------------------


def drawn(seed: int) -> Drawn:
    """Draws normal numbers of a shape, the same for the same seed: ``normal = drawn(0); x = normal(5, 8)``."""
    generator = torch.Generator().manual_seed(9176 * (seed + 1))
    return lambda *shape: torch.randn(shape, generator=generator)


def small_model(seed: int, n_layers: int, d_model: int = 8, n_heads: int = 2, d_vocab: int = 9, norm: bool = False
                ) -> Transformer:
    """A random model with patterns far from even and heads that write as much as the embedding."""
    cfg = ModelConfig(n_layers=n_layers, d_model=d_model, n_heads=n_heads, n_ctx=12, d_vocab=d_vocab, norm=norm,
                      init_qk=0.7)  # fmt: skip
    model = Transformer(cfg, seed).requires_grad_(False).eval()
    for weight in (model.W_V, model.W_O, model.W_U):
        weight *= 8.0
    if norm:
        model.ln_final += 0.5 * drawn(seed)(d_model)
    return model


def ids(seed: int, n: int, d_vocab: int = 9) -> Int[Tensor, "pos"]:
    """``n`` random tokens, the first one ``<bos>``."""
    found = torch.randint(1, d_vocab, (n,), generator=torch.Generator().manual_seed(31 * seed + n))
    found[:1] = 0
    return found


# ---- cases ------------------------------------------------------------------------------------------


def pattern_cases(seed: int) -> list[Case]:
    normal = drawn(seed)
    return [
        Case({"q": normal(5, 4), "k": normal(5, 4)}, "five tokens"),
        Case({"q": normal(3, 9), "k": normal(3, 9)}, "a wider head"),
        Case({"q": normal(1, 4), "k": normal(1, 4)}, "one token"),
        Case({"q": torch.zeros(4, 2), "k": normal(4, 2)}, "queries that are zero"),
        Case({"q": 60 * normal(4, 4), "k": 60 * normal(4, 4)}, "scores in the thousands"),
    ]


def _head(normal: Drawn, d_model: int = 6, d_head: int = 3) -> dict[str, Tensor]:
    return {"W_V": normal(d_model, d_head), "W_O": normal(d_head, d_model)}


def _rows(scores: Tensor) -> Tensor:
    """A pattern to hand out: causal, rows sum to 1, weights as large as ``scores``."""
    weight = scores.abs().tril()
    return weight / weight.sum(-1, keepdim=True)


def result_cases(seed: int) -> list[Case]:
    normal = drawn(seed + 100)
    return [
        Case({"pattern": _rows(normal(5, 5)), "resid": normal(5, 6), **_head(normal)}, "five tokens"),
        Case({"pattern": _rows(normal(3, 3)), "resid": normal(3, 4), **_head(normal, 4, 4)}, "d_head = d_model"),
        Case({"pattern": torch.eye(4), "resid": normal(4, 6), **_head(normal)}, "each token sees itself only"),
        Case({"pattern": torch.ones(1, 1), "resid": normal(1, 6), **_head(normal, 6, 1)}, "one token"),
    ]


def circuit_cases(seed: int) -> list[Case]:
    cases = []
    for i, (d_vocab, d_model, d_head) in enumerate([(7, 6, 2), (5, 6, 1), (4, 8, 3)]):
        normal = drawn(seed + 200 + i)
        given = {"W_E": normal(d_vocab, d_model), "W_Q": normal(d_model, d_head), "W_K": normal(d_model, d_head),
                 **_head(normal, d_model, d_head), "W_U": normal(d_model, d_vocab)}  # fmt: skip
        cases.append(Case(given, f"d_vocab {d_vocab}, d_model {d_model}, d_head {d_head}"))
    return cases


def path_cases(seed: int) -> list[Case]:
    sizes = [(6, 8, 2), (4, 6, 1), (5, 12, 3), (1, 8, 2)]
    return [Case({"model": small_model(seed * 10 + i, 1, d, h), "ids": ids(seed + i, n)},
                 f"{n} tokens, {h} heads") for i, (n, d, h) in enumerate(sizes)]  # fmt: skip


def frozen_cases(seed: int) -> list[Case]:
    cases = []
    sizes = [(4, 8, 2, "two heads"), (3, 6, 1, "one head"), (2, 12, 3, "two tokens, three heads")]
    for i, (n, d_model, heads, note) in enumerate(sizes):
        pattern = _rows(drawn(seed + 300 + i)(heads, n, n))
        model = small_model(seed * 10 + i, 1, d_model, heads, 5)
        cases.append(Case({"model": model, "pattern": pattern}, note))
    model = small_model(seed * 10 + 5, 1, 6, 1, 5)
    model.W_O.zero_()
    return [*cases, Case({"model": model, "pattern": torch.eye(3)[None]}, "a head that writes nothing")]


def trigram_cases(seed: int) -> list[Case]:
    cases = []
    for i, (d_vocab, n) in enumerate([(12, 3), (30, 5), (6, 1)]):
        normal = drawn(seed + 400 + i)
        QK = 2.0 * normal(d_vocab, d_vocab) + 6.0 * normal(d_vocab, 1)  # some destinations score everything high
        given = {"QK": QK, "OV": normal(d_vocab, d_vocab), "source": (seed + 2 * i + 1) % d_vocab, "n": n}
        cases.append(Case(given, f"{d_vocab} tokens, the best {n}"))
    return cases


def copying_cases(seed: int) -> list[Case]:
    cases = []
    for i, (d_vocab, d_model, d_head) in enumerate([(9, 6, 3), (40, 12, 4), (1024, 32, 8)]):
        normal = drawn(seed + 500 + i)
        given = {"W_E": normal(d_vocab, d_model), **_head(normal, d_model, d_head), "W_U": normal(d_model, d_vocab)}
        largest = d_vocab**2 // 4 if d_vocab > 1000 else 0  # the table is not made
        cases.append(Case(given, f"d_vocab {d_vocab}, d_head {d_head}", largest=largest))
    W_V, W_E = drawn(seed + 550)(6, 2), drawn(seed + 551)(9, 6)
    cases += [Case({"W_E": W_E, "W_V": W_V, "W_O": sign * W_V.T, "W_U": W_E.T}, note)
              for sign, note in ((1.0, "a head that copies"), (-1.0, "a head that lowers what it sees"))]  # fmt: skip
    nothing = {"W_E": W_E, "W_V": W_V, "W_O": torch.zeros(2, 6), "W_U": W_E.T}
    return [*cases, Case(nothing, "a head that writes nothing")]


def text_cases(seed: int) -> list[Case]:
    sizes = [(10, 2, 2), (7, 1, 4), (12, 3, 1)]
    return [Case({"model": small_model(seed * 10 + i, layers, 8, heads, 14, norm=True), "ids": ids(seed + i, n, 14)},
                 f"{n} tokens, {layers} layers of {heads} heads")
            for i, (n, layers, heads) in enumerate(sizes)]  # fmt: skip


def two_layer_cases(seed: int) -> list[Case]:
    sizes = [(5, 8, 2), (4, 6, 1), (6, 12, 3), (1, 8, 2)]
    return [Case({"model": small_model(seed * 10 + i, 2, d, h, 7), "ids": ids(seed + i, n, 7)},
                 f"{n} tokens, {h} heads a layer") for i, (n, d, h) in enumerate(sizes)]  # fmt: skip
