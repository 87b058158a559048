"""Muon: nearly orthogonal updates of the right size, AdamW's own step elsewhere, and it learns."""

import copy

import torch

from ictl_utils.config import ModelConfig, TrainConfig
from ictl_utils.model import Transformer
from ictl_utils.muon import STACKED, Muon, orthogonal
from ictl_utils.train import optimizer

CFG = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=16, d_vocab=50, mlp=True)


def stepped(kind: str, steps: int = 3) -> tuple[Transformer, Transformer]:
    model = Transformer(CFG, seed=0)
    before = copy.deepcopy(model)
    opt = optimizer(model, TrainConfig(optimizer=kind, lr=1e-2))
    ids = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        opt.step()
        opt.zero_grad()
    return before, model


def test_singular_values_come_near_one_and_directions_stay() -> None:
    m = torch.randn(3, 32, 128, generator=torch.Generator().manual_seed(0))
    for x in (m, m.transpose(1, 2)):
        values = torch.linalg.svdvals(orthogonal(x))
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        exact = u @ v
        assert torch.nn.functional.cosine_similarity(orthogonal(x).flatten(1), exact.flatten(1)).min() > 0.95


def test_the_first_update_of_every_matrix_has_the_stated_size() -> None:
    before, after = stepped("muon", 1)
    for name in STACKED:
        shrunk = getattr(before, name) * (1 - 1e-2 * 0.01)
        rms = (getattr(after, name) - shrunk).square().mean(dim=tuple(range(1, shrunk.ndim))).sqrt() / 1e-2
        assert ((rms > 0.13) & (rms < 0.27)).all(), name


def test_other_weights_take_adamw_steps() -> None:
    (_, muon), (_, adam) = stepped("muon", 1), stepped("adamw", 1)
    for name in ("W_E", "W_U", "ln1", "ln_final", "b_in"):
        torch.testing.assert_close(getattr(muon, name), getattr(adam, name), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(muon.W_Q, adam.W_Q, atol=1e-4)


def test_state_survives_saving() -> None:
    model = Transformer(CFG)
    opt = Muon(model, 1e-2, (0.9, 0.98), 0.01)
    model(torch.zeros(1, 4, dtype=torch.long)).square().mean().backward()
    opt.step()
    again = Muon(model, 1e-2, (0.9, 0.98), 0.01)
    again.load_state_dict(opt.state_dict())
    for p in model.parameters():
        for key, value in opt.state[p].items():
            assert torch.equal(value, again.state[p][key])


def test_it_learns() -> None:
    ids = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(1))

    def loss(model: Transformer) -> float:
        return torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()

    before, after = stepped("muon", 30)
    assert loss(after) < loss(before) - 1
