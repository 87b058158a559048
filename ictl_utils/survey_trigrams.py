"""What a one-layer model knows, against the text it learnt from: skip-trigrams and their bugs (P2; claims F06-F08)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from .circuits import full_OV, full_QK
from .model import Transformer
from .tokens import BOS, Tokens

TOP = 10  # entries of a source that count, on either side
FAMILIES = Path(__file__).parent / "claims_families.csv"
Counted = tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]  # distinct triples, ascending, and how often they come
Tops = list[tuple[Int[np.ndarray, "source k"], Int[np.ndarray, "source k"]]]  # a head: destinations, outputs


@torch.no_grad()
def top_entries(model: Transformer, ids: Int[np.ndarray, "source"], k: int = TOP) -> Tops:
    """For each head of layer 0, each source's destinations with the highest QK and outputs with the highest OV.

    The source itself is left out of its outputs. Destinations and outputs are taken from ``ids``.
    """
    found = []
    for head in range(model.cfg.n_heads):
        qk, ov = full_QK(model, 0, head), full_OV(model, 0, head)
        scores = (qk.left[ids] @ qk.right[:, ids]).T  # [source, destination]
        outputs = (ov.left[ids] @ ov.right[:, ids]).fill_diagonal_(-torch.inf)
        found.append(tuple(ids[x.topk(k, dim=1).indices.numpy()] for x in (scores, outputs)))
    return found


def families_found(tops: Tops, ids: Int[np.ndarray, "source"], tokens: Tokens) -> dict[str, bool]:
    """Which families of ``claims_families.csv`` some head shows: all three expressions matched by one source."""
    text = {int(i): tokens.decode([i]).strip(" ") for i in ids}
    with open(FAMILIES, newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["family"]: _shown(row, tops, ids, text) for row in rows}


def _shown(row: dict[str, str], tops: Tops, ids: Int[np.ndarray, "source"], text: dict[int, str]) -> bool:
    parts = ("source", "destination", "output")
    hit = {part: {i for i, t in text.items() if re.search(row[part], t)} for part in parts}
    return any(
        int(source) in hit["source"] and hit["destination"] & set(where.tolist()) and hit["output"] & set(what.tolist())
        for destinations, outputs in tops
        for source, where, what in zip(ids, destinations, outputs, strict=True)
    )


def heads_with_split_tokens(tops: Tops, ids: Int[np.ndarray, "source"], tokens: Tokens) -> int:
    """Heads with some " X" ... "X1" -> "X2" where X is X1 and X2 together (P2, "Skip-trigrams")."""
    text = {int(i): tokens.decode([i]) for i in ids}
    count = 0
    for destinations, outputs in tops:
        rows = zip(ids, destinations, outputs, strict=True)
        count += any(
            text[int(source)] == f" {text[int(a)]}{text[int(b)]}" and text[int(a)] and text[int(b)]
            for source, where, what in rows if text[int(source)].startswith(" ")
            for a in where for b in what
        )  # fmt: skip
    return count


# ---- cross terms ----------------------------------------------------------------------------------


class TextLifts:
    """How much more often c follows b where a stands earlier in the window: every (a, b, c) of some windows.

    Counted in parts of ``chunk`` windows, and joined for some values of a at a time, to save memory.
    """

    def __init__(self, windows: Int[np.ndarray, "window pos"], d_vocab: int, chunk: int = 2048) -> None:
        self.V = d_vocab
        pairs = np.bincount((windows[:, 1:-1] * d_vocab + windows[:, 2:]).ravel(), minlength=d_vocab**2)
        follows = pairs / np.maximum(pairs.reshape(d_vocab, -1).sum(1), 1).repeat(d_vocab)
        firsts = np.arange(0, d_vocab, -(-d_vocab // 32))  # values of a, in about 32 ranges
        slices: list[list[Counted]] = [[] for _ in firsts]
        for i in range(0, len(windows), chunk):
            codes, n = np.unique(self._triples(windows[i : i + chunk, 1:]), return_counts=True)
            at = np.searchsorted(codes, (firsts[1:] * d_vocab**2).astype(codes.dtype))
            for of, *part in zip(slices, np.split(codes, at), np.split(n.astype(np.int32), at), strict=True):
                of.append(tuple(part))
        joined = [self._joined(slices.pop(0), follows) for _ in firsts]
        self.codes, self.counts, self.lifts = (np.concatenate(column) for column in zip(*joined, strict=True))

    def _joined(self, parts: list[Counted], follows: Float[np.ndarray, "pair"]
                ) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Distinct triples of some values of a, how often they come, and their lifts."""
        codes, at = np.unique(np.concatenate([codes for codes, _ in parts]), return_inverse=True)
        counts = np.bincount(at, weights=np.concatenate([n for _, n in parts])).astype(np.int64)
        before = np.bincount(codes // self.V, weights=counts, minlength=self.V**2)
        return codes, counts, np.log(counts / before[codes // self.V] / follows[codes % self.V**2])

    def _triples(self, ids: Int[np.ndarray, "window pos"]) -> Int[np.ndarray, "n"]:
        same = ids[:, :, None] == ids[:, None, :]
        first = ~(same & np.tri(ids.shape[1], k=-1, dtype=bool)).any(axis=2)  # each a once a window
        j, i = np.tril_indices(ids.shape[1] - 1, k=-1)[::-1]
        codes = ((ids[:, j] * self.V + ids[:, i]) * self.V + ids[:, i + 1])[first[:, j]]
        return codes.astype(np.uint32) if self.V**3 < 2**32 else codes

    def strong(self, least: int = 20) -> Int[np.ndarray, "n 3"]:
        """Triples seen at least ``least`` times with a lift over ln 2."""
        codes = self.codes[(self.counts >= least) & (self.lifts > np.log(2))].astype(np.int64)
        return np.stack([codes // self.V**2, codes // self.V % self.V, codes % self.V], axis=1)

    def absent(self, triples: Int[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether a triple has a lift of at most 0, or was never seen."""
        codes = (triples[:, 0] * self.V + triples[:, 1]) * self.V + triples[:, 2]
        at = np.searchsorted(self.codes, codes.astype(self.codes.dtype)).clip(max=len(self.codes) - 1)
        return (self.codes[at] != codes) | (self.lifts[at] <= 0)


@torch.no_grad()
def raised(model: Transformer, triples: Int[np.ndarray, "n 3"], ids: Int[np.ndarray, "m"], n: int = 100
           ) -> Bool[np.ndarray, "n"]:
    """Whether c is likelier after ``<bos>`` a b than on average over ``n`` random tokens in the place of a."""
    others = np.random.default_rng(0).choice(ids, min(n, len(ids)), replace=False)
    found = np.empty(len(triples), dtype=bool)
    for b in np.unique(triples[:, 1]):
        mine = np.flatnonzero(triples[:, 1] == b)
        sources, at = np.unique(triples[mine, 0], return_inverse=True)
        a = torch.from_numpy(np.concatenate([sources, others]).astype(np.int64))
        rows = torch.stack([torch.full_like(a, BOS), a, torch.full_like(a, int(b))], dim=1)
        logp = (model.read_out(model.trunk(rows)[:, -1]) @ model.W_U).log_softmax(-1)
        gain = logp[: len(sources)] - logp[len(sources) :].mean(0)
        found[mine] = gain[at, triples[mine, 2]].numpy() > 0
    return found


def quadruples(triples: Int[np.ndarray, "n 3"], text: TextLifts, most: int = 10_000
               ) -> tuple[Int[np.ndarray, "q 3"], Int[np.ndarray, "q 3"]]:
    """Cross terms (a, b1, c2) and (a, b2, c1) of pairs of ``triples`` with one source, absent from the text.

    At most ``most`` quadruples of all-different tokens, drawn with seed 0 from all pairs.
    """
    rng, order = np.random.default_rng(0), np.argsort(triples[:, 0], kind="stable")
    triples = triples[order]
    starts, sizes = np.unique(triples[:, 0], return_index=True, return_counts=True)[1:]
    pairs = sizes * (sizes - 1.0)
    if not pairs.sum():
        return np.empty((0, 3), int), np.empty((0, 3), int)
    group = rng.choice(len(sizes), 40 * most, p=pairs / pairs.sum())
    one, two = np.sort(starts[group] + rng.integers(0, sizes[group], (2, len(group))), axis=0)
    one, two = np.unique(np.stack([one, two]), axis=1)
    x, y = triples[one], triples[two]
    five = np.concatenate([x, y[:, 1:]], axis=1)
    different = (np.diff(np.sort(five, axis=1), axis=1) > 0).all(axis=1)
    cross = np.stack([x[:, 0], x[:, 1], y[:, 2]], axis=1), np.stack([x[:, 0], y[:, 1], x[:, 2]], axis=1)
    fits = np.flatnonzero(different & text.absent(cross[0]) & text.absent(cross[1]))
    chosen = np.sort(rng.permutation(fits)[:most])
    return cross[0][chosen], cross[1][chosen]


def cross_term_share(model: Transformer, tokens: Tokens, windows: Int[np.ndarray, "window pos"]) -> tuple[float, int]:
    """Share of quadruples whose two cross terms the model raises though the text lacks them (P2), and their number.

    The triples crossed are frequent in ``windows`` with a text lift over ln 2, and raised by the model; ``nan``
    where there are none.
    """
    text, ids = TextLifts(windows, tokens.d_vocab), np.flatnonzero(tokens.counts)[1:]
    triples = text.strong()
    one, two = quadruples(triples[raised(model, triples, ids)], text) if len(triples) else (triples, triples)
    both = raised(model, one, ids) & raised(model, two, ids) if len(one) else np.array([])
    return (float(both.mean()) if len(both) else float("nan")), len(both)
