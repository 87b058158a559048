"""Knock heads out and see what is lost (P1, Argument 3)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from .config import one_of, require
from .loss import each_loss
from .metrics import Losses, Windows
from .model import Transformer

Heads = list[tuple[int, int]]
KINDS = ("full", "pattern-preserving")


@torch.no_grad()
def losses_without(
    model: Transformer, windows: Windows, heads: Heads, kind: str = "pattern-preserving", chunk: int = 32
) -> Losses:
    """Loss of every next token, nats, with the outputs of ``heads`` set to zero, all of them together.

    Args:
        heads: (layer, head) pairs; none gives the intact model.
        kind: ``full`` lets everything downstream change; ``pattern-preserving`` keeps every attention
            pattern of the intact model, so that only what later heads read through values, and the
            logits, change (P1, "Ablations").

    Raises:
        IctlError: unknown kind, or a head the model does not have.
    """
    one_of("kind", kind, KINDS)
    mask = head_mask(model, heads)
    parts = []
    for rows in torch.from_numpy(windows).split(chunk):
        ids, kept = rows[:, :-1], None
        if kind == "pattern-preserving":
            kept = dict(enumerate(model.forward_with_cache(ids).patterns))
        resid = model.forward_with_cache(ids, patterns=kept, head_mask=mask).resid[-1]
        parts.append(each_loss(model.norm(resid).flatten(0, 1), model.W_U, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts).numpy()


def head_mask(model: Transformer, heads: Heads) -> Float[torch.Tensor, "layer head"]:
    """Ones, with zeros at ``heads``."""
    mask = torch.ones(model.cfg.n_layers, model.cfg.n_heads)
    for layer, head in heads:
        require(
            0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads,
            f"head L{layer}H{head} does not exist; the model has {model.cfg.n_layers} layers of {model.cfg.n_heads} heads.",
        )
        mask[layer, head] = 0.0
    return mask


def split_heads(scores: Float[np.ndarray, "layer head"], threshold: float = 0.3) -> tuple[Heads, Heads]:
    """Heads with a prefix-matching score above ``threshold``, and as many controls from the same layers.

    The controls are the lowest-scoring heads of each layer; where a layer has fewer others than induction
    heads, all others are taken.
    """
    found = [(int(layer), int(head)) for layer, head in np.argwhere(scores > threshold)]
    control: Heads = []
    for layer in sorted({layer for layer, _ in found}):
        n = sum(at == layer for at, _ in found)
        others = [int(h) for h in np.argsort(scores[layer]) if (layer, int(h)) not in found]
        control += [(layer, head) for head in others[:n]]
    return found, control
