"""Transformers whose weights are set by formula: their scores are known before they are measured.

The residual stream has three slots of ``d_vocab`` one-hot dimensions: the token, the token before it,
and the output. Sinusoids are added to what W_Q and W_K read; the slots sit where those hardly turn, the
positional heads read where they turn fastest.
"""

from __future__ import annotations

import torch

from .config import ModelConfig, require
from .model import Transformer

D_MODEL, N_HEADS, HALF = 1024, 2, 512
FAST = 96  # frequencies the positional heads use
LARGEST = 192  # ids that fit a slot
TOKEN, BEFORE, OUTPUT = HALF - LARGEST, 2 * HALF - LARGEST, HALF - 2 * LARGEST  # first dimension of each slot
SIZE = 10.0  # length of a one-hot vector in a slot


def induction_model(d_vocab: int = LARGEST, n_ctx: int = 128) -> Transformer:
    """Two layers: L0H0 attends to the previous token, L1H0 is an induction head (P2, "Induction heads").

    L0H0 copies the token before into the second slot. L1H0 compares its token with that slot of every
    key (K-composition) and copies the token it finds to the output; without a match it attends to itself.

    Raises:
        IctlError: more ids than fit a slot.
    """
    model = _blank(2, d_vocab, n_ctx)
    _attend_back(model, 0, 0, offset=1, strength=8.0)
    _copy(model, 0, 0, TOKEN, BEFORE, d_vocab)
    _match(model, 1, 0, TOKEN, BEFORE, d_vocab, strength=12.0)
    _attend_back(model, 1, 0, offset=0, strength=8.0)
    _copy(model, 1, 0, TOKEN, OUTPUT, d_vocab)
    return model


def matching_model(d_vocab: int = LARGEST, n_ctx: int = 128) -> Transformer:
    """One layer, L0H0 matches its token with earlier tokens and copies: without a layer below, no induction."""
    model = _blank(1, d_vocab, n_ctx)
    _match(model, 0, 0, TOKEN, TOKEN, d_vocab, strength=12.0)
    _copy(model, 0, 0, TOKEN, OUTPUT, d_vocab)
    return model


def fixed_offset_model(offset: int, d_vocab: int = LARGEST, n_ctx: int = 128) -> Transformer:
    """One layer, L0H0 attends ``offset`` positions back whatever the tokens: it counts, it does not match."""
    model = _blank(1, d_vocab, n_ctx)
    _attend_back(model, 0, 0, offset=offset, strength=8.0)
    _copy(model, 0, 0, TOKEN, OUTPUT, d_vocab)
    return model


def _blank(n_layers: int, d_vocab: int, n_ctx: int) -> Transformer:
    require(d_vocab <= LARGEST, f"d_vocab={d_vocab} does not fit the hand-built model; use at most {LARGEST}.")
    model = Transformer(ModelConfig(n_layers=n_layers, d_model=D_MODEL, n_heads=N_HEADS, n_ctx=n_ctx,
                                    d_vocab=d_vocab, norm=False))  # fmt: skip
    model.requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    model.W_E[:, TOKEN : TOKEN + d_vocab] = SIZE * torch.eye(d_vocab)
    model.W_U[OUTPUT : OUTPUT + d_vocab] = torch.eye(d_vocab)
    return model.eval()


def _attend_back(model: Transformer, layer: int, head: int, offset: int, strength: float) -> None:
    """Add a preference for the key ``offset`` positions back: queries turned by ``offset``, keys as they are."""
    sin, cos = torch.arange(FAST), HALF + torch.arange(FAST)
    into = model.cfg.d_head - 2 * FAST + torch.arange(FAST)  # matching uses the first dimensions of the head
    turn = offset * model.angles.new_tensor(10_000.0) ** (-sin / HALF)
    W_Q, W_K = model.W_Q[layer, head], model.W_K[layer, head]
    s, c = into, into + FAST
    W_Q[sin, s], W_Q[cos, s] = strength * turn.cos(), -strength * turn.sin()  # sin(a - t)
    W_Q[cos, c], W_Q[sin, c] = strength * turn.cos(), strength * turn.sin()  # cos(a - t)
    W_K[sin, s], W_K[cos, c] = torch.ones(FAST), torch.ones(FAST)


def _match(model: Transformer, layer: int, head: int, query: int, key: int, d_vocab: int, strength: float) -> None:
    """Add strength * (query's slot . key's slot)."""
    for i in range(d_vocab):
        model.W_Q[layer, head, query + i, i] = strength
        model.W_K[layer, head, key + i, i] = 1.0


def _copy(model: Transformer, layer: int, head: int, source: int, target: int, d_vocab: int) -> None:
    """W_OV from one slot to another."""
    for i in range(d_vocab):
        model.W_V[layer, head, source + i, i] = 1.0
        model.W_O[layer, head, i, target + i] = 1.0
