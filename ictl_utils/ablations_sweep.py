"""Every head taken out, one at a time, exactly and fast (P1, Argument 3: over 50,000 such ablations).

What :func:`ictl_utils.ablations.losses_without` would give for each head, kind and fill, with less work:

- a run starts at the layer of the head, from what the intact model has computed;
- all heads of a layer, under all fills, are one batch;
- with patterns kept, later layers need neither queries nor keys nor softmax;
- in the last layer, and in the unembedding, only the positions asked for are computed;
- in the last layer both kinds are the same. Without an MLP there, LayerNorm centres, which is linear, and
  divides by one number a token, so that one product with W_U serves all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .ablations import FILLS, KINDS, stand_in
from .ablations_streams import Runner
from .config import one_of, require
from .loss import each_loss
from .metrics import Windows
from .model import Transformer

Range = tuple[int, int]


@dataclass(frozen=True)
class Sweep:
    """Losses in nats at some query positions, intact and with each head taken out."""

    kinds: tuple[str, ...]
    fills: tuple[str, ...]
    positions: Int[np.ndarray, "position"]
    intact: Float[np.ndarray, "window position"]
    losses: Float[np.ndarray, "kind fill layer head window position"]

    def columns(self, span: Range) -> Int[np.ndarray, "n"]:
        """Where the positions of a half-open range are stored.

        Raises:
            IctlError: an empty range, or one of its positions was not swept.
        """
        found = np.flatnonzero((self.positions >= span[0]) & (self.positions < span[1]))
        require(0 < len(found) == span[1] - span[0],
                f"positions {span[0]} to {span[1] - 1} were not all swept; pass them to sweep().")
        return found


@dataclass(frozen=True)
class Effects:
    """What taking a head out changes, ablated minus intact, nats."""

    icl: Float[np.ndarray, "kind fill layer head"]  # of the ICL score: positive for a head that helps
    icl_se: Float[np.ndarray, "kind fill layer head"]  # standard error over windows, each against itself
    loss: Float[np.ndarray, "kind fill layer head"]  # mean over all swept positions
    loss_se: Float[np.ndarray, "kind fill layer head"]
    along: Float[np.ndarray, "kind fill layer head"] | None  # negative: undoes what ``vector`` did


@torch.no_grad()
def sweep(
    model: Transformer, windows: Windows, positions: Sequence[int] | Int[np.ndarray, "position"],
    kinds: Sequence[str] = KINDS, fills: Sequence[str] = ("zero",), chunk: int = 8,
) -> Sweep:
    """Losses of ``windows`` at ``positions`` with each head of ``model`` taken out, one at a time.

    Args:
        positions: of queries, in rising order, the same in every window.
        kinds, fills: as for :func:`ictl_utils.ablations.losses_without`.
        chunk: windows times fills at a time; small, so that what is computed stays in a core's cache.

    Raises:
        IctlError: unknown kind or fill, positions outside the windows or out of order, or one window to
            resample from.
    """
    for kind in kinds:
        one_of("kind", kind, KINDS)
    for fill in fills:
        one_of("fill", fill, FILLS)
    at = _checked(positions, windows.shape[1] - 1)
    rows = torch.from_numpy(windows)[:, : int(at[-1]) + 2]
    model.check(rows[:, :-1])
    chunk = max(1, chunk // len(fills))
    right, run = rows[:, at + 1], Runner(model, at, chunk)
    resid, mid, z = run.intact(rows[:, :-1])
    cfg = model.cfg
    found = np.empty((len(kinds), len(fills), cfg.n_layers, cfg.n_heads, *right.shape), dtype=np.float32)
    deltas = [torch.cat([stand_in(layer, fill) - layer for fill in fills], dim=2) for layer in z]
    for part in torch.arange(len(rows)).split(chunk):
        part = slice(int(part[0]), int(part[-1]) + 1)
        run.keep_patterns([layer[part] for layer in resid[:-1]] if "pattern-preserving" in kinds else [])
        for layer in range(cfg.n_layers):
            for k, losses in enumerate(run.losses(layer, mid[layer][part], deltas[layer][part], right[part], kinds)):
                losses = losses.unflatten(2, (len(fills), cfg.n_heads)).permute(2, 3, 0, 1)
                found[k, :, layer, :, part] = losses.numpy()
    x = model.read_out(resid[-1] if cfg.n_layers else resid[0][:, at])
    intact = each_loss(x.flatten(0, 2), model.W_U, right.flatten()).view(right.shape).numpy()
    return Sweep(tuple(kinds), tuple(fills), at.numpy(), intact, found)


def effects(sweep: Sweep, late: Range, early: Range, vector: Float[np.ndarray, "window position"] | None = None
            ) -> Effects:
    """Changes of the ICL score and the loss by each head, and of the losses along a direction (P1, appendix).

    Args:
        late, early: half-open ranges of positions; the score is the mean loss of ``late`` minus ``early``.
        vector: losses after the phase change minus before, at the same windows and positions; of any length,
            it is divided by it. A head the phase change made has a negative product with it.

    Raises:
        IctlError: a position that was not swept, or a vector of another shape or without length.
    """
    change = sweep.losses.astype(np.float64) - sweep.intact
    each = change[..., sweep.columns(late)].mean(-1) - change[..., sweep.columns(early)].mean(-1)
    along = None
    if vector is not None:
        require(vector.shape == sweep.intact.shape and bool(np.linalg.norm(vector) > 0),
                f"vector has shape {vector.shape}; expected {sweep.intact.shape}, and not only zeros.")
        along = (change * (vector / np.linalg.norm(vector))).sum((-2, -1))
    loss = change.mean(-1)
    return Effects(each.mean(-1), _standard_error(each), loss.mean(-1), _standard_error(loss), along)


def _standard_error(x: Float[np.ndarray, "... window"]) -> Float[np.ndarray, "..."]:
    return x.std(axis=-1, ddof=1) / np.sqrt(x.shape[-1])


def _checked(positions: Sequence[int], n_ctx: int) -> Int[Tensor, "position"]:
    at = torch.as_tensor(np.asarray(positions, dtype=np.int64))
    require(at.ndim == 1 and len(at) > 0 and bool((at.diff() > 0).all()),
            f"positions={positions!r} must be one or more positions, each once, in rising order.")
    require(0 <= int(at[0]) and int(at[-1]) < n_ctx,
            f"positions {int(at[0])} to {int(at[-1])} do not fit windows of {n_ctx} tokens; use 0..{n_ctx - 1}.")
    return at
