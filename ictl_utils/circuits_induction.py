"""Induction heads found by their weights alone, and hypotheses about what their attention is worth (P1, Argument 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from .ablations import Heads, losses_without_each
from .circuits import PerHead, check_head, copying_statistic, qk_positivity, qk_trace
from .config import require
from .handmade import BEFORE, OUTPUT, SIZE, TOKEN, induction_model
from .idealised import Ids, Pattern, losses_replaced
from .metrics import Windows, earlier_successors
from .model import Transformer, smear

PatternOf = Callable[[Ids], Pattern]
CORNER = 0.5  # both statistics above it: an induction head by the weights, as in the registered corner of G04


# ---- by the weights -------------------------------------------------------------------------------


@torch.no_grad()
def previous_from_weights(model: Transformer) -> PerHead:
    """Attention to the position before that positions alone would give, mean over positions; no text is read.

    The softmax of (p W_Q) (p W_K)^T / sqrt(d_head), p the position vectors: the part of the scores in which neither
    side reads a token (P2, "One-layer models", positional heads); where keys or queries are smeared, so are theirs.

    Raises:
        IctlError: positions are not added to the inputs of W_Q and W_K.
    """
    require(model.cfg.positions == "shortformer",
            f"positions={model.cfg.positions!r} are no separate part of queries and keys; take shortformer.")
    q, k = (model.sinusoids @ W for W in (model.W_Q, model.W_K))
    smeared = lambda x: torch.cat([smear(one[None], a) for one, a in zip(x, model.alpha, strict=True)])  # noqa: E731
    q, k = smeared(q) if model.cfg.smear == "query" else q, smeared(k) if model.cfg.smear == "key" else k
    scores = q @ k.mT / math.sqrt(model.cfg.d_head)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1).diagonal(-1, -2, -1).mean(-1).double().numpy()


@dataclass(frozen=True)
class ByWeights:
    """What the weights say about every head of a model, before it reads any text."""

    previous: PerHead  # attention to the position before, from positions alone
    trace: PerHead  # of the QK circuit through the heads of earlier layers, weighted by ``previous``
    positivity: PerHead  # sum of that circuit's eigenvalues over the sum of their sizes; nan in layer 0
    copying: PerHead  # the same of the OV circuit

    @property
    def induction(self) -> Heads:
        """Heads in the corner: both statistics above one half."""
        inside = (np.nan_to_num(self.positivity) > CORNER) & (self.copying > CORNER)
        return [(int(layer), int(head)) for layer, head in np.argwhere(inside)]

    @property
    def best(self) -> tuple[int, int]:
        """The head with the highest trace."""
        layer, head = np.unravel_index(np.nanargmax(self.trace), self.trace.shape)
        return int(layer), int(head)

    @property
    def previous_head(self) -> tuple[int, int]:
        """The head before the last layer with the highest ``previous``."""
        layer, head = np.unravel_index(self.previous[:-1].argmax(), self.previous[:-1].shape)
        return int(layer), int(head)


def by_weights(model: Transformer) -> ByWeights:
    """Read the heads of an attention-only model of two or more layers off its weights.

    Raises:
        IctlError: one layer or none, or positions that are no separate part of queries and keys.
    """
    require(model.cfg.n_layers >= 2, f"{model.cfg.label} has no layer below another; use two layers or more.")
    previous = previous_from_weights(model)
    return ByWeights(previous, qk_trace(model, previous), qk_positivity(model, previous), copying_statistic(model))


# ---- by hand --------------------------------------------------------------------------------------


@torch.no_grad()
def softened(previous: float = 1.0, match: float = 1.0) -> Transformer:
    """The hand-built induction model with the queries of its two heads scaled.

    Args:
        previous: factor on the scores of the previous-token head; 1 leaves it sharp, 0 makes it attend evenly.
        match: the same for the induction head.
    """
    model = induction_model()
    model.W_Q[0, 0] *= previous
    model.W_Q[1, 0] *= match
    return model


@torch.no_grad()
def slots(model: Transformer, ids: Ids, words: int) -> dict[str, Float[np.ndarray, "pos word"]]:
    """What the three slots of the hand-built model's residual stream hold, 1 for a whole token.

    Args:
        ids: one sequence.
        words: how many ids are looked at, from 0.

    Returns:
        The token itself, the token before (written by layer 0), and the output (written by layer 1).
    """
    resid = model.forward_with_cache(ids).resid
    parts = {"token (from the embedding)": (resid[0], TOKEN), "token before (from layer 0)": (resid[1], BEFORE),
             "prediction (from layer 1)": (resid[2], OUTPUT)}  # fmt: skip
    return {name: (stream[0, :, at : at + words] / SIZE).numpy() for name, (stream, at) in parts.items()}


# ---- what attention is worth ----------------------------------------------------------------------


def longest_match_pattern(ids: Ids, depth: int = 4) -> Pattern:
    """Even attention on the successors of those earlier occurrences before which most tokens match too.

    Args:
        depth: how many tokens are compared, the present one included; 1 is ``idealised.literal_match_pattern``.

    Raises:
        IctlError: ``depth`` below 1.
    """
    require(depth >= 1, f"depth={depth} must be at least 1: the present token is compared.")
    run = earlier_successors(ids)
    length = run.int()
    for back in range(1, depth):
        run = run & F.pad(earlier_successors(ids), (back, -back, back, -back))
        length = length + run.int()
    chosen = (length == length.amax(dim=-1, keepdim=True)) & (length > 0)
    chosen[:, :, 0] |= ~chosen.any(dim=-1)
    return chosen / chosen.sum(dim=-1, keepdim=True)


def own_pattern(model: Transformer, head: tuple[int, int], keep: Callable[[Ids], Bool[torch.Tensor, "batch pos pos"]]
                ) -> PatternOf:
    """The head's own attention where ``keep`` allows it; what is left over goes to position 0.

    Raises:
        IctlError: no such head.
    """
    check_head(model, *head)

    def pattern(ids: Ids) -> Pattern:
        with torch.no_grad():
            own = model.forward_with_cache(ids).patterns[head[0]][:, head[1]]
        kept = own * keep(ids)
        kept[:, :, 0] += 1 - kept.sum(dim=-1)
        return kept

    return pattern


def recovered_each(model: Transformer, windows: Windows, heads: Heads, patterns: Mapping[str, PatternOf]
                   ) -> dict[str, float]:
    """:func:`ictl_utils.idealised.recovered` for several patterns; the model without ``heads`` is run only once."""
    intact, ablated = losses_without_each(model, windows, [[], heads], "full").mean(axis=(1, 2))
    return {name: float((ablated - losses_replaced(model, windows, heads, of).mean()) / (ablated - intact))
            for name, of in patterns.items()}  # fmt: skip


@torch.no_grad()
def attention_split(model: Transformer, windows: Windows, head: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Where a head's attention goes on text, for positions whose token has occurred before, and for the others.

    Returns:
        ``seen before`` and ``new`` -> share on successors of earlier occurrences where the token before matches too,
        on other successors, on ``<bos>``, and on the rest; ``positions`` is the share of such positions.
    """
    check_head(model, *head)
    ids = torch.from_numpy(windows[:, :-1])
    own, one = model.forward_with_cache(ids).patterns[head[0]][:, head[1]], earlier_successors(ids)
    two = one & F.pad(one, (1, -1, 1, -1))
    first = torch.zeros_like(one)
    first[:, :, 0] = True
    places = {"two tokens match": two, "one token matches": one & ~two, "<bos>": first, "elsewhere": ~one & ~first}
    seen, found = one.any(dim=-1), {}
    for name, rows in (("seen before", seen), ("new", ~seen)):
        found[name] = {place: float((own * of).sum(-1)[rows].mean()) for place, of in places.items()}
        found[name]["positions"] = float(rows.float().mean())
    return found
