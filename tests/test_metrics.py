"""Measurements against loops and against curves whose answer is known."""

import numpy as np
import pytest
import torch

from ictl_utils import ablations, metrics, probes
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.model import Transformer
from ictl_utils.tokens import BOS, Tokens


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(ModelConfig(d_model=32, n_heads=4, n_ctx=64, d_vocab=200), seed=0)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    rows = np.random.default_rng(0).integers(1, 200, (10, 65))
    rows[:, 0] = BOS
    return rows


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    ids = np.repeat(np.arange(200), np.arange(200, 0, -1)).astype(np.uint16)
    return Tokens("synthetic", 200, ids, ids[:500], None, "", 1, 0)


def cross_entropy(logits: torch.Tensor, windows: np.ndarray) -> torch.Tensor:
    right = torch.from_numpy(windows[:, 1:])
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), right, reduction="none")


def test_token_losses_against_torch(model: Transformer, windows: np.ndarray) -> None:
    expected = cross_entropy(model(torch.from_numpy(windows[:, :-1])), windows)
    assert np.allclose(metrics.token_losses(model, windows, chunk=3), expected.numpy(), atol=1e-5)


def test_icl_score_sign_and_error() -> None:
    losses = np.full((100, 128), 3.0)
    losses[:, 64:] = 2.5  # context helps
    losses += np.random.default_rng(0).normal(0, 0.1, losses.shape)
    score = metrics.icl_score(losses)
    assert score.value == pytest.approx(-0.5, abs=0.02)
    assert score.at_positions == pytest.approx(-0.5, abs=0.05)
    assert (score.late, score.early) == ((112, 128), (8, 16))
    each = losses[:, 112:].mean(1) - losses[:, 8:16].mean(1)
    assert score.se == pytest.approx(each.std(ddof=1) / 10)


def test_error_of_the_icl_score_over_documents() -> None:
    """Windows that repeat those of their document say nothing new: the error is that of one window a document."""
    rng = np.random.default_rng(0)
    one = rng.normal(3, 0.5, (30, 128))
    files, same = np.repeat(np.arange(30) + 7, 4), np.repeat(one, 4, axis=0)
    assert metrics.icl_score(same, documents=files).se == pytest.approx(metrics.icl_score(one).se)
    assert metrics.icl_score(same).se < 0.51 * metrics.icl_score(one).se
    drawn = [metrics.icl_score(one[rng.integers(0, 30, 30)]).value for _ in range(4000)]  # bootstrap over documents
    assert metrics.icl_score(same, documents=files).se == pytest.approx(np.std(drawn), rel=0.06)
    with pytest.raises(IctlError, match="3 documents for 120 windows"):
        metrics.icl_score(same, documents=files[:3])


def test_icl_score_is_the_papers_where_the_context_is_long_enough() -> None:
    losses = np.tile(np.arange(512.0), (3, 1))
    assert metrics.icl_score(losses).at_positions == 450.0


@pytest.mark.parametrize("bad", [{"late": (120, 140)}, {"positions": (500, 50)}, {"early": (9, 9)}])
def test_icl_positions_beyond_the_context(bad: dict) -> None:
    with pytest.raises(IctlError, match="do not fit n_ctx=128; choose positions in 0..127"):
        metrics.icl_score(np.zeros((4, 128)), **bad)


def test_loss_derivative_of_a_logarithm() -> None:
    by_position = -0.3 * np.log(np.arange(1, 513))[None] + 5
    positions, slope = metrics.loss_derivative(np.pad(by_position, ((0, 0), (1, 0)), mode="edge"))
    assert len(positions) == slope.shape[1]
    assert slope[0, 4:] == pytest.approx(-0.3, abs=0.03)


def test_phase_change_finds_a_step() -> None:
    tokens = np.linspace(0, 10e6, 80)
    curve = -0.1 - 0.6 / (1 + np.exp(-(tokens - 4e6) / 2e5))
    window = metrics.phase_change(tokens, curve)
    assert abs(window.steepest - 4e6) < 2e5
    assert 2.8e6 < window.start < 3.8e6 < 4.2e6 < window.end < 5.2e6
    assert window.ten_ninety[0] < 4e6 < window.ten_ninety[1]


def test_phase_change_is_not_the_fall_at_the_start() -> None:
    tokens = np.linspace(0, 10e6, 80)
    curve = -0.15 * (1 - np.exp(-tokens / 1e5)) - 0.6 / (1 + np.exp(-(tokens - 5e6) / 5e5))
    window = metrics.phase_change(tokens, curve)
    assert abs(window.steepest - 5e6) < 3e5 and window.start > 2e6


def test_phase_change_may_come_in_the_first_tenth() -> None:
    tokens = np.linspace(0, 10e6, 100)
    curve = -0.15 * (1 - np.exp(-tokens / 1e5)) - 0.6 / (1 + np.exp(-(tokens - 6e5) / 5e4)) - 0.01 * tokens / 1e6
    window = metrics.phase_change(tokens, curve)
    assert abs(window.steepest - 6e5) < 2e5 and window.end < 2e6


def test_phase_change_needs_snapshots() -> None:
    with pytest.raises(IctlError, match="3 snapshots are too few"):
        metrics.phase_change(np.arange(3), np.zeros(3))
    with pytest.raises(IctlError, match="the score of 2 snapshots is no number"):
        metrics.phase_change(np.arange(5), np.array([0, np.nan, 1, np.inf, 0]))


def test_earlier_successors_against_a_loop() -> None:
    ids = torch.randint(0, 6, (4, 20), generator=torch.Generator().manual_seed(0))
    found = metrics.earlier_successors(ids)
    for b in range(4):
        for i in range(20):
            for j in range(20):
                expected = 1 <= j <= i and ids[b, j - 1] == ids[b, i] != BOS
                assert bool(found[b, i, j]) == bool(expected)


def test_prefix_matching_against_a_loop(model: Transformer, tokens: Tokens) -> None:
    probe = metrics.repeated_blocks(tokens, n=3, length=10, repeats=4)
    patterns = model.forward_with_cache(probe).patterns
    expected = np.zeros((2, 4))
    for layer in range(2):
        for head in range(4):
            hits = [sum(patterns[layer][b, head, i, 1 + j + 10 * r + 1].item() for r in range(copy))
                    for b in range(3) for copy in range(1, 4) for j in range(10) for i in [1 + j + 10 * copy]]
            expected[layer, head] = np.mean(hits)
    assert np.allclose(metrics.prefix_matching(model, probe), expected, atol=1e-6)


def test_the_papers_probe(tokens: Tokens) -> None:
    probe = metrics.repeated_blocks(tokens)
    assert probe.shape == (10, 101) and (probe[:, 0] == BOS).all()
    assert all(len(set(row.tolist())) == 25 for row in probe[:, 1:26])
    assert torch.equal(probe[:, 1:26], probe[:, 76:])
    common = np.argsort(-tokens.counts)[:10]
    assert not np.isin(probe[:, 1:].numpy(), common).any()
    assert (tokens.counts[probe[:, 1:].numpy()] > 0).all()


def test_random_probe_has_no_fixed_offset(tokens: Tokens) -> None:
    probe = metrics.random_blocks(tokens, 100)
    target = metrics.earlier_successors(probe)
    offsets = {int(i - j) for _, i, j in target.nonzero().tolist()}
    assert len(offsets) > 20 and probe.shape == (32, 100)


def test_ranks_never_reach_unseen_ids() -> None:
    counts = np.array([5, 4, 0, 0])
    with pytest.raises(IctlError, match="never seen in training"):
        metrics.usable_ids(counts, (0, 4))
    with pytest.raises(IctlError, match="ranks 3 to 9"):
        metrics.usable_ids(counts, (3, 9))


def test_previous_token_against_a_loop(model: Transformer, windows: np.ndarray) -> None:
    patterns = model.forward_with_cache(torch.from_numpy(windows[:, :-1])).patterns
    expected = np.mean([[patterns[1][b, 2, i, i - 1].item() for i in range(1, 64)] for b in range(10)])
    assert metrics.previous_token(model, windows)[1, 2] == pytest.approx(expected, abs=1e-6)


def test_short_contexts_have_shorter_probes(tokens: Tokens) -> None:
    assert metrics.repeated_probe(tokens, 17).shape[1] == 17 and metrics.repeated_probe(tokens, 128).shape[1] == 101
    short = Transformer(ModelConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=16, d_vocab=200))
    assert metrics.copying(short, tokens).shape == (1, 2)
    for make, n_ctx in ((metrics.repeated_probe, 8), (metrics.random_blocks, 7), (metrics.random_blocks, 2)):
        with pytest.raises(IctlError, match=f"n_ctx={n_ctx} is too short"):
            make(tokens, n_ctx)


def test_what_cannot_be_measured_is_said(model: Transformer, windows: np.ndarray) -> None:
    with pytest.raises(IctlError, match="no token of the probe comes twice"):
        metrics.prefix_matching(model, torch.arange(1, 9)[None])
    with pytest.raises(IctlError, match="there is no best one"):
        metrics.best_head(np.zeros((0, 4)))
    for wrong, words in ((windows.astype(np.int32), "expected token ids as int64"), (windows + 10_000, "out of range")):
        for read in (metrics.token_losses, lambda m, w: probes.losses_at(m, w, np.array([1]))):
            with pytest.raises(IctlError, match=words):
                read(model, wrong)


def test_pca_recovers_a_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 300))
    paths = [100 + rng.normal(size=(20, 2)) * [5, 2] @ plane for _ in range(2)]  # far from the origin
    found, share = metrics.loss_pca(paths)
    assert share.sum() == pytest.approx(1.0)
    distance = np.linalg.norm(paths[0][3] - paths[1][7])
    assert np.linalg.norm(found[0][3] - found[1][7]) == pytest.approx(distance)
    for wrong in ([], [np.zeros((1, 300))], [np.zeros((5, 1))], [np.zeros((2, 3)), np.zeros((2, 4))], [np.zeros(5)]):
        with pytest.raises(IctlError, match="loss vectors"):
            metrics.loss_pca(wrong)


def test_ablation_of_nothing_is_the_model(model: Transformer, windows: np.ndarray) -> None:
    for kind in ablations.KINDS:
        found = ablations.losses_without(model, windows, [], kind)
        assert np.allclose(found, metrics.token_losses(model, windows), atol=1e-5)


def test_full_ablation_is_a_zeroed_output_matrix(model: Transformer, windows: np.ndarray) -> None:
    without = Transformer(model.cfg)
    without.load_state_dict(model.state_dict())
    with torch.no_grad():
        without.W_O[0, 1] = 0
        without.W_O[1, 3] = 0
    found = ablations.losses_without(model, windows, [(0, 1), (1, 3)], "full", chunk=4)
    assert np.allclose(found, metrics.token_losses(without, windows), atol=1e-5)


def test_pattern_preserving_ablation_keeps_later_patterns(model: Transformer, windows: np.ndarray) -> None:
    ids = torch.from_numpy(windows[:, :-1])
    cache, mask = model.forward_with_cache(ids), torch.ones(2, 4)
    mask[0, 1] = 0
    frozen = model.forward_with_cache(ids, patterns=dict(enumerate(cache.patterns)), head_mask=mask)
    expected = cross_entropy(frozen.logits, windows)
    found = ablations.losses_without(model, windows, [(0, 1)], "pattern-preserving")
    assert np.allclose(found, expected.numpy(), atol=1e-5)
    assert not np.allclose(found, ablations.losses_without(model, windows, [(0, 1)], "full"), atol=1e-6)


def test_controls_come_from_the_same_layers() -> None:
    scores = np.array([[0.0, 0.1, 0.2, 0.05], [0.9, 0.1, 0.5, 0.2]])
    found, control = ablations.split_heads(scores)
    assert found == [(1, 0), (1, 2)] and control == [(1, 1), (1, 3)]


def test_unknown_head_and_kind(model: Transformer, windows: np.ndarray) -> None:
    with pytest.raises(IctlError, match="L2H0 does not exist; the model has 2 layers of 4 heads"):
        ablations.losses_without(model, windows, [(2, 0)])
    with pytest.raises(IctlError, match="kind='mean'.*full, pattern-preserving"):
        ablations.losses_without(model, windows, [(0, 0)], "mean")


def test_default_ranks_end_with_the_ids_seen() -> None:
    """Small corpora of one's own never use some bytes; nothing changes where 80 % of the ids are seen."""
    for seen, ids in ((1024, 1024), (900, 1024), (819, 1024), (700, 1024), (60, 1024)):
        counts = np.where(np.arange(ids) < seen, ids - np.arange(ids), 0)
        assert metrics.usable_ids(counts).tolist() == list(range(51, min(819, seen)))
    with pytest.raises(IctlError, match="ranks 51 to 40 do not fit a vocabulary of 1024 ids, 40 of them seen"):
        metrics.usable_ids(np.where(np.arange(1024) < 40, 1, 0))


def test_no_window_is_named(model: Transformer) -> None:
    with pytest.raises(IctlError, match="no window of text to read"):
        metrics.token_losses(model, np.zeros((0, 65), np.int64))

def test_no_row_of_the_random_probe_has_one_offset(tokens: Tokens) -> None:
    probe = metrics.random_blocks(tokens, 100)
    several = 0
    for row in probe.tolist():
        last, offsets = {}, set()
        for i, token in enumerate(row):
            offsets |= {i - last[token]} if token in last else set()
            last[token] = i
        several += len(offsets) > 1
    assert several > 20  # of 32


def test_copying_against_a_loop(model: Transformer, tokens: Tokens) -> None:
    probe = metrics.repeated_blocks(tokens, 10, 25, 1)[:, 1:]
    cache, expected = model.forward_with_cache(probe), np.zeros((2, 4))
    for layer, head in np.ndindex(2, 4):
        shares = []
        for b in range(10):
            for i in range(25):
                logits = cache.result(layer)[b, head, i] @ model.W_U
                raised = (logits - logits.mean()).relu()[probe[b]]
                shares.append(float((raised * cache.patterns[layer][b, head, i]).sum() / raised.sum()))
        expected[layer, head] = 2 * np.mean(shares) - 1
    assert np.allclose(metrics.copying(model, tokens), expected, atol=1e-5)


def test_one_loss_a_window_is_always_at_the_same_position() -> None:
    at = metrics.one_token_each(np.tile(np.arange(128.0), (50, 1))).astype(int)
    assert len(set(at.tolist())) > 20
    losses = np.random.default_rng(1).random((50, 128))
    assert (metrics.one_token_each(losses) == losses[np.arange(50), at]).all()


def test_the_start_token_is_in_no_probe() -> None:
    counts = np.arange(200, 100, -1)
    counts[BOS] = 150  # in the middle of the ranks
    assert BOS not in metrics.usable_ids(counts) and len(metrics.usable_ids(counts)) == 74


def test_derivative_and_its_places() -> None:
    places, slope = metrics.loss_derivative(-0.3 * np.log(np.maximum(np.arange(513.0), 1))[None])
    edges = np.unique(np.round(np.geomspace(1, 513, 17)).astype(int))
    middle = np.array([np.log(np.arange(a, b)).mean() for a, b in zip(edges, edges[1:], strict=False)])
    assert np.allclose(slope, -0.3) and np.allclose(places, np.exp((middle[1:] + middle[:-1]) / 2))


def test_ten_and_ninety_percent_of_a_ramp() -> None:
    tokens = np.linspace(0, 1e7, 201)
    window = metrics.phase_change(tokens, -np.clip((tokens - 3e6) / 4e6, 0, 1))
    assert window.ten_ninety == pytest.approx((3.4e6, 6.6e6), abs=5e4)


def test_kind_and_ranges_are_passed_on(model: Transformer, windows: np.ndarray) -> None:
    scores = np.full((2, 4), 0.1)
    scores[0, 1] = 0.9
    for kind in ablations.KINDS:
        rows = ablations.knockout_table(model, windows, scores, kind=kind)
        assert rows[1]["loss"] == pytest.approx(float(ablations.losses_without(model, windows, [(0, 1)], kind).mean()))
    late, early = (20, 60), (1, 5)
    row = ablations.joint(model, windows, {"a": [(0, 1)]}, "full", late=late, early=early)[1]
    losses = ablations.losses_without(model, windows, [(0, 1)], "full")
    assert row["icl"] == pytest.approx(metrics.icl_score(losses, late, early).value, abs=1e-6)
