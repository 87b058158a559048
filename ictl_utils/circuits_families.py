"""Families of skip-trigrams in Python text: patterns written by hand, and tokens the tokenizer split (P2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from .circuits import check_head
from .circuits_trigrams import IdList, SkipTrigram, circuit_columns
from .config import require
from .model import Transformer
from .tokens import Tokens

FAMILIES = {
    "copying": r"^(.+)\0.*\0\1$",
    "copying, spaced otherwise": r"^( ?)(\w+)\0.*\0(?!\1\2$) ?\2$",
    "split token": r"^ ?(\w+)(\w+)\0 ?\1\0\2$",
    "def, class -> self": r"^\s*(?:def|class)\0.*\0\W*self$",
    "self -> attribute": r"^ ?self\0.*\0(?:\.|_)\w*$",
    "super -> __init__": r"^ ?(?:super|self|def)\0.*\0\W*__(?:init)?\w*$",
    "import, from -> import, as": r"^\s*(?:import|from)\0.*\0\s*(?:import|as)$",
    "with -> as": r"^\s*with\0.*\0\s*as$",
    "async -> def": r"^\s*(?:async|asyn|await)\0.*\0\s*(?:def|with|for|await)$",
    "for -> in, range": r"^\s*for\0.*\0 ?(?:in|range|enumerate|sorted|zip|len|list|items)$",
    "if -> else, elif": r"^\s*(?:if|elif)\0.*\0\s*(?:else|elif|el)\W*$",
    "try -> except": r"^\s*(?:try|except|raise)\W*\0.*\0\s*(?:except|finally|\w*Error|\w*Exception)$",
    "assert": r"^.*assert\w*\0.*\0\w*(?:Equal|True|False|Raises|Error|In|Is)$",
    "indentation": r"^(\s*\n\s*)\0.*\0(?!\1$)(?:\s*\n\s*|\s*(?:return|else|elif|except|if|for|def|raise|class))$",
    "round brackets": r"^[^)]*\([^)]*\0.*\0[^(]*\)",
    "square brackets": r"^[^\]]*\[[^\]]*\0.*\0[^\[]*\]",
    "curly brackets": r"^[^}]*\{[^}]*\0.*\0[^{]*\}",
    "angle brackets": r"^[^>]*<[^>]*\0.*\0[^<]*>",
    "quotes": r"^[^'\"]*(['\"`]+)\0.*\0[^'\"`]*\1",
    "open -> mode": r"^ ?(?:open|file|read|write)\w*\0.*['\",]\0['\"]?[rwa]b?\+?['\"]?$",
    "double underscores": r"^\W*__\W*\0(?:(?!__).)*\0\w*__\W*$",
    "True, False, None": r"^ ?(True|False|None)\0.*\0(?! ?\1$) ?(?:True|False|None)$",
    "numbers": r"^ ?(\d+)\0.*\0(?! ?\1$) ?\d+$",
}
"""Regular expressions over ``source NUL destination NUL out``; ours, the paper gives examples only."""


def families(trigrams: list[SkipTrigram], tokens: Tokens, patterns: dict[str, str] = FAMILIES
             ) -> dict[str, list[SkipTrigram]]:
    """The skip-trigrams each family's pattern matches, in their order; one can be in several families.

    Raises:
        IctlError: the corpus is synthetic, so that its ids stand for no text.
    """
    require(tokens.tokenizer is not None, f"corpus={tokens.corpus!r} has no text, so no families of words.")
    texts = ["\0".join(tokens.decode([i]) for i in (t.source, t.destination, t.out)) for t in trigrams]
    return {name: [t for t, text in zip(trigrams, texts, strict=True) if re.search(pattern, text, re.DOTALL)]
            for name, pattern in patterns.items()}


# ---- split tokens ---------------------------------------------------------------------------------


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
