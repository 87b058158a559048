"""Skip-trigram tables against dense sorting, their bugs by hand-built heads, families by example, bigrams by loop."""

import itertools
import math

import numpy as np
import pytest
import torch

from ictl_utils import circuits
from ictl_utils.circuits_split_tokens import split_tokens, split_triples
from ictl_utils.circuits_trigrams import (
    SkipTrigram,
    bigram_kl,
    direct_logits,
    skip_trigrams,
    top_skip_trigrams,
)
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.model import Transformer
from ictl_utils.tokens import Tokens

torch.set_num_threads(1)
SIZE = 24


def build(**kind) -> Transformer:
    cfg = {"n_layers": 1, "d_model": 32, "n_heads": 4, "n_ctx": 24, "d_vocab": SIZE, **kind}
    model = Transformer(ModelConfig(**cfg), seed=1).eval().requires_grad_(False)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        getattr(model, name).mul_(4)
    return model


def dense(model: Transformer, head: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """QK [source, destination] in nats, centred over the keys in ``ids``; OV [source, out]."""
    qk = circuits.full_QK(model, 0, head).dense() / math.sqrt(model.cfg.d_head)
    centred = qk - qk[:, ids].mean(1, keepdim=True)
    return centred.T.numpy(), circuits.full_OV(model, 0, head).dense().numpy()


# ---- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, np.array([1, 2, 5, 7, 11, 20, 23])])
def test_tables_against_sorting_the_dense_circuits(ids) -> None:
    model, allowed = build(), np.arange(SIZE) if ids is None else ids
    qk, ov = dense(model, 2, allowed)
    for table, source in zip(skip_trigrams(model, 0, 2, [5, 9], k=4, ids=ids), [5, 9], strict=True):
        assert table.source == source
        for found, values, row in ((table.destinations, table.qk, qk[source]), (table.outs, table.ov, ov[source])):
            order = allowed[np.argsort(-row[allowed])][:4]
            assert (found == order).all() and np.allclose(values, row[order])


@pytest.mark.parametrize("ids", [None, np.array([1, 2, 5, 7, 11, 20, 23])])
@pytest.mark.parametrize("per_source", [None, 1, 3])
def test_the_best_triples_against_all_triples(ids, per_source) -> None:
    model, allowed = build(), np.arange(SIZE) if ids is None else ids
    qk, ov = dense(model, 1, allowed)
    rows = sorted(((max(qk[s, d], 0) * max(ov[s, o], 0), s, d, o)
                   for s, d, o in itertools.product(allowed, repeat=3)), reverse=True)
    kept, used = [], dict.fromkeys(allowed, 0)
    for row in rows:
        if used[row[1]] < (per_source or len(rows)):
            kept.append(row)
            used[row[1]] += 1
    n = 20 if per_source is None else per_source * len(allowed) // 2
    found = top_skip_trigrams(model, 1, n, ids=ids, per_source=per_source)
    assert [(t.source, t.destination, t.out) for t in found] == [row[1:] for row in kept[:n]]
    assert np.allclose([t.score for t in found], [row[0] for row in kept[:n]])


def test_two_negative_factors_are_no_skip_trigram() -> None:
    assert SkipTrigram(1, 2, 3, -2.0, -3.0).score == 0


def test_too_many_entries_and_unknown_heads() -> None:
    with pytest.raises(IctlError, match="k=25 entries.*24 tokens"):
        skip_trigrams(build(), 0, 0, [1], k=25)
    for wrong in ({"sources": [1, 24]}, {"sources": [-24]}, {"sources": [1], "ids": np.array([3, 24])}):
        with pytest.raises(IctlError, match=r"token \[-?24\] is not among the ids 0 to 23"):
            skip_trigrams(build(), 0, 0, **wrong, k=1)
    with pytest.raises(IctlError, match="L0H4 does not exist"):
        top_skip_trigrams(build(), 4)


# ---- a model by hand ----------------------------------------------------------------------------------


def by_hand(heads: list[tuple[list[int], list[int]]]) -> Transformer:
    """One layer with one source, token 1; a head is the destinations that attend to it and the outs it raises."""
    cfg = ModelConfig(n_layers=1, d_model=2 * SIZE, n_heads=len(heads), n_ctx=64, d_vocab=SIZE, norm=False)
    model = Transformer(cfg).requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    model.W_E[:, :SIZE], model.W_U[SIZE:] = torch.eye(SIZE), torch.eye(SIZE)
    for head, (destinations, outs) in enumerate(heads):
        model.W_Q[0, head, destinations, 0] = 100.0
        model.W_K[0, head, 1, 0] = model.W_V[0, head, 1, 0] = 1.0
        model.W_O[0, head, 0, SIZE + torch.tensor(outs, dtype=torch.long)] = 1.0
    return model


# ---- families -------------------------------------------------------------------------------------


class Words:
    """A tokenizer of whole words, given one by one."""

    corpus, tokenizer = "words", object()

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def decode(self, ids: list[int]) -> str:
        return self.words[ids[0]]

    @property
    def counts(self) -> np.ndarray:
        return np.ones(len(self.words), dtype=np.int64)


SPLIT = Words([" Ralph", " R", "alph", "R", "Ra", "lph", "al", "(", " al", "ph"] + [f"<{i}>" for i in range(SIZE - 10)])


def test_words_that_are_one_token_and_two() -> None:
    found = {tuple(SPLIT.words[i] for i in row) for row in split_triples(SPLIT, np.arange(SIZE))}
    assert found == {(" Ralph", " R", "alph"), (" Ralph", "R", "alph"), (" Ralph", "Ra", "lph"), ("alph", "al", "ph"),
                     ("alph", " al", "ph")}
    assert len(split_triples(SPLIT, np.array([0, 1, 4, 5]))) == 1


def test_a_head_that_copies_over_a_split() -> None:
    """Destination R attends to Ralph, which raises alph: one of the five triples comes first."""
    model = by_hand([([3], [2]), ([], [])])
    model.W_K[0, 0, 0, 0], model.W_V[0, 0, 0, 0] = 1.0, 1.0  # the source is Ralph, token 0
    found = split_tokens(model, SPLIT, 0)
    assert [SPLIT.words[i] for i in (found.best[0].source, found.best[0].destination, found.best[0].out)] == [
        " Ralph", "R", "alph"]
    assert len(found.best) == 5 and found.best[0].ov == pytest.approx(1 - 1 / SIZE)
    assert found.share == pytest.approx(2 / 5)  # alph after R and after " R"
    assert split_tokens(model, SPLIT, 1).share == 0  # a head that raises nothing


# ---- bigrams --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain() -> Tokens:
    """A Markov chain over 24 tokens, some pairs of which never follow each other."""
    rng = np.random.default_rng(0)
    steps, ids = rng.dirichlet(np.full(SIZE, 0.3), SIZE), [1]
    for _ in range(20_000):
        ids.append(rng.choice(SIZE, p=steps[ids[-1]]))
    ids = np.array(ids, dtype=np.uint16)
    return Tokens("synthetic", SIZE, ids, ids[:100], None, "", 1, 0)


def table(chain: Tokens) -> np.ndarray:
    counts = np.zeros((SIZE, SIZE))
    for a, b in itertools.pairwise(chain.train.tolist()):
        counts[a, b] += 1
    return counts


def zero_layers(logits: np.ndarray) -> Transformer:
    model = Transformer(ModelConfig(n_layers=0, d_model=SIZE, n_heads=1, d_vocab=SIZE, norm=False))
    model.requires_grad_(False)
    model.W_E[:], model.W_U[:] = torch.eye(SIZE), torch.from_numpy(logits).float()
    return model


def test_a_table_of_bigrams_fits_exactly(chain: Tokens) -> None:
    counts = table(chain)
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(counts / counts.sum(1, keepdims=True)), -30)
    fit = bigram_kl(zero_layers(logits), chain, frequent=10, smoothing=1e-6)
    assert fit.kl == pytest.approx(0, abs=1e-5) and fit.reverse_kl == pytest.approx(0, abs=1e-3)
    assert fit.correlation == pytest.approx(1, abs=1e-5) and fit.previous == 10


def test_bigram_fit_against_a_loop(chain: Tokens) -> None:
    counts, logits = table(chain), np.random.default_rng(1).normal(size=(SIZE, SIZE))
    fit, rows = bigram_kl(zero_layers(logits), chain, frequent=7), np.argsort(-counts.sum(1), kind="stable")[:7]
    kl = reverse = 0.0
    pairs = []
    for a in rows:
        p, q = counts[a] / counts[a].sum(), np.exp(logits[a]) / np.exp(logits[a]).sum()
        smooth = (counts[a] + 0.1) / (counts[a] + 0.1).sum()
        share = counts[a].sum() / counts[rows].sum()
        kl += share * sum(p[b] * math.log(p[b] / q[b]) for b in range(SIZE) if p[b])
        reverse += share * sum(q[b] * math.log(q[b] / smooth[b]) for b in range(SIZE))
        pairs += [(math.log(p[b]), math.log(q[b])) for b in range(SIZE) if counts[a, b] >= 5]
    assert fit.kl == pytest.approx(kl, abs=1e-5) and fit.reverse_kl == pytest.approx(reverse, abs=1e-5)
    assert fit.correlation == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-5)
    smoothed = np.log((counts[rows] + 0.1) / (counts[rows] + 0.1).sum(1, keepdims=True))
    assert fit.all_correlation == pytest.approx(np.corrcoef(smoothed.ravel(), logits[rows].ravel())[0, 1], abs=1e-5)


def test_the_direct_path_of_zero_layers_is_the_model() -> None:
    model = build(n_layers=0)
    assert torch.allclose(direct_logits(model), model(torch.arange(SIZE)[:, None])[:, 0], atol=1e-6)


def test_another_vocabulary(chain: Tokens) -> None:
    with pytest.raises(IctlError, match="knows 30 tokens, the corpus 24"):
        bigram_kl(build(d_vocab=30), chain)

def test_chance_exchanges_the_outs() -> None:
    model = by_hand([([3], [2])])
    model.W_K[0, 0, 0, 0], model.W_V[0, 0, 0, 0] = 1.0, 1.0
    found = [split_tokens(model, SPLIT, 0, seed=seed) for seed in range(20)]
    assert {one.share for one in found} == {2 / 5} and len({one.chance for one in found}) > 1
