"""Probes beside the main measurements: fast losses against all losses, token kinds against a loop, hand-built heads."""

import numpy as np
import pytest
import torch

from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.handmade import induction_model
from ictl_utils.metrics import token_losses
from ictl_utils.model import Transformer
from ictl_utils.probes import kinds_of_token, losses_at, losses_by_kind, present_token, repeats, resting

RNG = np.random.default_rng(0)
WINDOWS = np.concatenate([np.zeros((20, 1), np.int64), RNG.integers(1, 40, (20, 24))], axis=1)
KINDS = [{}, {"mlp": True}, {"smear": "key"}, {"positions": "rotary"}, {"positions": "learned"}, {"norm": False},
         {"n_layers": 1}, {"n_layers": 0}]  # fmt: skip


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_losses_at_few_positions_equal_all_losses_there(changes: dict) -> None:
    base = {"n_layers": 3, "d_model": 32, "n_heads": 2, "n_ctx": 24, "d_vocab": 40}
    model = Transformer(ModelConfig(**{**base, **changes}))
    at = np.array([3, 4, 20, 23])
    np.testing.assert_allclose(losses_at(model, WINDOWS, at, chunk=7), token_losses(model, WINDOWS)[:, at], atol=1e-5)


def test_positions_outside_are_refused() -> None:
    model = Transformer(ModelConfig(n_layers=1, d_model=32, n_heads=2, n_ctx=24, d_vocab=40))
    with pytest.raises(IctlError, match="0 to 23"):
        losses_at(model, WINDOWS, np.array([24]))


def test_kinds_against_a_loop() -> None:
    kinds = kinds_of_token(WINDOWS)
    for row, found in zip(WINDOWS, kinds, strict=True):
        for i in range(24):
            after = [row[j + 1] for j in range(i) if row[j] == row[i] and row[i] != 0]
            assert found[i] == (0 if not after else 1 if row[i + 1] in after else 2)
    assert set(np.unique(kinds)) == {0, 1, 2}


def test_losses_by_kind_are_means() -> None:
    found = losses_by_kind(np.arange(4.0).reshape(2, 2), np.array([[0, 1], [1, 2]]))
    assert found == {"new": 0.0, "repeated": 1.5, "mismatch": 3.0}


def probe(model: Transformer, length: int = 8, blocks: int = 3) -> torch.Tensor:
    rows = np.stack([RNG.permutation(np.arange(1, model.cfg.d_vocab))[:length] for _ in range(6)])
    return torch.from_numpy(np.concatenate([np.zeros((6, 1), np.int64), np.tile(rows, (1, blocks))], axis=1))


def test_a_built_induction_head_repeats_and_rests() -> None:
    model = induction_model()
    found = repeats(model, probe(model), 3)
    assert found["accuracy"] > 0.99 and found["later_nats"] < found["first_nats"] - 1
    untrained = repeats(Transformer(model.cfg), probe(model), 3)
    assert untrained["accuracy"] < 0.5 and untrained["later_nats"] > 0.9 * untrained["first_nats"]


def test_attention_to_first_and_present_token_against_patterns() -> None:
    model = Transformer(ModelConfig(n_layers=2, d_model=32, n_heads=2, n_ctx=32, d_vocab=40), seed=3)
    ids = probe(model)
    patterns = model.forward_with_cache(ids[:, :9]).patterns
    expected = np.array([p[:, :, 1:, 0].mean(dim=(0, 2)).detach().numpy() for p in patterns])
    np.testing.assert_allclose(resting(model, ids, 3), expected, atol=1e-6)
    found = present_token(model, WINDOWS)
    pattern = model.forward_with_cache(torch.from_numpy(WINDOWS[:, :-1])).patterns[1]
    loop = np.mean([pattern[b, 1, i, i].item() for b in range(20) for i in range(1, 24)])
    assert found[1, 1] == pytest.approx(loop, abs=1e-6)

def test_which_tokens_of_repeats_count() -> None:
    """A model that is right but at the first token of each block, and surer block by block."""
    ids = torch.tensor([[0, *[1, 2, 3, 4] * 4]])
    right = torch.nn.functional.one_hot(ids[:, 1:], 8).float()
    right *= torch.arange(1, 5).repeat_interleave(4)[:, None]
    right[:, ::4] = torch.nn.functional.one_hot(torch.tensor(7), 8)
    found, sure = repeats(lambda _: right, ids, 4), [np.log(np.exp(s) + 7) - s for s in (1, 2, 3, 4)]
    assert found["accuracy"] == 1 and found["first_nats"] == pytest.approx(sure[0], abs=1e-5)
    assert found["second_nats"] == pytest.approx(sure[1], abs=1e-5)
    assert found["later_nats"] == pytest.approx(np.mean(sure[1:]), abs=1e-5)
