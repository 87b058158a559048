"""What heads, pairs of heads and paths do on given text: logits, losses and attention taken apart (P2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .ablations import head_mask
from .circuits import check_head, full_OV
from .circuits_examples import Bug
from .circuits_paths import Path, TermImportance, check_attention_only, frozen_read, frozen_scale, path_terms
from .config import require
from .loss import each_loss
from .metrics import Windows, prefix_matching
from .model import Transformer
from .tokens import BOS

Ids = Int[Tensor, "batch pos"]


# ---- one head -------------------------------------------------------------------------------------


@torch.no_grad()
def value_weighted(model: Transformer, tokens: Ids, layer: int) -> Float[np.ndarray, "head pos pos"]:
    """Patterns of a layer times the length of what is moved, for one example (P2, "Induction heads").

    Attention to a token that carries next to nothing (``<bos>``, mostly) does nothing; the product with the norm
    of v W_O shows what a head moves. Each head is scaled so that its largest entry is 1.

    Raises:
        IctlError: no such layer, or not one example.
    """
    check_head(model, layer, 0)
    require(len(tokens) == 1, f"{len(tokens)} examples were given; give one.")
    cache = model.forward_with_cache(tokens)
    moved = (cache.v[layer][0] @ model.W_O[layer]).norm(dim=-1)
    weighted = cache.patterns[layer][0] * moved[:, None]
    return (weighted / weighted.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)).numpy()


@torch.no_grad()
def next_token_effect(model: Transformer, tokens: Ids, layer: int, head: int) -> Float[np.ndarray, "pos_minus_1"]:
    """What a head adds directly to the logit of each next token of one example, above the mean logit (P2).

    The final LayerNorm's scale is held at what the whole model computes. Entry i is about token i + 1.

    Raises:
        IctlError: no such head, or not one example.
    """
    check_head(model, layer, head)
    require(len(tokens) == 1, f"{len(tokens)} examples were given; give one.")
    cache = model.forward_with_cache(tokens)
    scale = frozen_scale(model, cache.resid[-1])
    logits = frozen_read(model, cache.result(layer)[:, head], scale, getattr(model, "ln_final", None)) @ model.W_U
    above = (logits - logits.mean(-1, keepdim=True))[0, :-1]
    return above.gather(1, tokens[0, 1:, None])[:, 0].numpy()


def without_each(model: Transformer, probe: Ids, layer: int = 0) -> dict[str, Float[np.ndarray, "layer head"]]:
    """Prefix matching of all heads, intact and with each head of a layer knocked out in turn (full ablation).

    Returns:
        ``intact`` and ``without L0H0``, ... -> scores; 0 to 1.
    """
    sets = {"intact": []} | {f"without L{layer}H{head}": [(layer, head)] for head in range(model.cfg.n_heads)}
    return {name: prefix_matching(model, probe, head_mask(model, heads)) for name, heads in sets.items()}


@torch.no_grad()
def bug_parts(model: Transformer, bug: Bug) -> tuple[Float[np.ndarray, "head 2"], Float[np.ndarray, "head 2"]]:
    """The two factors by which each head of one layer adds logits for a bug's pairs, after ``<bos>`` a b.

    Returns:
        Attention from each destination b to the source a, over the final LayerNorm's scale; and the OV entry of
        the source for each out, logits above the mean. Their outer product is what the head adds for the source.

    Raises:
        IctlError: a model of several layers, whose heads do not read tokens alone.
    """
    require(model.cfg.n_layers == 1, f"{model.cfg.label} has {model.cfg.n_layers} layers; give a model of one.")
    rows = torch.tensor([[BOS, bug.source, b] for b in bug.destinations])
    cache = model.forward_with_cache(rows)
    attention = cache.patterns[0][:, :, 2, 1].T / frozen_scale(model, cache.resid[-1])[:, 2, 0]
    circuits = (full_OV(model, 0, head) for head in range(model.cfg.n_heads))
    raised = torch.stack([ov.left[bug.source] @ ov.right[:, list(bug.outs)] for ov in circuits])
    return attention.numpy(), raised.numpy()


# ---- repeated random tokens -----------------------------------------------------------------------


@dataclass(frozen=True)
class OnRepeats:
    """A model on a block of random tokens that comes several times; a block's first token is left out."""

    losses: Float[np.ndarray, "pos"]  # nats, mean over examples, of predicting each token after <bos>
    top: Float[np.ndarray, "block"]  # share of tokens that are the model's top prediction
    among: Float[np.ndarray, "block"]  # share whose logit is the highest among the tokens of the block


@torch.no_grad()
def on_repeats(model: Transformer, probe: Ids, blocks: int) -> OnRepeats:
    """Losses and accuracy on ``<bos>`` and a block of random tokens, ``blocks`` times (P2, "Induction heads").

    Raises:
        IctlError: a probe that is no whole number of blocks.
    """
    length, odd = divmod(probe.shape[1] - 1, blocks)
    require(odd == 0 and length > 1, f"{probe.shape[1] - 1} tokens after <bos> are no {blocks} equal blocks.")
    logits, right = model(probe[:, :-1]), probe[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), right, reduction="none").mean(0)
    block = right[:, :length]
    mine = logits.gather(2, block[:, None].expand(-1, logits.shape[1], -1))
    picked = block.gather(1, mine.argmax(-1))
    hits = (logits.argmax(-1) == right, picked == right)
    top, among = (x.double().mean(0).view(blocks, length)[:, 1:].mean(1).numpy() for x in hits)
    return OnRepeats(losses.numpy(), top, among)


# ---- paths ----------------------------------------------------------------------------------------


@torch.no_grad()
def path_effects(model: Transformer, windows: Windows) -> dict[Path, float]:
    """How much the loss rises, nats, when one path's term is left out of the final residual stream.

    Patterns are those of the intact model, LayerNorm of earlier reads is frozen, the final one is computed anew.

    Raises:
        IctlError: a model with MLPs.
    """
    terms = path_terms(model, torch.from_numpy(windows[:, :-1]))
    total = sum(terms.values())
    losses = {path: _loss(model, model.read_out(total - term), windows) for path, term in terms.items()}
    intact = _loss(model, model.read_out(total), windows)
    return {path: loss - intact for path, loss in losses.items()}


@torch.no_grad()
def frozen_importance(model: Transformer, windows: Windows, chunk: int = 16) -> TermImportance:
    """:func:`ictl_utils.circuits_paths.term_importance` with all of LayerNorm's scales held at the intact model's.

    There LayerNorm is computed anew at every read, so that a path alone is scaled up to the length of the whole.

    Raises:
        IctlError: a model with MLPs.
    """
    check_attention_only(model)
    sums, gain = np.zeros(model.cfg.n_layers + 1), getattr(model, "ln_final", None)
    for rows in np.array_split(windows, -(-len(windows) // chunk)):
        terms = path_terms(model, torch.from_numpy(rows[:, :-1]))
        scale, part = frozen_scale(model, sum(terms.values())), 0
        for order in range(len(sums)):
            part = part + sum(term for path, term in terms.items() if len(path) == order)
            sums[order] += _loss(model, frozen_read(model, part, scale, gain), rows) * len(rows)
    return TermImportance(math.log(model.cfg.d_vocab), sums / len(windows))


def _loss(model: Transformer, read: Float[Tensor, "batch pos d_model"], windows: Windows) -> float:
    return float(each_loss(read.flatten(0, 1), model.W_U, torch.from_numpy(windows[:, 1:]).flatten()).double().mean())
