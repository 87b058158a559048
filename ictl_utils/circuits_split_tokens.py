"""Words that the tokenizer has in two ways, and heads that copy from one to the other (P2, one-layer models)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from .circuits import check_head
from .circuits_trigrams import IdList, SkipTrigram, circuit_columns
from .config import require
from .model import Transformer
from .tokens import Tokens


@dataclass(frozen=True)
class SplitTokens:
    """Skip-trigrams `` Ralph ... R -> alph`` of a head: a word that is one token, then the same word in two."""

    share: float  # of all such triples whose out is in the top 1 % of the source's OV row
    chance: float  # the same with the outs exchanged among the triples
    best: list[SkipTrigram]  # sorted by the sum of ranks of destination and out


def split_triples(tokens: Tokens, ids: IdList) -> Int[np.ndarray, "triple 3"]:
    """Every (whole, beginning, rest) of tokens in ``ids`` with whole = beginning + rest; spaces in front may differ.

    Raises:
        IctlError: the corpus is synthetic.
    """
    require(tokens.tokenizer is not None, f"corpus={tokens.corpus!r} has no text, so no split words.")
    words = {tokens.decode([int(i)]): int(i) for i in ids}
    found = []
    for text, whole in words.items():
        bare = text.removeprefix(" ")
        for cut in range(1, len(bare)) if bare.isalnum() else ():
            beginnings = [start for start in (bare[:cut], " " + bare[:cut]) if start in words]
            found += [(whole, words[start], words[bare[cut:]]) for start in beginnings if bare[cut:] in words]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


@torch.no_grad()
def split_tokens(model: Transformer, tokens: Tokens, head: int, layer: int = 0, ids: IdList | None = None,
                 seed: int = 0) -> SplitTokens:
    """Whether a head copies words over a split of the tokenizer, `` Ralph ... R -> alph`` (P2, "Skip-trigrams").

    Args:
        ids: tokens that may appear, in any order; default those that occur in training.

    Raises:
        IctlError: no such head, a synthetic corpus, or no token made of two others.
    """
    check_head(model, layer, head)
    ids = np.flatnonzero(tokens.counts) if ids is None else np.sort(ids)
    triples = split_triples(tokens, ids)
    require(len(triples) > 0, "no token is made of two others; use more ids or a larger vocabulary.")
    qk, ov = circuit_columns(model, layer, head, triples[:, 0], ids)
    n, (destination, out) = np.arange(len(triples)), np.searchsorted(ids, triples[:, 1:]).T
    place = lambda x, at: ((x >= x[n, at, None]).double().sum(1).numpy() - 1) / len(ids)  # noqa: E731
    attended, raised = place(qk, destination), place(ov, out)
    other = place(ov, np.random.default_rng(seed).permutation(out))
    best = np.argsort(attended + raised, kind="stable")
    trigrams = [SkipTrigram(*map(int, triples[i]), float(qk[i, destination[i]]), float(ov[i, out[i]])) for i in best]
    return SplitTokens(float((raised < 0.01).mean()), float((other < 0.01).mean()), trigrams)
