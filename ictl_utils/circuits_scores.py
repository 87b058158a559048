"""Attention scores taken apart by what the query and the key side read: Q- and K-composition as they happen (P2).

As for paths, LayerNorm scales are frozen at what the model itself computed; the terms add up to the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .circuits import check_head
from .circuits_paths import Ids, check_attention_only, frozen_read, frozen_scale
from .config import one_of
from .model import Transformer, rotate, smear


@dataclass(frozen=True)
class QKTerms:
    """Queries and keys of one head as sums of parts: scores are sums over pairs of parts (P2, "Two-layer models").

    Parts: ``token`` (the embedding, the papers' Id), ``position``, and each earlier head, ``L0H1``.
    """

    names: list[str]
    q: Float[Tensor, "part batch pos d_head"]
    k: Float[Tensor, "part batch pos d_head"]

    def score(self, query: str, key: str) -> Float[Tensor, "batch pos pos"]:
        """Score before softmax that part ``query`` of the query side gives part ``key`` of the key side.

        Raises:
            IctlError: a part that is not among ``names``.
        """
        for part in (query, key):
            one_of("part", part, tuple(self.names))
        q, k = self.q[self.names.index(query)], self.k[self.names.index(key)]
        return q @ k.mT / math.sqrt(q.shape[-1])

    def total(self) -> Float[Tensor, "batch pos pos"]:
        """The head's own scores: the sum of all terms."""
        return self.q.sum(0) @ self.k.sum(0).mT / math.sqrt(self.q.shape[-1])

    def group(self, query: str, key: str) -> str:
        """``Id``, ``Q``, ``K``, ``both``: which side reads earlier heads; ``position`` if one side is position."""
        if "position" in (query, key):
            return "position"
        return ("Id", "K", "Q", "both")[2 * (query != "token") + (key != "token")]

    def grouped(self) -> dict[str, Float[Tensor, "batch pos pos"]]:
        """Scores by :meth:`group`; they sum to :meth:`total`."""
        sums: dict[str, Tensor] = {}
        for query, key in product(self.names, repeat=2):
            name = self.group(query, key)
            sums[name] = sums.get(name, 0) + self.score(query, key)
        return sums

    def shares(self, skip: int = 1) -> Float[np.ndarray, "part part"]:
        """Share of each term (row: query side, column: key side) in the variance of scores over keys.

        The covariance of a term with the total, over the total's variance: shares sum to 1 and can be negative.
        Variance is over the keys a query may see, pooled over queries; the first ``skip`` keys are left out,
        because heads rest on ``<bos>`` and its score would outweigh the rest.
        """
        total = self.total().double()
        seen = torch.ones_like(total).tril()
        seen[..., :skip] = 0
        centred = (total - (total * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)) * seen
        mixed = centred @ self.k.double() / math.sqrt(self.q.shape[-1])  # centred rows: no mean to take off a term
        return (torch.einsum("abid,cbid->ac", self.q.double(), mixed) / centred.square().sum()).numpy()


@torch.no_grad()
def qk_terms(model: Transformer, tokens: Ids, layer: int, head: int) -> QKTerms:
    """A head's scores before softmax, by what its queries and its keys read (P2, "Two-layer models").

    Raises:
        IctlError: no such head, or a model with MLPs.
    """
    check_head(model, layer, head)
    check_attention_only(model)
    cache, w, cfg = model.forward_with_cache(tokens), model.layers()[layer], model.cfg
    parts = {"token": F.embedding(tokens, model.W_E)}
    if cfg.positions == "learned":
        parts["position"] = cache.resid[0] - parts["token"]
    parts |= {f"L{at}H{h}": cache.result(at)[:, h] for at in range(layer) for h in range(cfg.n_heads)}
    scale = frozen_scale(model, cache.resid[layer])
    reads = {name: frozen_read(model, part, scale, w.get("ln1")) for name, part in parts.items()}
    if cfg.positions == "shortformer":
        reads["position"] = model.sinusoids[: tokens.shape[1]].expand_as(parts["token"])
    sides = [_side(model, torch.stack(list(reads.values())), w, side, head) for side in ("query", "key")]
    return QKTerms(list(reads), *sides)


def _side(model: Transformer, reads: Float[Tensor, "part batch pos d_model"], w: dict[str, Tensor], side: str,
          head: int) -> Float[Tensor, "part batch pos d_head"]:
    """Queries or keys of one head for each part, smeared and turned as in the model: both are linear."""
    x = (reads @ w["W_Q" if side == "query" else "W_K"][head]).flatten(0, 1)[:, None]
    if model.cfg.smear == side:
        x = smear(x, w["alpha"][head : head + 1])
    if model.cfg.positions == "rotary":
        x = rotate(x, model.angles[: x.shape[2]])
    return x[:, 0].unflatten(0, reads.shape[:2])


def qk_variance_shares(model: Transformer, tokens: Ids, layer: int, head: int, skip: int = 1) -> dict[str, float]:
    """Shares of a head's score variance by group of terms; see :meth:`QKTerms.shares` (sum 1, can be negative)."""
    terms = qk_terms(model, tokens, layer, head)
    shares, found = terms.shares(skip), dict.fromkeys(("Id", "Q", "K", "both", "position"), 0.0)
    for (i, query), (j, key) in product(enumerate(terms.names), repeat=2):
        found[terms.group(query, key)] += float(shares[i, j])
    return found
