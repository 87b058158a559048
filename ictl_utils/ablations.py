"""Knock heads out and see what is lost (P1, Argument 3)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from .config import one_of, require
from .loss import each_loss
from .metrics import Losses, Windows, icl_score
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
        x = model.read_out(model.forward_with_cache(ids, patterns=kept, head_mask=mask).resid[-1])
        parts.append(each_loss(x.flatten(0, 1), model.W_U, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts).numpy()


def head_mask(model: Transformer, heads: Heads) -> Float[torch.Tensor, "layer head"]:
    """Ones, with zeros at ``heads``."""
    mask = torch.ones(model.cfg.n_layers, model.cfg.n_heads)
    n_layers, n_heads = mask.shape
    for layer, head in heads:
        require(
            0 <= layer < n_layers and 0 <= head < n_heads,
            f"head L{layer}H{head} does not exist; the model has {n_layers} layers of {n_heads} heads.",
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


def knockout_table(
    model: Transformer, windows: Windows, scores: Float[np.ndarray, "layer head"], threshold: float = 0.3,
    kind: str = "pattern-preserving",
) -> list[dict[str, object]]:
    """ICL score and loss, nats: intact, without the induction heads, without as many others of their layers.

    Args:
        scores: prefix matching of each head; where none passes ``threshold``, the best head is taken.
    """
    found, control = split_heads(scores, min(threshold, float(scores.max()) - 1e-9))
    rows = []
    for name, heads in (("intact", []), ("without {}", found), ("without {} instead", control)):
        losses = losses_without(model, windows, heads, kind)
        score = icl_score(losses)
        label = name.format(", ".join(f"L{layer}H{head}" for layer, head in heads))
        rows.append({"name": label, "icl": score.value, "icl_se": score.se, "loss": float(losses.mean())})
    return rows
