"""Running attention-only models taken apart into paths that add up, patterns and LayerNorm scales frozen (P2).

With its attention patterns and the standard deviation in every LayerNorm held at what the model itself computed,
a model is linear, so that its logits are a sum over paths through heads. Nothing is approximated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .circuits import fold
from .config import require
from .loss import each_loss
from .lowrank import LowRank
from .metrics import Windows
from .model import Cache, Transformer, smear

Path = tuple[tuple[int, int], ...]
"""Heads a path goes through, earliest first, as (layer, head); ``()`` is the direct path."""
Ids = Int[Tensor, "batch pos"]
Stream = Float[Tensor, "batch pos d_model"]

EPSILON = 1e-5  # of the model's LayerNorm


def check_attention_only(model: Transformer) -> None:
    """Raise :class:`IctlError` if the model has MLPs."""
    require(not model.cfg.mlp, f"{model.cfg.label} has MLPs, so its paths do not add up; use an attention-only model.")


# ---- frozen reads ---------------------------------------------------------------------------------


def frozen_scale(model: Transformer, resid: Stream) -> Float[Tensor, "batch pos 1"]:
    """Standard deviation LayerNorm divides by; 1 without ``norm``."""
    if not model.cfg.norm:
        return torch.ones_like(resid[..., :1])
    return (resid.var(-1, unbiased=False, keepdim=True) + EPSILON).sqrt()


def frozen_read(model: Transformer, part: Stream, scale: Float[Tensor, "batch pos 1"],
                gain: Float[Tensor, "d_model"] | None) -> Stream:
    """What a linear read takes from one part of the residual stream, LayerNorm at a frozen ``scale``."""
    if not model.cfg.norm:
        return part
    return (part - part.mean(-1, keepdim=True)) / scale * gain


def _write(model: Transformer, read: Stream, pattern: Float[Tensor, "batch head pos pos"], w: dict[str, Tensor]
           ) -> Float[Tensor, "batch head pos d_model"]:
    """What each head of a layer with weights ``w`` adds for what it reads, pattern frozen."""
    v = read[:, None] @ w["W_V"]
    if model.cfg.smear == "value":
        v = smear(v, w["alpha"])
    return pattern @ v @ w["W_O"]


# ---- logits ---------------------------------------------------------------------------------------


@torch.no_grad()
def path_terms(model: Transformer, tokens: Ids, order: int | None = None) -> dict[Path, Stream]:
    """What every path through at most ``order`` heads leaves in the residual stream (P2, "Path expansion").

    Args:
        order: 0 the direct path, 1 also single heads, 2 also virtual heads, ...; default all, whose terms sum to
            the residual stream after all layers.

    Raises:
        IctlError: a model with MLPs, or tokens the model cannot read.
    """
    return _path_terms(model, model.forward_with_cache(tokens), order)


def _path_terms(model: Transformer, cache: Cache, order: int | None) -> dict[Path, Stream]:
    check_attention_only(model)
    order = model.cfg.n_layers if order is None else order
    terms: dict[Path, Stream] = {(): cache.resid[0]}
    for layer, w in enumerate(model.layers()):
        scale, new = frozen_scale(model, cache.resid[layer]), {}
        for path, part in terms.items():
            if len(path) < order:
                out = _write(model, frozen_read(model, part, scale, w.get("ln1")), cache.patterns[layer], w)
                new |= {(*path, (layer, head)): out[:, head] for head in range(model.cfg.n_heads)}
        terms |= new
    return terms


@torch.no_grad()
def path_sum_logits(model: Transformer, tokens: Ids, order: int | None = None
                    ) -> dict[Path, Float[Tensor, "batch pos d_vocab"]]:
    """Logits each path contributes; all of them together are the model's logits, exactly (P2, "Path expansion").

    One layer: the direct path, a bigram table, and one term a head, its skip-trigrams. Two layers: also one term
    a pair of heads, the virtual heads. Arguments and errors as :func:`path_terms`.
    """
    cache = model.forward_with_cache(tokens)
    scale, gain = frozen_scale(model, cache.resid[-1]), getattr(model, "ln_final", None)
    terms = _path_terms(model, cache, order)
    return {path: frozen_read(model, part, scale, gain) @ model.W_U for path, part in terms.items()}


# ---- how much each order matters ------------------------------------------------------------------


@dataclass(frozen=True)
class TermImportance:
    """Mean loss in nats when only terms up to an order may act; order ``n_layers`` is the intact model."""

    uniform: float  # ln(d_vocab): every token equally likely
    losses: Float[np.ndarray, "order"]

    @property
    def gains(self) -> Float[np.ndarray, "order"]:
        """Marginal effect of each order: how many nats it takes off the loss of the order below."""
        return -np.diff(self.losses, prepend=self.uniform)


@torch.no_grad()
def term_importance(model: Transformer, windows: Windows, chunk: int = 32) -> TermImportance:
    """The paper's ablation algorithm (P2, "Term importance analysis"), with LayerNorm computed at every read.

    Pass 1 saves the patterns. Each later pass runs with them and stores every head's output, but adds to the
    residual stream the outputs stored in the pass before, at first none: pass n + 2 gives the loss of order n.

    Raises:
        IctlError: a model with MLPs.
    """
    check_attention_only(model)
    sums = np.zeros(model.cfg.n_layers + 1)
    for rows in torch.from_numpy(windows).split(chunk):
        cache = model.forward_with_cache(rows[:, :-1])
        stored = [torch.zeros_like(cache.resid[0])] * model.cfg.n_layers
        for order in range(model.cfg.n_layers + 1):
            sums[order] += _total_loss(model, cache.resid[0] + sum(stored), rows)
            stored = _stored_pass(model, cache, stored)
    return TermImportance(math.log(model.cfg.d_vocab), sums / windows[:, 1:].size)


def _stored_pass(model: Transformer, cache: Cache, stored: list[Stream]) -> list[Stream]:
    """Outputs of every layer, heads together, when the residual stream gets ``stored`` instead of them."""
    resid, found = cache.resid[0], []
    for layer, w in enumerate(model.layers()):
        found.append(_write(model, model.norm(resid, w.get("ln1")), cache.patterns[layer], w).sum(1))
        resid = resid + stored[layer]
    return found


def _total_loss(model: Transformer, resid: Stream, rows: Int[Tensor, "batch pos_plus_1"]) -> float:
    x = model.read_out(resid)
    return float(each_loss(x.flatten(0, 1), model.W_U, rows[:, 1:].flatten()).double().sum())


@torch.no_grad()
def layer_split(model: Transformer, windows: Windows, chunk: int = 32) -> dict[tuple[int, ...], float]:
    """Mean loss, nats, of the direct path with the single-head terms of some layers (P2, "Term importance").

    Every set of layers is a key, ``()`` the direct path alone. In two layers the paper's four marginal effects
    are ``() - (0,)``, ``(1,) - (0, 1)`` (first layer alone, and given the second) and ``() - (1,)``,
    ``(0,) - (0, 1)`` (the second).

    Raises:
        IctlError: a model with MLPs.
    """
    check_attention_only(model)
    n = model.cfg.n_layers
    chosen = [tuple(layer for layer in range(n) if on[layer]) for on in product((False, True), repeat=n)]
    sums = dict.fromkeys(sorted(chosen, key=lambda layers: (len(layers), layers)), 0.0)
    for rows in torch.from_numpy(windows).split(chunk):
        cache = model.forward_with_cache(rows[:, :-1])
        single = _stored_pass(model, cache, [torch.zeros_like(cache.resid[0])] * n)
        for layers in sums:
            sums[layers] += _total_loss(model, cache.resid[0] + sum(single[layer] for layer in layers), rows)
    return {layers: total / windows[:, 1:].size for layers, total in sums.items()}


# ---- virtual heads --------------------------------------------------------------------------------


@dataclass(frozen=True)
class VirtualHeads:
    """What two heads in a row amount to: a head with the product of their patterns and of their W_OV."""

    patterns: Float[Tensor, "from_head to_head batch pos pos"]
    norms: Float[np.ndarray, "from_head to_head"]  # Frobenius norm of W_OV^1 W_OV^2, LayerNorm folded


@torch.no_grad()
def virtual_heads(model: Transformer, tokens: Ids, layers: tuple[int, int] = (0, 1)) -> VirtualHeads:
    """All virtual heads of two layers (P2, "Virtual attention heads").

    Raises:
        IctlError: ``layers`` are not two layers of the model in order.
    """
    first, second = layers
    require(0 <= first < second < model.cfg.n_layers,
            f"layers={layers} are not two layers of the model in order; it has {model.cfg.n_layers}.")
    patterns, W = model.forward_with_cache(tokens).patterns, fold(model)
    A_1, A_2 = (patterns[layer].transpose(0, 1) for layer in layers)
    pair = (LowRank(W.W_V[first], W.W_O[first]), LowRank(W.W_V[second], W.W_O[second]))
    one, two = LowRank(pair[0].left[:, None], pair[0].right[:, None]), pair[1]
    return VirtualHeads(A_2[None] @ A_1[:, None], (one @ two).norm().numpy())
