"""Our models in TransformerLens: the same logits and attention patterns, under its names and its hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .config import IctlError, ModelConfig
from .model import Transformer, rotate, smear

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

NATIVE = "TransformerLensNative"  # its own plain architecture, without Hugging Face underneath
SMEARED = {"query": "q", "key": "k", "value": "v"}


def to_transformer_lens(model: Transformer) -> TransformerBridge:
    """A copy of ``model`` as a ``TransformerBridge``, for the hooks, caches and tools of TransformerLens.

    Logits and patterns are those of ``model``, and so are weights: ``bridge.W_Q`` [layer, head, d_model,
    d_head]. Biases, and learned positions, that ``model`` does not have are 0 and not trained.

    In its cache ``hook_pattern`` is [batch, head, query, key]; ``hook_q``, ``hook_k``, ``hook_v`` and
    ``hook_z`` are [batch, pos, head, d_head], with sinusoids and smearing and before rotary positions.
    ``hook_attn_scores`` repeats the pattern: native models of TransformerLens 4 keep no scores.
    What sinusoids add to queries and keys is computed here, once: folding the gains of LayerNorm into W_Q
    and W_K (``enable_compatibility_mode``) rightly leaves it alone; no other change of them reaches it.

    Raises:
        IctlError: TransformerLens 4 is not installed.
    """
    try:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge.sources import build_bridge_from_module
        from transformer_lens.model_bridge.sources.native import NativeModel
    except ImportError as error:
        raise IctlError(f'TransformerLens 4 is needed ({error}); run: pip install "ictl-utils[tl]"') from error
    cfg = TransformerBridgeConfig(**native_config(model.cfg))
    native = NativeModel(cfg).to(model.W_E.device, model.W_E.dtype)
    _copy_weights(model, native)
    _add_positions_and_smearing(model, native)
    return build_bridge_from_module(native.eval(), NATIVE, tl_config=cfg, model_name=model.cfg.label)


def native_config(cfg: ModelConfig) -> dict[str, object]:
    """Fields of a ``TransformerBridgeConfig`` for ``cfg``; sinusoids and smearing have none."""
    return {
        "n_layers": cfg.n_layers, "d_model": cfg.d_model, "n_heads": cfg.n_heads, "d_head": cfg.d_head,
        "n_ctx": cfg.n_ctx, "d_vocab": cfg.d_vocab, "d_mlp": 4 * cfg.d_model, "attn_only": not cfg.mlp,
        "act_fn": "gelu", "normalization_type": "LN" if cfg.norm else None,
        "positional_embedding_type": "rotary" if cfg.positions == "rotary" else "standard",
    }  # fmt: skip


class Projection(nn.Linear):
    """What gives queries, keys or values of all heads, with sinusoids and smearing (P1, Argument 2)."""

    def __init__(self, linear: nn.Linear, placed: Float[Tensor, "n_ctx out"] | None,
                 alpha: Float[Tensor, "head"] | None) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("placed", placed)
        self.register_buffer("alpha", alpha)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos out"]:
        """The product with the weights, plus what the sinusoids add to it, smeared head by head."""
        out = super().forward(x)
        if self.placed is not None:
            out = out + self.placed[: x.shape[1]]
        if self.alpha is not None:
            heads = out.unflatten(2, (len(self.alpha), -1)).transpose(1, 2)
            out = smear(heads, self.alpha).transpose(1, 2).flatten(2)
        return out


class Rotary(nn.Module):
    """Our rotary positions in place of theirs, which turn neighbouring coordinates instead of halves."""

    def __init__(self, angles: Float[Tensor, "n_ctx half"]) -> None:
        super().__init__()
        self.register_buffer("angles", angles, persistent=False)

    def apply_rope(
        self, q: Float[Tensor, "batch head pos d_head"], k: Float[Tensor, "batch head pos d_head"], *,
        position_ids: Int[Tensor, "batch pos"],
    ) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch head pos d_head"]]:
        """Queries and keys turned by position times frequency."""
        angles = self.angles[position_ids].unsqueeze(1)
        return rotate(q, angles), rotate(k, angles)


@torch.no_grad()
def _copy_weights(model: Transformer, native: nn.Module) -> None:
    """Weights of ``model`` into ``native``; whatever it has beside them is set to 0 and frozen."""
    ours = _named(model)
    native.load_state_dict({name: ours.get(name, torch.zeros_like(p)) for name, p in native.state_dict().items()})
    for name, parameter in native.named_parameters():
        parameter.requires_grad_(name in ours)


def _named(model: Transformer) -> dict[str, Tensor]:
    """Our weights by the names of ``NativeModel``, its matrices being [out, in]."""
    named = {"tok_embed.weight": model.W_E, "head.weight": model.W_U.T}
    named |= {"ln_out.weight": model.ln_final} if model.cfg.norm else {}
    named |= {"pos.weight": model.W_pos} if model.cfg.positions == "learned" else {}
    for layer, w in enumerate(model.layers()):
        parts = {f"attn.{x}.weight": w[f"W_{x.upper()}"].transpose(0, 1).flatten(1).T for x in "qkv"}
        parts["attn.o.weight"] = w["W_O"].flatten(0, 1).T
        parts |= {f"{norm}.weight": w[norm] for norm in ("ln1", "ln2") if norm in w}
        for x in ("in", "out") if model.cfg.mlp else ():
            parts |= {f"mlp.fc_{x}.weight": w[f"W_{x}"].T, f"mlp.fc_{x}.bias": w[f"b_{x}"]}
        named |= {f"layers.{layer}.{name}": part for name, part in parts.items()}
    return named


@torch.no_grad()
def _add_positions_and_smearing(model: Transformer, native: nn.Module) -> None:
    cfg = model.cfg
    if cfg.positions == "rotary":
        native.rotary = Rotary(model.angles.clone())
    for layer, block in enumerate(native.layers):
        block.attn.rotary = native.rotary
        for name in "qkv":
            linear = getattr(block.attn, name)
            placed = model.sinusoids @ linear.weight.T if cfg.positions == "shortformer" and name in "qk" else None
            alpha = model.alpha[layer].detach().clone() if SMEARED.get(cfg.smear) == name else None
            if placed is not None or alpha is not None:
                setattr(block.attn, name, Projection(linear, placed, alpha))
