"""Transformers written as one W_QK and one W_OV a layer: slots of the stream, the model, texts, where it looks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import ModelConfig, require
from .metrics import earlier_successors
from .model import Transformer

LOUD = 10.0  # what W_U multiplies the output slot by


@dataclass(frozen=True)
class Layout:
    """Which dimensions of the residual stream hold what: four slots, one after the other.

    ``W_E`` writes a token as a one-hot vector into ``token``, ``W_pos`` a position into ``position``; ``W_U`` reads
    ``out``. ``spare`` is empty: it has ``d_vocab`` dimensions, or ``n_ctx`` with ``pointer``.
    """

    d_vocab: int
    n_ctx: int
    pointer: bool = False

    @property
    def position(self) -> slice:
        return slice(0, self.n_ctx)

    @property
    def token(self) -> slice:
        return slice(self.n_ctx, self.n_ctx + self.d_vocab)

    @property
    def spare(self) -> slice:
        return slice(self.token.stop, self.token.stop + (self.n_ctx if self.pointer else self.d_vocab))

    @property
    def out(self) -> slice:
        return slice(self.spare.stop, self.spare.stop + self.d_vocab)

    @property
    def d_model(self) -> int:
        return self.out.stop


def layout(d_vocab: int, n_ctx: int, pointer: bool = False) -> Layout:
    """The slots of a hand-written model: ``layout(4, 8).token`` is a slice of the stream."""
    return Layout(d_vocab, n_ctx, pointer)


def build(at: Layout, W_QK: Float[Tensor, "layer d_model d_model"], W_OV: Float[Tensor, "layer d_model d_model"],
          alpha: float | None = None) -> Transformer:
    """A model of one head a layer with these two matrices, without LayerNorm and with learned positions.

    The head is as wide as the stream, so W_QK and W_OV may have any rank; scores are divided by sqrt(d_model).

    Args:
        alpha: smear the keys: sigmoid(alpha) of a key is its own, the rest is the key before.

    Raises:
        IctlError: shapes that do not fit ``at``.
    """
    d = at.d_model
    W_QK, W_OV = torch.as_tensor(W_QK).float(), torch.as_tensor(W_OV).float()
    for name, W in (("W_QK", W_QK), ("W_OV", W_OV)):
        require(W.ndim == 3 and tuple(W.shape) == (len(W_QK), d, d),
                f"{name} has shape {tuple(W.shape)}; expected (layers, {d}, {d}), the same layers for both.")
    cfg = ModelConfig(n_layers=len(W_QK), d_model=d, n_heads=1, n_ctx=at.n_ctx, d_vocab=at.d_vocab, norm=False,
                      positions="learned", smear="none" if alpha is None else "key")  # fmt: skip
    model = Transformer(cfg).requires_grad_(False).eval()
    model.W_Q[:, 0], model.W_V[:, 0] = W_QK, W_OV
    model.W_K[:], model.W_O[:] = torch.eye(d), torch.eye(d)
    for weight, slot in ((model.W_E, at.token), (model.W_pos, at.position), (model.W_U.T, at.out)):
        weight.zero_()
        weight[:, slot] = torch.eye(len(weight))
    model.W_U *= LOUD
    if alpha is not None:
        model.alpha.fill_(float(alpha))
    return model


def random_text(d_vocab: int, n_ctx: int, n: int = 6, seed: int = 0) -> Int[Tensor, "n pos"]:
    """Random tokens after ``<bos>``: repeats at any distance."""
    found = torch.randint(1, d_vocab, (n, n_ctx), generator=torch.Generator().manual_seed(seed))
    found[:, 0] = 0
    return found


def repeated_text(d_vocab: int, n_ctx: int) -> Int[Tensor, "1 pos"]:
    """``<bos>``, then all other tokens in order, again and again."""
    return torch.tensor([[0] + [1 + i % (d_vocab - 1) for i in range(n_ctx - 1)]])


def where_it_looks(text: Int[Tensor, "n pos"], pattern: Float[Tensor, "n pos pos"], repeats: bool = True
                   ) -> dict[str, float]:
    """Mean attention on several places: on the position itself, on what followed the token earlier, and so on.

    Args:
        repeats: over tokens that occurred before; else over all positions but the first.
    """
    n, after = text.shape[1], earlier_successors(text)
    same = (text[:, :, None] == text[:, None, :]) & torch.ones(n, n, dtype=torch.bool).tril(-1)
    itself, before = (torch.ones(n, n, dtype=torch.bool).tril(-k).triu(-k).expand_as(after) for k in (0, 1))
    asked = after.any(-1) if repeats else before.any(-1)
    places = {"the tokens after earlier occurrences": after, "earlier occurrences of the token": same,
              "the position itself": itself, "the position before": before}  # fmt: skip
    return {name: float((pattern * place).sum(-1)[asked].mean()) for name, place in places.items()}
