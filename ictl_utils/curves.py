"""Curves over training: where a score falls, and the paths of loss vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from .config import require


def loss_pca(vectors: list[Float[np.ndarray, "snap example"]]
             ) -> tuple[list[Float[np.ndarray, "snap 2"]], Float[np.ndarray, "2"]]:
    """Paths of several models in the first two principal components of all their loss vectors together.

    Returns:
        One path a model, and the share of variance of each component (P1, Argument 1; columns centred).

    Raises:
        IctlError: fewer than two loss vectors or two examples, or vectors of different lengths.
    """
    shapes = sorted({np.shape(rows)[1:] for rows in vectors})
    require(len(shapes) == 1 and len(shapes[0]) == 1, f"loss vectors have shapes {shapes}; all need one length.")
    n = sum(len(rows) for rows in vectors)
    require(min(n, *shapes[0]) >= 2, f"{n} loss vectors of {shapes[0][0]} examples have no two components.")
    from sklearn.decomposition import PCA  # slow to import

    pca = PCA(n_components=2, svd_solver="full").fit(np.concatenate(vectors))
    return [pca.transform(rows) for rows in vectors], pca.explained_variance_ratio_


# ---- the phase change -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Phase change of one run, in training tokens."""

    start: float
    end: float
    steepest: float
    ten_ninety: tuple[float, float]  # where 10 % and 90 % of the whole change have happened


def phase_change(
    tokens: Int[np.ndarray, "snap"], score: Float[np.ndarray, "snap"], smooth: float = 0.02, share: float = 0.15,
    stretch: float = 0.1,
) -> Window:
    """Where a score falls most: the interval around its steepest point with over 15 % of the slope there.

    The score is read off on 500 equal steps of the run and smoothed with a Gaussian of width ``smooth``
    of the run. The steepest point is looked for inside the stretch, as long as ``stretch`` of the run, over
    which the score falls most: at the very start of training, while the loss falls fastest, every score swings
    a little, but steeply. The paper gives no formula; this is our rule, the same for every model. It always finds a
    window: whether anything formed there is another question.

    Raises:
        IctlError: fewer than four snapshots, or a score that is no number.
    """
    require(len(tokens) >= 4, f"{len(tokens)} snapshots are too few to find a phase change; use at least 4.")
    require(bool(np.isfinite(score).all()), f"the score of {(~np.isfinite(score)).sum()} snapshots is no number; leave "
                                            "them out, tokens too.")
    grid, curve = smooth_curve(tokens, score, smooth)
    slope, long = -np.gradient(curve, grid), round(stretch * len(grid))
    first = int((curve[:-long] - curve[long:]).argmax())
    peak = first + int(slope[first : first + long + 1].argmax())
    below = np.flatnonzero(slope <= share * slope[peak])
    left, right = below[below < peak], below[below > peak]
    start, end = (left[-1] if len(left) else 0), (right[0] if len(right) else len(grid) - 1)
    done = (curve - curve[0]) / (curve[-1] - curve[0] or 1.0)
    ten, ninety = (float(grid[int((done >= part).argmax())]) for part in (0.1, 0.9))
    return Window(float(grid[start]), float(grid[end]), float(grid[peak]), (ten, ninety))


def smooth_curve(tokens: Int[np.ndarray, "snap"], score: Float[np.ndarray, "snap"], smooth: float = 0.02
                 ) -> tuple[Float[np.ndarray, "step"], Float[np.ndarray, "step"]]:
    """Tokens and score at 500 equal steps of the run, smoothed with a Gaussian of width ``smooth`` of it."""
    grid = np.linspace(tokens[0], tokens[-1], 500)
    return grid, _gaussian(np.interp(grid, tokens, score), smooth * len(grid))


def _gaussian(x: Float[np.ndarray, "n"], sigma: float) -> Float[np.ndarray, "n"]:
    half = int(4 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return np.convolve(np.pad(x, half, mode="edge"), kernel / kernel.sum(), mode="valid")


def crossing(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], level: float) -> float:
    """Where ``y`` first reaches ``level`` from below, linear between the points; infinite if it never does."""
    at = np.flatnonzero(y >= level)
    if not len(at) or at[0] == 0:
        return float(x[0]) if len(at) else float("inf")
    i = int(at[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (level - y[i - 1]) / (y[i] - y[i - 1]))
