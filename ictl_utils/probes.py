"""Further measurements on one snapshot: losses at few positions, losses by kind of token, repeats, where heads rest."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .config import require
from .loss import each_loss
from .metrics import Losses, Windows, checked
from .model import Transformer
from .tokens import BOS

KINDS_OF_TOKEN = ("new", "repeated", "mismatch")


@torch.no_grad()
def losses_at(model: Transformer, windows: Windows, positions: Int[np.ndarray, "chosen"], chunk: int = 64
              ) -> Float[np.ndarray, "window chosen"]:
    """Loss, nats, at the chosen query positions only: equal to columns of ``metrics.token_losses``, and faster.

    In the last layer only those queries are computed, and only they are unembedded. The residual streams
    of earlier layers are needed at all positions.

    Raises:
        IctlError: a position outside the windows, or windows that the model cannot read.
    """
    at, n_ctx = torch.as_tensor(positions), windows.shape[1] - 1
    require(len(at) > 0 and 0 <= int(at.min()) and int(at.max()) < n_ctx,
            f"positions {positions} do not fit windows of {n_ctx} tokens; choose from 0 to {n_ctx - 1}.")  # fmt: skip
    if len(windows):
        checked(model, windows)
    if model.cfg.n_layers == 0:
        return _unembedded(model, model.embed(torch.from_numpy(windows[:, :-1]))[:, at], windows, at)
    visible = torch.arange(n_ctx) <= at[:, None]
    parts = []
    for rows in torch.from_numpy(windows).split(chunk):
        *early, last = model.layers()
        resid = model.embed(rows[:, :-1])
        for w in early:
            resid = resid + _attention(*model.qkv(resid, w), w, None)
            resid = resid + model.mlp(resid, w) if model.cfg.mlp else resid
        q, k, v = model.qkv(resid, last)
        some = resid[:, at] + _attention(q[:, :, at], k, v, last, visible)
        some = some + model.mlp(some, last) if model.cfg.mlp else some
        parts.append(_unembedded(model, some, rows.numpy(), at))
    return np.concatenate(parts)


def _attention(q: Tensor, k: Tensor, v: Tensor, w: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return z.transpose(1, 2).flatten(2) @ w["W_O"].flatten(0, 1)


def _unembedded(model: Transformer, some: Tensor, windows: Windows, at: Tensor) -> Float[np.ndarray, "window chosen"]:
    targets = torch.from_numpy(windows)[:, 1:][:, at]
    return each_loss(model.read_out(some).flatten(0, 1), model.W_U, targets.flatten()).view(targets.shape).numpy()


def kinds_of_token(windows: Windows) -> Int[np.ndarray, "window pos"]:
    """What each next token is to a copying rule, as an index of :data:`KINDS_OF_TOKEN`.

    ``new``: the current token was not seen before in the window. ``repeated``: it was, and once the same
    token followed. ``mismatch``: it was, and something else followed each time (P1, Argument 1).
    """
    ids, targets = windows[:, :-1], windows[:, 1:]
    same = (ids[:, :, None] == ids[:, None, :]) & (ids != BOS)[:, :, None] & np.tri(ids.shape[1], k=-1, dtype=bool)
    seen = same.any(axis=2)
    again = (same & (targets[:, :, None] == targets[:, None, :])).any(axis=2)
    return np.where(again, 1, np.where(seen, 2, 0))


def losses_by_kind(losses: Losses, kinds: Int[np.ndarray, "window pos"]) -> dict[str, float]:
    """Mean loss, nats, over the tokens of each kind."""
    return {name: float(losses[kinds == i].mean()) for i, name in enumerate(KINDS_OF_TOKEN)}


@torch.no_grad()
def repeats(model: Transformer, probe: Int[Tensor, "n pos"], blocks: int) -> dict[str, float]:
    """On ``<bos>`` and a block of random tokens, ``blocks`` times (three or more): losses and accuracy.

    Returns:
        ``first_nats``, ``second_nats`` and ``later_nats`` (mean loss of predicting a token of the first block,
        of the second, and of all later ones; from the second token of a block on), ``accuracy`` (share of the
        third block's tokens, from the second on, that are the top prediction; P2, "Induction heads").
    """
    length, rest = divmod(probe.shape[1] - 1, blocks)
    require(blocks >= 3 and rest == 0 and length >= 2,
            f"a probe of <bos> and {probe.shape[1] - 1} tokens is not {blocks} blocks of two or more, at least three.")
    logits = model(probe[:, :-1])
    targets = probe[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").view(len(probe), blocks, length)
    hits = (logits.argmax(dim=-1) == targets).float().view(len(probe), blocks, length)
    return {"first_nats": float(losses[:, 0, 1:].mean()), "second_nats": float(losses[:, 1, 1:].mean()),
            "later_nats": float(losses[:, 1:, 1:].mean()), "accuracy": float(hits[:, 2, 1:].mean())}  # fmt: skip


@torch.no_grad()
def resting(model: Transformer, probe: Int[Tensor, "n pos"], blocks: int) -> Float[np.ndarray, "layer head"]:
    """Mean attention to ``<bos>`` from the first block of a repeated probe: nothing matches (P2, "Induction heads")."""
    length = (probe.shape[1] - 1) // blocks
    patterns = model.forward_with_cache(probe[:, : length + 1]).patterns
    return _stack([p[:, :, 1:, 0].mean(dim=(0, 2)) for p in patterns], model)


@torch.no_grad()
def present_token(model: Transformer, windows: Windows) -> Float[np.ndarray, "layer head"]:
    """Mean attention from each position to itself, on text (0 to 1)."""
    patterns = model.forward_with_cache(torch.from_numpy(windows[:, :-1])).patterns
    return _stack([p.diagonal(dim1=2, dim2=3)[..., 1:].mean(dim=(0, 2)) for p in patterns], model)


def _stack(rows: list[Tensor], model: Transformer) -> Float[np.ndarray, "layer head"]:
    return np.array([row.numpy() for row in rows]).reshape(model.cfg.n_layers, model.cfg.n_heads)
