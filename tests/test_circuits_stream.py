"""The residual stream, bases and bigram tables: sums are exact, and hand-made cases give the known answer."""

import math

import numpy as np
import pytest
import torch

from ictl_utils import circuits_bases, circuits_bigrams, circuits_stream, handmade
from ictl_utils.circuits_paths import path_sum_logits
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.model import Transformer
from ictl_utils.tokens import BOS, Tokens

torch.set_num_threads(1)
KINDS = [{}, {"n_layers": 1}, {"n_layers": 3}, {"norm": False}, {"positions": "learned"}, {"positions": "rotary"}]


def build(**kind) -> Transformer:
    model = Transformer(ModelConfig(**{"d_model": 32, "n_heads": 4, "n_ctx": 24, "d_vocab": 50, **kind}), seed=1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():  # heads that matter, gains that differ
        for name, weight in model.named_parameters():
            gain = torch.rand(weight.shape, generator=draw) + 0.5
            weight.mul_(gain if name.startswith("ln") else 1 if name == "W_E" else 3)
    return model.double().eval().requires_grad_(False)


def windows(n: int = 4) -> np.ndarray:
    rows = np.random.default_rng(0).integers(1, 50, (n, 25))
    rows[:, 0] = BOS
    return rows


IDS = torch.from_numpy(windows(3)[:, :-1])


# ---- the stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_parts_sum_to_the_stream_before_every_layer(kind: dict) -> None:
    model = build(**kind)
    cache = model.forward_with_cache(IDS)
    for layer in range(model.cfg.n_layers + 1):
        parts = circuits_stream.stream_parts(model, cache, layer)
        assert len(parts) == 1 + 4 * layer
        assert torch.allclose(sum(parts.values()), cache.resid[layer])


def test_shares_of_parts_of_known_size() -> None:
    one = torch.tensor([[[1.0, -1.0, 0.0, 0.0]]])
    table = circuits_stream.stream_shares({"a": 3 * one, "b": one, "c": -0.5 * one, "constant": 7 + 0 * one})
    assert np.allclose(table["share"], [3 / 3.5, 1 / 3.5, -0.5 / 3.5, 0])
    assert np.allclose(table["length"], np.array([3, 1, 0.5, 0]) * math.sqrt(2))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_a_layer_reads_splits_into_shares_that_sum_to_one(kind: dict) -> None:
    model = build(**kind)
    last = model.cfg.n_layers - 1
    read = circuits_stream.read_shares(model, model.forward_with_cache(IDS), last)
    assert list(read) == ["queries", "keys", "values"]
    for name, table in read.items():
        assert table.shape == (2 + 4 * last, 4) and np.allclose(table.sum(), 1), name
    placed = model.cfg.positions == "shortformer"
    assert (read["keys"].loc["positions"].abs() > 1e-6).all() == placed and not read["values"].loc["positions"].any()


def test_a_hand_built_induction_head_takes_its_keys_from_the_previous_token_head() -> None:
    model = handmade.induction_model().double()
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, handmade.LARGEST, (2, 32)))
    read = circuits_stream.read_shares(model, model.forward_with_cache(ids), 1)
    keys = read["keys"]["L1H0"].drop("positions")  # it also rests on its own position
    assert keys["L0H0"] > 0.9 * keys.sum() and read["queries"].loc["L0H0", "L1H0"] < 0.01
    assert read["values"].loc["embedding", "L1H0"] > 0.9


def test_overlap_of_equal_orthogonal_and_random_subspaces() -> None:
    model = build(norm=False, d_model=64)
    with torch.no_grad():
        model.W_Q[1, 0] = model.W_O[0, 1].T @ torch.randn(16, 16, dtype=torch.float64)  # the same subspace
        basis = torch.linalg.qr(torch.cat([model.W_O[0, 1].T, torch.randn(64, 48, dtype=torch.float64)], 1))[0]
        model.W_K[1, 2] = basis[:, 16:32]
    overlap = circuits_stream.subspace_overlap(model)
    assert overlap["queries"].loc["L0H1", "L1H0"] == pytest.approx(1)
    assert overlap["keys"].loc["L0H1", "L1H2"] == pytest.approx(0, abs=1e-12)
    assert circuits_stream.chance_overlap(model) == 0.25
    assert overlap["values"].to_numpy().mean() == pytest.approx(0.25, abs=0.05)


# ---- bases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [{}, {"smear": "key"}, {"smear": "value"}, {"norm": False}], ids=str)
def test_another_basis_is_the_same_model(kind: dict) -> None:
    model = build(**kind)
    other = circuits_bases.change_basis(model)
    assert (other.W_K - model.W_K).abs().max() > 0.1
    assert torch.allclose(other(IDS), model(IDS), atol=1e-8)
    assert torch.allclose(other.W_V @ other.W_O, model.W_V @ model.W_O)


def test_kurtosis_sees_a_privileged_basis_and_nothing_after_rotation() -> None:
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert circuits_bases.basis_kurtosis(x) == pytest.approx((3, 3), abs=0.2)
    x[:, 5] += 20
    own, turned = circuits_bases.basis_kurtosis(x)
    assert own > 20 and turned == pytest.approx(3, abs=0.6)


def test_the_largest_coordinate_is_found_with_what_it_costs() -> None:
    model, counts = build(norm=False, n_layers=1), np.arange(50) ** 2
    with torch.no_grad():
        model.W_E[:, 7] = 30.0
        model.W_U[7] = torch.from_numpy(np.log(counts + 0.5)) / 30
        model.W_O[..., 7] = 0
    found = circuits_bases.largest_coordinate(model, windows(), counts)
    assert found["coordinate"] == 7 and found["frequency"] == pytest.approx(1)
    assert found["at_mean"] == pytest.approx(found["loss"]) and found["at_zero"] != pytest.approx(found["loss"])
    assert found["ratio"] > 5


def test_spectra_count_directions() -> None:
    model = build(norm=False)
    with torch.no_grad():
        model.W_E[:] = torch.randn(50, 1, dtype=torch.float64) @ torch.randn(1, 32, dtype=torch.float64)
    found = circuits_bases.spectra(model, np.arange(1, 50))
    assert found["W_E"][0] == pytest.approx(1) and found["W_U"][0] < 0.3
    assert all(x.sum() == pytest.approx(1) for x in found.values())


# ---- frozen models --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_frozen_model_is_linear_and_a_free_one_is_not(kind: dict) -> None:
    model = build(**kind)
    cache = model.forward_with_cache(IDS)
    assert torch.allclose(circuits_stream.frozen_read_out(model, cache, cache.resid[0]) @ model.W_U, cache.logits)
    frozen, free = circuits_stream.linearity_errors(model, IDS)
    assert frozen < 1e-9 < 0.01 < free


def test_effects_of_sources_sum_to_the_logit() -> None:
    model, ids = build(), IDS[:1]
    effects = circuits_stream.source_effects(model, ids, destination=12, target=9)
    logits = model(ids)[0, 12]
    assert effects.sum() == pytest.approx(float(logits[9] - logits.mean()))
    assert not effects[13:].any()


def test_path_sizes_add_up() -> None:
    model, rows = build(), windows()
    table = circuits_stream.path_sizes(model, rows)
    assert len(table) == 25 and list(table["size"]) == sorted(table["size"], reverse=True)
    logits = model(torch.from_numpy(rows[:, :-1]))
    right = (logits - logits.mean(-1, keepdim=True)).gather(-1, torch.from_numpy(rows[:, 1:, None])).mean()
    assert table["right"].sum() == pytest.approx(float(right))
    assert set(table.index[table["heads"] == 1]) == {f"L{i}H{j}" for i in range(2) for j in range(4)}
    assert table.loc["direct", "last"] == -1 and table.loc["L0H1 → L1H2", "heads"] == 2


# ---- bigrams --------------------------------------------------------------------------------------


def corpus(ids: list[int], d_vocab: int = 4) -> Tokens:
    array = np.array(ids, dtype=np.uint16)
    return Tokens("none", d_vocab, array, array, None, "", 1, 0)


def test_bigrams_of_a_text_of_six_tokens() -> None:
    bigrams = circuits_bigrams.Bigrams.of(corpus([0, 1, 2, 1, 2, 3]))
    assert bigrams.counts.tolist() == [[0, 1, 0, 0], [0, 0, 2, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert np.exp(bigrams.logs(1.0)[1]).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 6])
    assert np.allclose(np.exp(bigrams.logs()).sum(1), 1) and np.allclose(np.exp(bigrams.unigram()).sum(1), 1)
    assert bigrams.entropy == pytest.approx(2 / 5 * math.log(2))
    assert bigrams.frequent(2).tolist() == [1, 2] and bigrams.weights(np.array([0, 1])).tolist() == [1 / 3, 2 / 3]


def test_a_table_with_the_counts_as_logits_has_no_divergence() -> None:
    model = Transformer(ModelConfig(n_layers=0, d_model=4, n_heads=1, n_ctx=8, d_vocab=4, norm=False))
    tokens = corpus([0, 1, 2, 1, 2, 3, 0, 3, 3, 2])
    bigrams = circuits_bigrams.Bigrams.of(tokens)
    with torch.no_grad():
        model.W_E[:] = torch.eye(4)
        model.W_U[:] = torch.from_numpy(bigrams.logs()) + 3.0  # softmax does not see a constant
    rows = np.arange(4)
    table, whole = circuits_bigrams.direct_table(model), circuits_bigrams.whole_table(model, rows)
    assert np.allclose(table, bigrams.logs(), atol=1e-6) and np.allclose(whole, table, atol=1e-6)
    assert np.allclose(circuits_bigrams.row_kl(table, bigrams.logs()), 0, atol=1e-6)
    assert circuits_bigrams.correlations(table, bigrams, rows)["log-probability"] == pytest.approx(1)
    text = np.array([[0, 1, 2], [0, 2, 1]])
    assert circuits_bigrams.table_loss(table, text) == pytest.approx(-(table[1, 2] + table[2, 1]) / 2)
    assert circuits_bigrams.table_loss(table, text, first=0) > circuits_bigrams.table_loss(table, text)


def test_divergence_of_known_rows() -> None:
    half, sure = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert circuits_bigrams.row_kl(half, sure) == pytest.approx([expected])
    with np.errstate(divide="ignore"):
        never = np.log([[1.0, 0.0]])
    assert circuits_bigrams.row_kl(never, half) == pytest.approx([math.log(2)])


def test_continuations_are_readable() -> None:
    tokens = corpus([0, 1, 2, 3])
    table = np.log([[0.1, 0.6, 0.2, 0.1]] * 4)
    shown = circuits_bigrams.continuations({"text": table}, tokens, [2, 3], k=2)
    assert list(shown.index) == ["2", "3"] and shown.loc["2", "text"] == "1 0.60   2 0.20"
    class Alike(Tokens):
        def labels(self, ids: list[int]) -> list[str]:
            return ["\ufffd" if i > 1 else str(i) for i in ids]

    alike = Alike("none", 4, tokens.train, tokens.train, None, "", 1, 0)
    shown = circuits_bigrams.continuations({"text": table}, alike, [1, 2, 3], k=1)
    assert list(shown.index) == ["1", "\ufffd [2]", "\ufffd [3]"] and shown.index.name == "token"
    assert circuits_bigrams._short("↵" + 11 * "·") == "↵·×11" and circuits_bigrams._short("\x15a") == "\\x15a"


# ---- bad input ------------------------------------------------------------------------------------


def on(call, **kind):
    model = build(**kind)
    return lambda: call(model, model.forward_with_cache(IDS))


@pytest.mark.parametrize(("call", "message"), [
    (on(lambda m, c: circuits_stream.stream_parts(m, c), mlp=True), "MLPs"),
    (on(lambda m, c: circuits_stream.stream_parts(m, c, 3)), "layer=3"),
    (on(lambda m, c: circuits_stream.read_shares(m, c, 2)), "layer=2"),
    (on(lambda m, c: circuits_stream.read_shares(m, c, 0), smear="key"), "mixes neighbouring"),
    (on(lambda m, c: circuits_stream.frozen_read_out(m, c, c.resid[0]), smear="value"), "mixes neighbouring"),
    (on(lambda m, c: circuits_stream.subspace_overlap(m), n_layers=1), "two layers"),
    (on(lambda m, c: circuits_bases.change_basis(m), positions="rotary"), "rotary"),
    (lambda: circuits_bigrams.row_kl(np.zeros((2, 2)), np.zeros((3, 2))), "cannot be compared"),
])  # fmt: skip
def test_bad_input_is_one_clear_sentence(call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call()

def test_the_size_of_a_path_is_its_deviation_over_the_vocabulary() -> None:
    model, rows = build(), windows()
    table, terms = circuits_stream.path_sizes(model, rows), path_sum_logits(model, torch.from_numpy(rows[:, :-1]))
    for path, logits in terms.items():
        expected = logits.numpy().std(axis=-1).mean()
        assert table.loc[circuits_stream.path_name(path), "size"] == pytest.approx(expected)
    assert len(circuits_stream.path_sizes(model, rows, order=1)) == 9
    assert circuits_stream.chance_overlap(model) == 8 / 31


def test_lifts_and_tables_of_words_by_hand() -> None:
    bigrams = circuits_bigrams.Bigrams.of(corpus([0, 1, 2, 1, 2, 3]))
    assert np.exp(bigrams.unigram(0.5)[2]).tolist() == pytest.approx(np.array([0.5, 2.5, 2.5, 1.5]) / 7)
    found = circuits_bigrams.lift(bigrams, np.array([1]))[0]
    assert np.exp(found[2]) == pytest.approx((2.5 / 4) / (2.5 / 7))
    model = build()
    rows = np.array([7, 30])
    expected = model(torch.tensor([[BOS, 7], [BOS, 30]]))[:, -1].log_softmax(-1).numpy()
    assert np.allclose(circuits_bigrams.whole_table(model, rows), expected, atol=1e-6)
