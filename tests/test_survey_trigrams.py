"""Skip-trigrams against the text: counts and effects against loops on a small corpus."""

from collections import Counter
from itertools import combinations

import numpy as np
import torch

from ictl_utils.config import ModelConfig
from ictl_utils.model import Transformer
from ictl_utils.survey_trigrams import (
    TextLifts,
    cross_term_share,
    families_found,
    heads_with_split_tokens,
    quadruples,
    raised,
    top_entries,
)
from ictl_utils.tokens import Tokens

V = 12
RNG = np.random.default_rng(0)
WINDOWS = np.concatenate([np.zeros((300, 1), np.int64), RNG.zipf(1.6, (300, 10)).clip(max=V - 1)], axis=1)
MODEL = Transformer(ModelConfig(n_layers=1, d_model=32, n_heads=2, n_ctx=16, d_vocab=V), seed=1)


def by_loop() -> tuple[Counter, Counter, Counter, Counter]:
    abc, ab, bc, b_ = Counter(), Counter(), Counter(), Counter()
    for row in WINDOWS:
        for i in range(1, len(row) - 1):
            bc[row[i], row[i + 1]] += 1
            b_[row[i]] += 1
            for a in set(row[1:i].tolist()):
                abc[a, row[i], row[i + 1]] += 1
                ab[a, row[i]] += 1
    return abc, ab, bc, b_


def test_lifts_against_a_loop() -> None:
    text, (abc, ab, bc, b_) = TextLifts(WINDOWS, V), by_loop()
    assert len(text.codes) == len(abc)
    for code, count, lift in zip(text.codes, text.counts, text.lifts, strict=True):
        a, b, c = code // V**2, code // V % V, code % V
        assert count == abc[a, b, c]
        assert np.isclose(lift, np.log(count / ab[a, b]) - np.log(bc[b, c] / b_[b]))
    some = RNG.integers(0, V, (500, 3))
    expected = [abc[tuple(t)] == 0 or np.log(abc[tuple(t)] / ab[t[0], t[1]] * b_[t[1]] / bc[t[1], t[2]]) <= 0
                for t in some]  # fmt: skip
    assert text.absent(some).tolist() == expected and 50 < sum(expected) < 450
    strong = {tuple(t) for t in text.strong(5)}
    assert strong == {t for t, n in abc.items()
                      if n >= 5 and n / ab[t[:2]] / (bc[t[1:]] / b_[t[1]]) > 2} and strong  # fmt: skip


def test_raised_against_a_loop() -> None:
    ids, triples = np.arange(1, V), RNG.integers(1, V, (40, 3))
    with torch.no_grad():
        for triple, found in zip(triples, raised(MODEL, triples, ids), strict=True):
            a, b, c = triple.tolist()
            logp = MODEL(torch.tensor([[0, x, b] for x in (a, *ids.tolist())]))[:, -1].log_softmax(-1)[:, c]
            assert found == bool(logp[0] > logp[1:].mean())


def test_quadruples_are_what_they_say() -> None:
    text = TextLifts(WINDOWS, V)
    triples = text.strong(3)
    one, two = quadruples(triples, text, most=50)
    known = {tuple(t) for t in triples}
    assert 0 < len(one) == len(two) <= 50
    assert text.absent(one).all() and text.absent(two).all()
    for (a, b1, c2), (a2, b2, c1) in zip(one.tolist(), two.tolist(), strict=True):
        assert a == a2 and len({a, b1, b2, c1, c2}) == 5
        assert (a, b1, c1) in known and (a, b2, c2) in known


def test_top_entries_against_dense_matrices() -> None:
    ids = np.arange(1, V)
    for head, (destinations, outputs) in enumerate(top_entries(MODEL, ids, 3)):
        x = torch.nn.functional.layer_norm(MODEL.W_E, (32,)).detach()
        written = x @ MODEL.W_V[0, head] @ MODEL.W_O[0, head]
        ov = (written - written.mean(1, keepdim=True)) @ MODEL.W_U  # the final LayerNorm centres
        qk = (x @ MODEL.W_Q[0, head]) @ (x @ MODEL.W_K[0, head]).T
        for source, where, what in zip(ids, destinations, outputs, strict=True):
            column = qk[1:, source].argsort(descending=True) + 1
            row = [int(i) for i in ov[source].argsort(descending=True) if i not in (0, source)]
            assert where.tolist() == column[:3].tolist() and what.tolist() == row[:3]


def topics() -> np.ndarray:
    """Windows of a topic, 1 to 3, and pairs b c: after b comes the one c that the topic gives it."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 4, (2000, 1)), rng.integers(4, 12, (2000, 4))
    pairs = np.stack([b, 12 + (b + a) % 8], axis=2).reshape(2000, -1)
    return np.concatenate([np.zeros((2000, 1), np.int64), a, pairs], axis=1)


def test_cross_terms_against_a_loop() -> None:
    windows = topics()
    tokens = Tokens("none", 20, windows.ravel(), windows.ravel(), None, "", 1, 0)
    for seed in range(3):
        model = Transformer(ModelConfig(n_layers=1, d_model=32, n_heads=2, n_ctx=16, d_vocab=20), seed=seed)
        text, ids = TextLifts(windows, 20), np.arange(1, 20)
        known = {tuple(t) for t in text.strong().tolist()}
        assert {(a, b, 12 + (b + a) % 8) for a in (1, 2, 3) for b in range(4, 12)} <= known
        up = lambda *t: bool(raised(model, np.array([t]), ids)[0])  # noqa: B023, E731
        found = []
        for (a, b1, c1), (a2, b2, c2) in combinations(sorted(t for t in known if up(*t)), 2):
            crossed = (a, b1, c2), (a, b2, c1)
            if a == a2 and len({a, b1, b2, c1, c2}) == 5 and text.absent(np.array(crossed)).all():
                found.append(up(*crossed[0]) and up(*crossed[1]))
        share, n = cross_term_share(model, tokens, windows)
        assert n == len(found) > 10 and share == np.mean(found)


class Words(Tokens):
    """Tokens that read as the words they are given."""

    def decode(self, ids: list[int]) -> str:
        return self.corpus.split("|")[ids[0]]


def table(entries: dict[int, tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Two destinations and two outputs of each of nine sources; of those not named, the source before."""
    rows = [entries.get(i, ([i - 1, i - 1], [i - 1, i - 1])) for i in range(1, 10)]
    return np.array([where for where, _ in rows]), np.array([what for _, what in rows])


def test_families_and_split_tokens_by_hand() -> None:
    tokens, ids = Words("-|for| in|range| open|,|'r| ab|a|b", 10, WINDOWS, WINDOWS, None, "", 1, 0), np.arange(1, 10)
    one = table({1: ([2, 5], [9, 3]), 4: ([5, 9], [3, 9]), 7: ([8, 2], [9, 3])})
    other = table({1: ([8, 5], [9, 2]), 4: ([2, 9], [6, 9]), 7: ([9, 2], [8, 3])})
    found = families_found([one, other], ids, tokens)
    assert found["loop"] and not families_found([other], ids, tokens)["loop"]
    assert not found["mode"], "half a family in one head and half in another is none"
    assert families_found([(one[0], other[1])], ids, tokens)["mode"] and sum(found.values()) == 1
    assert heads_with_split_tokens([one, other], ids, tokens) == 1  # " ab" ... "a" -> "b", and not "b" -> "a"
    assert heads_with_split_tokens([other], ids, tokens) == 0
