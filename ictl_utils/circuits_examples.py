"""Examples found by search: skip-trigrams of one layer, their bugs, and heads that attend by position (P2)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from .circuits_scores import qk_terms
from .circuits_split_tokens import split_triples
from .circuits_trigrams import IdList, SourceTable, circuit_columns
from .config import require
from .metrics import Windows
from .model import Transformer
from .survey_trigrams import FAMILIES, TextLifts, Tops, families_found, quadruples, raised
from .tokens import BOS, Tokens

# ---- rows of skip-trigram tables ------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A source of a head of layer 0, and which of its entries made the search choose it."""

    head: int
    table: SourceTable
    hits: frozenset[int]  # ids among its destinations and outs
    score: float  # QK times OV of the best pair that the search looked for
    what: str = ""  # family, where the search was for one

    @property
    def name(self) -> str:
        """``L0H2``."""
        return f"L0H{self.head}"


@torch.no_grad()
def copying_found(model: Transformer, ids: IdList, n: int = 8, k: int = 6) -> list[Found]:
    """Sources that raise themselves more than any other token, best score first: ``[b] ... [a] -> [b]`` (P2).

    Score: the source's highest QK entry times its own OV entry; each source once, at its best head.

    Args:
        ids: tokens that may appear; leave out those never seen in training.
        n: rows.
        k: destinations and outs a row.
    """
    best: dict[int, Found] = {}
    for head in range(model.cfg.n_heads):
        qk, ov = circuit_columns(model, 0, head, ids, ids)
        own = ov.diagonal()
        score = (qk.max(dim=1).values * own).masked_fill(own < ov.max(dim=1).values, -torch.inf)
        for i in score.topk(min(4 * n, len(ids))).indices.tolist():
            if score[i] > max(0.0, best[i].score if i in best else 0.0):
                tops = (x[i].topk(min(k, len(ids))).indices.numpy() for x in (qk, ov))
                best[i] = Found(head, _table(ids, i, qk[i], ov[i], *tops), frozenset({int(ids[i])}), float(score[i]))
    return sorted(best.values(), key=lambda found: -found.score)[:n]


def own_output(model: Transformer, ids: IdList) -> Float[np.ndarray, "head"]:
    """Share of the tokens that raise themselves more than any other token, for each head of layer 0 (P2)."""
    shares = []
    for head in range(model.cfg.n_heads):
        ov = circuit_columns(model, 0, head, ids, ids)[1]
        others = ov.clone().fill_diagonal_(-torch.inf)
        shares.append(float((ov.diagonal() > others.max(dim=1).values).double().mean()))
    return np.array(shares)


def families_examples(model: Transformer, tokens: Tokens, tops: Tops, ids: IdList, k: int = 6) -> list[Found]:
    """The best example of each registered family found (``claims_families.csv``), by QK times OV of the pair.

    Args:
        tops: from :func:`ictl_utils.survey_trigrams.top_entries`, over the same ``ids``.
        k: entries a side, those that match the family among them.
    """
    text = {int(i): tokens.decode([i]).strip(" ") for i in ids}
    with open(FAMILIES, newline="") as file:
        rows = list(csv.DictReader(file))
    best: dict[str, Found] = {}
    for head, (destinations, outs) in enumerate(tops):
        qk, ov = circuit_columns(model, 0, head, ids, ids)
        for row in rows:
            hit = [np.array([bool(re.search(row[part], text[int(i)])) for i in ids])
                   for part in ("source", "destination", "output")]  # fmt: skip
            for found in _matches(head, row["family"], hit, ids, (destinations, outs), qk, ov, k):
                if found.score > (best[found.what].score if found.what in best else -np.inf):
                    best[found.what] = found
    return [best[row["family"]] for row in rows if row["family"] in best]


def split_examples(model: Transformer, tokens: Tokens, tops: Tops, ids: IdList, n: int = 8, k: int = 6) -> list[Found]:
    """Words copied over a split of the tokenizer, ``[ab] ... [a] -> [b]``, both parts in the top entries (P2).

    The whole word may begin with a space or not, and so may its beginning; the registered count (claim F08) asks
    for a space before the whole and none before the beginning. A word in one head once, best score first.
    """
    parts: dict[int, list[tuple[int, int]]] = {}
    for whole, start, rest in split_triples(tokens, ids).tolist():
        parts.setdefault(whole, []).append((start, rest))
    best: list[Found] = []
    for head, pair in enumerate(tops):
        qk, ov = circuit_columns(model, 0, head, ids, ids)
        for i, source in enumerate(ids.tolist()):
            for start, rest in parts.get(source, []):
                hit = [ids == source, ids == start, ids == rest]
                best += _matches(head, "", hit, ids, pair, qk, ov, k, [i])
    ordered = sorted(best, key=lambda found: -found.score)
    once = {(found.head, found.table.source): found for found in reversed(ordered)}
    return sorted(once.values(), key=lambda found: -found.score)[:n]


def _matches(head: int, what: str, hit: list[Bool[np.ndarray, "n"]], ids: IdList, tops: tuple[IdList, IdList],
             qk: torch.Tensor, ov: torch.Tensor, k: int, rows: list[int] | None = None) -> Iterator[Found]:
    """Sources that match ``hit[0]`` and have a top destination in ``hit[1]`` and a top out in ``hit[2]``."""
    for i in np.flatnonzero(hit[0]) if rows is None else rows:
        where, which = (np.searchsorted(ids, top[i]) for top in tops)
        a, b = where[hit[1][where]], which[hit[2][which]]
        if len(a) and len(b):
            chosen = [np.concatenate([match, np.setdiff1d(top, match, assume_unique=True)])[:k]
                      for match, top in ((a, where), (b, which))]  # fmt: skip
            hits = frozenset(ids[np.concatenate([a, b])].tolist())
            score = float(qk[i, a].max() * ov[i, b].max())
            yield Found(head, _table(ids, i, qk[i], ov[i], *chosen), hits, score, what)


def _table(ids: IdList, i: int, qk: torch.Tensor, ov: torch.Tensor, destinations: IdList, outs: IdList) -> SourceTable:
    """Entries of one source, highest first; places in ``ids`` in, ids out."""
    qk, ov = qk.numpy(), ov.numpy()
    to, out = destinations[np.argsort(-qk[destinations])], outs[np.argsort(-ov[outs])]
    return SourceTable(int(ids[i]), ids[to], qk[to], ids[out], ov[out])


def families_by_chance(tops: Tops, ids: IdList, tokens: Tokens, n: int = 10, seed: int = 0) -> Int[np.ndarray, "n"]:
    """How many registered families are found when destinations and outs are dealt to sources at random."""
    rng = np.random.default_rng(seed)
    deals = ([tuple(top[rng.permutation(len(ids))] for top in pair) for pair in tops] for _ in range(n))
    return np.array([sum(families_found(deal, ids, tokens).values()) for deal in deals])


# ---- bugs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """Two skip-trigrams of the text with one source, ``a ... b_i -> c_i``, and what the model makes of all four pairs.

    Row: destination b, column: out c; the diagonal is what the text has, the rest are the cross terms, which it lacks.
    """

    source: int
    destinations: tuple[int, int]
    outs: tuple[int, int]
    after: Float[np.ndarray, "2 2"]  # probability of c after <bos> a b
    without: Float[np.ndarray, "2 2"]  # the same with a replaced by random tokens, geometric mean

    @property
    def gains(self) -> Float[np.ndarray, "2 2"]:
        """What the source adds to each log-probability, nats."""
        return np.log(self.after / self.without)

    @property
    def cross(self) -> float:
        """Smaller gain of the two cross terms, nats; positive where both are raised."""
        return float(min(self.gains[0, 1], self.gains[1, 0]))


def find_bugs(model: Transformer, tokens: Tokens, windows: Windows, most: int = 2000) -> list[Bug]:
    """Pairs of skip-trigrams frequent in ``windows`` and learnt by the model, with their cross terms (claim F06).

    The registered search, on fewer windows; in the order in which it finds them, at most ``most``.

    Raises:
        IctlError: the windows hold no two such skip-trigrams with one source.
    """
    text, ids = TextLifts(windows, tokens.d_vocab), np.flatnonzero(tokens.counts)[1:]
    triples = text.strong()
    require(len(triples) > 0, "these windows hold no frequent skip-trigram; read more of them.")
    one, two = quadruples(triples[raised(model, triples, ids)], text, most)
    require(len(one) > 0, "these windows hold no two skip-trigrams with one source to cross; read more of them.")
    a, (b1, b2), (c2, c1) = one[:, 0], (one[:, 1], two[:, 1]), (one[:, 2], two[:, 2])
    asked = [np.stack([a, b, c], axis=1) for b in (b1, b2) for c in (c1, c2)]
    after, without = (x.reshape(2, 2, -1) for x in probabilities(model, np.concatenate(asked), ids))
    return [Bug(int(a[i]), (int(b1[i]), int(b2[i])), (int(c1[i]), int(c2[i])), after[..., i], without[..., i])
            for i in range(len(a))]  # fmt: skip


@torch.no_grad()
def probabilities(model: Transformer, triples: Int[np.ndarray, "n 3"], ids: IdList, n: int = 100
                  ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Probability of c after ``<bos>`` a b, and its geometric mean over ``n`` random tokens in the place of a."""
    others = np.random.default_rng(0).choice(ids, min(n, len(ids)), replace=False)
    after, without = np.empty(len(triples)), np.empty(len(triples))
    for b in np.unique(triples[:, 1]):
        mine = np.flatnonzero(triples[:, 1] == b)
        sources, at = np.unique(triples[mine, 0], return_inverse=True)
        a = torch.from_numpy(np.concatenate([sources, others]).astype(np.int64))
        rows = torch.stack([torch.full_like(a, BOS), a, torch.full_like(a, int(b))], dim=1)
        logp = (model.read_out(model.trunk(rows)[:, -1]) @ model.W_U).log_softmax(-1).double().numpy()
        outs = triples[mine, 2]
        after[mine] = np.exp(logp[at, outs])
        without[mine] = np.exp(logp[len(sources) :].mean(0)[outs])
    return after, without


def raised_by_chance(model: Transformer, tokens: Tokens, bugs: list[Bug], seed: int = 0) -> float:
    """Share of ``bugs`` whose cross terms are both raised by the source of another bug: what F06 has by chance."""
    sources = np.random.default_rng(seed).permutation([bug.source for bug in bugs])
    asked = [(a, bug.destinations[i], bug.outs[1 - i]) for i in (0, 1) for a, bug in zip(sources, bugs, strict=True)]
    after, without = probabilities(model, np.array(asked), np.flatnonzero(tokens.counts)[1:])
    return float((after > without).reshape(2, -1).all(axis=0).mean())


def most_raised(bugs: list[Bug], n: int = 5) -> list[Bug]:
    """The ``n`` bugs with the largest cross terms, each source and each out once."""
    chosen: list[Bug] = []
    for bug in sorted(bugs, key=lambda bug: -bug.cross):
        used = {x for other in chosen for x in (other.source, *other.outs)}
        if len(chosen) < n and not used & {bug.source, *bug.outs}:
            chosen.append(bug)
    return chosen


# ---- positions ------------------------------------------------------------------------------------


@torch.no_grad()
def attention_by_offset(model: Transformer, windows: Windows, layer: int = 0, n: int = 12
                        ) -> tuple[Float[np.ndarray, "head offset"], Float[np.ndarray, "head offset"]]:
    """Mean attention 0, 1, ... ``n`` - 1 tokens back on text, and the same from positions alone.

    Positions alone: softmax of the part of the score in which query and key both read the position vector only.
    Queries that can see fewer than ``n`` tokens are left out.

    Raises:
        IctlError: windows shorter than ``n``, no such layer, or a model whose positions are no separate part.
    """
    ids = torch.from_numpy(windows[:, :-1])
    require(n <= ids.shape[1], f"n={n} offsets were asked for in windows of {ids.shape[1]} tokens.")
    require(0 <= layer < model.cfg.n_layers, f"layer={layer} does not exist; the model has {model.cfg.n_layers}.")
    found = model.forward_with_cache(ids).patterns[layer]
    bare = []
    for head in range(model.cfg.n_heads):
        terms = qk_terms(model, ids[:1], layer, head)
        require("position" in terms.names, f"positions={model.cfg.positions!r} are no separate part of queries, keys.")
        score = terms.score("position", "position")[0]
        bare.append(score.masked_fill(torch.ones_like(score).triu(1).bool(), -torch.inf).softmax(-1))
    return _offsets(found.mean(0), n), _offsets(torch.stack(bare), n)


def _offsets(patterns: torch.Tensor, n: int) -> Float[np.ndarray, "head offset"]:
    return np.stack([patterns.diagonal(-i, -2, -1)[..., n - 1 - i :].mean(-1).numpy() for i in range(n)], axis=-1)
