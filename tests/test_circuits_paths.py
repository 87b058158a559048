"""Paths and score terms add up to the running model; ablation orders end at its loss."""

import math

import numpy as np
import pytest
import torch

from ictl_utils import handmade, metrics
from ictl_utils.circuits_paths import layer_split, path_sum_logits, path_terms, term_importance, virtual_heads
from ictl_utils.circuits_scores import qk_terms, qk_variance_shares
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.model import Transformer
from ictl_utils.tokens import BOS, Tokens

torch.set_num_threads(1)
KINDS = [{}, {"n_layers": 0}, {"n_layers": 1}, {"n_layers": 3}, {"norm": False}, {"positions": "learned"},
         {"positions": "rotary"}, {"smear": "value"}, {"smear": "key"}, {"smear": "query", "positions": "rotary"},
         ]  # fmt: skip


def build(**kind) -> Transformer:
    model = Transformer(ModelConfig(**{"d_model": 32, "n_heads": 4, "n_ctx": 24, "d_vocab": 50, **kind}), seed=1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():  # heads that matter, gains that differ
        for name, weight in model.named_parameters():
            gain = torch.rand(weight.shape, generator=draw) + 0.5
            weight.mul_(gain if name.startswith("ln") else 1 if name == "W_E" else 3)
        if kind.get("smear"):
            model.alpha.copy_(torch.randn(model.alpha.shape, generator=draw))
    return model.eval().requires_grad_(False)


def windows(n: int = 6) -> np.ndarray:
    rows = np.random.default_rng(0).integers(1, 50, (n, 25))
    rows[:, 0] = BOS
    return rows


def ids() -> torch.Tensor:
    return torch.from_numpy(windows(3)[:, :-1])


# ---- logits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_paths_sum_to_the_logits(kind: dict) -> None:
    model = build(**kind)
    terms = path_sum_logits(model, ids())
    assert len(terms) == 5**model.cfg.n_layers  # each layer: skipped, or one of its 4 heads
    assert (sum(terms.values()) - model(ids())).abs().max() < 1e-4
    assert torch.allclose(sum(path_terms(model, ids()).values()), model.trunk(ids()), atol=1e-4)


def test_paths_up_to_an_order() -> None:
    model = build(n_layers=3)
    full = path_sum_logits(model, ids())
    for order, n in [(0, 1), (1, 13), (2, 61)]:
        some = path_sum_logits(model, ids(), order)
        assert len(some) == n and max(map(len, some)) == order
        assert all(torch.allclose(some[path], full[path], atol=1e-5) for path in some)


def test_one_term_by_hand() -> None:
    """A virtual head: product of patterns, product of W_OV, one LayerNorm scale at every read."""
    model = build()
    cache = model.forward_with_cache(ids()[:1])
    x, std = cache.resid[0][0], [r[0].var(-1, unbiased=False).add(1e-5).sqrt()[:, None] for r in cache.resid]
    for layer, head in [(0, 3), (1, 1)]:
        read = (x - x.mean(-1, keepdim=True)) / std[layer] * model.ln1[layer]
        x = cache.patterns[layer][0, head] @ read @ model.W_V[layer, head] @ model.W_O[layer, head]
    expected = (x - x.mean(-1, keepdim=True)) / std[2] * model.ln_final @ model.W_U
    found = path_sum_logits(model, ids()[:1])[(0, 3), (1, 1)][0]
    assert torch.allclose(found, expected, atol=1e-5)


# ---- importance -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_last_order_is_the_model(kind: dict) -> None:
    model = build(**kind)
    found = term_importance(model, windows(), chunk=4)
    assert found.losses[-1] == pytest.approx(metrics.token_losses(model, windows()).mean(), abs=1e-5)
    assert found.uniform == math.log(50)
    assert found.gains.sum() == pytest.approx(found.uniform - found.losses[-1])


@pytest.mark.parametrize("kind", [{}, {"n_layers": 3}, {"norm": False}], ids=str)
def test_orders_against_explicit_sums(kind: dict) -> None:
    """Without LayerNorm the passes add paths; with it, each pass reads the sum of the pass before."""
    model, found = build(**kind), term_importance(build(**kind), windows())
    cache = model.forward_with_cache(torch.from_numpy(windows()[:, :-1]))
    right, L, direct = torch.from_numpy(windows()[:, 1:]), model.cfg.n_layers, cache.resid[0]

    def heads(layer: int, order: int) -> torch.Tensor:
        """Outputs of the heads of a layer, reading paths of less than ``order`` heads."""
        if order == 0:
            return torch.zeros_like(direct)
        x = direct + sum(heads(below, order - 1) for below in range(layer))
        x = torch.nn.functional.layer_norm(x, (32,)) * model.ln1[layer] if model.cfg.norm else x
        return sum(cache.patterns[layer][:, h] @ x @ model.W_V[layer, h] @ model.W_O[layer, h] for h in range(4))

    for order in range(L + 1):
        resid = direct + sum(heads(layer, order) for layer in range(L))
        logits = model.read_out(resid) @ model.W_U
        expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), right)
        assert found.losses[order] == pytest.approx(float(expected), abs=1e-5)


def test_without_layer_norm_orders_are_sums_of_paths() -> None:
    model, rows = build(norm=False), torch.from_numpy(windows())
    found = term_importance(model, windows())
    for order in range(3):
        logits = sum(path_sum_logits(model, rows[:, :-1], order).values())
        expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:])
        assert found.losses[order] == pytest.approx(float(expected), abs=1e-5)


def test_layer_split_meets_the_orders() -> None:
    model = build()
    split, orders = layer_split(model, windows(), chunk=4), term_importance(model, windows()).losses
    assert list(split) == [(), (0,), (1,), (0, 1)]
    assert split[()] == pytest.approx(orders[0]) and split[0, 1] == pytest.approx(orders[1])
    quiet = build()
    quiet.W_O[1] = 0  # the first layer alone, every path
    expected = metrics.token_losses(quiet, windows()).mean()
    assert split[0,] == pytest.approx(expected, abs=1e-5)
    assert len(set(split.values())) == 4


def test_in_the_hand_built_model_only_single_heads_matter() -> None:
    """The induction head copies the token it finds straight from the embedding: no virtual head helps."""
    model = handmade.induction_model()
    rows = np.tile(np.random.default_rng(0).permutation(np.arange(1, 193))[:40], (2, 2))
    found, split = term_importance(model, rows), layer_split(model, rows)
    assert found.gains[0] == pytest.approx(0, abs=1e-4)
    assert found.gains[1] > 0.1 and abs(found.gains[2]) < 1e-4
    assert split[0,] == pytest.approx(split[()]) and split[1,] == pytest.approx(split[0, 1])


@pytest.mark.parametrize("call", [
    lambda m: path_terms(m, ids()), lambda m: term_importance(m, windows()), lambda m: layer_split(m, windows()),
    lambda m: qk_terms(m, ids(), 1, 0),
])
def test_mlps_are_refused(call) -> None:
    with pytest.raises(IctlError, match="2L MLP has MLPs.*use an attention-only model"):
        call(build(mlp=True))


# ---- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.get("n_layers") != 0], ids=str)
def test_terms_sum_to_the_scores(kind: dict) -> None:
    model = build(**kind)
    cache = model.forward_with_cache(ids())
    for layer in range(model.cfg.n_layers):
        terms = qk_terms(model, ids(), layer, 2)
        expected = cache.q[layer][:, 2] @ cache.k[layer][:, 2].mT / math.sqrt(8)
        assert torch.allclose(terms.total(), expected, atol=1e-4)
        assert torch.allclose(sum(terms.grouped().values()), expected, atol=1e-4)
        assert len(terms.names) == 1 + 4 * layer + (model.cfg.positions != "rotary")


def test_one_score_term_by_hand() -> None:
    model = build()
    cache = model.forward_with_cache(ids())
    std = cache.resid[1].var(-1, unbiased=False, keepdim=True).add(1e-5).sqrt()

    def read(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / std * model.ln1[1]

    q = read(model.W_E[ids()]) @ model.W_Q[1, 3]
    k = read(cache.result(0)[:, 2]) @ model.W_K[1, 3]
    terms = qk_terms(model, ids(), 1, 3)
    assert torch.allclose(terms.score("token", "L0H2"), q @ k.mT / math.sqrt(8), atol=1e-5)
    assert terms.group("token", "L0H2") == "K" and terms.group("L0H2", "token") == "Q"
    position = model.sinusoids[:24] @ model.W_K[1, 3]
    assert torch.allclose(terms.score("token", "position"), q @ position.mT / math.sqrt(8), atol=1e-5)
    assert terms.group("L0H1", "position") == "position" and terms.group("L0H1", "L0H2") == "both"


@pytest.mark.parametrize("skip", [0, 1, 3])
def test_variance_shares_against_a_loop(skip: int) -> None:
    model = build()
    terms = qk_terms(model, ids(), 1, 0)
    groups, total = {name: x.double() for name, x in terms.grouped().items()}, terms.total().double()
    variance, covariance = 0.0, dict.fromkeys(groups, 0.0)
    for b in range(3):
        for i in range(skip, 24):
            row = total[b, i, skip : i + 1]
            variance += float((row - row.mean()).square().sum())
            for name, scores in groups.items():
                term = scores[b, i, skip : i + 1]
                covariance[name] += float(((term - term.mean()) * (row - row.mean())).sum())
    found = qk_variance_shares(model, ids(), 1, 0, skip)
    assert sum(found.values()) == pytest.approx(1)
    for name in groups:
        assert found[name] == pytest.approx(covariance[name] / variance, abs=1e-5)


def test_the_hand_built_induction_head_uses_keys() -> None:
    model = handmade.induction_model()
    alphabet = Tokens("synthetic", 192, np.tile(np.arange(192), 50).astype(np.uint16),
                      np.arange(192).astype(np.uint16), None, "", 1, 0)  # fmt: skip
    shares = qk_variance_shares(model, metrics.repeated_blocks(alphabet, n=2), 1, 0)
    assert shares["K"] > 0.9 * (1 - shares["position"])
    assert abs(shares["Q"]) + abs(shares["Id"]) + abs(shares["both"]) < 1e-3


def test_layer_zero_composes_with_nothing() -> None:
    found = qk_variance_shares(build(), ids(), 0, 1)
    assert found["Q"] == found["K"] == found["both"] == 0


def test_unknown_head() -> None:
    with pytest.raises(IctlError, match="L0H4 does not exist"):
        qk_terms(build(), ids(), 0, 4)
    with pytest.raises(IctlError, match="part='L0H4'"):
        qk_terms(build(), ids(), 1, 0).score("token", "L0H4")


# ---- virtual heads --------------------------------------------------------------------------------


def test_virtual_heads_against_a_loop() -> None:
    model = build(n_layers=3)
    found, cache = virtual_heads(model, ids(), (0, 2)), model.forward_with_cache(ids())
    C = torch.eye(32) - 1 / 32
    for one in range(4):
        for two in range(4):
            expected = cache.patterns[2][:, two] @ cache.patterns[0][:, one]
            assert torch.allclose(found.patterns[one, two], expected, atol=1e-6)
            first = C @ torch.diag(model.ln1[0]) @ model.W_V[0, one] @ model.W_O[0, one] @ C
            second = C @ torch.diag(model.ln1[2]) @ model.W_V[2, two] @ model.W_O[2, two] @ C
            assert found.norms[one, two] == pytest.approx(float(torch.linalg.matrix_norm(first @ second)), rel=1e-4)
    with pytest.raises(IctlError, match=r"layers=\(1, 1\) are not two layers"):
        virtual_heads(model, ids(), (1, 1))
