"""Knock heads out and see what is lost (P1, Argument 3)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import one_of, require
from .loss import each_loss
from .metrics import Losses, Windows, icl_score
from .model import Transformer, attention_pattern

Heads = list[tuple[int, int]]
KINDS = ("full", "pattern-preserving")
FILLS = ("zero", "mean", "resample")


def losses_without(
    model: Transformer, windows: Windows, heads: Heads, kind: str = "pattern-preserving", chunk: int = 32,
    fill: str = "zero",
) -> Losses:
    """Loss of every next token, nats, with the outputs of ``heads`` replaced, all of them together.

    Args:
        heads: (layer, head) pairs; none gives the intact model.
        kind: ``full`` lets everything downstream change; ``pattern-preserving`` keeps every attention
            pattern of the intact model, so that only what later heads read through values, and the
            logits, change (P1, "Ablations").
        fill: what stands in for the values a head has mixed: ``zero`` as in the paper; ``mean``, their mean
            over ``windows`` at the same position; ``resample``, those of the window before (of the last
            one for the first) at the same position. Both as the intact model computes them.

    Raises:
        IctlError: unknown kind or fill, a head the model does not have, or a single window to resample from.
    """
    return losses_without_each(model, windows, [heads], kind, chunk, fill)[0]


@torch.no_grad()
def losses_without_each(
    model: Transformer, windows: Windows, sets: list[Heads], kind: str = "pattern-preserving", chunk: int = 32,
    fill: str = "zero",
) -> Float[np.ndarray, "set window pos"]:
    """:func:`losses_without` for several sets of heads; the intact model is run only once for all of them."""
    one_of("kind", kind, KINDS)
    one_of("fill", fill, FILLS)
    masks, rows = [head_mask(model, heads) for heads in sets], torch.from_numpy(windows)
    model.check(rows[:, :-1])
    z = [] if fill == "zero" else _mixed_values(model, rows[:, :-1], chunk)
    found = np.empty((len(sets), len(rows), rows.shape[1] - 1), dtype=np.float32)
    for part in torch.arange(len(rows)).split(chunk):
        ids, right = rows[part, :-1], rows[part, 1:].flatten()
        kept = model.forward_with_cache(ids).patterns if kind == "pattern-preserving" else None
        fills = [stand_in(layer, fill)[part] for layer in z] or [torch.zeros(())] * model.cfg.n_layers
        for i, mask in enumerate(masks):
            x = model.read_out(_trunk_without(model, ids, mask, fills, kept))
            found[i, part] = each_loss(x.flatten(0, 1), model.W_U, right).view(len(part), -1).numpy()
    return found


def stand_in(z: Float[Tensor, "window ..."], fill: str) -> Float[Tensor, "window ..."]:
    """What replaces mixed values ``z`` of all windows under ``fill`` (:func:`losses_without`).

    Raises:
        IctlError: ``resample`` with one window.
    """
    if fill == "resample":
        require(len(z) > 1, "fill='resample' takes values from another window; give at least 2 windows.")
        return z.roll(1, 0)
    return torch.zeros_like(z) if fill == "zero" else z.mean(dim=0, keepdim=True).expand_as(z)


def _mixed_values(model: Transformer, ids: Int[Tensor, "window pos"], chunk: int
                  ) -> list[Float[Tensor, "window head pos d_head"]]:
    parts = [model.forward_with_cache(rows).z for rows in ids.split(chunk)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _trunk_without(
    model: Transformer, ids: Int[Tensor, "window pos"], mask: Float[Tensor, "layer head"],
    fills: list[Float[Tensor, "..."]], patterns: list[Float[Tensor, "window head pos pos"]] | None,
) -> Float[Tensor, "window pos d_model"]:
    resid = model.embed(ids)
    for layer, w in enumerate(model.layers()):
        q, k, v = model.qkv(resid, w)
        pattern = attention_pattern(q, k) if patterns is None else patterns[layer]
        z = torch.where(mask[layer, :, None, None] == 0, fills[layer], pattern @ v)
        resid = resid + (z @ w["W_O"]).sum(dim=1)
        resid = resid + model.mlp(resid, w) if model.cfg.mlp else resid
    return resid


def head_mask(model: Transformer, heads: Heads) -> Float[Tensor, "layer head"]:
    """Ones, with zeros at ``heads``."""
    mask = torch.ones(model.cfg.n_layers, model.cfg.n_heads)
    n_layers, n_heads = mask.shape
    for layer, head in heads:
        require(
            0 <= layer < n_layers and 0 <= head < n_heads,
            f"head L{layer}H{head} does not exist; the model has {n_layers} layers of {n_heads} heads.",
        )
        mask[layer, head] = 0.0
    return mask


def split_heads(scores: Float[np.ndarray, "layer head"], threshold: float = 0.3) -> tuple[Heads, Heads]:
    """Heads with a prefix-matching score above ``threshold``, and as many controls from the same layers.

    The controls are the lowest-scoring heads of each layer; where a layer has fewer others than induction
    heads, all others are taken.
    """
    found = [(int(layer), int(head)) for layer, head in np.argwhere(scores > threshold)]
    control: Heads = []
    for layer in sorted({layer for layer, _ in found}):
        n = sum(at == layer for at, _ in found)
        others = [int(h) for h in np.argsort(scores[layer]) if (layer, int(h)) not in found]
        control += [(layer, head) for head in others[:n]]
    return found, control


def knockout_table(
    model: Transformer, windows: Windows, scores: Float[np.ndarray, "layer head"], threshold: float = 0.3,
    kind: str = "pattern-preserving",
) -> list[dict[str, object]]:
    """ICL score and loss, nats: intact, without the induction heads, without as many others of their layers.

    Args:
        scores: prefix matching of each head; where none passes ``threshold``, the best head is taken.
    """
    require(scores.size > 0, "a model without layers has no head to take out; train one with n_layers=1 or more.")
    found, control = split_heads(scores, min(threshold, np.nextafter(scores.max(), scores.dtype.type(-np.inf))))
    rows = []
    for name, heads in (("intact", []), ("without {}", found), ("without {} instead", control)):
        losses = losses_without(model, windows, heads, kind)
        score = icl_score(losses)
        label = name.format(", ".join(f"L{layer}H{head}" for layer, head in heads))
        rows.append({"name": label, "icl": score.value, "icl_se": score.se, "loss": float(losses.mean())})
    return rows


def random_matched_sets(heads: Heads, shape: tuple[int, int], n: int, seed: int = 0) -> list[Heads]:
    """Different random sets of other heads, each with as many heads in every layer as ``heads``.

    Where a layer has too few others, all of them are taken. Fewer than ``n`` sets where no more exist.

    Args:
        shape: layers and heads a layer.

    Raises:
        IctlError: a head outside ``shape``.
    """
    n_layers, n_heads = shape
    for layer, head in heads:
        require(0 <= layer < n_layers and 0 <= head < n_heads, f"head L{layer}H{head} is not in a model of {shape}.")
    taken = set(heads)
    wanted = [sum(layer == at for at, _ in taken) for layer in range(n_layers)]
    others = [[head for head in range(n_heads) if (layer, head) not in taken] for layer in range(n_layers)]
    sizes = [min(want, len(there)) for want, there in zip(wanted, others, strict=True)]
    there = math.prod(math.comb(len(rest), size) for rest, size in zip(others, sizes, strict=True))
    rng, found = np.random.default_rng(seed), {}
    while any(sizes) and len(found) < min(n, there):
        drawn = [sorted(rng.choice(rest, size, replace=False)) for rest, size in zip(others, sizes, strict=True)]
        heads = [(layer, int(head)) for layer, row in enumerate(drawn) for head in row]
        found.setdefault(tuple(heads), heads)
    return list(found.values())


def joint(
    model: Transformer, windows: Windows, head_sets: dict[str, Heads], kind: str = "pattern-preserving",
    fill: str = "zero", late: tuple[int, int] | None = None, early: tuple[int, int] | None = None,
) -> list[dict[str, object]]:
    """ICL score and loss, nats, with all heads of a set taken out together; the intact model comes first.

    The paper takes out single heads only. ``icl_change`` and ``loss_change`` are ablated minus intact, with
    standard errors over windows, each window against itself.

    Args:
        head_sets: named sets, such as the induction heads and :func:`random_matched_sets`.
        late, early: positions of the score, as for :func:`ictl_utils.metrics.icl_score`.
    """
    names, sets = ["intact", *head_sets], [[], *head_sets.values()]
    found = losses_without_each(model, windows, sets, kind, fill=fill)
    rows = []
    for name, heads, losses in zip(names, sets, found, strict=True):
        score, change = icl_score(losses, late, early), icl_score(losses - found[0], late, early)
        worse = (losses - found[0]).mean(axis=1)
        rows.append({
            "name": name, "heads": heads, "icl": score.value, "icl_se": score.se, "icl_change": change.value,
            "icl_change_se": change.se, "loss": float(losses.mean()), "loss_change": float(worse.mean()),
            "loss_change_se": float(worse.std(ddof=1) / np.sqrt(len(worse))),
        })  # fmt: skip
    return rows
