"""Ablations against the slow way and by hand; weights set by formula, whose best patterns are known."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_model import KINDS, build

from ictl_utils import ablations, handmade, idealised, metrics
from ictl_utils.ablations import FILLS, losses_without
from ictl_utils.ablations_sweep import Sweep, effects, sweep
from ictl_utils.config import IctlError
from ictl_utils.model import Transformer
from ictl_utils.tokens import BOS

sys.path.insert(0, str(ROOT / "bench"))

AT = [1, 5, 6, 7, 20, 33]
MORE = [{"n_layers": 1}, {"n_layers": 1, "mlp": True}, {"n_layers": 1, "norm": False}, {"n_layers": 8},
        {"n_layers": 3, "smear": "query"}, {"n_layers": 3, "smear": "value", "positions": "learned"},
        {"n_layers": 3, "mlp": True, "positions": "rotary", "smear": "key"}]  # fmt: skip


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50, (5, 41))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_best_head_is_taken_where_none_is_an_induction_head(windows: np.ndarray, kind: type) -> None:
    model = build(n_layers=2)
    scores = np.full((2, model.cfg.n_heads), 0.01, kind)
    scores[1, 1] = 0.0508
    rows = ablations.knockout_table(model, windows, scores)
    assert rows[1]["name"] == "without L1H1" and rows[2]["name"].startswith("without L1H")
    assert rows[1]["loss"] == pytest.approx(float(losses_without(model, windows, [(1, 1)]).mean()))
    assert rows[1]["loss"] != rows[0]["loss"]
    with pytest.raises(IctlError, match="without layers"):
        ablations.knockout_table(model, windows, scores[:0])


# ---- what stands in for a head --------------------------------------------------------------------


def with_head_set_to(model: Transformer, windows: np.ndarray, layer: int, head: int, z: torch.Tensor) -> np.ndarray:
    """Losses by hand: the change of the residual stream the next layer reads, everything after recomputed."""
    ids = torch.from_numpy(windows[:, :-1])
    cache = model.forward_with_cache(ids)
    changed = cache.resid[layer + 1] + (z - cache.z[layer][:, head]) @ model.W_O[layer, head]
    logits = model.forward_with_cache(resid=changed, start_layer=layer + 1).logits
    right = torch.from_numpy(windows[:, 1:])
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), right, reduction="none").numpy()


@pytest.mark.parametrize("chunk", [2, 32])
def test_fills_by_hand(windows: np.ndarray, chunk: int) -> None:
    model = build(n_layers=3)
    z = model.forward_with_cache(torch.from_numpy(windows[:, :-1])).z[1][:, 2]
    before = torch.stack([z[i - 1] for i in range(5)])
    for fill, value in zip(FILLS, (0 * z, z.mean(0).expand_as(z), before), strict=True):
        expected = with_head_set_to(model, windows, 1, 2, value)
        found = losses_without(model, windows, [(1, 2)], "full", chunk, fill)
        assert np.abs(found - expected).max() < 1e-4
        assert np.abs(found - losses_without(model, windows, [])).max() > 1e-2


def test_filling_with_the_same_window_changes_nothing() -> None:
    model, same = build(), np.tile(np.arange(41), (4, 1))
    for fill in ("mean", "resample"):
        found = losses_without(model, same, [(0, 1), (1, 2)], "full", fill=fill)
        assert np.abs(found - losses_without(model, same, [])).max() < 1e-4


# ---- every head at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS + MORE, ids=str)
def test_sweep_is_the_slow_loop(kind: dict, windows: np.ndarray) -> None:
    model = build(**kind)
    found = sweep(model, windows, AT, fills=FILLS, chunk=2)
    assert found.losses.shape == (2, 3, model.cfg.n_layers, 4, 5, 6)
    assert np.abs(found.intact - losses_without(model, windows, [])[:, AT]).max() < 1e-4
    sets = [[(layer, head)] for layer in range(model.cfg.n_layers) for head in range(4)]
    for k, name in enumerate(found.kinds):
        for f, fill in enumerate(found.fills):
            slow = ablations.losses_without_each(model, windows, sets, name, fill=fill)[:, :, AT]
            fast = found.losses[k, f].reshape(slow.shape)
            assert np.allclose(fast, slow, rtol=0, atol=1e-4)
            assert all(np.abs(one - found.intact).max() > 1e-3 for one in fast), "an ablation must change something"


def test_kinds_fills_and_chunks_can_be_asked_for_alone(windows: np.ndarray) -> None:
    model = build(n_layers=3)
    whole = sweep(model, windows, range(40), fills=FILLS)
    for k, kind in enumerate(whole.kinds):
        for f, fill in enumerate(FILLS):
            one = sweep(model, windows, range(40), (kind,), (fill,), chunk=5)
            assert np.allclose(one.losses[0, 0], whole.losses[k, f], atol=1e-5)
    assert np.abs(whole.losses[0] - whole.losses[1])[:, 0].max() > 1e-2
    assert np.array_equal(whole.losses[0][:, 2], whole.losses[1][:, 2]), "after the last layer there are no patterns"


@pytest.mark.parametrize("bad, words", [
    ({"positions": [3, 40]}, "positions 3 to 40 do not fit windows of 40 tokens; use 0..39"),
    ({"positions": [5, 5]}, "in rising order"),
    ({"positions": []}, "one or more positions"),
    ({"kinds": ("half",)}, "kind='half' is not known"),
    ({"fills": ("ones",)}, "fill='ones' is not known"),
])  # fmt: skip
def test_bad_input_is_named(bad: dict, words: str, windows: np.ndarray) -> None:
    with pytest.raises(IctlError, match=words.replace(".", r"\.")):
        sweep(build(), windows, **{"positions": AT, **bad})


def test_one_window_cannot_be_resampled(windows: np.ndarray) -> None:
    for call in (lambda: sweep(build(), windows[:1], AT, fills=("resample",)),
                 lambda: losses_without(build(), windows[:1], [(0, 0)], fill="resample")):
        with pytest.raises(IctlError, match="give at least 2 windows"):
            call()


# ---- what an ablation means -----------------------------------------------------------------------


def test_effects_are_differences_of_icl_scores(windows: np.ndarray) -> None:
    model, late, early = build(), (36, 40), (2, 5)
    found = sweep(model, windows, [2, 3, 4, 20, 36, 37, 38, 39], fills=("zero", "mean"))
    change = effects(found, late, early)
    intact = losses_without(model, windows, [])
    without = losses_without(model, windows, [(0, 3)], "full", fill="mean")
    score, paired = metrics.icl_score(without, late, early), metrics.icl_score(without - intact, late, early)
    assert change.icl[0, 1, 0, 3] == pytest.approx(score.value - metrics.icl_score(intact, late, early).value, abs=1e-5)
    assert change.icl_se[0, 1, 0, 3] == pytest.approx(paired.se, abs=1e-5)
    assert change.loss[0, 1, 0, 3] == pytest.approx((without - intact)[:, found.positions].mean(), abs=1e-5)
    assert change.along is None


def test_effects_of_known_losses() -> None:
    """Without the head, late tokens cost what they cost before the phase change."""
    intact, losses = np.full((4, 2), [3.0, 2.0]), np.full((1, 1, 1, 2, 4, 2), [3.0, 2.0])
    losses[..., 1, :, :] = [3.0, 2.5]
    known = Sweep(("full",), ("zero",), np.array([1, 8]), intact, losses)
    change = effects(known, (8, 9), (1, 2), vector=np.tile([0.0, -0.7], (4, 1)))  # the change lowered late losses
    assert np.allclose(change.icl[0, 0, 0], [0, 0.5]) and np.allclose(change.icl_se, 0)
    assert np.allclose(change.loss[0, 0, 0], [0, 0.25])
    assert np.allclose(change.along[0, 0, 0], [0, -0.5 * 4 / 2])  # 4 windows, length of the vector 2 * 0.7
    with pytest.raises(IctlError, match=r"shape \(2,\); expected \(4, 2\)"):
        effects(known, (8, 9), (1, 2), vector=np.ones(2))
    with pytest.raises(IctlError, match="positions 7 to 8 were not all swept"):
        effects(known, (7, 9), (1, 2))


def test_joint_ablation_is_not_the_sum(windows: np.ndarray) -> None:
    model, both = build(), [(0, 1), (1, 2)]
    rows = ablations.joint(model, windows, {"both": both, "one": both[:1]}, "full", "mean")
    assert [row["name"] for row in rows] == ["intact", "both", "one"] and rows[0]["icl_change"] == 0
    losses, intact = losses_without(model, windows, both, "full", fill="mean"), losses_without(model, windows, [])
    assert rows[1]["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert rows[1]["icl"] == pytest.approx(metrics.icl_score(losses).value, abs=1e-5)
    assert rows[1]["icl_change"] == pytest.approx(rows[1]["icl"] - rows[0]["icl"], abs=1e-5)
    assert rows[1]["loss_change_se"] == pytest.approx((losses - intact).mean(1).std(ddof=1) / 5**0.5, abs=1e-5)


def test_random_sets_match_layer_by_layer() -> None:
    heads = [(0, 1), (2, 0), (2, 3)]
    sets = ablations.random_matched_sets(heads, (3, 8), 50, seed=1)
    assert sets == ablations.random_matched_sets(heads, (3, 8), 50, seed=1)
    assert sets != ablations.random_matched_sets(heads, (3, 8), 50, seed=2)
    assert len({tuple(one) for one in sets}) == 50
    for one in sets:
        assert [layer for layer, _ in one] == [0, 2, 2] and len(set(one)) == 3 and not set(one) & set(heads)


def test_there_are_only_so_many_sets() -> None:
    sets = ablations.random_matched_sets([(1, 0)], (2, 4), 20)
    assert sorted(sets) == [[(1, 1)], [(1, 2)], [(1, 3)]]
    crowded = ablations.random_matched_sets([(0, 0), (0, 1), (0, 2)], (1, 4), 20)
    assert crowded == [[(0, 3)]] and ablations.random_matched_sets([], (1, 4), 3) == []
    with pytest.raises(IctlError, match=r"L2H0 is not in a model of \(2, 4\)"):
        ablations.random_matched_sets([(2, 0)], (2, 4), 1)


# ---- idealised heads ------------------------------------------------------------------------------


def test_idealised_patterns_against_loops() -> None:
    ids = torch.randint(0, 5, (6, 30), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = BOS
    previous, literal, two = (
        pattern(ids)
        for pattern in (idealised.previous_token_pattern, idealised.literal_match_pattern,
                        idealised.two_token_match_pattern)
    )  # fmt: skip
    latest = idealised.literal_match_pattern(ids, recent=True)
    longer = 0
    for b, row in enumerate(ids.tolist()):
        for i in range(30):
            one = [j + 1 for j in range(i) if row[j] == row[i] != BOS]
            pair = [j for j in one if j >= 2 and i >= 1 and row[j - 2] == row[i - 1] != BOS]
            longer += 0 < len(pair) < len(one)
            assert previous[b, i].tolist() == [float(j == max(i - 1, 0)) for j in range(30)]
            for found, where in ((literal, one or [0]), (two, pair or one or [0]), (latest, [max(one or [0])])):
                expected = [(j in where) / len(where) for j in range(30)]
                assert found[b, i].tolist() == pytest.approx(expected)
    assert longer > 20


@pytest.fixture(scope="module")
def repeats() -> np.ndarray:
    """Twenty-five distinct random tokens, four times."""
    rng, ids = np.random.default_rng(0), np.arange(1, handmade.LARGEST)
    blocks = np.stack([np.tile(rng.choice(ids, 25, replace=False), 4) for _ in range(6)])
    return np.concatenate([np.full((6, 1), BOS), blocks], axis=1).astype(np.int64)


def test_idealised_heads_of_a_hand_built_model(repeats: np.ndarray) -> None:
    model = handmade.induction_model()
    assert idealised.recovered(model, repeats, [(0, 0)], idealised.previous_token_pattern) > 0.95
    for pattern in (idealised.literal_match_pattern, idealised.two_token_match_pattern):
        assert idealised.recovered(model, repeats, [(1, 0)], pattern) > 0.95


def test_the_wrong_pattern_recovers_nothing(repeats: np.ndarray) -> None:
    model = handmade.induction_model()
    assert idealised.recovered(model, repeats, [(1, 0)], idealised.previous_token_pattern) < 0.1
    assert idealised.recovered(model, repeats, [(0, 0)], idealised.literal_match_pattern) < 0.1
    with pytest.raises(IctlError, match="nothing to recover"):
        idealised.recovered(model, repeats, [], idealised.literal_match_pattern)


def test_replacing_patterns_with_themselves_changes_nothing(windows: np.ndarray) -> None:
    model, heads = build(n_layers=3, mlp=True), [(1, 2)]
    itself = lambda ids: model.forward_with_cache(ids).patterns[1][:, 2]  # noqa: E731
    found = idealised.losses_replaced(model, windows, heads, itself, chunk=2)
    assert np.abs(found - losses_without(model, windows, [])).max() < 1e-4
    with pytest.raises(IctlError, match=r"pattern has shape \(40, 40\); expected \(5, 40, 40\)"):
        idealised.losses_replaced(model, windows, heads, lambda ids: torch.eye(40))
    with pytest.raises(IctlError, match="L1H7 does not exist"):
        idealised.losses_replaced(model, windows, [(1, 7)], itself)


def test_two_heads_replaced_together_by_hand(windows: np.ndarray) -> None:
    """The later of the two keeps its new pattern; the layer between them sees the earlier one's change."""
    model, ids = build(n_layers=3), torch.from_numpy(windows[:, :-1])
    ideal, resid = idealised.previous_token_pattern(ids), model.forward_with_cache(ids).resid[0]
    for layer, head in enumerate((3, None, 0)):
        pattern = model.forward_with_cache(resid=resid, start_layer=layer).patterns[0].clone()
        if head is not None:
            pattern[:, head] = ideal
        cache = model.forward_with_cache(resid=resid, start_layer=layer, patterns={layer: pattern})
        resid = cache.resid[1]
    right = torch.from_numpy(windows[:, 1:])
    expected = torch.nn.functional.cross_entropy(cache.logits.transpose(1, 2), right, reduction="none").numpy()
    found = idealised.losses_replaced(model, windows, [(0, 3), (2, 0)], idealised.previous_token_pattern)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - losses_without(model, windows, [])).max() > 1e-3


# ---- the benchmark --------------------------------------------------------------------------------


def test_benchmark_agrees_and_prints_a_line_a_loop(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformer_lens")
    import ablations as bench

    bench.main(["--smoke", "--layers", "1", "3"])
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if " - " in line and line.split()[0] in "13"]
    assert [row[0] for row in rows] == ["1"] * 3 + ["3"] * 3
    apart = [float(row[-1]) for row in rows if row[1] != "ictl_utils"]
    assert len(apart) == 4 and max(apart) < 1e-4
    assert "Reached at 3 layers" in out and "the goal is 8" in out


def test_benchmark_stops_where_losses_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    import ablations as bench

    wrong = lambda job: lambda: bench.ours(job)() + 0.001  # noqa: E731
    monkeypatch.setattr(bench, "CONTESTANTS", {bench.OURS: bench.ours, bench.TWO_PASS: wrong})
    with pytest.raises(IctlError, match=r"two passes, our model is 1\.0e-03 nats from our losses"):
        bench.measure(bench.a_job(1, 2, n_ctx=32, d_model=32, d_vocab=64), rounds=1)
    with pytest.raises(SystemExit, match=r"^ablations: rounds=0 must be at least 1\.$"):
        bench.main(["--rounds", "0"])
