"""Muon, as one labelled variant: momentum made orthogonal for the layers' matrices, AdamW for the rest."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

SIDE_BY_SIDE = ("W_Q", "W_K", "W_V")  # [layer, head, d_model, d_head]: heads stand side by side
STACKED = (*SIDE_BY_SIDE, "W_O", "W_in", "W_out")
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published with Muon


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on stacked matrices, one d_model-wide matrix a layer; AdamW elsewhere.

    Momentum 0.95 with Nesterov's look-ahead. An orthogonal update is scaled to a root mean square entry of
    0.2, about that of AdamW, so that one learning rate serves both (Liu et al. 2025).
    """

    def __init__(self, model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        named = list(model.named_parameters())
        super().__init__([p for _, p in named], {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.names = {p: name for name, p in named}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                rule = self._matrix if self.names[p] in STACKED else self._adam
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(rule(p, group), alpha=-group["lr"])

    def _matrix(self, p: Tensor, group: dict) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        ahead = p.grad.lerp(state["momentum_buffer"].lerp_(p.grad, 0.05), 0.95)
        beside = self.names[p] in SIDE_BY_SIDE
        update = orthogonal(ahead.transpose(1, 2).flatten(2) if beside else ahead.flatten(1, -2))
        update = update * 0.2 * max(update.shape[1:]) ** 0.5
        return update.unflatten(2, p.shape[1::2]).transpose(1, 2) if beside else update.view_as(p)

    def _adam(self, p: Tensor, group: dict) -> Tensor:
        state, (b1, b2) = self.state[p], group["betas"]
        if not state:
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        state["exp_avg"].lerp_(p.grad, 1 - b1)
        state["exp_avg_sq"].lerp_(p.grad.square(), 1 - b2)
        t = state["step"].item()
        return state["exp_avg"] / (1 - b1**t) / ((state["exp_avg_sq"] / (1 - b2**t)).sqrt() + 1e-8)


def orthogonal(m: Float[Tensor, "layer rows cols"], steps: int = 5) -> Float[Tensor, "layer rows cols"]:
    """Nearly the closest matrix with singular values 1, by the Newton-Schulz iteration of Muon (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = m.shape[1] > m.shape[2]
    x = m.transpose(1, 2) if tall else m
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x
