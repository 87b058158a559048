"""Both paths of the model agree, overrides do what they say, and hand-built weights score as computed."""

import math

import numpy as np
import pytest
import torch

from ictl_utils import handmade, metrics
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.loss import each_loss, mean_loss
from ictl_utils.model import Transformer, attention_pattern, rotate, smear
from ictl_utils.tokens import Tokens

KINDS = [
    {}, {"n_layers": 0}, {"mlp": True}, {"norm": False}, {"positions": "learned"}, {"positions": "rotary"},
    {"smear": "key"}, {"smear": "query", "positions": "rotary"}, {"smear": "value", "mlp": True}, {"n_layers": 6},
]  # fmt: skip


def build(**kind) -> Transformer:
    model = Transformer(ModelConfig(**{"d_model": 32, "n_heads": 4, "n_ctx": 40, "d_vocab": 50, **kind}), seed=1)
    with torch.no_grad():  # larger than at the start, so that a difference would show
        for name, weight in model.named_parameters():
            weight.mul_(torch.rand_like(weight) + 0.5 if name.startswith("ln") else 1 if name == "W_E" else 3)
        if kind.get("smear"):
            model.alpha.copy_(torch.randn(model.alpha.shape))
    return model.eval().requires_grad_(False)


def ids(batch: int = 3, pos: int = 40) -> torch.Tensor:
    return torch.randint(0, 50, (batch, pos), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_both_paths_agree(kind: dict) -> None:
    model = build(**kind)
    cache = model.forward_with_cache(ids())
    assert (model(ids()) - cache.logits).abs().max() < 1e-5
    for pattern in cache.patterns:
        assert torch.allclose(pattern.sum(-1), torch.ones(3, 4, 40), atol=1e-5)
        assert (pattern.triu(1) == 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_later_tokens_change_nothing_before(kind: dict) -> None:
    model, changed = build(**kind), ids()
    changed[:, 20:] = (changed[:, 20:] + 1) % 50
    assert torch.allclose(model(ids())[:, :20], model(changed)[:, :20], atol=1e-5)


def test_against_a_naive_head_by_head_loop() -> None:
    model, tokens = build(), ids(1)
    x, sinus = model.W_E[tokens[0]], model.sinusoids
    for layer in range(2):
        read = torch.nn.functional.layer_norm(x, (32,)) * model.ln1[layer]
        for head in range(4):
            q = (read + sinus) @ model.W_Q[layer, head]
            k = (read + sinus) @ model.W_K[layer, head]
            scores = (q @ k.T / math.sqrt(8)).masked_fill(torch.ones(40, 40).triu(1).bool(), -torch.inf)
            x = x + scores.softmax(-1) @ read @ model.W_V[layer, head] @ model.W_O[layer, head]
    logits = torch.nn.functional.layer_norm(x, (32,)) * model.ln_final @ model.W_U
    assert torch.allclose(model(tokens)[0], logits, atol=1e-5)


def test_results_sum_to_the_residual_stream() -> None:
    model = build()
    cache = model.forward_with_cache(ids())
    total = model.W_E[ids()] + sum(cache.result(layer).sum(1) for layer in range(2))
    assert torch.allclose(total, cache.resid[-1], atol=1e-5)


def test_frozen_patterns_and_start_layer_change_nothing() -> None:
    model = build(mlp=True)
    cache = model.forward_with_cache(ids())
    frozen = model.forward_with_cache(ids(), patterns=dict(enumerate(cache.patterns)))
    later = model.forward_with_cache(resid=cache.resid[1], start_layer=1)
    assert torch.allclose(frozen.logits, cache.logits, atol=1e-6)
    assert torch.allclose(later.logits, cache.logits, atol=1e-6)
    assert torch.equal(later.result(1), cache.result(1))


def test_head_mask_takes_one_head_out() -> None:
    model, mask = build(), torch.ones(2, 4)
    mask[1, 2] = 0
    cache = model.forward_with_cache(ids())
    masked = model.forward_with_cache(ids(), head_mask=mask)
    assert torch.allclose(masked.resid[-1], cache.resid[-1] - cache.result(1)[:, 2], atol=1e-5)


def test_smear_against_a_loop() -> None:
    x, alpha = torch.randn(2, 3, 5, 4), torch.randn(3)
    out = smear(x, alpha)
    for head in range(3):
        share = torch.sigmoid(alpha[head])
        assert torch.allclose(out[:, head, 0], x[:, head, 0])
        for j in range(1, 5):
            expected = share * x[:, head, j] + (1 - share) * x[:, head, j - 1]
            assert torch.allclose(out[:, head, j], expected, atol=1e-6)


def test_rotary_scores_depend_on_distance_alone() -> None:
    model = build(positions="rotary")
    q, k = torch.randn(8).expand(1, 1, 40, 8), torch.randn(8).expand(1, 1, 40, 8)
    scores = rotate(q, model.angles)[0, 0] @ rotate(k, model.angles)[0, 0].T
    for distance in (-7, 0, 12):
        assert scores.diagonal(distance).std() < 1e-4


def test_pattern_equals_torch_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind()
    assert torch.allclose(attention_pattern(q, k) @ v,
                          torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-5)


def test_chunked_loss_and_its_gradients_are_exact() -> None:
    x, W = torch.randn(700, 16, requires_grad=True), torch.randn(16, 40, requires_grad=True)
    right = torch.randint(0, 40, (700,))
    plain = torch.nn.functional.cross_entropy(x @ W, right)
    expected = torch.autograd.grad(plain, (x, W))
    found = torch.autograd.grad(mean_loss(x, W, right), (x, W))
    assert torch.allclose(mean_loss(x, W, right), plain, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    assert torch.allclose(each_loss(x, W, right).mean(), plain, atol=1e-6)


def test_flops_against_torch_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = Transformer(ModelConfig(mlp=True))
    tokens = torch.randint(0, 1024, (2, 128))
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    # torch does not count the CPU's fused attention, so add its causal half
    attention = 2 * 2 * 128 * 128
    assert model.flops_per_token() / 3 == pytest.approx(counter.get_total_flops() / 256 + attention, rel=0.02)


def test_same_seed_same_weights_whatever_the_data() -> None:
    one, two, other = (Transformer(ModelConfig(), seed=s) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.W_E, other.W_E)


@pytest.mark.parametrize("call, words", [
    (lambda m: m(torch.zeros(1, 41, dtype=torch.long)), ["41 tokens", "n_ctx=40"]),
    (lambda m: m(torch.full((1, 3), 50)), ["id 50", "0 to 49"]),
    (lambda m: m(torch.full((1, 3), -1)), ["id -1", "0 to 49"]),
    (lambda m: m(torch.zeros(3, dtype=torch.long)), ["(3,)", "[batch, pos]"]),
    (lambda m: m.forward_with_cache(ids(), start_layer=1), ["resid", "start_layer"]),
    (lambda m: m.forward_with_cache(ids(), start_layer=3), ["start_layer=3"]),
    (lambda m: m.forward_with_cache(ids(), head_mask=torch.ones(1, 4)), ["(1, 4)", "(2, 4)"]),
    (lambda m: m.forward_with_cache(ids(), patterns={5: torch.ones(1)}), ["layer 5", "2 layers"]),
])
def test_bad_input_is_named(call, words: list[str]) -> None:
    with pytest.raises(IctlError) as error:
        call(build())
    assert all(word in str(error.value) for word in words), str(error.value)


# ---- weights set by formula ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def alphabet() -> Tokens:
    n = handmade.LARGEST
    return Tokens("synthetic", n, np.tile(np.arange(n), 50).astype(np.uint16), np.arange(n).astype(np.uint16),
                  None, "", 1, 0)  # fmt: skip


def test_a_hand_built_induction_head(alphabet: Tokens) -> None:
    model = handmade.induction_model()
    paper = metrics.prefix_matching(model, metrics.repeated_blocks(alphabet))
    random = metrics.prefix_matching(model, metrics.random_blocks(alphabet, 128))
    assert metrics.best_head(paper) == (1, 0) and paper[1, 0] > 0.99
    assert metrics.best_head(random) == (1, 0) and random[1, 0] > 0.99
    assert metrics.copying(model, alphabet)[1, 0] > 0.9
    text = metrics.repeated_blocks(alphabet).numpy()
    assert metrics.previous_token(model, text)[0, 0] > 0.9


def test_one_layer_cannot(alphabet: Tokens) -> None:
    """Matching alone finds the token itself, never its successor."""
    model = handmade.matching_model()
    for probe in (metrics.repeated_blocks(alphabet), metrics.random_blocks(alphabet, 128)):
        assert metrics.prefix_matching(model, probe).max() < 0.1
    assert metrics.copying(model, alphabet)[0, 0] > 0.9


def test_counting_passes_the_paper_probe_and_fails_the_random_one(alphabet: Tokens) -> None:
    model = handmade.fixed_offset_model(offset=24)
    assert metrics.prefix_matching(model, metrics.repeated_blocks(alphabet)).max() > 0.9
    assert metrics.prefix_matching(model, metrics.random_blocks(alphabet, 128)).max() < 0.1


def test_overrides_that_do_not_fit() -> None:
    model = build(n_layers=2)
    ids = torch.randint(0, 50, (1, 6))
    seen = model.forward_with_cache(ids)
    with pytest.raises(IctlError, match="layer 0 was not computed"):
        model.forward_with_cache(resid=seen.resid[1], start_layer=1).result(0)
    for given, words in (
        ({"tokens": ids, "patterns": {0: torch.ones(1, 1, 6, 6)}}, "patterns of layer 0 are"),
        ({"resid": torch.zeros(2, 5, 7)}, "resid does not fit"),
        ({"resid": torch.zeros(1, model.cfg.n_ctx + 1, model.cfg.d_model)}, "resid does not fit"),
        ({"tokens": ids.float()}, "expected whole numbers"),
    ):
        with pytest.raises(IctlError, match=words):
            model.forward_with_cache(**given)
