"""Heads with an idealised attention pattern in place of their own (P1, replication by Scherlis et al.)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .ablations import Heads, head_mask, losses_without
from .config import require
from .loss import each_loss
from .metrics import Losses, Windows, earlier_successors
from .model import Transformer, attention_pattern

Ids = Int[Tensor, "batch pos"]
Pattern = Float[Tensor, "batch pos pos"]


def previous_token_pattern(ids: Ids) -> Pattern:
    """All attention on the position before; position 0 attends to itself."""
    n = ids.shape[1]
    return F.one_hot((torch.arange(n) - 1).clamp_min(0), n).float().expand(len(ids), n, n)


def literal_match_pattern(ids: Ids, recent: bool = False) -> Pattern:
    """Attention [B] in [A][B]...[A]: even over the successors of earlier occurrences, else on position 0.

    Args:
        recent: all attention on the most recent successor instead.
    """
    return _attend_to([earlier_successors(ids)], recent)


def two_token_match_pattern(ids: Ids, recent: bool = False) -> Pattern:
    """Attention on [C] in [A][B][C]...[A][B]; without such a match as :func:`literal_match_pattern`."""
    one = earlier_successors(ids)
    before = F.pad(one, (1, -1, 1, -1))  # the same of the tokens before: one row down, one column right
    return _attend_to([one & before, one], recent)


def _attend_to(choices: list[Bool[Tensor, "batch pos pos"]], recent: bool) -> Pattern:
    """Each query attends to the positions of the first choice that has any for it, else to position 0."""
    first = torch.zeros_like(choices[0])
    first[:, :, 0] = True
    target = first
    for choice in reversed(choices):
        target = torch.where(choice.any(dim=-1, keepdim=True), choice, target)
    if recent:
        last = target.shape[-1] - 1 - target.flip(-1).int().argmax(dim=-1)
        return F.one_hot(last, target.shape[-1]).float()
    return target / target.sum(dim=-1, keepdim=True)


@torch.no_grad()
def losses_replaced(
    model: Transformer, windows: Windows, heads: Heads, pattern_fn: Callable[[Ids], Pattern], chunk: int = 32
) -> Losses:
    """Loss of every next token, nats, with the patterns of ``heads`` replaced; all that is later sees the change.

    Raises:
        IctlError: a head the model does not have, or a pattern of the wrong shape.
    """
    replaced = head_mask(model, heads) == 0
    parts = []
    for rows in torch.from_numpy(windows).split(chunk):
        ids, ideal = rows[:, :-1], pattern_fn(rows[:, :-1])
        expected = (len(ids), ids.shape[1], ids.shape[1])
        require(tuple(ideal.shape) == expected, f"pattern has shape {tuple(ideal.shape)}; expected {expected}.")
        resid = model.embed(ids)
        for layer, w in enumerate(model.layers()):
            q, k, v = model.qkv(resid, w)
            pattern = torch.where(replaced[layer, :, None, None], ideal[:, None], attention_pattern(q, k))
            resid = resid + (pattern @ v @ w["W_O"]).sum(dim=1)
            resid = resid + model.mlp(resid, w) if model.cfg.mlp else resid
        x = model.read_out(resid)
        parts.append(each_loss(x.flatten(0, 1), model.W_U, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts).numpy()


def recovered(model: Transformer, windows: Windows, heads: Heads, pattern_fn: Callable[[Ids], Pattern]) -> float:
    """Share of the loss lost without ``heads`` (full ablation, zero, together) that an idealised pattern keeps.

    (ablated - replaced) / (ablated - intact): 1 where the idealised heads are as good, above 1 where they are
    better, below 0 where they are worse than none. Means nothing for heads whose ablation hardly matters.

    Raises:
        IctlError: as :func:`losses_replaced`, or ablating ``heads`` changes nothing at all.
    """
    intact, ablated = (float(losses_without(model, windows, gone, "full").mean()) for gone in ([], heads))
    require(ablated != intact, f"ablating {heads} changes no loss, so that there is nothing to recover.")
    replaced = float(losses_replaced(model, windows, heads, pattern_fn).mean())
    return (ablated - replaced) / (ablated - intact)
