"""The residual stream of a running model: who writes it, who reads whom, and how linear a frozen model is (P2).

Attention-only models. "Frozen" means: attention patterns, and the scale in every LayerNorm, held at the values
the model itself computed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .circuits import fold
from .circuits_paths import Ids, Path, Stream, check_attention_only, frozen_read, frozen_scale, path_sum_logits
from .config import require
from .metrics import Windows
from .model import Cache, Transformer

READS = {"queries": "W_Q", "keys": "W_K", "values": "W_V"}
EMBEDDING, POSITIONS = "embedding", "positions"


def head_name(layer: int, head: int) -> str:
    """``L1H2``."""
    return f"L{layer}H{head}"


def path_name(path: Path) -> str:
    """``direct``, ``L0H1`` or ``L0H1 → L1H2``."""
    return " → ".join(head_name(*head) for head in path) or "direct"


def _heads(model: Transformer, layer: int) -> list[str]:
    return [head_name(layer, head) for head in range(model.cfg.n_heads)]


def _check_layer(model: Transformer, layer: int, last: int) -> None:
    require(0 <= layer <= last, f"layer={layer} is not in 0..{last}; the model has {model.cfg.n_layers} layers.")


# ---- who writes -----------------------------------------------------------------------------------


@torch.no_grad()
def stream_parts(model: Transformer, cache: Cache, layer: int | None = None) -> dict[str, Stream]:
    """What was written to the residual stream before ``layer`` reads it; the parts sum to ``cache.resid[layer]``.

    The embedding, and the result of every head of an earlier layer (P2, "Residual stream"). Default: of all layers.

    Raises:
        IctlError: a model with MLPs, or no such layer.
    """
    check_attention_only(model)
    layer = model.cfg.n_layers if layer is None else layer
    _check_layer(model, layer, model.cfg.n_layers)
    parts = {EMBEDDING: cache.resid[0]}
    for earlier in range(layer):
        parts |= dict(zip(_heads(model, earlier), cache.result(earlier).unbind(1), strict=True))
    return parts


@torch.no_grad()
def stream_shares(parts: dict[str, Stream]) -> pd.DataFrame:
    """Mean length of every part, and its share of the whole: its projection on the sum, over the sum's square.

    Shares sum to 1; a part that points against the rest has a negative share. What all coordinates of a vector
    share is taken off first, as LayerNorm does.
    """
    stack = torch.stack(list(parts.values()))
    stack = stack - stack.mean(-1, keepdim=True)
    lengths, shares = stack.norm(dim=-1).flatten(1).mean(1), _shares(stack, (1, 2, 3))
    return pd.DataFrame({"length": lengths.numpy(), "share": shares.numpy()}, index=list(parts))


def _shares(stack: Float[Tensor, "part ..."], over: tuple[int, ...]) -> Tensor:
    """Projection of every part on their sum, relative to the sum's square, both summed over the axes ``over``."""
    total = stack.sum(0, keepdim=True)
    return (stack * total).sum(over) / (total * total).sum(over)


# ---- who reads whom -------------------------------------------------------------------------------


@torch.no_grad()
def read_shares(model: Transformer, cache: Cache, layer: int) -> dict[str, pd.DataFrame]:
    """Share of each part of the stream in what varies in the queries, keys and values of a layer.

    A row a part, with ``positions`` for the vectors added to the inputs of W_Q and W_K; a column a head; columns
    sum to 1. "What varies": the mean over all positions of all windows is taken off. LayerNorm's scale is frozen.

    Raises:
        IctlError: a model with MLPs or smearing, or no such layer.
    """
    require(model.cfg.smear == "none", f"{model.cfg.label} mixes neighbouring positions; use a model without.")
    _check_layer(model, layer, model.cfg.n_layers - 1)
    parts, gain = stream_parts(model, cache, layer), model.layers()[layer].get("ln1")
    scale, found = frozen_scale(model, cache.resid[layer]), {}
    read = {name: frozen_read(model, part, scale, gain) for name, part in parts.items()}
    placed = model.sinusoids[: scale.shape[1]].expand_as(cache.resid[layer]) * (model.cfg.positions == "shortformer")
    for kind, name in READS.items():
        rows = read | {POSITIONS: placed * (kind != "values")}
        taken = torch.stack([x[:, None] @ getattr(model, name)[layer] for x in rows.values()])
        varies = taken - taken.mean((1, 3), keepdim=True)
        shares = _shares(varies, (-4, -2, -1))  # batch, position, coordinate
        found[kind] = pd.DataFrame(shares.numpy(), index=list(rows), columns=_heads(model, layer))
    return found


@torch.no_grad()
def subspace_overlap(model: Transformer, first: int = 0, second: int = 1) -> dict[str, pd.DataFrame]:
    """Overlap of the subspace each head of layer ``first`` writes to with those that layer ``second`` reads.

    Mean squared cosine of the principal angles: 1 the same subspace, 0 orthogonal, :func:`chance_overlap` by
    chance. Gains and means of LayerNorm are folded in (P2, "Subspaces and residual stream bandwidth").

    Raises:
        IctlError: ``first`` and ``second`` are not two layers of the model in order.
    """
    require(0 <= first < second < model.cfg.n_layers,
            f"layers {first} and {second} are not two layers of the model in order; it has {model.cfg.n_layers}.")
    W = fold(model)
    writes = torch.linalg.qr(W.W_O[first].mT)[0]
    found = {}
    for kind, name in READS.items():
        cosines = writes[:, None].mT @ torch.linalg.qr(getattr(W, name)[second])[0]
        overlap = cosines.square().sum((-2, -1)) / model.cfg.d_head
        found[kind] = pd.DataFrame(overlap.numpy(), index=_heads(model, first), columns=_heads(model, second))
    return found


def chance_overlap(model: Transformer) -> float:
    """Expected overlap of two random subspaces of ``d_head`` dimensions; LayerNorm takes one dimension away."""
    return model.cfg.d_head / (model.cfg.d_model - model.cfg.norm)


# ---- frozen models --------------------------------------------------------------------------------


@torch.no_grad()
def frozen_read_out(model: Transformer, cache: Cache, resid: Stream) -> Stream:
    """What W_U reads when the frozen model starts from ``resid`` instead of its embedding: a linear map of it.

    Patterns and scales are those in ``cache``; a ``cache`` of one window serves any batch (P2, "One-layer models").

    Raises:
        IctlError: a model with MLPs or smearing.
    """
    check_attention_only(model)
    require(model.cfg.smear == "none", f"{model.cfg.label} mixes neighbouring positions; use a model without.")
    for layer, w in enumerate(model.layers()):
        read = frozen_read(model, resid, frozen_scale(model, cache.resid[layer]), w.get("ln1"))
        resid = resid + (cache.patterns[layer] @ (read[:, None] @ w["W_V"]) @ w["W_O"]).sum(1)
    return frozen_read(model, resid, frozen_scale(model, cache.resid[-1]), getattr(model, "ln_final", None))


@torch.no_grad()
def source_effects(model: Transformer, ids: Int[Tensor, "1 pos"], destination: int, target: int
                   ) -> Float[np.ndarray, "pos"]:
    """How much each token of a text adds to the logit of ``target`` at ``destination``, frozen; an exact sum.

    The sum is that logit minus the mean logit there.
    """
    cache, n = model.forward_with_cache(ids), ids.shape[1]
    alone = torch.eye(n, dtype=model.W_E.dtype)[:, :, None] * cache.resid[0]  # [source, pos, d_model]
    raise_target = model.W_U[:, target] - model.W_U.mean(1)
    return (frozen_read_out(model, cache, alone)[:, destination] @ raise_target).numpy()


@torch.no_grad()
def path_sizes(model: Transformer, windows: Windows, order: int | None = None, chunk: int = 2) -> pd.DataFrame:
    """Every path to the logits, at the model's own LayerNorm scales, a row each, largest first.

    ``size``: standard deviation of its logits over the vocabulary; ``right``: how far it raises the token that
    comes next above the mean logit, which adds up over paths. Both are means over all positions of ``windows``.
    Also ``heads`` in the path, and the ``last`` layer it goes through (-1 for the direct path).
    """
    sums: dict[Path, np.ndarray] = {}
    parts = torch.from_numpy(windows).split(chunk)
    for rows in parts:
        for path, logits in path_sum_logits(model, rows[:, :-1], order).items():
            centred = logits - logits.mean(-1, keepdim=True)
            right = centred.gather(-1, rows[:, 1:, None]).sum()
            sums[path] = sums.get(path, 0) + np.array([float(centred.std(-1, correction=0).sum()), float(right)])
    found = [(path_name(path), len(path), path[-1][0] if path else -1, *total / windows[:, 1:].size)
             for path, total in sums.items()]
    table = pd.DataFrame(found, columns=["path", "heads", "last", "size", "right"]).set_index("path")
    return table.sort_values("size", ascending=False, kind="stable")


def linearity_errors(model: Transformer, ids: Ids) -> tuple[float, float]:
    """Largest difference, in logits, between a run and the sum of two runs that share its embedding between them.

    The first gets the embeddings of the even positions, the second those of the odd: the frozen model, which is
    linear, and the model as it is, which is not.
    """
    cache = model.forward_with_cache(ids)
    even = torch.arange(ids.shape[1])[:, None] % 2 == 0
    halves = cache.resid[0] * even, cache.resid[0] * ~even
    frozen = sum(frozen_read_out(model, cache, half) @ model.W_U for half in halves)
    free = sum(model.forward_with_cache(resid=half).logits for half in halves)
    return float((frozen - cache.logits).abs().max()), float((free - cache.logits).abs().max())
