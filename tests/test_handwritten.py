"""Models written as W_QK and W_OV: what the assignments say of them holds."""

from pathlib import Path

import pytest
import torch

from ictl_utils.config import IctlError
from ictl_utils.coursework import solutions
from ictl_utils.handwritten import build, layout, random_text, repeated_text, where_it_looks
from ictl_utils.metrics import earlier_successors, prefix_matching

NOTEBOOK = next((Path(__file__).parents[1] / "notebooks" / "assignments" / "instructor").glob("a2_*.ipynb"))
V, N = 7, 20


@pytest.fixture(scope="module")
def answers() -> dict:
    return {name: found.answer for name, found in solutions(NOTEBOOK).items()}


def test_slots_stand_side_by_side_and_fill_the_stream() -> None:
    for pointer in (False, True):
        at = layout(4, 9, pointer)
        slots = [at.position, at.token, at.spare, at.out]
        assert [s.stop for s in slots[:-1]] == [s.start for s in slots[1:]]
        assert (slots[0].start, slots[-1].stop, slots[2].stop - slots[2].start) == (0, at.d_model, 9 if pointer else 4)


def test_the_model_computes_what_its_matrices_say() -> None:
    at, generator = layout(4, 6), torch.Generator().manual_seed(0)
    W_QK, W_OV = torch.randn(2, 1, at.d_model, at.d_model, generator=generator)
    model, text = build(at, W_QK, W_OV), random_text(4, 6)
    x = model.embed(text)
    scores = (x @ W_QK[0] @ x.mT / at.d_model**0.5).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf)
    after = x + scores.softmax(-1) @ x @ W_OV[0]
    torch.testing.assert_close(model.forward_with_cache(text).resid[-1], after)
    torch.testing.assert_close(model(text), 10 * after[:, :, at.out])


def test_matrices_of_the_wrong_shape_are_named() -> None:
    at = layout(4, 6)
    right = torch.zeros(1, at.d_model, at.d_model)
    with pytest.raises(IctlError, match="W_OV has shape"):
        build(at, right, right[0])


def test_ideal_patterns_look_where_they_should() -> None:
    text = random_text(5, 16)
    after = earlier_successors(text).float()
    ideal = after / after.sum(-1, keepdim=True).clamp_min(1)
    assert where_it_looks(text, ideal)["the tokens after earlier occurrences"] == pytest.approx(1)
    before = torch.eye(16).roll(-1, 1).tril().expand(len(text), 16, 16)
    assert where_it_looks(text, before, repeats=False)["the position before"] == pytest.approx(1)
    assert repeated_text(4, 8).tolist() == [[0, 1, 2, 3, 1, 2, 3, 1]]


def test_predictions_of_the_broken_models_are_measured(answers: dict) -> None:
    """Exercise 6 of assignment 2: every statement of its solution."""
    at, text, shuffle = layout(V, N), random_text(V, N), torch.randperm
    after = {}
    for change in answers["a2.q6"]:
        weights = answers["a2.q5"](V, N)
        W_QK, W_OV = weights["W_QK"].clone(), weights["W_OV"].clone()
        W_OV[0] *= change != "L0H0 writes nothing"
        W_OV[1] *= change != "L1H0 writes nothing"
        W_QK /= 50 if change.startswith("all scores") else 1
        if change == "L0H0 attends to itself":
            W_QK[0, at.position, at.position] = float(W_QK.max()) * torch.eye(N)
        model, generator = build(at, W_QK, W_OV), torch.Generator().manual_seed(0)
        for name, weight in (("W_pos", model.W_pos), ("W_E", model.W_E)):
            if name in change:
                weight[:] = weight[shuffle(len(weight), generator=generator)]
        after[change] = bool(prefix_matching(model, text)[1, 0] > 0.9)
    assert after == answers["a2.q6"]


def test_no_head_of_one_layer_tells_the_two_texts_apart(answers: dict) -> None:
    """Exercise 7: any head of layer 0 prefers the same one of the two targets in both texts."""
    texts = torch.tensor(list(answers["a2.q7"](6, 7).values()))
    targets = earlier_successors(texts)[:, -1].int().argmax(-1)
    at = layout(6, 7)
    for seed in range(5):
        W = torch.randn(2, 1, at.d_model, at.d_model, generator=torch.Generator().manual_seed(seed))
        attention = build(at, *W).forward_with_cache(texts).patterns[0][:, 0, -1]
        assert targets[0] != targets[1]
        assert len(set((attention[:, targets[0]] > attention[:, targets[1]]).tolist())) == 1
