"""Our models in TransformerLens: the same numbers, read and knocked out through its caches and hooks."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from ictl_utils import handmade, metrics, weights
from ictl_utils.ablations import losses_without
from ictl_utils.config import IctlError, ModelConfig, TrainConfig
from ictl_utils.interop import to_transformer_lens
from ictl_utils.metrics import Windows
from ictl_utils.model import Transformer
from ictl_utils.tokens import BOS, Tokens, eval_windows, load_tokens
from ictl_utils.train import train

pytest.importorskip("transformer_lens")
torch.set_num_threads(1)

KINDS = [
    {}, {"n_layers": 0}, {"n_layers": 4, "mlp": True}, {"norm": False}, {"norm": False, "positions": "learned"},
    {"positions": "learned", "mlp": True}, {"positions": "rotary"}, {"positions": "rotary", "norm": False, "mlp": True},
    {"smear": "key"}, {"smear": "key", "n_layers": 1, "mlp": True}, {"smear": "query", "positions": "rotary"},
    {"smear": "query", "norm": False}, {"smear": "value"}, {"smear": "key", "positions": "learned"},
]  # fmt: skip
WEIGHTS = ("W_E", "W_U", "W_Q", "W_K", "W_V", "W_O")


def build(**kind) -> Transformer:
    """Larger matrices than at the start, gains about 1, smearing and biases about 0, so that a difference shows."""
    model = Transformer(ModelConfig(**{"d_model": 32, "n_heads": 4, "n_ctx": 40, "d_vocab": 50, **kind}), seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = (1.0 if name == "alpha" else 0.3) * torch.randn(weight.shape, generator=generator)
            weight.mul_(3 if name not in ("W_E", "W_pos") else 1) if name[0] == "W" else weight.add_(noise)
    return model.eval().requires_grad_(False)


def ids(batch: int = 3, pos: int = 40) -> torch.Tensor:
    return torch.randint(0, 50, (batch, pos), generator=torch.Generator().manual_seed(0))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance, of tensors of one shape."""
    assert a.shape == b.shape
    return (a - b).abs().max().item() if a.numel() else 0.0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_same_logits_patterns_and_weights(kind: dict) -> None:
    model = build(**kind)
    bridge, ours = to_transformer_lens(model), model.forward_with_cache(ids())
    logits, cache = bridge.run_with_cache(ids())
    assert apart(logits, ours.logits) < 1e-4
    assert apart(bridge(ids()[:, :7]), model(ids()[:, :7])) < 1e-4
    assert [name for name in cache if name.endswith("hook_pattern")] == [
        f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]  # fmt: skip
    for layer, pattern in enumerate(ours.patterns):
        assert apart(cache["pattern", layer], pattern) < 1e-4
    for name in WEIGHTS if model.cfg.n_layers else ():
        assert torch.equal(getattr(bridge, name), getattr(model, name)), name


@pytest.mark.parametrize("kind", [{}, {"mlp": True}, {"smear": "query"}, {"smear": "key"}, {"smear": "value"}], ids=str)
def test_the_cache_holds_what_ours_holds(kind: dict) -> None:
    model = build(**kind)
    ours, (_, cache) = model.forward_with_cache(ids()), to_transformer_lens(model).run_with_cache(ids())
    for layer in range(2):
        for name in ("q", "k", "v", "z"):
            assert apart(cache[f"blocks.{layer}.attn.hook_{name}"], getattr(ours, name)[layer].transpose(1, 2)) < 1e-4
        assert apart(cache["resid_pre", layer], ours.resid[layer]) < 1e-4
        assert apart(cache["resid_post", layer], ours.resid[layer + 1]) < 1e-4
    results = cache.stack_head_results(layer=2)[:8].unflatten(0, (2, 4))
    assert apart(results, torch.stack([ours.result(layer).transpose(0, 1) for layer in range(2)])) < 1e-4


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_compatibility_mode_keeps_probabilities_and_patterns(kind: dict) -> None:
    """It folds gains into weights and centres them, here in the copy and not in our model."""
    model = build(**kind)
    bridge, ours = to_transformer_lens(model), model.forward_with_cache(ids())
    bridge.enable_compatibility_mode(disable_warnings=True)
    logits, cache = bridge.run_with_cache(ids())
    assert apart(logits.log_softmax(-1), ours.logits.log_softmax(-1)) < 1e-4
    assert all(apart(cache["pattern", layer], pattern) < 1e-4 for layer, pattern in enumerate(ours.patterns))
    assert not torch.equal(bridge.W_U, model.W_U) and torch.equal(model(ids()), build(**kind)(ids()))


def test_generates_what_our_model_would() -> None:
    model, expected = build(smear="key"), ids(1, 5)
    found = to_transformer_lens(model).generate(expected, max_new_tokens=8, do_sample=False, stop_at_eos=False,
                                                return_type="tokens", verbose=False)  # fmt: skip
    for _ in range(8):
        expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, expected)


def test_only_our_weights_have_gradients() -> None:
    bridge = to_transformer_lens(build(mlp=True))
    bridge(ids(), return_type="loss").backward()
    named = {name.replace("._original_component", ""): p for name, p in bridge.named_parameters()}
    frozen = {name for name, p in named.items() if not p.requires_grad}
    norms = {"layers.0.ln1", "layers.1.ln1", "layers.0.ln2", "layers.1.ln2", "ln_out"}
    assert frozen == {"pos.weight", *(f"{norm}.bias" for norm in norms),
                      *(f"layers.{layer}.attn.{x}.bias" for layer in (0, 1) for x in "qkvo")}  # fmt: skip
    assert all((p == 0).all() for name, p in named.items() if name in frozen)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in named.items() if name not in frozen)


@pytest.mark.parametrize("module", ["transformer_lens.config", "transformer_lens.model_bridge.sources.native"])
def test_missing_or_older_transformer_lens_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    model = build()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(IctlError, match=r'TransformerLens 4 is needed .*pip install "ictl-utils\[tl\]"'):
        to_transformer_lens(model)


# ---- the same findings on both sides -------------------------------------------------------------


def hand_built(folder) -> tuple[Transformer, Tokens, torch.Tensor, Windows]:
    n, rng = handmade.LARGEST, np.random.default_rng(0)
    tokens = Tokens("synthetic", n, np.tile(np.arange(n), 50).astype(np.uint16), np.arange(n).astype(np.uint16),
                    None, "", 1, 0)  # fmt: skip
    windows = np.tile(rng.integers(1, n, (3, 30)), (1, 3))
    windows[:, 0] = BOS
    return handmade.induction_model(), tokens, metrics.repeated_blocks(tokens, n=4), windows


def trained(folder, **kind) -> tuple[Transformer, Tokens, torch.Tensor, Windows]:
    """200 steps on words that come back."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 7))) for _ in range(300)]
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(rng.choice(words, 30), 300)))
    config = TrainConfig(corpus=f"path:{folder}/*.txt", tokens=200 * 4 * 32, batch=4, warmup=10, snapshots=2)
    run = train(ModelConfig(d_model=32, n_heads=2, n_ctx=32, d_vocab=300, **kind), config, folder, device="cpu")
    tokens = load_tokens(config.corpus, 300)
    return run.model(), tokens, metrics.repeated_blocks(tokens, 4, 7, 4, ranks=(2, 40)), eval_windows(tokens, 8, 32)


def of_the_zoo(folder, name: str) -> tuple[Transformer, Tokens, torch.Tensor, Windows]:
    """A model of the book, from its shipped weights."""
    tokens = load_tokens("stdlib")
    return weights.load(name), tokens, metrics.repeated_blocks(tokens, 4), eval_windows(tokens, 4, 128)


MODELS = {"hand-built": hand_built, "2L": partial(trained, n_layers=2),
          "1L MLP smeared keys": partial(trained, n_layers=1, smear="key", mlp=True)}  # fmt: skip
MODELS |= {f"zoo {name}": partial(of_the_zoo, name=name) for name in ("attn-1l", "attn-2l", "attn-3l")}


@pytest.fixture(scope="module", params=list(MODELS))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Our model and its bridge, corpus, probe and text."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.param.startswith("zoo"):
            patch.setenv("ICTL_HOME", str(tmp_path_factory.mktemp("home")))
        model, *rest = MODELS[request.param](tmp_path_factory.mktemp("corpus"))
        yield model, to_transformer_lens(model), *rest


def theirs(bridge, windows: Windows, hooks: list) -> np.ndarray:
    """Loss of every next token, nats, with hooks in place."""
    text = torch.from_numpy(windows)
    logits = bridge.run_with_hooks(text[:, :-1], fwd_hooks=hooks)
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), text[:, 1:], reduction="none").detach().numpy()


def without(layer: int, head: int) -> tuple:
    """The hook that takes one head out."""

    def zero(z: torch.Tensor, hook) -> torch.Tensor:
        z[:, :, head] = 0.0
        return z

    return f"blocks.{layer}.attn.hook_z", zero


def test_prefix_matching_through_their_cache(both) -> None:
    model, bridge, _, probe, _ = both
    _, cache = bridge.run_with_cache(probe)
    period = int((probe[0, 2:] == probe[0, 1]).int().argmax()) + 1
    found = np.zeros((model.cfg.n_layers, model.cfg.n_heads))
    for layer, head in np.ndindex(found.shape):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][:, head].detach()
        hits = [sum(pattern[:, i, j].mean() for j in range(i + 1 - period, 1, -period))
                for i in range(1 + period, probe.shape[1])]  # fmt: skip
        found[layer, head] = np.mean(hits)
    assert np.abs(found - metrics.prefix_matching(model, probe)).max() < 1e-4
    assert found.max() > 0.01


def test_previous_token_through_their_cache(both) -> None:
    model, bridge, _, _, windows = both
    _, cache = bridge.run_with_cache(torch.from_numpy(windows[:, :-1]))
    found = [[float(torch.stack([cache["pattern", layer][:, head, i, i - 1] for i in range(1, windows.shape[1] - 1)])
                    .mean()) for head in range(model.cfg.n_heads)] for layer in range(model.cfg.n_layers)]
    assert np.abs(np.array(found) - metrics.previous_token(model, windows)).max() < 1e-4


def test_full_ablation_through_their_hooks(both) -> None:
    model, bridge, _, _, windows = both
    intact = theirs(bridge, windows, [])
    changed = []
    for layer, head in np.ndindex(model.cfg.n_layers, model.cfg.n_heads):
        found = theirs(bridge, windows, [without(layer, head)])
        assert np.abs(found - losses_without(model, windows, [(layer, head)], kind="full")).max() < 1e-4
        changed.append(np.abs(found - intact).max())
    assert max(changed) > 0.1
    assert np.abs(theirs(bridge, windows, []) - intact).max() == 0  # no hook stays behind


def test_pattern_preserving_ablation_through_their_hooks(both) -> None:
    """Every pattern of the intact run put back while a head of the first layer is out."""
    model, bridge, _, _, windows = both
    _, cache = bridge.run_with_cache(torch.from_numpy(windows[:, :-1]))
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    kept = [(name, lambda _, hook: cache[hook.name]) for name in names]
    found = theirs(bridge, windows, [*kept, without(0, 0)])
    assert np.abs(found - losses_without(model, windows, [(0, 0)])).max() < 1e-4
