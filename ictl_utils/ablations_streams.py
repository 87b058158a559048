"""Many ablations at once: their residual streams lie side by side, from the layer of the head to the losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .loss import CHUNK, each_loss
from .model import Transformer, rotate, smear

State = Float[Tensor, "window pos ablation d_model"]  # one residual stream an ablation; the intact model: one


class Runner:
    """Runs one model; ``ictl_utils.ablations_sweep`` says what is spared.

    Args:
        at: query positions whose losses are wanted, rising; nothing after the last one is computed.
        chunk: windows at a time.
    """

    def __init__(self, model: Transformer, at: Int[Tensor, "position"], chunk: int) -> None:
        self.model, self.cfg, self.at, self.chunk, self.w = model, model.cfg, at, chunk, model.layers()
        self.unseen = torch.full([int(at[-1]) + 1] * 2, -torch.inf).triu(1)
        self.patterns: dict[int, Float[Tensor, "head_window pos pos"]] = {}
        self.sinusoids, self.angles = model.sinusoids[: int(at[-1]) + 1, None], model.angles[: int(at[-1]) + 1]
        self.W_U = model.W_U * model.ln_final[:, None] if self.cfg.norm else model.W_U

    def rows(self, layer: int) -> Int[Tensor, "position"] | None:
        """The positions a layer must be computed at: in the last one those asked for, else all."""
        return self.at if layer == self.cfg.n_layers - 1 else None

    def intact(self, ids: Int[Tensor, "window pos"]) -> tuple[list[State], list[State], list[Tensor]]:
        """What each layer reads, the stream between attention and MLP, and mixed values, in the intact model."""
        parts = []
        for rows in ids.split(self.chunk):
            resid, mid, z = [self.model.embed(rows)[:, :, None]], [], []
            for layer, w in enumerate(self.w):
                z.append(self.attend(resid[-1], layer, "full"))
                mid.append(self.add(resid[-1].clone(), z[-1], layer))
                resid.append(mid[-1] + self.model.mlp(mid[-1], w) if self.cfg.mlp else mid[-1])
            parts.append((resid, mid, z))
        return tuple([torch.cat(layer) for layer in zip(*each, strict=True)] for each in zip(*parts, strict=True))

    def keep_patterns(self, resid: list[State]) -> None:
        """Patterns of the intact model in all layers after the first, where they are needed."""
        for layer, w in list(enumerate(self.w))[1 : len(resid)]:
            x, rows = self.placed(self.model.norm(resid[layer], w.get("ln1"))), self.rows(layer)
            q, k = self.heads(x, "W_Q", w, rows), self.heads(x, "W_K", w)
            scores = q @ k.transpose(-1, -2) / self.cfg.d_head**0.5
            scores += self.unseen if rows is None else self.unseen[rows]
            self.patterns[layer] = scores.softmax(dim=-1).transpose(0, 1).flatten(0, 1)

    def losses(self, layer: int, mid: State, delta: Float[Tensor, "window pos fill head d_head"],
               right: Int[Tensor, "window position"], kinds: Sequence[str]
               ) -> list[Float[Tensor, "window position fill_head"]]:
        """Losses for each kind, nats, for the heads of ``layer`` with ``delta`` added to what each has mixed."""
        last = layer == self.cfg.n_layers - 1
        if last and not self.cfg.mlp:
            same = self.last_layer(mid.flatten(0, 2), delta.flatten(0, 1), right.flatten())
            return [same.view(*right.shape, -1)] * len(kinds)
        W_O = self.w[layer]["W_O"]
        changed = (torch.einsum("bpfhk,hkd->bpfhd", delta, W_O) + mid[:, :, None]).flatten(2, 3).contiguous()
        start = changed + self.model.mlp(changed, self.w[layer]) if self.cfg.mlp else changed
        found = []
        for kind in kinds[:1] if last else kinds:
            state = start.clone()
            for later in range(layer + 1, self.cfg.n_layers):
                state = self.add(state, self.attend(state, later, kind), later)
                if self.cfg.mlp:
                    state += self.model.mlp(state, self.w[later])
            x, n = self.model.read_out(state), state.shape[2]
            found.append(each_loss(x.flatten(0, 2), self.model.W_U, right.flatten().repeat_interleave(n)))
        return [losses.view(*right.shape, -1) for losses in (found * len(kinds) if last else found)]

    def last_layer(self, mid: Float[Tensor, "row d_model"], delta: Float[Tensor, "row fill head d_head"],
                   right: Int[Tensor, "row"]) -> Float[Tensor, "row fill_head"]:
        """Losses after the last layer: logits = ((mid + delta W_O) centred, times gain and W_U) / deviation."""
        W_O, fills = self.w[-1]["W_O"], delta.shape[1]
        if self.cfg.norm:
            mid, W_O = mid - mid.mean(-1, keepdim=True), W_O - W_O.mean(-1, keepdim=True)
        to_logits, found = W_O @ self.W_U, []
        blocks = (part.split(max(1, CHUNK // fills)) for part in (mid, delta, right))
        for x, change, target in zip(*blocks, strict=True):
            base, target = (x @ self.W_U)[:, None], target.repeat_interleave(fills)
            for head, into in enumerate(to_logits):
                logits = base + change[:, :, head] @ into
                if self.cfg.norm:
                    after = x[:, None] + change[:, :, head] @ W_O[head]
                    logits *= torch.rsqrt(after.square().mean(-1, keepdim=True) + 1e-5)
                found.append(F.cross_entropy(logits.flatten(0, 1), target, reduction="none").view(len(x), fills))
        return torch.cat([torch.stack(found[i : i + len(W_O)], 2) for i in range(0, len(found), len(W_O))]).flatten(1)

    def add(self, state: State, z: Float[Tensor, "window pos ablation head d_head"], layer: int) -> State:
        """The stream after attention, at the positions ``z`` is given at; written over ``state`` where it fits."""
        state = state if self.rows(layer) is None else state[:, self.at]
        W_O = self.w[layer]["W_O"].flatten(0, 1)
        state.view(-1, len(W_O)).addmm_(z.reshape(-1, len(W_O)), W_O)
        return state

    def attend(self, state: State, layer: int, kind: str) -> Float[Tensor, "window pos ablation head d_head"]:
        """Mixed values of all ablations in ``layer``."""
        w, rows, n = self.w[layer], self.rows(layer), state.shape[2]
        x = self.model.norm(state, w.get("ln1"))
        if kind == "pattern-preserving":
            pattern, v = self.patterns[layer], self.values_side_by_side(x, w)
            z = torch.bmm(pattern, v)
            return z.view(self.cfg.n_heads, len(x), -1, n, self.cfg.d_head).permute(1, 2, 3, 0, 4)
        v, x = self.heads(x, "W_V", w), self.placed(x)
        q, k = self.heads(x, "W_Q", w, rows), self.heads(x, "W_K", w)
        mask = None if rows is None else self.unseen[rows]
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=rows is None)
        return z.transpose(1, 2).unflatten(2, (n, self.cfg.n_heads))

    def values_side_by_side(self, x: State, w: dict[str, Tensor]) -> Float[Tensor, "head_window pos ablation_d_head"]:
        """Values, those of all ablations in one row, so that one product with a pattern mixes them all."""
        W_V = w["W_V"]
        v = torch.bmm(x.reshape(1, -1, x.shape[-1]).expand(len(W_V), -1, -1), W_V).view(len(W_V), *x.shape[:2], -1)
        if self.cfg.smear == "value":
            v = smear(v.transpose(0, 1), w["alpha"]).transpose(0, 1)
        return v.flatten(0, 1)

    def heads(self, x: State, name: str, w: dict[str, Tensor], rows: Int[Tensor, "position"] | None = None
              ) -> Float[Tensor, "window ablation_head pos d_head"]:
        """Queries, keys or values as ``Transformer.qkv`` computes them, at ``rows``."""
        cfg, smeared = self.cfg, self.cfg.smear == {"W_Q": "query", "W_K": "key", "W_V": "value"}[name]
        x = x if rows is None or smeared else x[:, rows]
        y = (x @ w[name].transpose(0, 1).flatten(1)).unflatten(3, (cfg.n_heads, cfg.d_head))
        y = y.flatten(2, 3).transpose(1, 2)
        if smeared:
            y = smear(y, w["alpha"].repeat(x.shape[2]))
            y = y if rows is None else y[:, :, rows]
        if name != "W_V" and cfg.positions == "rotary":
            y = rotate(y, self.angles if rows is None else self.angles[rows])
        return y

    def placed(self, x: State) -> State:
        """What queries and keys read: with the positions that are added to it."""
        return x + self.sinusoids if self.cfg.positions == "shortformer" else x
