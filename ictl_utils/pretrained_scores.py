"""What is measured on one checkpoint of a pretrained model: the zoo's losses and head scores, one function each.

Definitions are those of :mod:`ictl_utils.metrics` and :mod:`ictl_utils.probes`. One sequence at a time gives its
attention patterns, which are reduced to numbers before the next is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from . import metrics
from .lowrank import positivity
from .metrics import Losses, Windows
from .pretrained import LanguageModel, first_id
from .pretrained_texts import BLOCKS, Alphabet, Places, paper_probe
from .probes import KINDS_OF_TOKEN, kinds_of_token

PerHead = Float[np.ndarray, "layer head"]
Read = Callable[[int, Float[Tensor, "head pos pos"]], Float[Tensor, "head query"]]
LOGITS = 2**27  # logits held at a time: half a gigabyte


# ---- losses -----------------------------------------------------------------------------------------


@torch.no_grad()
def token_losses(lm: LanguageModel, windows: Windows) -> Losses:
    """Loss of every next token of every window, nats."""
    rows = max(1, LOGITS // ((windows.shape[1] - 1) * lm.model.get_output_embeddings().weight.shape[0]))
    parts = []
    for ids in torch.from_numpy(windows).split(rows):
        ids = ids.to(lm.device)
        logits = lm.model(ids[:, :-1], use_cache=False).logits.float()
        parts.append(F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").cpu())
    return torch.cat(parts).numpy()


def losses_by_kind(lm: LanguageModel, windows: Windows, losses: Losses) -> dict[str, float]:
    """Mean loss, nats, where the current token is new, repeated or mismatched (P1, Argument 1)."""
    bos = first_id(lm.tokenizer)
    marked = np.where(windows == bos, 0, windows + 1)  # kinds_of_token takes 0 for BOS
    kinds = np.concatenate([kinds_of_token(marked[i : i + 64]) for i in range(0, len(marked), 64)])
    return {name: float(losses[kinds == i].mean()) for i, name in enumerate(KINDS_OF_TOKEN)}


@torch.no_grad()
def repeats(lm: LanguageModel, alphabet: Alphabet) -> dict[str, float]:
    """Losses, nats, on the blocks of the paper's probe, and accuracy: as :func:`ictl_utils.probes.repeats`."""
    probe = alphabet.ids[paper_probe(lm, alphabet)].to(lm.device)
    logits, targets = lm.model(probe[:, :-1], use_cache=False).logits.float(), probe[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").view(len(probe), BLOCKS, -1)
    hits = (logits.argmax(dim=-1) == targets).float().view(len(probe), BLOCKS, -1)
    return {"first_nats": float(losses[:, 0, 1:].mean()), "second_nats": float(losses[:, 1, 1:].mean()),
            "later_nats": float(losses[:, 1:, 1:].mean()), "accuracy": float(hits[:, 2, 1:].mean())}  # fmt: skip


# ---- where heads look -------------------------------------------------------------------------------


@torch.no_grad()
def patterns(lm: LanguageModel, ids: Int[Tensor, "pos"]) -> list[Float[Tensor, "head pos pos"]]:
    """Attention patterns of one sequence, a tensor a layer, in the model's dtype."""
    out = lm.model.base_model(ids[None].to(lm.device), output_attentions=True, use_cache=False)
    return [pattern[0] for pattern in out.attentions]


def mean_over_queries(lm: LanguageModel, rows: Int[Tensor, "row pos"], read: Read) -> PerHead:
    """Mean of what ``read`` finds, a value a head and a query, over all queries of all rows."""
    total, n = 0.0, 0
    for i, ids in enumerate(rows):
        found = [read(i, pattern.float()).double() for pattern in patterns(lm, ids)]
        total, n = total + torch.stack([each.sum(dim=-1) for each in found]).cpu().numpy(), n + found[0].shape[-1]
    return total / max(n, 1)


def prefix_matching(lm: LanguageModel, alphabet: Alphabet, probe: Places) -> PerHead:
    """Attention on the tokens after earlier occurrences of the query's token, summed over them (0 to 1)."""
    targets = metrics.earlier_successors(probe).to(lm.device)

    def read(i: int, pattern: Tensor) -> Tensor:
        return (pattern * targets[i]).sum(dim=-1)[:, targets[i].any(dim=-1)]

    return mean_over_queries(lm, alphabet.ids[probe], read)


def previous_token(lm: LanguageModel, windows: Windows) -> PerHead:
    """Mean attention from each position to the one before it, on text (0 to 1)."""
    return mean_over_queries(lm, torch.from_numpy(windows[:, :-1]), lambda _, p: p.diagonal(-1, dim1=1, dim2=2))


def present_token(lm: LanguageModel, windows: Windows) -> PerHead:
    """Mean attention from each position but the first to itself, on text (0 to 1)."""
    return mean_over_queries(lm, torch.from_numpy(windows[:, :-1]), lambda _, p: p.diagonal(dim1=1, dim2=2)[:, 1:])


def resting(lm: LanguageModel, alphabet: Alphabet, probe: Places) -> PerHead:
    """Mean attention to BOS from the first block of the paper's probe, where nothing matches."""
    first = alphabet.ids[probe[:, : (probe.shape[1] - 1) // BLOCKS + 1]]
    return mean_over_queries(lm, first, lambda _, pattern: pattern[:, 1:, 0])


# ---- what heads write -------------------------------------------------------------------------------


def read_out(lm: LanguageModel) -> Float[Tensor, "d_model d_vocab"]:
    """W_U of the tokenizer's ids with the final LayerNorm folded in, as :func:`ictl_utils.circuits.fold` does."""
    base = lm.model.base_model
    gain = (base.final_layer_norm if lm.model.config.model_type == "gpt_neox" else base.ln_f).weight.float()
    W_U = lm.model.get_output_embeddings().weight[: len(lm.tokenizer)].float().T * gain[:, None]
    W_U = W_U - W_U.mean(dim=0)
    return W_U - W_U.mean(dim=1, keepdim=True)


def value_side(lm: LanguageModel, layer: int
               ) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]:
    """W_V and W_O of a layer in float32, gain and mean of LayerNorm folded in."""
    W_V, W_O, gain = LAYERS[lm.model.config.model_type](_blocks(lm)[layer], lm.model.config)
    W_V = W_V * gain[:, None]
    return W_V - W_V.mean(dim=1, keepdim=True), W_O - W_O.mean(dim=2, keepdim=True)


def _neox_layer(layer, config) -> tuple[Tensor, Tensor, Tensor]:
    """W_V, W_O and the gain of what W_V reads; queries, keys and values of a head are neighbours in one matrix."""
    h, d = config.num_attention_heads, config.hidden_size
    W_V = layer.attention.query_key_value.weight.float().view(h, 3, d // h, d)[:, 2].mT
    return W_V, layer.attention.dense.weight.float().T.reshape(h, d // h, d), layer.input_layernorm.weight.float()


def _gpt2_layer(layer, config) -> tuple[Tensor, Tensor, Tensor]:
    """The same of GPT-2, whose matrices are [in, out]."""
    h, d = config.num_attention_heads, config.hidden_size
    W_V = layer.attn.c_attn.weight.float()[:, 2 * d :].view(d, h, d // h).transpose(0, 1)
    return W_V, layer.attn.c_proj.weight.float().view(h, d // h, d), layer.ln_1.weight.float()


LAYERS = {"gpt_neox": _neox_layer, "gpt2": _gpt2_layer}


def _blocks(lm: LanguageModel) -> list:
    return list(lm.model.base_model.layers if lm.model.config.model_type == "gpt_neox" else lm.model.base_model.h)


@contextmanager
def _mixed_values(lm: LanguageModel, seen: list[Tensor]):
    """Inside, every forward pass appends what enters W_O, a tensor [batch, pos, d_model] a layer."""
    outs = [b.attention.dense if hasattr(b, "attention") else b.attn.c_proj for b in _blocks(lm)]
    hooks = [out.register_forward_pre_hook(lambda _, x: seen.append(x[0].float())) for out in outs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def copying(lm: LanguageModel, alphabet: Alphabet) -> PerHead | None:
    """How far a head raises the logit of what it attends to, as :func:`ictl_utils.metrics.copying` (-1 to 1).

    The final LayerNorm is folded into the unembedding; None where the architecture is not in :data:`LAYERS`.
    """
    if lm.model.config.model_type not in LAYERS:
        return None
    W_U, seen = read_out(lm), []
    probe = metrics.repeated_blocks(alphabet.tokens, repeats=1, ranks=alphabet.ranks)[:, 1:]
    for ids in alphabet.ids[probe].to(lm.device):
        z: list[Tensor] = []
        with _mixed_values(lm, z):
            seen.append((ids, z, patterns(lm, ids)))
    layers = []
    for i in range(lm.model.config.num_hidden_layers):
        W_O = value_side(lm, i)[1]
        layers.append(torch.stack([_copied(z[i][0], W_O, W_U[:, ids], p[i].float()) for ids, z, p in seen]).mean(dim=0))
    return torch.stack(layers).cpu().numpy()


def _copied(z: Float[Tensor, "pos d_model"], W_O: Float[Tensor, "head d_head d_model"],
            W_U: Float[Tensor, "d_model sample"], pattern: Float[Tensor, "head pos pos"]) -> Float[Tensor, "head"]:
    mixed = z.unflatten(1, (len(W_O), -1)).transpose(0, 1)
    raised = (mixed @ W_O @ W_U).relu()  # [head, query, token of the sample]: the tokens are the positions
    return 2 * ((raised * pattern).sum(-1) / raised.sum(-1).clamp_min(1e-9)).mean(dim=1) - 1


@torch.no_grad()
def ov_copying(lm: LanguageModel) -> PerHead | None:
    """Sum of the eigenvalues of W_E W_OV W_U over the sum of their sizes (P2), as ``circuits.copying_statistic``.

    Positions and MLPs are no part of it, so that it says less of models with MLPs. None as in :func:`copying`.
    """
    if lm.model.config.model_type not in LAYERS:
        return None
    W_E = lm.model.get_input_embeddings().weight[: len(lm.tokenizer)].float()
    loop = read_out(lm) @ F.layer_norm(W_E, W_E.shape[1:])  # W_O loop W_V has the eigenvalues of W_E W_V W_O W_U
    rows = []
    for layer in range(lm.model.config.num_hidden_layers):
        W_V, W_O = value_side(lm, layer)
        rows.append(positivity(torch.linalg.eigvals((W_O @ loop @ W_V).double().cpu())))
    return np.stack(rows)
