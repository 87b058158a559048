"""Circuits from the weights: thin factors against dense matrices, batched scores against loops, known heads."""

import time

import numpy as np
import pytest
import torch

from ictl_utils import circuits, handmade
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.lowrank import LowRank, positivity
from ictl_utils.model import Transformer

torch.set_num_threads(1)


def build(**kind) -> Transformer:
    model = Transformer(ModelConfig(**{"d_model": 32, "n_heads": 4, "n_ctx": 24, "d_vocab": 50, **kind}), seed=1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("ln"):
                weight.copy_(torch.rand(weight.shape, generator=draw) + 0.5)
    return model.eval().requires_grad_(False)


def dense_fold(model: Transformer) -> dict[str, torch.Tensor]:
    """Folding with explicit matrices: C removes the mean over d_model, G scales by a gain."""
    d, W = model.cfg.d_model, {n: p.double() for n, p in model.named_parameters()}
    C = torch.eye(d).double() - 1 / d if model.cfg.norm else torch.eye(d).double()
    gain = lambda name: torch.diag_embed(W[name]) if model.cfg.norm else torch.eye(d).double()  # noqa: E731
    read = (C @ gain("ln1")).expand(model.cfg.n_layers, d, d)
    E, V = W["W_E"], model.cfg.d_vocab
    if model.cfg.norm:
        E = (E - E.mean(1, keepdim=True)) / (E.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return {"E": E, "U": C @ gain("ln_final") @ W["W_U"] @ (torch.eye(V).double() - 1 / V),
            **{n: torch.einsum("lde,lhek->lhdk", read, W[f"W_{n}"]) for n in "QKV"}, "O": W["W_O"] @ C}


# ---- low rank -------------------------------------------------------------------------------------


def factors(*shape: int) -> LowRank:
    n, r, m = shape[-3:]
    return LowRank(torch.randn(*shape[:-3], n, r, dtype=torch.float64), torch.randn(*shape[:-3], r, m,
                                                                                    dtype=torch.float64))


def test_low_rank_against_dense() -> None:
    torch.manual_seed(0)
    a = factors(3, 20, 4, 20)
    dense = a.dense()
    large = torch.linalg.eigvals(dense)
    for b in range(3):
        kept = large[b][large[b].abs() > 1e-9]
        found = a.eigenvalues()[b]
        assert len(kept) == 4
        assert (found[:, None] - kept).abs().min(1).values.max() < 1e-8
    assert torch.allclose(a.trace(), dense.diagonal(dim1=1, dim2=2).sum(1))
    assert torch.allclose(a.norm(), torch.linalg.matrix_norm(dense))
    assert torch.allclose(a.T.dense(), dense.mT)


@pytest.mark.parametrize("ranks", [(2, 5), (5, 2)])
def test_a_product_keeps_the_smaller_rank(ranks: tuple[int, int]) -> None:
    a, b = factors(9, ranks[0], 8), factors(8, ranks[1], 7)
    product = a @ b
    assert product.left.shape[1] == 2
    assert torch.allclose(product.dense(), a.dense() @ b.dense())


def test_positivity_of_known_matrices() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    assert positivity(LowRank(eye, eye).eigenvalues()) == pytest.approx(1)
    assert positivity(LowRank(eye, -eye).eigenvalues()) == pytest.approx(-1)
    assert positivity(LowRank(eye, eye.roll(1, 0)).eigenvalues()) == pytest.approx(0, abs=1e-9)  # a cycle
    assert positivity(LowRank(eye, 0 * eye).eigenvalues()) == 0


# ---- full circuits --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [True, False])
def test_circuits_against_explicit_matrices(norm: bool) -> None:
    model = build(norm=norm)
    W = dense_fold(model)
    for layer, head in [(0, 1), (1, 3)]:
        ov = W["V"][layer, head] @ W["O"][layer, head]
        qk = W["Q"][layer, head] @ W["K"][layer, head].mT
        assert torch.allclose(circuits.W_OV(model, layer, head).dense(), ov)
        assert torch.allclose(circuits.W_QK(model, layer, head).dense(), qk)
        assert torch.allclose(circuits.full_OV(model, layer, head).dense(), W["E"] @ ov @ W["U"])
        assert torch.allclose(circuits.full_QK(model, layer, head).dense(), W["E"] @ qk @ W["E"].mT)


def test_folded_circuits_predict_the_running_model() -> None:
    """One token attending to itself: the head's effect on the logits is its OV row, up to one scale."""
    model = build(n_layers=1)
    tokens = torch.arange(50)[:, None]
    cache = model.forward_with_cache(tokens)
    std = cache.resid[-1][:, 0].var(-1, unbiased=False).add(1e-5).sqrt()
    for head in range(4):
        result = cache.result(0)[:, head, 0]
        effect = (result - result.mean(-1, keepdim=True)) / std[:, None] * model.ln_final @ model.W_U
        effect = effect - effect.mean(-1, keepdim=True)
        expected = circuits.full_OV(model, 0, head).dense().float() / std[:, None]
        assert torch.allclose(effect, expected, atol=1e-5)


def test_full_qk_is_the_score_without_positions() -> None:
    model = build(positions="learned")
    model.W_pos.zero_()
    tokens = torch.randint(0, 50, (2, 24))
    cache = model.forward_with_cache(tokens)
    scores = circuits.full_QK(model, 0, 2).dense().float()
    expected = torch.stack([scores[row][:, row] for row in tokens])
    found = cache.q[0][:, 2] @ cache.k[0][:, 2].mT
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("call", [circuits.W_OV, circuits.W_QK, circuits.full_OV, circuits.full_QK])
def test_unknown_head(call) -> None:
    with pytest.raises(IctlError, match="L2H0 does not exist; the model has 2 layers of 4 heads"):
        call(build(), 2, 0)


# ---- eigenvalues ----------------------------------------------------------------------------------


def test_copying_statistic_against_dense_eigenvalues() -> None:
    model = build()
    found = circuits.copying_statistic(model)
    assert found.shape == (2, 4)
    for layer in range(2):
        for head in range(4):
            values = torch.linalg.eigvals(circuits.full_OV(model, layer, head).dense())
            assert found[layer, head] == pytest.approx(float(values.sum().real / values.abs().sum()), abs=1e-8)


@pytest.mark.parametrize("embeddings", ["random", "model"])
def test_the_null_is_symmetric(embeddings: str) -> None:
    null = circuits.copying_null(build(), 400, embeddings=embeddings)
    assert abs(null.mean()) < 4 * null.std() / 20
    assert 0.45 < (null > 0).mean() < 0.55 and 0.02 < null.std() < 0.4


def test_untrained_heads_lie_in_the_null() -> None:
    statistic = circuits.copying_statistic(Transformer(ModelConfig(n_layers=6), seed=3).requires_grad_(False))
    null = circuits.copying_null(build(d_model=128, d_vocab=1024), 60)
    assert abs(statistic).max() < 6 * null.std()
    assert abs(statistic.mean()) < 0.05


def test_a_hand_built_induction_model() -> None:
    model, previous = handmade.induction_model(), np.zeros((2, 2))
    previous[0, 0] = 0.5
    copying = circuits.copying_statistic(model)
    assert copying[1, 0] == pytest.approx(1, abs=1e-6)
    assert copying[0] == pytest.approx(0) and copying[1, 1] == 0  # L0H0 writes where W_U does not read
    trace = circuits.qk_trace(model, previous)
    assert trace[1, 0] == pytest.approx(0.5 * 12 * handmade.SIZE**2 * handmade.LARGEST)
    assert circuits.qk_positivity(model, previous)[1, 0] == pytest.approx(1, abs=1e-6)
    assert trace[1, 1] == 0 and np.isnan(trace[0]).all()
    scores = circuits.composition_scores(model)
    strengths = handmade.LARGEST * (12**2 + 8**2)  # matching, and resting on itself
    assert scores.k[0, 0, 1, 0] == pytest.approx(12 / strengths**0.5)  # twice 1 / sqrt(d_model)
    assert scores.q[0, 0, 1, 0] == scores.v[0, 0, 1, 0] == scores.k[0, 1, 1, 0] == 0


@pytest.mark.parametrize("norm", [True, False])
def test_qk_trace_against_a_dense_loop(norm: bool) -> None:
    model = build(n_layers=3, norm=norm)
    W, previous = dense_fold(model), np.random.default_rng(0).random((3, 4))
    trace, positive = circuits.qk_trace(model, previous), circuits.qk_positivity(model, previous)
    assert np.isnan(trace[0]).all() and np.isnan(positive[0]).all()
    for layer in (1, 2):
        for head in range(4):
            total = torch.zeros(50, 50, dtype=torch.float64)
            for below in range(layer):
                for e in range(4):
                    moved = W["E"] @ W["V"][below, e] @ W["O"][below, e]
                    total += previous[below, e] * (
                        W["E"] @ W["Q"][layer, head] @ W["K"][layer, head].mT @ moved.mT)
            values = torch.linalg.eigvals(total)
            assert trace[layer, head] == pytest.approx(float(total.trace()), rel=1e-6, abs=1e-6)
            assert positive[layer, head] == pytest.approx(float(values.sum().real / values.abs().sum()), abs=1e-6)


def test_qk_trace_needs_a_score_for_each_head() -> None:
    with pytest.raises(IctlError, match=r"previous has shape \(1, 4\); expected \(layers, heads\) = \(2, 4\)"):
        circuits.qk_trace(build(), np.zeros((1, 4)))


@pytest.mark.parametrize("n_layers", [0, 1])
def test_models_with_nothing_to_compose(n_layers: int) -> None:
    model = build(n_layers=n_layers)
    assert circuits.copying_statistic(model).shape == (n_layers, 4)
    assert np.isnan(circuits.qk_trace(model, np.zeros((n_layers, 4)))).all()
    assert np.isnan(circuits.composition_scores(model).k).all()


# ---- composition ----------------------------------------------------------------------------------


def naive(W: dict, one: tuple[int, int], two: tuple[int, int], kind: str, buggy: bool) -> float:
    """The formulas of the paper in its own order: column vectors, dense matrices."""
    Q, K, V, out = (W[n][two].mT for n in "QKVO")
    V1, O1 = W["V"][one].mT, W["O"][one].mT
    dense = {"q": (K.mT @ Q), "k": (Q.mT @ K), "v": out @ V}[kind]  # W_QK.T, W_QK, W_OV
    turned = {"q": Q @ O1 @ V1 @ K.mT, "k": K @ O1 @ V1 @ Q.mT, "v": V @ O1 @ V1 @ out}[kind]
    size = torch.linalg.matrix_norm
    return float(size(turned if buggy else dense @ O1 @ V1) / size(dense) / size(O1 @ V1))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("buggy", [False, True])
def test_composition_against_the_naive_loop(norm: bool, buggy: bool) -> None:
    model = build(n_layers=3, norm=norm)
    W, found = dense_fold(model), circuits.composition_scores(model, buggy=buggy)
    for kind in "qkv":
        scores = getattr(found, kind)
        for one in np.ndindex(3, 4):
            for two in np.ndindex(3, 4):
                value = scores[*one, *two]
                if one[0] < two[0]:
                    assert value == pytest.approx(naive(W, one, two, kind, buggy), rel=1e-8)
                else:
                    assert np.isnan(value)


def test_the_turned_product_has_the_same_eigenvalues_but_not_the_same_norm() -> None:
    """Why the error could be made, and that it matters."""
    W = dense_fold(build())
    right = W["Q"][1, 0] @ W["K"][1, 0].mT @ W["O"][0, 0].mT @ W["V"][0, 0].mT
    turned = W["K"][1, 0].mT @ W["O"][0, 0].mT @ W["V"][0, 0].mT @ W["Q"][1, 0]
    assert right.trace() == pytest.approx(float(turned.trace()), rel=1e-6)
    assert torch.linalg.matrix_norm(right) > 1.2 * torch.linalg.matrix_norm(turned)


def test_random_heads_score_at_the_baseline() -> None:
    cfg = ModelConfig(n_layers=6, norm=False)
    baseline = circuits.composition_baseline(cfg)
    assert baseline.mean == pytest.approx(baseline.analytic, rel=0.02) and baseline.sd < 0.05 * baseline.mean
    assert circuits.composition_baseline(cfg, buggy=True).mean < 0.7 * baseline.mean
    scores = circuits.composition_scores(Transformer(cfg).requires_grad_(False))
    for kind in (scores.q, scores.k, scores.v):
        assert np.nanmean(kind) == pytest.approx(baseline.mean, rel=0.02)


def test_composition_of_six_layers_is_fast() -> None:
    model = Transformer(ModelConfig(n_layers=6)).requires_grad_(False)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        circuits.composition_scores(model)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1

def test_the_null_with_the_model_s_embeddings_has_them() -> None:
    model = build()
    model.W_U[:] = model.W_E.T * 3  # copying embeddings: W_U W_E is nearly the identity
    own, other = (circuits.copying_null(model, 50, embeddings=x) for x in ("model", "random"))
    assert not np.allclose(own, other)
    assert not np.allclose(other, circuits.copying_null(model, 50, seed=1))
