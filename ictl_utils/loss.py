"""Next-token cross-entropy in nats, in chunks, so that [tokens, d_vocab] is never held at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 256  # rows of logits at a time: they stay in a core's cache


class _MeanLoss(torch.autograd.Function):
    """Both gradients are formed while a chunk of logits is at hand, instead of going over it twice."""

    @staticmethod
    def forward(ctx, x: Tensor, W_U: Tensor, targets: Tensor) -> Tensor:
        W_T = W_U.T.contiguous()  # products in this layout, and gradients gathered in it, run faster
        dx, dW_T, total = torch.empty_like(x), torch.zeros_like(W_T), x.new_zeros(())
        for at in range(0, len(targets), CHUNK):
            rows, right = x[at : at + CHUNK], targets[at : at + CHUNK, None]
            error = torch.softmax(rows @ W_U, dim=1)
            total -= error.gather(1, right).clamp_min(torch.finfo(error.dtype).tiny).log().sum()
            error.scatter_add_(1, right, error.new_full(right.shape, -1.0))  # the gradient at the logits
            torch.mm(error, W_T, out=dx[at : at + CHUNK])
            dW_T.addmm_(error.T, rows)
        n = len(targets)
        ctx.save_for_backward(dx.div_(n), dW_T.div_(n).T)
        return total / n

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        dx, dW = ctx.saved_tensors
        return dx * grad, dW * grad, None


def mean_loss(x: Float[Tensor, "n d_model"], W_U: Float[Tensor, "d_model d_vocab"], targets: Int[Tensor, "n"]
              ) -> Float[Tensor, ""]:
    """Mean cross-entropy of ``x @ W_U`` against ``targets``, in nats, with exact gradients (fp32)."""
    return _MeanLoss.apply(x, W_U, targets)


def each_loss(x: Float[Tensor, "n d_model"], W_U: Float[Tensor, "d_model d_vocab"], targets: Int[Tensor, "n"]
              ) -> Float[Tensor, "n"]:
    """Cross-entropy of every row, in nats; no gradient."""
    with torch.no_grad():
        parts = [
            torch.nn.functional.cross_entropy((rows @ W_U).float(), right, reduction="none")
            for rows, right in zip(x.split(CHUNK), targets.split(CHUNK), strict=True)
        ]
    return torch.cat(parts)
