"""The category task: lines that end in a label, where the label follows from the kind of word, not from the word.

Two sources of such lines share one scoring: the synthetic corpus ``category``, on which a small model is trained, and
prompts of words (:mod:`ictl_utils.prompts`; P1, Argument 4), which any model with a tokenizer can read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .config import ModelConfig, TrainConfig, one_of, require
from .data import KINDS, LABELS, words_a_kind
from .model import Transformer
from .tokens import BOS

D_VOCAB = 1 + LABELS + 8 * KINDS
"""Ids of the corpus: ``<bos>``, the labels, and eight words of each kind."""
FIRST_WORD = 1 + LABELS
PerHead = Float[np.ndarray, "layer head"]
Read = Callable[[list[int]], Sequence[Float[Tensor, "head pos pos"]]]
"""Attention patterns of one sequence of ids, a tensor a layer."""
Between = Float[np.ndarray, "layer head ask label"]
Heads = Sequence[tuple[int, int]]


# ---- the model and its corpus ---------------------------------------------------------------------


def configs(preset: str = "laptop", n_layers: int = 2, seed: int = 0) -> tuple[ModelConfig, TrainConfig]:
    """A model small enough to be trained on the corpus ``category`` while one waits.

    Args:
        preset: ``laptop`` trains until two layers have learned the task; ``smoke`` only shows that training runs.
        seed: of the initial weights.

    Raises:
        IctlError: another preset.
    """
    one_of("preset", preset, ("smoke", "laptop"))
    length = {"tokens": 1_600_000, "snapshots": 14} if preset == "laptop" else {"tokens": 30_000, "snapshots": 3}
    model_cfg = ModelConfig(n_layers=n_layers, d_model=64, n_heads=4, n_ctx=128, d_vocab=D_VOCAB)
    return model_cfg, TrainConfig(corpus="category", optimizer="muon", init_seed=seed, **length)


def kinds_of(ids: Int[np.ndarray, "..."], d_vocab: int = D_VOCAB) -> Int[np.ndarray, "..."]:
    """Kind of each word of the corpus ``category``, from 0; -1 for ``<bos>`` and labels."""
    ids = np.asarray(ids)
    return np.where(ids >= FIRST_WORD, (ids - FIRST_WORD) // words_a_kind(d_vocab), -1)


def names_of(ids: Sequence[int], d_vocab: int = D_VOCAB) -> list[str]:
    """One readable string an id: ``C5`` is word 5 of kind C, ``=17`` a label."""
    size = words_a_kind(d_vocab)
    kinds = kinds_of(np.asarray(ids), d_vocab).tolist()
    return [f"{chr(ord('A') + kind)}{(i - FIRST_WORD) % size}" if kind >= 0 else f"={i}" if i != BOS else "<bos>"
            for i, kind in zip(ids, kinds, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class Lines:
    """One sequence of lines that each end in a label."""

    ids: list[int]  # <bos> first
    asks: list[int]  # position at which each line's label is predicted
    labels: list[list[int]]  # positions of each line's label, more than one where it is several tokens
    kinds: list[int]  # kind of each line
    words: list[object]  # what stands before the label


def fresh_lines(n: int = 32, lines: int = 40, literal: bool = False, d_vocab: int = D_VOCAB, seed: int = 0
                ) -> list[Lines]:
    """Sequences of lines word, label in which matching words helps never, or always.

    Args:
        n: how many sequences.
        lines: how many lines in each, at most as many as there are words.
        literal: one word a kind, which comes again and again; else no word comes twice.

    Raises:
        IctlError: more lines than words.
    """
    size, rng = words_a_kind(d_vocab), np.random.default_rng(seed)
    require(1 <= lines <= KINDS * size, f"lines={lines} do not fit: there are {KINDS * size} words.")
    found = []
    for _ in range(n):
        words = rng.permutation(KINDS * size)[:lines]
        words = rng.integers(0, size, KINDS)[words // size] + words // size * size if literal else words
        labels = 1 + rng.permutation(LABELS)[words // size]
        ids = [BOS, *np.stack([FIRST_WORD + words, labels], axis=1).ravel().tolist()]
        asks = list(range(1, len(ids), 2))
        found.append(Lines(ids, asks, [[at + 1] for at in asks], (words // size).tolist(), words.tolist()))
    return found


def reads(model: Transformer) -> Read:
    """Attention patterns of a model of this package, as :func:`attention_to_labels` takes them."""
    def patterns(ids: list[int]) -> list[Float[Tensor, "head pos pos"]]:
        with torch.no_grad():
            return [pattern[0] for pattern in model.forward_with_cache(torch.tensor([ids])).patterns]

    return patterns


# ---- where heads look -----------------------------------------------------------------------------


def attention_to_labels(lines: Lines, read: Read) -> Between:
    """Attention from where each line asks to the label of every line, summed over the label's tokens (0 to 1)."""
    patterns = torch.stack([pattern.float() for pattern in read(lines.ids)])[:, :, lines.asks].cpu().numpy()
    return np.stack([patterns[..., at].sum(axis=-1) for at in lines.labels], axis=-1)


@dataclass(frozen=True)
class KindMatch:
    """Attention on the labels of earlier lines of the same kind: means over all lines that have some of both kinds."""

    raw: PerHead  # share of all attention
    labels: PerHead  # share of all attention that is on any earlier label
    share: PerHead  # share of the attention on earlier labels
    chance: float  # that share for even attention over earlier labels


def kind_match(found: Sequence[Between], kinds: Sequence[Sequence[object]]) -> KindMatch:
    """How far heads attend to the labels of earlier lines of the same kind (P1, Argument 4, "Pattern matching").

    Args:
        found: from :func:`attention_to_labels`, one a sequence.
        kinds: kinds of the lines of each sequence; or their words, to ask for the same word.

    Raises:
        IctlError: no line has earlier lines both of its own and of another kind.
    """
    raw, labels, share, chance = [], [], [], []
    for between, of in zip(found, kinds, strict=True):
        right, asked = _same(np.array([[a == b for b in of] for a in of]))
        on = between * np.tri(len(right), k=-1)
        each = (on * right).sum(-1), on.sum(-1)
        raw, labels = [*raw, each[0][..., asked]], [*labels, each[1][..., asked]]
        share.append((each[0] / np.maximum(each[1], 1e-9))[..., asked])
        chance.append((right.sum(1) / np.maximum(np.arange(len(right)), 1))[asked])
    require(sum(map(len, chance)) > 0, "no line has earlier lines of its own and of another kind; give more lines.")
    means = [np.concatenate(parts, axis=-1).mean(axis=-1) for parts in (raw, labels, share)]
    return KindMatch(*means, float(np.concatenate(chance).mean()))


def _same(same: Bool[np.ndarray, "... ask label"]
          ) -> tuple[Bool[np.ndarray, "... ask label"], Bool[np.ndarray, "... ask"]]:
    """Earlier lines of the same kind; and which lines have some, and some of another kind as well."""
    earlier = np.tri(same.shape[-1], k=-1, dtype=bool)
    return same & earlier, (same & earlier).any(-1) & (~same & earlier).any(-1)


def shuffled_best(found: Sequence[Between], kinds: Sequence[Sequence[object]], n: int = 100, seed: int = 0
                  ) -> Float[np.ndarray, "n"]:
    """The best head's share when the lines of each sequence trade their kinds at random: what choosing a head gives.

    The attention stays as it is. A head that does not look at kinds scores among these numbers.
    """
    rng, total, asks = np.random.default_rng(seed), 0.0, 0.0
    for between, of in zip(found, kinds, strict=True):
        names = np.unique(np.asarray(of).astype(str), return_inverse=True)[1]
        traded = rng.permuted(np.tile(names, (n, 1)), axis=1)
        right, asked = _same(traded[:, :, None] == traded[:, None, :])
        on = between * np.tri(len(names), k=-1)
        shares = on / np.maximum(on.sum(-1, keepdims=True), 1e-9)
        total = total + np.einsum("lhqk,nqk->nlh", shares, right * asked[..., None], optimize=True)
        asks = asks + asked.sum(-1)
    return (total / asks[:, None, None]).max(axis=(1, 2))


# ---- what the model predicts ----------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Predictions of labels, by how many earlier lines were of the same kind."""

    seen: Int[np.ndarray, "ask"]
    right: Float[np.ndarray, "ask"]  # 1 where the label is the top prediction among all tokens
    loss: Float[np.ndarray, "ask"]  # nats

    def accuracy(self, least: int = 1) -> float:
        """Share of right labels among lines with at least ``least`` earlier lines of their kind."""
        return float(self.right[self.seen >= least].mean())

    def by_seen(self, most: int = 4) -> Float[np.ndarray, "seen"]:
        """Accuracy after 0, 1, ... ``most`` earlier lines of the kind; nan where no line has so many."""
        return np.array([self.right[self.seen == i].mean() if (self.seen == i).any() else np.nan
                         for i in range(most + 1)])  # fmt: skip


@torch.no_grad()
def answers(model: Transformer, batch: Sequence[Lines], head_mask: Float[Tensor, "layer head"] | None = None
            ) -> Answers:
    """What the model predicts where labels are due, on sequences of one length.

    Args:
        head_mask: 0 knocks a head out, as in :meth:`Transformer.forward_with_cache`.
    """
    ids = torch.tensor([lines.ids for lines in batch])
    asks = torch.tensor([lines.asks for lines in batch])
    logits = model.forward_with_cache(ids[:, :-1], head_mask=head_mask).logits
    logits = logits[torch.arange(len(ids))[:, None], asks].flatten(0, 1)
    due = ids.gather(1, asks + 1).flatten()
    seen = [of[:i].count(kind) for of in (lines.kinds for lines in batch) for i, kind in enumerate(of)]
    loss = F.cross_entropy(logits, due, reduction="none")
    return Answers(np.array(seen), (logits.argmax(1) == due).float().numpy(), loss.numpy())


def accuracy_without(model: Transformer, batch: Sequence[Lines], sets: Mapping[str, Heads]) -> dict[str, float]:
    """Accuracy on lines whose kind has occurred, with each set of heads knocked out in turn (full ablation, zero)."""
    found = {}
    for name, heads in sets.items():
        mask = torch.ones(model.cfg.n_layers, model.cfg.n_heads)
        for layer, head in heads:
            mask[layer, head] = 0.0
        found[name] = answers(model, batch, mask).accuracy()
    return found
