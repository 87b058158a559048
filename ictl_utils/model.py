"""One transformer, two paths: ``forward`` is fast, ``forward_with_cache`` shows and replaces everything.

Row vectors, as in TransformerLens: a head reads ``x @ W_Q[l, h]`` and writes ``z @ W_O[l, h]``, so that
``W_QK = W_Q @ W_K.T`` and ``W_OV = W_V @ W_O``. The papers use column vectors; the book's notation page
translates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .config import ModelConfig, require

Patterns = dict[int, Float[Tensor, "batch head pos pos"]]


@dataclass(frozen=True)
class Cache:
    """Everything one open forward pass computed; the layer axis starts at ``start_layer``."""

    resid: list[Float[Tensor, "batch pos d_model"]]  # resid[l]: what layer l reads; the last: after all layers
    q: list[Float[Tensor, "batch head pos d_head"]]
    k: list[Float[Tensor, "batch head pos d_head"]]
    v: list[Float[Tensor, "batch head pos d_head"]]
    patterns: list[Float[Tensor, "batch head pos pos"]]  # row = destination, rows sum to 1
    z: list[Float[Tensor, "batch head pos d_head"]]  # values mixed by the pattern
    logits: Float[Tensor, "batch pos d_vocab"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    start_layer: int = 0

    def result(self, layer: int) -> Float[Tensor, "batch head pos d_model"]:
        """What each head of ``layer`` adds to the residual stream; an :class:`IctlError` where it was not computed."""
        require(self.start_layer <= layer < len(self.W_O), f"layer {layer} was not computed in this pass.")
        return self.z[layer - self.start_layer] @ self.W_O[layer]


class Transformer(nn.Module):
    """Decoder with 0 to 8 layers, attention-only or with MLPs (P2, "Transformer overview").

    Initial weights, all normal with mean 0, drawn with ``seed`` alone:

    ====================  =======================================
    W_E                   1
    W_Q, W_K              ``cfg.init_qk``
    all other matrices    0.05
    W_pos                 0.7 (``positions="learned"`` only)
    ln1, ln2, ln_final    1, not drawn (gains of LayerNorm; no biases)
    alpha, b_in, b_out    0, not drawn (alpha 0: smeared half and half)
    ====================  =======================================

    A large W_E keeps the tokens nearly orthogonal in the residual stream and well above what untrained
    heads add to it; with 0.02 induction heads form at half the speed (``bench/recipe.md``).
    """

    def __init__(self, cfg: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        d, n, h, dh = cfg.d_model, cfg.n_layers, cfg.n_heads, cfg.d_head
        normal = partial(_normal, torch.Generator().manual_seed(seed))
        self.W_E, self.W_U = normal(1.0, cfg.d_vocab, d), normal(0.05, d, cfg.d_vocab)
        self.W_Q, self.W_K = normal(cfg.init_qk, n, h, d, dh), normal(cfg.init_qk, n, h, d, dh)
        self.W_V, self.W_O = normal(0.05, n, h, d, dh), normal(0.05, n, h, dh, d)
        if cfg.norm:
            self.ln1, self.ln_final = nn.Parameter(torch.ones(n, d)), nn.Parameter(torch.ones(d))
        if cfg.mlp:
            self.W_in, self.W_out = normal(0.05, n, d, 4 * d), normal(0.05, n, 4 * d, d)
            self.b_in, self.b_out = nn.Parameter(torch.zeros(n, 4 * d)), nn.Parameter(torch.zeros(n, d))
            if cfg.norm:
                self.ln2 = nn.Parameter(torch.ones(n, d))
        if cfg.smear != "none":
            self.alpha = nn.Parameter(torch.zeros(n, h))
        if cfg.positions == "learned":
            self.W_pos = normal(0.7, cfg.n_ctx, d)
        self.register_buffer("sinusoids", _sinusoids(cfg.n_ctx, d), persistent=False)
        self.register_buffer("angles", _angles(cfg.n_ctx, dh), persistent=False)

    # ---- the two paths -------------------------------------------------------------------------

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits by the fast path.

        Raises:
            IctlError: a sequence longer than ``n_ctx``, or an id outside the vocabulary.
        """
        self.check(tokens)
        return self.read_out(self.trunk(tokens)) @ self.W_U

    def trunk(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Residual stream after all layers, unchecked: the part of the fast path training uses."""
        resid = self.embed(tokens)
        for w in self.layers():
            q, k, v = self.qkv(resid, w)
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            resid = resid + z.transpose(1, 2).flatten(2) @ w["W_O"].flatten(0, 1)
            if self.cfg.mlp:
                resid = resid + self.mlp(resid, w)
        return resid

    def forward_with_cache(
        self,
        tokens: Int[Tensor, "batch pos"] | None = None,
        *,
        patterns: Patterns | None = None,
        head_mask: Float[Tensor, "layer head"] | None = None,
        start_layer: int = 0,
        resid: Float[Tensor, "batch pos d_model"] | None = None,
    ) -> Cache:
        """Every intermediate, any of which can be replaced; equal to :meth:`forward` when none is.

        Args:
            tokens: ids; not needed when ``resid`` is given.
            patterns: attention patterns to use instead of the computed ones, by layer.
            head_mask: factor on each head's output; 0 knocks the head out.
            start_layer: first layer to run, reading ``resid``.
            resid: residual stream that ``start_layer`` reads.

        Raises:
            IctlError: as :meth:`forward`; or ``start_layer`` without ``resid``; or shapes that do not fit.
        """
        self._check_overrides(tokens, patterns, head_mask, start_layer, resid)
        stream = [self.embed(tokens) if resid is None else resid]
        seen: dict[str, list[Tensor]] = {name: [] for name in ("q", "k", "v", "patterns", "z")}
        for layer, w in list(enumerate(self.layers()))[start_layer:]:
            q, k, v = self.qkv(stream[-1], w)
            pattern = (patterns or {}).get(layer)
            pattern = attention_pattern(q, k) if pattern is None else pattern
            z = pattern @ v
            if head_mask is not None:
                z = z * head_mask[layer, :, None, None]
            after = stream[-1] + (z @ w["W_O"]).sum(dim=1)
            stream.append(after + self.mlp(after, w) if self.cfg.mlp else after)
            for name, value in zip(seen, (q, k, v, pattern, z), strict=True):
                seen[name].append(value)
        return Cache(stream, **seen, logits=self.read_out(stream[-1]) @ self.W_U, W_O=self.W_O,
                     start_layer=start_layer)

    # ---- the pieces both paths share ------------------------------------------------------------

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Token embedding, with learned positions where the model has them."""
        resid = F.embedding(tokens, self.W_E)
        return resid + self.W_pos[: tokens.shape[1]] if self.cfg.positions == "learned" else resid

    def norm(self, x: Float[Tensor, "... d_model"], gain: Float[Tensor, "d_model"] | None
             ) -> Float[Tensor, "... d_model"]:
        """LayerNorm with a gain and no bias, or nothing."""
        return F.layer_norm(x, x.shape[-1:], gain) if self.cfg.norm else x

    def read_out(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the unembedding W_U reads: the residual stream after the final LayerNorm."""
        return self.norm(resid, getattr(self, "ln_final", None))

    def layers(self) -> list[dict[str, Tensor]]:
        """The weights layer by layer; one unbind a stacked weight keeps its gradient one tensor."""
        names = [name for name, p in self.named_parameters() if name not in ("W_E", "W_U", "W_pos", "ln_final")]
        columns = zip(*(getattr(self, name).unbind() for name in names), strict=True)
        return [dict(zip(names, column, strict=True)) for column in columns]

    def qkv(self, resid: Float[Tensor, "batch pos d_model"], w: dict[str, Tensor]
            ) -> list[Float[Tensor, "batch head pos d_head"]]:
        """Queries, keys and values of the layer with weights ``w``, positions and smearing applied."""
        cfg, pos = self.cfg, resid.shape[1]
        x = self.norm(resid, w.get("ln1"))
        placed = x + self.sinusoids[:pos] if cfg.positions == "shortformer" else x
        qk = placed @ torch.cat([w["W_Q"], w["W_K"]]).transpose(0, 1).flatten(1)  # one product for both
        v = x @ w["W_V"].transpose(0, 1).flatten(1)
        parts = [part.unflatten(2, (cfg.n_heads, cfg.d_head)).transpose(1, 2)
                 for part in (*qk.split(cfg.d_model, dim=2), v)]
        if cfg.smear != "none":
            which = ("query", "key", "value").index(cfg.smear)
            parts[which] = smear(parts[which], w["alpha"])
        if cfg.positions == "rotary":
            parts[:2] = [rotate(part, self.angles[:pos]) for part in parts[:2]]
        return parts

    def mlp(self, resid: Float[Tensor, "batch pos d_model"], w: dict[str, Tensor]
            ) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP of a layer adds: GELU between two matrices, four times as wide."""
        hidden = F.gelu(self.norm(resid, w.get("ln2")) @ w["W_in"] + w["b_in"])
        return hidden @ w["W_out"] + w["b_out"]

    # ---- facts and checks -----------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        """Number of trained weights, embeddings included."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self) -> float:
        """Floating-point operations of training, forward and backward, per token (a product-sum is 2).

        Three times the forward pass: 8 d^2 a layer for Q, K, V, O; 2 T d for causal attention; 16 d^2
        for an MLP; 2 d V for the unembedding.
        """
        cfg = self.cfg
        layer = 8 * cfg.d_model**2 + 2 * cfg.n_ctx * cfg.d_model + (16 * cfg.d_model**2 if cfg.mlp else 0)
        return 3.0 * (cfg.n_layers * layer + 2 * cfg.d_model * cfg.d_vocab)

    def check(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Raise :class:`IctlError` unless ``tokens`` is a batch of sequences this model can read."""
        require(tokens.ndim == 2, f"tokens of shape {tuple(tokens.shape)} given; expected [batch, pos].")
        require(not tokens.is_floating_point(), f"tokens of {tokens.dtype} given; expected whole numbers.")
        require(
            tokens.shape[1] <= self.cfg.n_ctx,
            f"sequence of {tokens.shape[1]} tokens is longer than n_ctx={self.cfg.n_ctx}; cut it to fit.",
        )
        low, high = (int(tokens.min()), int(tokens.max())) if tokens.numel() else (0, 0)
        require(
            0 <= low and high < self.cfg.d_vocab,
            f"token id {low if low < 0 else high} is out of range; this model knows ids 0 to "
            f"{self.cfg.d_vocab - 1}. Was the text encoded with another tokenizer?",
        )

    def _check_overrides(self, tokens, patterns, head_mask, start_layer, resid) -> None:
        cfg = self.cfg
        require(0 <= start_layer <= cfg.n_layers, f"start_layer={start_layer} is not in 0..{cfg.n_layers}.")
        require((tokens is None) != (resid is None) and (start_layer == 0 or resid is not None),
                "give tokens, or resid together with the start_layer that reads it; not both, not neither.")
        if tokens is not None:
            self.check(tokens)
        if head_mask is not None:
            expected, found = (cfg.n_layers, cfg.n_heads), tuple(head_mask.shape)
            require(found == expected, f"head_mask has shape {found}; expected (layers, heads) = {expected}.")
        batch, pos = (tokens if resid is None else resid).shape[:2]
        require(resid is None or (resid.ndim == 3 and pos <= cfg.n_ctx and resid.shape[2] == cfg.d_model),
                f"resid does not fit; expected [batch, pos, {cfg.d_model}] and at most {cfg.n_ctx} positions.")
        for layer, pattern in (patterns or {}).items():
            require(0 <= layer < cfg.n_layers, f"patterns for layer {layer}, but the model has {cfg.n_layers} layers.")
            wanted = (batch, cfg.n_heads, pos, pos)
            require(pattern.shape == wanted, f"patterns of layer {layer} are {pattern.shape}; expected {wanted}.")


def attention_pattern(q: Float[Tensor, "batch head pos d_head"], k: Float[Tensor, "batch head pos d_head"]
                      ) -> Float[Tensor, "batch head pos pos"]:
    """softmax of q k / sqrt(d_head) under the causal mask (P2, "Attention heads are independent")."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def smear(x: Float[Tensor, "batch head pos d_head"], alpha: Float[Tensor, "head"]
          ) -> Float[Tensor, "batch head pos d_head"]:
    """x_j becomes sigma(alpha) x_j + (1 - sigma(alpha)) x_{j-1}; position 0 stays (P1, Argument 2)."""
    before = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)
    return torch.lerp(before, x, torch.sigmoid(alpha)[:, None, None].to(x.dtype))


def rotate(x: Float[Tensor, "batch head pos d_head"], angles: Float[Tensor, "pos half"]
           ) -> Float[Tensor, "batch head pos d_head"]:
    """Rotary positions: each pair of coordinates turned by position times its frequency."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _angles(n_ctx: int, width: int) -> Float[Tensor, "n_ctx half"]:
    frequency = 10_000.0 ** (-torch.arange(0, width - width % 2, 2) / width)
    return torch.arange(n_ctx)[:, None] * frequency


def _sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "n_ctx d_model"]:
    angles = _angles(n_ctx, d_model + d_model % 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :d_model]


def _normal(generator: torch.Generator, std: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(std * torch.randn(shape, generator=generator))
