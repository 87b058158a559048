"""What the weights alone say: OV and QK circuits, their eigenvalues, and which heads compose (P2).

Row vectors, so ``W_OV = W_V @ W_O`` and ``W_QK = W_Q @ W_K.T``: transposed, these are the papers' matrices. As
in the papers, W_QK leaves out 1 / sqrt(d_head). Circuits are kept as two thin factors. LayerNorm is folded
into its neighbours (P2, "Handling layer normalization"): see :func:`fold`. Positions, smearing and MLPs are no
part of these circuits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .config import ModelConfig, one_of, require
from .lowrank import LowRank, positivity, triangle
from .model import Transformer

PerHead = Float[np.ndarray, "layer head"]


# ---- weights without LayerNorm --------------------------------------------------------------------


@dataclass(frozen=True)
class Folded:
    """Weights in double precision with LayerNorm folded in; without ``norm`` only W_U changes."""

    W_E: Float[Tensor, "d_vocab d_model"]  # effective embedding: LayerNorm, without gain, of every vector
    W_U: Float[Tensor, "d_model d_vocab"]  # effective unembedding
    W_Q: Float[Tensor, "layer head d_model d_head"]
    W_K: Float[Tensor, "layer head d_model d_head"]
    W_V: Float[Tensor, "layer head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]


@torch.no_grad()
def fold(model: Transformer) -> Folded:
    """The model as the papers write it, with neither gains nor means (P2, "Handling layer normalization").

    * tokens: LayerNorm is applied to the embedding vectors once;
    * gains: ``ln1`` of the reading layer goes into W_Q, W_K, W_V, ``ln_final`` into W_U;
    * LayerNorm's mean: W_Q, W_K, W_V, W_U ignore the mean of a vector, W_O writes none;
    * W_U loses its mean over the vocabulary, which softmax does not see;
    * the scales 1 / std of later reads are no property of the weights and are left out.
    """
    W = {name: getattr(model, name).double() for name in ("W_E", "W_U", "W_Q", "W_K", "W_V", "W_O")}
    if model.cfg.norm:
        W["W_E"] = torch.nn.functional.layer_norm(W["W_E"], W["W_E"].shape[-1:])
        for name in ("W_Q", "W_K", "W_V"):
            W[name] = _centre(W[name] * model.ln1.double()[:, None, :, None], 2)
        W["W_U"] = _centre(W["W_U"] * model.ln_final.double()[:, None], 0)
        W["W_O"] = _centre(W["W_O"], 3)
    W["W_U"] = _centre(W["W_U"], 1)
    return Folded(**W)


def _centre(x: Tensor, dim: int) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def check_head(model: Transformer, layer: int, head: int) -> None:
    """Raise :class:`IctlError` unless the model has this head."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    require(0 <= layer < n_layers and 0 <= head < n_heads,
            f"head L{layer}H{head} does not exist; the model has {n_layers} layers of {n_heads} heads.")


def W_OV(model: Transformer, layer: int, head: int) -> LowRank:
    """What a head writes for what it reads, [d_model, d_model], folded; ``IctlError``: no such head."""
    W = _folded_with(model, layer, head)
    return LowRank(W.W_V[layer, head], W.W_O[layer, head])


def W_QK(model: Transformer, layer: int, head: int) -> LowRank:
    """Score of what the query side (row) and the key side (column) read, folded; ``IctlError``: no such head."""
    W = _folded_with(model, layer, head)
    return LowRank(W.W_Q[layer, head], W.W_K[layer, head].mT)


def full_OV(model: Transformer, layer: int, head: int) -> LowRank:
    """Effect of an attended token (row) on the logit of every token (column): P2, "OV circuit"."""
    W = _folded_with(model, layer, head)
    return LowRank(W.W_E @ W.W_V[layer, head], W.W_O[layer, head] @ W.W_U)


def full_QK(model: Transformer, layer: int, head: int) -> LowRank:
    """Score of a query's token (row) for a key's token (column): P2, "QK circuit"."""
    W = _folded_with(model, layer, head)
    return LowRank(W.W_E @ W.W_Q[layer, head], (W.W_E @ W.W_K[layer, head]).mT)


def _folded_with(model: Transformer, layer: int, head: int) -> Folded:
    check_head(model, layer, head)
    return fold(model)


# ---- eigenvalues ----------------------------------------------------------------------------------


def ov_eigenvalues(model: Transformer) -> Complex[Tensor, "layer head d_head"]:
    """Eigenvalues of every full OV circuit that can differ from 0 (P2, "Copying / primarily positive")."""
    W = fold(model)
    return torch.linalg.eigvals(W.W_O @ (W.W_U @ W.W_E) @ W.W_V)


def copying_statistic(model: Transformer) -> PerHead:
    """Sum of eigenvalues of the full OV circuit over the sum of their sizes (P2, "Detecting copying"; -1 to 1)."""
    return positivity(ov_eigenvalues(model))


def copying_null(model: Transformer, n: int = 200, seed: int = 0, embeddings: str = "random"
                 ) -> Float[np.ndarray, "n"]:
    """The copying statistic of ``n`` heads with normal W_V and W_O: what no training looks like.

    Args:
        embeddings: ``random`` draws W_E and W_U as well, anew for every head; ``model`` keeps the model's, so that
            only the head is random. Shapes are the model's; the statistic does not depend on their scale.

    Raises:
        IctlError: ``embeddings`` is neither.
    """
    one_of("embeddings", embeddings, ("random", "model"))
    W, generator = fold(model), torch.Generator().manual_seed(seed)
    (d_vocab, d), d_head = W.W_E.shape, model.cfg.d_head
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    loops = []
    for _ in range(n):
        middle = W.W_U @ W.W_E if embeddings == "model" else normal(d, d_vocab) @ normal(d_vocab, d)
        loops.append(normal(d_head, d) @ middle @ normal(d, d_head))
    return positivity(torch.linalg.eigvals(torch.stack(loops)))


def _k_composition_loops(model: Transformer, previous: PerHead) -> Float[Tensor, "layer head d_head d_head"]:
    """Small products with the trace and eigenvalues of W = sum_e p_e W_E W_QK W_OV^e.T W_E.T, e below each layer."""
    expected = (model.cfg.n_layers, model.cfg.n_heads)
    require(previous.shape == expected, f"previous has shape {previous.shape}; expected (layers, heads) = {expected}.")
    W = fold(model)
    moved = torch.einsum("lh,lhdk,lhke->led", torch.from_numpy(previous).double(), W.W_V, W.W_O)
    below = moved.cumsum(0) - moved
    return W.W_K.mT @ (below @ (W.W_E.mT @ W.W_E))[:, None] @ W.W_Q


def qk_trace(model: Transformer, previous: PerHead) -> PerHead:
    """Trace of QK eigenvalues (P1, appendix): how far a head's keys match the token before, by the weights.

    W is the sum over all heads e of earlier layers of p_e * W_E W_QK W_OV^e.T W_E.T, row: the query's token,
    column: the token that e moved; not normalised.

    Args:
        previous: p_e, attention to the previous token (``metrics.previous_token``).

    Returns:
        The trace of W; nan in layer 0, which has no layer below.

    Raises:
        IctlError: ``previous`` has another shape.
    """
    trace = _k_composition_loops(model, previous).diagonal(dim1=-2, dim2=-1).sum(-1).numpy()
    trace[:1] = np.nan
    return trace


def qk_positivity(model: Transformer, previous: PerHead) -> PerHead:
    """The same W as :func:`qk_trace`, sum of eigenvalues over the sum of their sizes (P2, "Induction heads")."""
    found = positivity(torch.linalg.eigvals(_k_composition_loops(model, previous)))
    found[:1] = np.nan
    return found


# ---- composition ----------------------------------------------------------------------------------

PerPair = Float[np.ndarray, "from_layer from_head to_layer to_head"]


@dataclass(frozen=True)
class Composition:
    """How much of each head's output each later head reads, by its queries, keys and values (0 to 1)."""

    q: PerPair  # nan unless from_layer < to_layer
    k: PerPair
    v: PerPair


def composition_scores(model: Transformer, buggy: bool = False) -> Composition:
    """||W_OV^1 M|| / (||W_OV^1|| ||M||), Frobenius, with M = W_QK, W_QK.T, W_OV of the later head (P2, "Composition").

    Gain and mean of the reading LayerNorm are folded in (:func:`fold`). A head that is zero scores 0.

    Args:
        buggy: the norm the authors published at first and corrected: the numerator is that of a product turned
            round to d_head x d_head, which has the same eigenvalues but not the same norm. Norms in the
            denominator stay right: whether theirs did is not known.
    """
    W = fold(model)
    return _composition(W.W_Q, W.W_K, W.W_V, W.W_O, buggy)


def _composition(W_Q: Tensor, W_K: Tensor, W_V: Tensor, W_O: Tensor, buggy: bool) -> Composition:
    """Per pair, with QR of the outer factors: ||V O Q K.T|| = ||(R_V O) (Q R_K.T)||, one product for all pairs."""
    write = triangle(W_V) @ W_O
    sides = {"q": (W_Q, W_K), "k": (W_K, W_Q), "v": (W_V, W_O.mT)}  # what reads, and the other side of M
    later = torch.ones(len(W_O), len(W_O), dtype=torch.bool).triu(1)[:, None, :, None]
    found = {}
    for name, (reads, other) in sides.items():
        read = reads @ triangle(other).mT
        both = _turned_norm(W_V, W_O, reads, other) if buggy else _product_norm(write, read)
        norms = torch.linalg.matrix_norm(write)[:, :, None, None] * torch.linalg.matrix_norm(read)
        found[name] = (both / norms.clamp_min(1e-30)).masked_fill(~later, torch.nan).numpy()
    return Composition(**found)


def _product_norm(write: Tensor, read: Tensor) -> Float[Tensor, "from_layer from_head to_layer to_head"]:
    """||write_1 read_2|| of all pairs: squares of one large product, summed in blocks."""
    product = write.flatten(0, 2) @ read.movedim(2, 0).flatten(1)
    (n, h), rows, columns = write.shape[:2], write.shape[2], read.shape[3]
    return product.square().view(n, h, rows, n, h, columns).sum((2, 5)).sqrt()


def _turned_norm(W_V: Tensor, W_O: Tensor, reads: Tensor, other: Tensor) -> Tensor:
    """||other_2.T V_1 O_1 reads_2||: V_1 O_1 reads_2 other_2.T turned round, as in the error of P2."""
    left = torch.einsum("nhda,lkdb->lknhab", other, W_V)
    right = torch.einsum("lkbd,nhdc->lknhbc", W_O, reads)
    return torch.linalg.matrix_norm(left @ right)


@dataclass(frozen=True)
class Baseline:
    """Composition score of random heads: 1 / sqrt(d_model), and mean and spread of simulated pairs."""

    analytic: float
    mean: float
    sd: float  # of one pair


def composition_baseline(cfg: ModelConfig, n: int = 24, seed: int = 0, buggy: bool = False) -> Baseline:
    """Scores of normal matrices of the model's shapes: ``n`` heads writing, ``n`` reading (P2 subtracts the mean).

    The analytic value holds for the right norm only.
    """
    generator = torch.Generator().manual_seed(seed)
    read = torch.randn(3, 2, n, cfg.d_model, cfg.d_head, generator=generator, dtype=torch.float64)
    W_O = torch.randn(2, n, cfg.d_head, cfg.d_model, generator=generator, dtype=torch.float64)
    scores = _composition(*read, W_O, buggy).k[0, :, 1]
    return Baseline(cfg.d_model**-0.5, float(scores.mean()), float(scores.std(ddof=1)))
