"""Activation patching and the head detector of TransformerLens, on models whose circuit is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ictl_utils import handmade, metrics, weights
from ictl_utils.config import IctlError
from ictl_utils.interop import to_transformer_lens
from ictl_utils.patching import (
    Circuit,
    Patched,
    circuit,
    detector,
    detector_cap,
    find_circuit,
    names_of,
    patch,
    repeated_pair,
)  # fmt: skip
from ictl_utils.tokens import BOS, Tokens, eval_windows, load_tokens

pytest.importorskip("transformer_lens")
torch.set_num_threads(1)
N = handmade.LARGEST
ALPHABET = Tokens("none", N, np.arange(N, dtype=np.uint16), np.arange(N, dtype=np.uint16), None, "", 1, 0)


def patched(*shares: list[float]) -> Patched:
    return Patched(np.array(shares), np.zeros((len(shares), len(shares[0]))), -1.0, -9.0)


@pytest.fixture(scope="module")
def made():
    """The hand-built induction model as a bridge, and its pair of sequences."""
    return to_transformer_lens(handmade.induction_model()), repeated_pair(ALPHABET, 4)


# ---- sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["copy", "token"])
def test_pairs_differ_only_in_the_first_copy(change: str) -> None:
    pair = repeated_pair(ALPHABET, 5, 8, change)
    assert pair.repeated.shape == pair.changed.shape == (5, 17)
    assert (pair.repeated[:, 0] == BOS).all() and torch.equal(pair.repeated[:, 1:9], pair.repeated[:, 9:])
    assert torch.equal(pair.repeated[:, pair.source], pair.repeated[:, pair.query])
    differs = pair.repeated != pair.changed
    expected = torch.zeros(17, dtype=torch.bool)
    expected[1:9 if change == "copy" else pair.source + 1] = True
    expected[: pair.source] &= change == "copy"
    assert torch.equal(differs, expected.expand(5, -1))
    assert all(len(set(row.tolist()) & set(new[1:9].tolist()) - set(row[1:9].tolist())) == 0
               for row, new in zip(pair.repeated, pair.changed, strict=True))  # fmt: skip


def test_the_score_is_the_log_probability_of_what_followed() -> None:
    pair = repeated_pair(ALPHABET, 3, 8)
    logits = torch.zeros(3, 17, N)
    assert torch.allclose(pair.score(logits), torch.full((3,), -float(np.log(N))))
    logits[torch.arange(3), pair.query, pair.repeated[:, pair.source + 1]] = 50
    assert pair.score(logits).abs().max() < 1e-6


# ---- a circuit that is known ----------------------------------------------------------------------


def test_the_stream_carries_the_difference_from_a_to_b(made) -> None:
    found = patch(*made, "stream")
    _, pair = made
    assert found.share.shape == (2, pair.repeated.shape[1])
    assert [int(row.argmax()) for row in found.share] == [pair.source, pair.source + 1]
    assert np.allclose(found.share.max(axis=1), 1, atol=1e-3) and found.repeated > -0.1 > -4 > found.changed


def test_the_library_leaves_no_bars_on_the_page(made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_lens.patching.tqdm", lambda *_: pytest.fail("a bar was drawn"))
    patch(*made)


@pytest.mark.parametrize("into", ["changed", "repeated"])
def test_it_finds_the_heads_of_the_hand_built_model(made, into: str) -> None:
    z, pattern = patch(*made, "z", into), patch(*made, "pattern", into)
    assert circuit(z, pattern) == Circuit(readers=[(1, 0)], carriers=[(0, 0)])
    assert pattern.share[1, 0] > 0.99 and z.share[0, 0] > 0.99 and abs(pattern.share[0, 0]) < 0.01


def test_it_is_k_composition(made) -> None:
    q, k, v = (patch(*made, part).share for part in "qkv")
    assert k[1, 0] > 0.99 and abs(q[1, 0]) < 0.01 and abs(v[1, 0]) < 0.01
    assert v[0, 0] > 0.99 and abs(k[0, 0]) < 0.01


def test_a_changed_copy_hides_the_previous_token_head(made) -> None:
    pair = repeated_pair(ALPHABET, 4, change="copy")
    z = patch(made[0], pair, "z")
    assert abs(z.share[0, 0]) < 0.1 and z.share[1, 0] > 0.99


def test_the_circuit_of_a_trained_model_is_the_one_its_behaviour_shows() -> None:
    model, tokens = weights.load("attn-2l"), load_tokens("stdlib")
    matching = metrics.prefix_matching(model, metrics.repeated_blocks(tokens, 4))
    previous = metrics.previous_token(model, eval_windows(tokens, 8, model.cfg.n_ctx))
    found, _, _ = find_circuit(model, tokens, n=8)
    assert metrics.best_head(matching) in found.readers
    assert metrics.best_head(previous[:-1]) in found.carriers


def test_carriers_stand_before_readers() -> None:
    z, pattern = patched([0.9, 0.0], [0.8, 0.9], [0.7, 0.1]), patched([0.0, 0.0], [0.05, 0.9], [0.0, 0.1])
    assert circuit(z, pattern) == Circuit(readers=[(1, 1)], carriers=[(0, 0)])
    assert circuit(z, patched([0.0] * 2, [0.0] * 2, [0.0] * 2)) == Circuit([], [])


# ---- the detector ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "repeats", "cap"), [(50, 2, 50 / 101), (25, 4, 75 / 101), (8, 2, 8 / 17)])
def test_the_detector_is_prefix_matching_times_its_cap(made, length: int, repeats: int, cap: float) -> None:
    probe = metrics.repeated_blocks(ALPHABET, 3, length, repeats)
    assert detector_cap(probe) == pytest.approx(cap)
    matching = metrics.prefix_matching(handmade.induction_model(), probe)
    found = detector(made[0], probe)
    assert matching.max() > 0.999 and np.allclose(found, matching * cap, atol=1e-4)


def test_options_change_the_score_and_lists_keep_them(made) -> None:
    probe = metrics.repeated_blocks(ALPHABET, 3, 20, 2)
    plain, without = detector(made[0], probe), detector(made[0], probe, exclude_bos=True)
    assert np.abs(plain - without).max() > 1e-3
    assert np.allclose(detector(made[0], probe, as_list=True), plain, atol=1e-6)
    previous = detector(made[0], probe, "previous_token_head")
    assert previous[0, 0] > 0.9 > previous[1, 0]


# ---- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "message"), [
    (lambda made: repeated_pair(ALPHABET, change="order"), "change='order'"),
    (lambda made: repeated_pair(ALPHABET, length=3), "length=3 must be 4"),
    (lambda made: repeated_pair(ALPHABET, length=150), "length=150"),
    (lambda made: patch(*made, "mlp"), "part='mlp'"),
    (lambda made: patch(*made, "z", "clean"), "into='clean'"),
    (lambda made: find_circuit(handmade.matching_model(), ALPHABET, n=2), "nothing to restore"),
])  # fmt: skip
def test_mistakes(made, call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call(made)


def test_missing_transformer_lens_is_named(made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens.patching", None)
    with pytest.raises(IctlError, match=r'TransformerLens 4 is needed .*pip install "ictl-utils\[tl\]"'):
        patch(*made)


def test_names() -> None:
    assert names_of([(0, 3), (1, 0)]) == "L0H3, L1H0" and names_of([]) == "none"
