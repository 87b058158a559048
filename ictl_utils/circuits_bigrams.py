"""The bigram table of a text, and what models know of it: along the direct path, and as a whole (P2).

A table is an array of natural logarithms of probabilities, row: the token before, column: the token that follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from .circuits_trigrams import direct_logits
from .config import require
from .metrics import Windows
from .model import Transformer
from .tokens import BOS, Tokens

LogTable = Float[np.ndarray, "row d_vocab"]
HALF = 0.5  # count added to every cell, as registered for claim F01


@dataclass(frozen=True)
class Bigrams:
    """How often each token follows each other token in the training text of a corpus."""

    counts: Int[np.ndarray, "d_vocab d_vocab"]

    @classmethod
    def of(cls, tokens: Tokens) -> Bigrams:
        """Counts of the training split."""
        ids, V = tokens.train.astype(np.int64), tokens.d_vocab
        return cls(np.bincount(ids[:-1] * V + ids[1:], minlength=V * V).reshape(V, V))

    def logs(self, add: float = HALF) -> LogTable:
        """The table, with ``add`` counted to every cell; cells that are 0 then give ``-inf`` at ``add`` 0."""
        smooth = self.counts + add
        with np.errstate(divide="ignore"):
            return np.log(smooth / np.maximum(smooth.sum(1, keepdims=True), 1e-30))

    def unigram(self, add: float = HALF) -> LogTable:
        """Frequencies of the tokens alone, the same in every row."""
        following = self.counts.sum(0) + add
        return np.broadcast_to(np.log(following / following.sum()), self.counts.shape)

    def frequent(self, n: int) -> Int[np.ndarray, "n"]:
        """The ``n`` tokens that stand before another most often, most frequent first."""
        return np.argsort(-self.counts.sum(1), kind="stable")[:n]

    def weights(self, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """How often each of ``rows`` stands before another token, as shares of all of them."""
        found = self.counts[rows].sum(1)
        return found / found.sum()

    @property
    def entropy(self) -> float:
        """Loss of the unsmoothed table on the text it was counted in, nats a token."""
        often = self.counts > 0
        return float(-(self.counts[often] * self.logs(0)[often]).sum() / self.counts.sum())


def table_loss(table: LogTable, windows: Windows, first: int = 1) -> float:
    """Mean loss of a table on held-out windows, nats, from position ``first`` on.

    Windows start anywhere, but in the text only a new document follows ``<bos>``: position 0 is no fair test.
    """
    return float(-table[windows[:, first:-1], windows[:, first + 1 :]].mean())


@torch.no_grad()
def direct_table(model: Transformer) -> LogTable:
    """What the direct path alone predicts after every token: softmax of W_E W_U, final LayerNorm included."""
    return direct_logits(model).double().log_softmax(1).numpy()


@torch.no_grad()
def whole_table(model: Transformer, rows: Int[np.ndarray, "n"]) -> LogTable:
    """What the whole model predicts after each of ``rows`` with nothing but ``<bos>`` before it."""
    ids = torch.from_numpy(np.stack([np.full(len(rows), BOS), rows], axis=1).astype(np.int64))
    return (model.read_out(model.trunk(ids)[:, -1]) @ model.W_U).double().log_softmax(1).numpy()


def row_kl(table: LogTable, text: LogTable) -> Float[np.ndarray, "row"]:
    """KL(table || text) of every row, nats: what is lost by taking the text's table for the other."""
    require(table.shape == text.shape, f"tables of shape {table.shape} and {text.shape} cannot be compared.")
    occurs = ~np.isneginf(table)
    return (np.exp(table) * np.subtract(table, text, where=occurs, out=np.zeros_like(table))).sum(1)


def lift(bigrams: Bigrams, rows: Int[np.ndarray, "n"]) -> LogTable:
    """How much likelier each token is after each of ``rows`` than anywhere, natural logarithm."""
    return bigrams.logs()[rows] - bigrams.unigram()[rows]


def correlations(table: LogTable, bigrams: Bigrams, rows: Int[np.ndarray, "n"]) -> dict[str, float]:
    """Pearson correlation of a table's ``rows`` with log-probabilities of the text and with lifts.

    Over all next tokens that occur in the text; the mean of every row is taken off, which softmax does not see.
    """
    occurs = bigrams.counts.sum(0) > 0
    flat = lambda x: (x[:, occurs] - x[:, occurs].mean(1, keepdims=True)).ravel()  # noqa: E731
    text = {"log-probability": bigrams.logs()[rows], "lift": lift(bigrams, rows)}
    return {name: float(np.corrcoef(flat(table[rows]), flat(x))[0, 1]) for name, x in text.items()}


def continuations(tables: Mapping[str, LogTable], tokens: Tokens, ids: Int[np.ndarray, "n"] | list[int], k: int = 4
                  ) -> pd.DataFrame:
    """The ``k`` likeliest next tokens by every table with their probabilities, a row a token of ``ids``.

    Tokens that read alike (single bytes of longer characters) are told apart by their ids.

    Args:
        tables: name -> whole table, a row for every token of the vocabulary.
    """
    rows, read = [], [_short(label) for label in tokens.labels(list(ids))]
    names = [name if read.count(name) == 1 else f"{name} [{i}]" for name, i in zip(read, ids, strict=True)]
    for i in ids:
        best = {name: np.argsort(-table[i], kind="stable")[:k] for name, table in tables.items()}
        rows.append({
            name: "   ".join(f"{_short(tokens.labels([j])[0])} {np.exp(tables[name][i, j]):.2f}" for j in found)
            for name, found in best.items()
        })
    return pd.DataFrame(rows, index=pd.Index(names, name="token"))


def _short(label: str) -> str:
    """``label`` with long runs of spaces as a dot and their number, and control characters as their codes."""
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in label)
    return re.sub("·{4,}", lambda run: f"·×{len(run[0])}", plain)
