"""What zero and one layers know: bigrams, and skip-trigrams ``source ... destination -> out`` (P2).

A head of the first layer moves information from a source it attends to, to the destination that attends. Its QK
circuit says which destinations attend to which sources, its OV circuit which tokens an attended source raises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .circuits import check_head, full_OV, full_QK
from .config import require
from .model import Transformer
from .tokens import Tokens

IdList = Int[np.ndarray, "n"]


# ---- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SkipTrigram:
    """``source ... destination -> out``; ``qk`` in nats, ``ov`` in logits before the final LayerNorm's scale."""

    source: int
    destination: int
    out: int
    qk: float
    ov: float

    @property
    def score(self) -> float:
        """qk times ov, where both are positive."""
        return max(self.qk, 0.0) * max(self.ov, 0.0)

    def text(self, tokens: Tokens) -> str:
        """``def ... ( -> self``, spaces and newlines made visible."""
        source, destination, out = tokens.labels([self.source, self.destination, self.out])
        return f"{source} ... {destination} -> {out}"


@dataclass(frozen=True)
class SourceTable:
    """Destinations that attend most to a source, and tokens that the source then raises most."""

    source: int
    destinations: IdList
    qk: Float[np.ndarray, "n"]
    outs: IdList
    ov: Float[np.ndarray, "n"]


@torch.no_grad()
def circuit_columns(model: Transformer, layer: int, head: int, sources: IdList, ids: IdList
                    ) -> tuple[Float[Tensor, "source n"], Float[Tensor, "source n"]]:
    """QK of every destination in ``ids`` with each source, and OV from each source to every out in ``ids``.

    QK is the score in nats (divided by sqrt(d_head)) minus its mean over keys in ``ids``, which softmax does not
    see: without it, columns would compare destinations by what all sources share.
    """
    qk, ov = full_QK(model, layer, head), full_OV(model, layer, head)
    keys = qk.right[:, sources] - qk.right[:, ids].mean(1, keepdim=True)
    scores = (qk.left[ids] @ keys).T / math.sqrt(model.cfg.d_head)
    return scores, ov.left[sources] @ ov.right[:, ids]


def _all_or(ids: IdList | None, model: Transformer) -> IdList:
    return np.arange(model.cfg.d_vocab) if ids is None else np.asarray(ids)


def skip_trigrams(model: Transformer, layer: int, head: int, sources: IdList | list[int], k: int = 5,
                  ids: IdList | None = None) -> list[SourceTable]:
    """The paper's table: for each source the top ``k`` destinations and the top ``k`` outs (P2, "Skip-trigrams").

    Args:
        sources: chosen for interest, as in the paper; what stands beside them is not chosen.
        ids: tokens that may appear, and over which QK is centred; default all. Leave out those never seen in
            training: their rows of W_E are noise.

    Raises:
        IctlError: no such head or token, or ``k`` exceeds the number of tokens.
    """
    check_head(model, layer, head)
    ids, sources = _all_or(ids, model), np.asarray(sources)
    strange = [int(i) for i in (*sources, *ids) if not 0 <= i < model.cfg.d_vocab]
    require(not strange, f"token {strange[:1]} is not among the ids 0 to {model.cfg.d_vocab - 1} of the model.")
    require(1 <= k <= len(ids), f"k={k} entries were asked for, but there are {len(ids)} tokens to choose from.")
    qk, ov = (x.topk(k, dim=1) for x in circuit_columns(model, layer, head, sources, ids))
    return [SourceTable(int(source), ids[qk.indices[i].numpy()], qk.values[i].numpy(),
                        ids[ov.indices[i].numpy()], ov.values[i].numpy()) for i, source in enumerate(sources)]


def top_skip_trigrams(model: Transformer, head: int, n: int = 50, layer: int = 0, ids: IdList | None = None,
                      per_source: int | None = None) -> list[SkipTrigram]:
    """The ``n`` skip-trigrams of a head with the highest score, QK times OV, over all triples; nothing chosen by hand.

    Exact without looking at every triple: within a source, the i-th best destination with the j-th best out has
    i * j - 1 pairs above it, so that only i * j <= n can be among the best n.

    Args:
        ids: as in :func:`skip_trigrams`.
        per_source: at most so many of any one source, so that one source cannot fill the table.

    Raises:
        IctlError: no such head.
    """
    check_head(model, layer, head)
    ids, most = _all_or(ids, model), per_source or n
    qk, ov = (x.topk(min(most, len(ids)), dim=1) for x in circuit_columns(model, layer, head, ids, ids))
    pairs = [(i, j) for i in range(qk.values.shape[1]) for j in range(ov.values.shape[1]) if (i + 1) * (j + 1) <= most]
    i, j = torch.tensor(pairs).T
    scores = qk.values.clamp_min(0)[:, i] * ov.values.clamp_min(0)[:, j]
    kept = scores.topk(min(most, scores.shape[1]), dim=1)
    flat = kept.values.flatten().topk(min(n, kept.values.numel())).indices
    rows, which = flat // kept.values.shape[1], kept.indices.flatten()[flat]
    return [SkipTrigram(int(ids[s]), int(ids[qk.indices[s, i[p]]]), int(ids[ov.indices[s, j[p]]]),
                        float(qk.values[s, i[p]]), float(ov.values[s, j[p]]))
            for s, p in zip(rows.tolist(), which.tolist(), strict=True)]


# ---- bigrams --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BigramFit:
    """How near the direct path comes to the bigrams of the text."""

    kl: float  # nats, KL(text || model), mean over previous tokens as frequent as in the text; nothing smoothed
    reverse_kl: float  # nats, KL(model || text), text smoothed
    correlation: float  # of log-probabilities, over bigrams that occur at least ``least`` times
    previous: int  # previous tokens it is over
    all_correlation: float  # of the logits with log-probabilities of the smoothed text, over all next tokens


@torch.no_grad()
def direct_logits(model: Transformer) -> Float[Tensor, "d_vocab d_vocab"]:
    """Logits of the direct path alone for every token (row), final LayerNorm included: W_E, W_U (P2, "Zero-layer")."""
    return model.read_out(model.W_E) @ model.W_U


def bigram_kl(model: Transformer, tokens: Tokens, frequent: int = 200, least: int = 5, smoothing: float = 0.1
              ) -> BigramFit:
    """softmax of the direct path against the bigrams of the training text (P2, "Zero-layer transformers").

    Args:
        frequent: the most frequent previous tokens, weighted by how often they occur: rare ones have no reliable
            distribution.
        smoothing: count added to every bigram of the text in KL(model || text), which is infinite without.

    Raises:
        IctlError: vocabularies of another size.
    """
    require(model.cfg.d_vocab == tokens.d_vocab,
            f"the model knows {model.cfg.d_vocab} tokens, the corpus {tokens.d_vocab}; use its own corpus.")
    ids, V = tokens.train.astype(np.int64), tokens.d_vocab
    counts = np.bincount(ids[:-1] * V + ids[1:], minlength=V * V).reshape(V, V)
    rows = np.argsort(-counts.sum(1), kind="stable")[:frequent]
    rows = rows[counts[rows].sum(1) > 0]
    counts = counts[rows].astype(np.float64)
    weight = counts.sum(1) / counts.sum()
    logits = direct_logits(model)[rows].double()
    q = logits.log_softmax(1).numpy()
    p, smooth = counts / counts.sum(1, keepdims=True), counts + smoothing
    log_p, log_smooth = np.log(np.where(p > 0, p, 1.0)), np.log(smooth / smooth.sum(1, keepdims=True))
    kl = (p * np.where(p > 0, log_p - q, 0.0)).sum(1) @ weight
    reverse = (np.exp(q) * (q - log_smooth)).sum(1) @ weight
    often = counts >= least
    r, r_all = (float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
                for a, b in ((log_p[often], q[often]), (log_smooth, logits.numpy())))  # fmt: skip
    return BigramFit(float(kl), float(reverse), r, len(rows), r_all)
