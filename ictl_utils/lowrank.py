"""Matrices of low rank kept as two thin factors (P2, "Low-rank tricks"): vocabulary x vocabulary is never formed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """The matrix ``left @ right``, kept as its thin factors; leading axes are a batch."""

    left: Float[Tensor, "... row rank"]
    right: Float[Tensor, "... rank column"]

    @property
    def T(self) -> LowRank:
        """Transpose."""
        return LowRank(self.right.mT, self.left.mT)

    def __matmul__(self, other: LowRank) -> LowRank:
        """Product; its rank is the smaller of the two."""
        inner = self.right @ other.left
        if inner.shape[-2] <= inner.shape[-1]:
            return LowRank(self.left, inner @ other.right)
        return LowRank(self.left @ inner, other.right)

    def dense(self) -> Float[Tensor, "... row column"]:
        """The whole matrix."""
        return self.left @ self.right

    def eigenvalues(self) -> Complex[Tensor, "... rank"]:
        """Those that can differ from 0, from the small product: AB and BA share them (P2, "Low-rank tricks")."""
        return torch.linalg.eigvals(self.right @ self.left)

    def trace(self) -> Float[Tensor, "..."]:
        """Sum of the diagonal, which is the sum of the eigenvalues."""
        return (self.left * self.right.mT).sum((-2, -1))

    def norm(self) -> Float[Tensor, "..."]:
        """Frobenius norm, from the triangular factors of both sides."""
        return torch.linalg.matrix_norm(triangle(self.left) @ triangle(self.right.mT).mT)


def triangle(thin: Float[Tensor, "... row rank"]) -> Float[Tensor, "... rank rank"]:
    """R of thin = QR: as long as ``thin`` in every product with a further matrix (Frobenius norm)."""
    return torch.linalg.qr(thin, mode="r")[1]


def positivity(eigenvalues: Complex[Tensor, "... n"]) -> Float[np.ndarray, "..."]:
    """Sum of eigenvalues over the sum of their sizes: 1 all positive, -1 all negative; 0 for a zero matrix."""
    return (eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1).clamp_min(1e-30)).numpy()
