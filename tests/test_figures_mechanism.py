"""How induction heads work: what weights say of models whose answer is known, idealised patterns, and the figures."""

import numpy as np
import pytest
import torch

from ictl_utils import circuits_induction as found
from ictl_utils import figures_induction as diagrams
from ictl_utils import figures_mechanism as figures
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.figures_style import png
from ictl_utils.handmade import induction_model, matching_model
from ictl_utils.idealised import literal_match_pattern, recovered, two_token_match_pattern
from ictl_utils.metrics import earlier_successors, prefix_matching
from ictl_utils.model import Transformer

SENTENCE = "the cat sat on the mat . the cat".split()


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """<bos>, then blocks of tokens that come three times."""
    rng = np.random.default_rng(0)
    blocks = rng.permuted(np.tile(np.arange(1, 30), (6, 1)), axis=1)
    return np.concatenate([np.zeros((6, 1), int), np.tile(blocks, 3)], axis=1)


# ---- by the weights and by hand -------------------------------------------------------------------


def test_the_weights_find_the_heads_that_were_built() -> None:
    answers = found.by_weights(induction_model())
    assert answers.previous_head == (0, 0) and answers.best == (1, 0) and answers.induction == [(1, 0)]
    assert answers.previous[0, 0] > 0.9 > 0.1 > answers.previous[0, 1] and answers.previous[1, 0] < 0.2
    assert answers.positivity[1, 0] == pytest.approx(1) and answers.copying[1, 0] == pytest.approx(1)
    assert np.isnan(answers.trace[0]).all() and answers.trace[1, 0] > 10 * abs(answers.trace[1, 1])


def test_the_weights_of_an_untrained_model_say_nothing() -> None:
    answers = found.by_weights(Transformer(ModelConfig()))
    assert answers.induction == [] and answers.previous.max() < 0.1 and np.nanmax(np.abs(answers.positivity)) < 0.5


@pytest.mark.parametrize("smear", ["none", "key", "query", "value"])
def test_positions_alone_are_what_the_model_does_without_tokens(smear: str) -> None:
    model = Transformer(ModelConfig(n_ctx=24, norm=False, smear=smear), seed=1).requires_grad_(False)
    model.W_E.zero_()
    if smear != "none":
        model.alpha.copy_(torch.linspace(-3, 2, model.alpha.numel()).view_as(model.alpha))
    patterns = model.forward_with_cache(torch.ones(1, 24, dtype=torch.long)).patterns
    bare = np.stack([p[0].diagonal(-1, 1, 2).mean(-1).numpy() for p in patterns])
    assert np.allclose(found.previous_from_weights(model), bare, atol=1e-6)


@pytest.mark.parametrize("mistake", [
    lambda: found.by_weights(matching_model()),
    lambda: found.previous_from_weights(Transformer(ModelConfig(positions="rotary"))),
    lambda: found.own_pattern(induction_model(), (2, 0), earlier_successors),
    lambda: found.longest_match_pattern(torch.ones(1, 4, dtype=torch.long), 0),
])  # fmt: skip
def test_what_cannot_be_read(mistake) -> None:
    with pytest.raises(IctlError):
        mistake()


def test_slots_hold_the_token_before_and_the_prediction() -> None:
    words = list(dict.fromkeys(SENTENCE))
    ids = torch.tensor([[words.index(word) for word in SENTENCE]])
    token, before, prediction = found.slots(induction_model(), ids, len(words)).values()
    assert np.allclose(token, np.eye(len(words))[ids[0]], atol=1e-5)
    assert before[1:].argmax(1).tolist() == ids[0, :-1].tolist() and words[prediction[-1].argmax()] == "sat"


def test_a_softer_head_matches_less(windows: np.ndarray) -> None:
    probe = torch.from_numpy(windows[:2])
    scores = [prefix_matching(found.softened(match=x), probe)[1, 0] for x in (0.0, 0.1, 1.0)]
    assert scores[0] < scores[1] < scores[2] and scores[2] > 0.9
    assert prefix_matching(found.softened(previous=0.0), probe)[1, 0] < 0.1


# ---- what attention is worth ----------------------------------------------------------------------


def test_longest_matches_by_hand() -> None:
    ids = torch.tensor([[0, 1, 2, 3, 9, 2, 4, 1, 2]])  # at the end: 2 came twice, once after 1
    assert torch.equal(found.longest_match_pattern(ids, 1), literal_match_pattern(ids))
    assert torch.equal(found.longest_match_pattern(ids, 2), two_token_match_pattern(ids))
    deep = found.longest_match_pattern(ids, 3)
    assert deep[0, -1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0] and deep[0, 4, 0] == 1
    assert torch.allclose(deep.sum(-1), torch.ones(1, 9))


def test_own_attention_is_as_good_as_the_head(windows: np.ndarray) -> None:
    model, head = induction_model(), (1, 0)
    everything = found.own_pattern(model, head, lambda ids: torch.ones_like(earlier_successors(ids)))
    matches = found.own_pattern(model, head, earlier_successors)
    kept = found.recovered_each(model, windows, [head], {
        "all": everything, "matches": matches, "idea": literal_match_pattern})  # fmt: skip
    assert kept["all"] == pytest.approx(1, abs=1e-5)
    assert kept["idea"] == pytest.approx(recovered(model, windows, [head], literal_match_pattern), abs=1e-5)
    pattern = matches(torch.from_numpy(windows[:, :-1]))
    assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:2]))
    assert not (pattern[:, :, 1:] * ~earlier_successors(torch.from_numpy(windows[:, :-1]))[:, :, 1:]).any()


def test_attention_is_split_without_rest(windows: np.ndarray) -> None:
    split = found.attention_split(induction_model(), windows, (1, 0))
    for parts in split.values():
        assert sum(x for name, x in parts.items() if name != "positions") == pytest.approx(1, abs=1e-5)
    assert split["seen before"]["positions"] + split["new"]["positions"] == pytest.approx(1)
    seen = split["seen before"]
    assert seen["one token matches"] + seen["two tokens match"] > 0.9 and split["new"]["two tokens match"] == 0


# ---- figures --------------------------------------------------------------------------------------


def test_diagrams_follow_the_sentence() -> None:
    assert "attends to 'sat'" in diagrams.induction_diagram(SENTENCE).alt
    fig = diagrams.mechanism_diagram(SENTENCE)
    assert "'before me stood 'cat''" in fig.alt and len(png(fig)) > 10_000
    for bad in (["a", "b"], ["a", "b", "c", "b"]):
        with pytest.raises(IctlError, match="did not occur before"):
            diagrams.mechanism_diagram(bad)


def test_figures_of_the_hand_built_model() -> None:
    held = {"token": np.eye(2), "prediction": np.eye(2)[::-1]}
    assert "prediction: 'a' (1.00)" in diagrams.slot_contents(held, ["a", "b"], ["a", "b"]).alt
    fig = diagrams.sharpness({"match": ([0, 1], [0.1, 0.9])})
    assert "match: 0.10 at factor 0, 0.90 at 1" in fig.alt and "share of attention" in fig.axes[0].get_ylabel()


def test_scatters_say_how_both_agree() -> None:
    x = np.array([-2e3, 1.0, 50.0, 1e5])
    fig = figures.weights_against_behaviour({"2L": (x, np.arange(4.0)), "3L": (x, -np.arange(4.0))}, "prefix")
    assert "2L: 1.00, 3L: -1.00" in fig.alt and "rank correlation over all 0.00" in fig.alt
    fig.canvas.draw()
    assert not any("$" in tick.get_text() for tick in fig.axes[0].get_xticklabels())
    assert "r over all 1.00" in figures.weights_against_behaviour({"2L": (x, 2 * x)}, "copying").alt


def test_bars_keep_their_signs() -> None:
    fig = figures.stacked({"L1H0": {"K": 0.8, "Q": -0.1, "Id": 0.3}}, "Parts", "share")
    assert "L1H0: K 0.80, Q -0.10, Id 0.30." in fig.alt
    assert min(patch.get_x() + min(patch.get_width(), 0) for patch in fig.axes[0].patches) == pytest.approx(-0.1)
    fig = figures.recovered({"one": [0.7, 0.8]}, {"one": (0.5, 0.8)})
    assert "one 0.75" in fig.alt and "share" in fig.axes[0].get_xlabel()


def test_registered_ranges_are_read_from_the_claim() -> None:
    assert figures.bounds("G11") == {"prev": (0.9, np.inf), "induction": (0.5, 0.8), "gain": (0.03, np.inf)}


@pytest.mark.parametrize("mistake", [
    lambda: figures.weights_against_behaviour({}, "prefix"),
    lambda: figures.weights_against_behaviour({"2L": ([1], [2])}, "trace"),
    lambda: figures.stacked({"a": {"K": 1.0}, "b": {"Q": 1.0}}, "t", "x"),
    lambda: figures.stacked({}, "t", "x"),
    lambda: figures.recovered({}),
    lambda: figures.recovered({"a": []}),
    lambda: diagrams.slot_contents({}, [], []),
    lambda: diagrams.sharpness({}),
    lambda: diagrams.induction_diagram(["a", "b"]),
])  # fmt: skip
def test_mistakes(mistake) -> None:
    with pytest.raises(IctlError):
        mistake()

def test_one_and_two_tokens_that_match_are_told_apart() -> None:
    model = induction_model()
    ids = np.array([[0, 1, 2, 3, 4, 2, 5, 1, 2, 9]])  # the last 2 read: "1 2" came once, "4 2" once
    pattern = model.forward_with_cache(torch.from_numpy(ids[:, :-1])).patterns[1][0, 0]
    seen = found.attention_split(model, ids, (1, 0))["seen before"]
    queries = [5, 7, 8]  # 2, 1, 2
    assert seen["positions"] == pytest.approx(3 / 9)
    assert seen["two tokens match"] == pytest.approx(float(pattern[8, 3]) / 3, abs=1e-6)
    one = [float(pattern[5, 3]), float(pattern[7, 2]), float(pattern[8, 6])]
    assert seen["one token matches"] == pytest.approx(sum(one) / len(queries), abs=1e-6)
