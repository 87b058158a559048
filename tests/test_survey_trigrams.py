"""Skip-trigrams against the text: counts and effects against loops on a small corpus."""

from collections import Counter

import numpy as np
import torch

from ictl_utils.config import ModelConfig
from ictl_utils.model import Transformer
from ictl_utils.survey_trigrams import TextLifts, quadruples, raised, top_entries

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
