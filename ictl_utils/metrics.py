"""Losses, the in-context learning score, and what each head does. All losses in nats, positions 0-based.

Position ``i`` of a loss is that of the query: the loss of predicting token ``i + 1`` from tokens 0 to ``i``,
``<bos>`` being token 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .config import require
from .curves import Window as Window  # curves over training, found here as well
from .curves import loss_pca as loss_pca
from .curves import phase_change as phase_change
from .curves import smooth_curve as smooth_curve
from .loss import each_loss
from .model import Cache, Transformer
from .tokens import BOS, Tokens

Windows = Int[np.ndarray, "window pos_plus_1"]
Losses = Float[np.ndarray, "window pos"]


# ---- losses ---------------------------------------------------------------------------------------


def checked(model: Transformer, windows: Windows) -> None:
    """Raise :class:`IctlError` unless there are windows, and the model can read them and their last token."""
    require(len(windows) > 0, "there is no window of text to read; give a longer text or a smaller n_ctx.")
    require(windows.dtype == np.int64, f"windows of {windows.dtype} given; expected token ids as int64.")
    model.check(torch.from_numpy(windows[:, :-1]))
    model.check(torch.from_numpy(windows[:, -1:]))


@torch.no_grad()
def token_losses(model: Transformer, windows: Windows, chunk: int = 64) -> Losses:
    """Loss of every next token of every window, nats (P1, "Per-token losses")."""
    checked(model, windows)
    parts = []
    for rows in torch.from_numpy(windows).split(chunk):
        x = model.read_out(model.trunk(rows[:, :-1]))
        parts.append(each_loss(x.flatten(0, 1), model.W_U, rows[:, 1:].flatten()).view(len(rows), -1))
    return torch.cat(parts).numpy()


def one_token_each(losses: Losses) -> Float[np.ndarray, "window"]:
    """One loss a window, at a position drawn once with a fixed seed (P1: the vector behind the PCA)."""
    at = np.random.default_rng(0).integers(0, losses.shape[1], len(losses))
    return losses[np.arange(len(losses)), at]


@dataclass(frozen=True)
class IclScore:
    """Loss late in the context minus loss early, nats: negative means that context helps."""

    at_positions: float  # at one position each, as in the paper
    value: float  # over two ranges of positions, which is far less noisy
    se: float  # standard error of ``value`` over windows
    late: tuple[int, int]
    early: tuple[int, int]


def icl_ranges(n_ctx: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Late and early ranges of positions: the last eighth, and from a sixteenth to an eighth of n_ctx."""
    return (n_ctx - n_ctx // 8, n_ctx), (n_ctx // 16, n_ctx // 8)


def icl_score(
    losses: Losses, late: tuple[int, int] | None = None, early: tuple[int, int] | None = None,
    positions: tuple[int, int] | None = None, documents: Int[np.ndarray, "window"] | None = None,
) -> IclScore:
    """In-context learning score with the paper's sign (P1, "Key concepts"): late minus early, nats.

    Args:
        losses: one row a window.
        late, early: half-open ranges of positions averaged; default :func:`icl_ranges`.
        positions: the two single positions (late, early); default (500, 50) where the context is long
            enough, else the same fractions of it.
        documents: the document of each window (:func:`ictl_utils.tokens.eval_documents`). The standard error is
            then that of drawing whole documents, whose windows resemble each other; default: windows one by one.

    Raises:
        IctlError: a position at or beyond n_ctx, an empty range, or not one document a window.
    """
    n_ctx = losses.shape[1]
    late, early = late or icl_ranges(n_ctx)[0], early or icl_ranges(n_ctx)[1]
    positions = positions or ((500, 50) if n_ctx > 500 else (n_ctx * 500 // 512, n_ctx * 50 // 512))
    for first, end in (late, early, *((p, p + 1) for p in positions)):
        require(
            0 <= first < end <= n_ctx,
            f"ICL positions {first} to {end - 1} do not fit n_ctx={n_ctx}; choose positions in 0..{n_ctx - 1}.",
        )
    each = losses[:, slice(*late)].mean(axis=1) - losses[:, slice(*early)].mean(axis=1)
    single = losses[:, positions[0]] - losses[:, positions[1]]
    documents = np.arange(len(each)) if documents is None else documents
    require(len(documents) == len(each), f"{len(documents)} documents for {len(each)} windows; give one a window.")
    return IclScore(float(single.mean()), float(each.mean()), _standard_error(each, documents), late, early)


def _standard_error(x: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"]) -> float:
    """Of the mean of ``x``, if whole groups were drawn; with groups of one the usual one."""
    _, at = np.unique(groups, return_inverse=True)
    sums, k = np.bincount(at, x - x.mean()), at.max() + 1
    return float(np.sqrt(np.square(sums).sum() * k / (k - 1)) / len(x)) if k > 1 else float("nan")


def loss_derivative(
    by_position: Float[np.ndarray, "snap pos"], bins: int = 16
) -> tuple[Float[np.ndarray, "bin_minus_1"], Float[np.ndarray, "snap bin_minus_1"]]:
    """d loss / d ln(position), nats: differences of means over log-spaced bins (P1, Argument 1).

    Returns:
        Positions (geometric middle between neighbouring bins) and the derivative there.
    """
    n_ctx = by_position.shape[-1]
    edges = np.unique(np.round(np.geomspace(1, n_ctx, bins + 1)).astype(int))
    pairs = list(zip(edges[:-1], edges[1:], strict=True))
    middle = np.array([np.log(np.arange(a, b)).mean() for a, b in pairs])
    means = np.stack([by_position[..., a:b].mean(axis=-1) for a, b in pairs], axis=-1)
    return np.exp((middle[:-1] + middle[1:]) / 2), np.diff(means, axis=-1) / np.diff(middle)


# ---- heads ----------------------------------------------------------------------------------------


def earlier_successors(ids: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos pos"]:
    """For each query, the positions right after earlier occurrences of its token: what induction attends to."""
    same = (ids[:, :, None] == ids[:, None, :]) & (ids != BOS)[:, :, None]
    earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril(-1)
    return torch.nn.functional.pad(same & earlier, (1, -1))


def usable_ids(counts: Int[np.ndarray, "d_vocab"], ranks: tuple[int, int] | None = None) -> Int[np.ndarray, "n"]:
    """Ids between two frequency ranks: the most common and the rarely seen are left out (P1, appendix).

    ``ranks`` defaults to 5 % and 80 % of the vocabulary; where fewer ids were seen in training (a small corpus of
    one's own), the upper rank is their number.

    Raises:
        IctlError: bounds out of order or beyond the vocabulary, or an id never seen in training inside them.
    """
    seen = int((counts > 0).sum())
    low, high = ranks or (len(counts) // 20, min(len(counts) * 4 // 5, seen))
    require(0 <= low < high <= len(counts), f"ranks {low} to {high} do not fit a vocabulary of {len(counts)} ids, "
                                            f"{seen} of them seen in training; use a larger corpus or other ranks.")
    ids = np.argsort(-counts, kind="stable")[low:high]
    require(bool((counts[ids] > 0).all()), f"ranks {low} to {high} include ids never seen in training; lower {high}.")
    return ids[ids != BOS]


def repeated_blocks(tokens: Tokens, n: int = 10, length: int = 25, repeats: int = 4,
                    ranks: tuple[int, int] | None = None, seed: int = 0) -> Int[Tensor, "n pos"]:
    """The paper's probe: ``<bos>``, then ``length`` random distinct tokens, ``repeats`` times."""
    ids, rng = usable_ids(tokens.counts, ranks), np.random.default_rng(seed)
    require(len(ids) >= length, f"length={length} distinct tokens were asked for, but ranks leave {len(ids)}.")
    blocks = np.stack([rng.choice(ids, length, replace=False) for _ in range(n)])
    return _with_bos(np.tile(blocks, (1, repeats)))


def repeated_probe(tokens: Tokens, n_ctx: int, repeats: int = 4) -> Int[Tensor, "n pos"]:
    """The paper's probe, with blocks as short as ``n_ctx`` asks for."""
    length = min(25, (n_ctx - 1) // repeats)
    require(length >= 2, f"n_ctx={n_ctx} is too short for {repeats} blocks; use {2 * repeats + 1} or more.")
    return repeated_blocks(tokens, length=length, repeats=repeats)


def random_blocks(tokens: Tokens, n_ctx: int, n: int = 32, ranks: tuple[int, int] | None = None, seed: int = 0
                  ) -> Int[Tensor, "n pos"]:
    """Blocks of random length that come back after random gaps: no fixed offset finds the successor."""
    require(n_ctx >= 16, f"n_ctx={n_ctx} is too short for blocks that come back; use at least 16.")
    ids, rng = usable_ids(tokens.counts, ranks), np.random.default_rng(seed)
    require(len(ids) >= n_ctx, f"n_ctx={n_ctx} distinct tokens are needed, but ranks leave {len(ids)}.")
    rows = []
    for _ in range(n):
        fresh, row = list(rng.permutation(ids)[:n_ctx]), []
        block = [fresh.pop() for _ in range(rng.integers(n_ctx // 16, n_ctx // 4))]
        while len(row) < n_ctx - 1:
            row += block + [fresh.pop() for _ in range(min(len(fresh), rng.integers(0, n_ctx // 4)))]
        rows.append(row[: n_ctx - 1])
    return _with_bos(np.array(rows))


def _with_bos(rows: Int[np.ndarray, "n pos"]) -> Int[Tensor, "n pos_plus_1"]:
    return torch.from_numpy(np.concatenate([np.full((len(rows), 1), BOS), rows], axis=1).astype(np.int64))


@torch.no_grad()
def prefix_matching(model: Transformer, probe: Int[Tensor, "n pos"],
                    head_mask: Float[Tensor, "layer head"] | None = None) -> Float[np.ndarray, "layer head"]:
    """Attention on the tokens after earlier occurrences of the query's token, summed over them (0 to 1).

    The mean over the queries of all examples that have an earlier occurrence (P1, "Prefix matching").

    Args:
        probe: from :func:`repeated_blocks` (the paper's recipe) or :func:`random_blocks`.
        head_mask: 0 knocks a head out, as in :meth:`Transformer.forward_with_cache`.
    """
    target = earlier_successors(probe)
    asked = target.any(dim=-1)
    require(bool(asked.any()), "no token of the probe comes twice, so nothing can be matched; give a repeated probe.")
    patterns = model.forward_with_cache(probe, head_mask=head_mask).patterns
    hits = [(pattern * target[:, None]).sum(-1).movedim(1, -1)[asked].mean(0) for pattern in patterns]
    return _per_head(hits, model)


@torch.no_grad()
def previous_token(model: Transformer, windows: Windows) -> Float[np.ndarray, "layer head"]:
    """Mean attention from each position to the one before it, on text (0 to 1)."""
    patterns = model.forward_with_cache(torch.from_numpy(windows[:, :-1])).patterns
    return _per_head([p.diagonal(-1, dim1=2, dim2=3).mean(dim=(0, 2)) for p in patterns], model)


@torch.no_grad()
def copying(model: Transformer, tokens: Tokens, n: int = 10, length: int = 25,
            ranks: tuple[int, int] | None = None) -> Float[np.ndarray, "layer head"]:
    """How far a head raises the logit of what it attends to, against all tokens of the sample (-1 to 1).

    Random distinct tokens, no repeat and no ``<bos>``; the head's result through W_U, minus the mean
    logit, ReLU; the attention-weighted share of the attended token, rescaled (P1, "Copying evaluator").
    As there, W_U alone: no gains of the last LayerNorm, which the OV circuit's statistic counts.
    The paper's scaling is ambiguous, so absolute values are not comparable with its own. Of a model with a shorter
    context than ``length``, as many tokens as it reads.
    """
    probe = repeated_blocks(tokens, n, min(length, model.cfg.n_ctx), 1, ranks)[:, 1:]
    cache: Cache = model.forward_with_cache(probe)
    scores = []
    for layer, pattern in enumerate(cache.patterns):
        logits = cache.result(layer) @ (model.W_U - model.W_U.mean(dim=1, keepdim=True))
        index = probe[:, None, None, :].expand(*pattern.shape)
        raised = logits.relu().gather(3, index)  # [example, head, query, token of the sample]
        share = (raised * pattern).sum(-1) / raised.sum(-1).clamp_min(1e-9)
        scores.append(2 * share.mean(dim=(0, 2)) - 1)
    return _per_head(scores, model)


def _per_head(rows: list[Float[Tensor, "head"]], model: Transformer) -> Float[np.ndarray, "layer head"]:
    return np.array([row.numpy() for row in rows]).reshape(model.cfg.n_layers, model.cfg.n_heads)


def best_head(scores: Float[np.ndarray, "layer head"]) -> tuple[int, int]:
    """Layer and index of the highest score; print it as ``L1H2``."""
    require(scores.size > 0, "a model without layers has no head; there is no best one.")
    layer, head = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(layer), int(head)
