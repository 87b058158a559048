"""Which coordinates matter: the basis of a head, that of the residual stream, and how many directions are used (P2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .circuits import fold
from .config import require
from .metrics import Windows
from .model import Transformer


@torch.no_grad()
def change_basis(model: Transformer, seed: int = 0) -> Transformer:
    """The same model, each head's queries and keys, and its values, written in another random basis.

    W_Q M and W_K M^-T have the same W_QK; W_V N and N^-1 W_O the same W_OV (P2, "Privileged basis").

    Raises:
        IctlError: rotary positions, which turn given coordinates of queries and keys.
    """
    require(model.cfg.positions != "rotary", "rotary positions tie queries and keys to their coordinates.")
    other, generator = Transformer(model.cfg).to(model.W_E.dtype), torch.Generator().manual_seed(seed)
    other.load_state_dict(model.state_dict())
    shape = (*model.W_Q.shape[:2], model.cfg.d_head, model.cfg.d_head)
    M, N = (torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(model.W_E.dtype)
            + 4 * torch.eye(model.cfg.d_head, dtype=model.W_E.dtype)).unbind()
    other.W_Q.copy_(model.W_Q @ M)
    other.W_K.copy_(model.W_K @ torch.linalg.inv(M).mT)
    other.W_V.copy_(model.W_V @ N)
    other.W_O.copy_(torch.linalg.inv(N) @ model.W_O)
    return other.eval().requires_grad_(False)


@torch.no_grad()
def basis_kurtosis(x: Float[Tensor, "... d_model"], n: int = 5, seed: int = 0) -> tuple[float, float]:
    """Kurtosis of the coordinates of a vector, mean over vectors: as they are, and after ``n`` random rotations.

    About 3 where no basis is special; more where single coordinates stand out (P2, "Privileged basis").
    """
    flat = x.flatten(0, -2)
    flat = flat - flat.mean(-1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    turns = torch.randn(n, flat.shape[1], flat.shape[1], generator=generator, dtype=torch.float64).to(flat.dtype)
    turned = [_kurtosis(flat @ torch.linalg.qr(turn)[0]) for turn in turns]
    return _kurtosis(flat), sum(turned) / n


def _kurtosis(flat: Float[Tensor, "vector d_model"]) -> float:
    return float((flat.pow(4).mean(1) / flat.pow(2).mean(1).square()).mean())


@torch.no_grad()
def largest_coordinate(model: Transformer, windows: Windows, counts: Int[np.ndarray, "d_vocab"]) -> dict[str, float]:
    """The coordinate of the final residual stream with the largest mean size, and what it could be for.

    Returns:
        ``coordinate``; ``ratio``, its size over that of the median coordinate; ``steadiness``, its mean over its
        standard deviation; ``kurtosis_without`` it; ``frequency``, the correlation of its row of W_U with the log of
        how often each token occurs (``counts``, half a count added); and the mean ``loss`` in nats, also with the
        coordinate held ``at_mean`` and ``at_zero`` where W_U reads it.
    """
    ids, after = torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:])
    stream = model.trunk(ids)
    centred = stream - stream.mean(-1, keepdim=True)
    sizes = centred.abs().mean((0, 1))
    i, read = int(sizes.argmax()), model.read_out(stream)
    loss = lambda x: float(F.cross_entropy((x @ model.W_U).flatten(0, 1), after.flatten()))  # noqa: E731
    others = torch.arange(len(sizes)) != i
    held = read.clone()
    held[..., i] = read[..., i].mean()
    row = (model.W_U - model.W_U.mean(1, keepdim=True))[i].numpy()
    return {
        "coordinate": i, "ratio": float(sizes[i] / sizes.median()),
        "steadiness": float(centred[..., i].mean().abs() / centred[..., i].std()),
        "kurtosis_without": _kurtosis(centred[..., others].flatten(0, 1)),
        "frequency": float(np.corrcoef(row, np.log(counts + 0.5))[0, 1]),
        "loss": loss(read), "at_mean": loss(held), "at_zero": loss(read * others),
    }  # fmt: skip


@torch.no_grad()
def spectra(model: Transformer, ids: Int[np.ndarray, "n"]) -> dict[str, Float[np.ndarray, "d_model"]]:
    """Share of the squared length of W_E and W_U in each singular direction, largest first, for the tokens ``ids``.

    Folded: LayerNorm of each embedding, and gains; the mean over tokens is taken off both.
    """
    W = fold(model)
    E, U = W.W_E[ids], W.W_U[:, ids]
    values = {"W_E": torch.linalg.svdvals(E - E.mean(0)), "W_U": torch.linalg.svdvals(U - U.mean(1, keepdim=True))}
    return {name: (s.square() / s.square().sum()).numpy() for name, s in values.items()}
