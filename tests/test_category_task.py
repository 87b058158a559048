"""The category task and the papers' prompts: what lines hold, scores of heads whose answer is known, figures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ictl_utils import category_task as task
from ictl_utils import data, figures_generality, prompts
from ictl_utils.config import IctlError
from ictl_utils.model import Transformer

SIZE = 8  # words a kind


def oracle(ids: list[int]) -> list[torch.Tensor]:
    """Two layers of two heads: even; the word before; labels of the same kind, evenly; labels, evenly."""
    n, kinds = len(ids), task.kinds_of(np.array(ids))
    even = np.tri(n) / np.arange(1, n + 1)[:, None]
    label = (kinds < 0) & (np.arange(n) > 0)
    after = np.concatenate([[-1], kinds[:-1]])  # kind of the word before a label
    same = (kinds[:, None] == after) & label & np.tri(n, k=-1, dtype=bool)
    parts = [even, np.eye(n, k=-1), same, label & np.tri(n, k=-1, dtype=bool)]
    found = [part / np.maximum(part.sum(1, keepdims=True), 1) for part in parts]
    return list(torch.from_numpy(np.stack(found)).view(2, 2, n, n))


def matched(lines: list[task.Lines]) -> task.KindMatch:
    return task.kind_match([task.attention_to_labels(one, oracle) for one in lines], [one.kinds for one in lines])


# ---- corpus and lines -----------------------------------------------------------------------------


def test_the_corpus_draws_labels_anew_and_never_kinds() -> None:
    docs = data._category(np.random.default_rng(0), task.D_VOCAB, 200, 512)
    kinds = task.kinds_of(docs[:, ::2])
    assert kinds.min() == 0 and kinds.max() == data.KINDS - 1 and (task.kinds_of(docs[:, 1::2]) == -1).all()
    label_of = [{k: set(row[1::2][of == k]) for k in range(data.KINDS)} for row, of in zip(docs, kinds, strict=True)]
    assert all(len(labels) <= 1 for each in label_of for labels in each.values())
    assert all(len(set().union(*each.values())) == sum(map(bool, each.values())) for each in label_of)
    assert len({tuple(each[0]) for each in label_of}) > 15
    words = np.array([len(set(row[::2])) for row in docs])
    assert ((words <= data.KINDS) | (words > 50)).all() and 60 < (words <= data.KINDS).sum() < 140


def test_the_corpus_needs_room_for_its_words() -> None:
    assert data.words_a_kind(task.D_VOCAB) == SIZE and data.words_a_kind(33) == 1
    with pytest.raises(IctlError, match="d_vocab=32 is too small for corpus='category'; use at least 33"):
        list(data.documents("category", 32))


def test_fresh_lines_never_repeat_a_word_and_literal_lines_always_do() -> None:
    for one in task.fresh_lines(5):
        assert len(set(one.words)) == 40 and one.ids[0] == 0
        assert [one.ids[at] for at in one.asks] == [task.FIRST_WORD + word for word in one.words]
        label = {kind: one.ids[at[0]] for kind, at in zip(one.kinds, one.labels, strict=True)}
        assert [label[k] for k in one.kinds] == [one.ids[at[0]] for at in one.labels] and len(set(label.values())) == 8
    for one in task.fresh_lines(5, literal=True):
        assert len(set(one.words)) == len(set(one.kinds)) == 8
    assert task.names_of([0, 17, task.FIRST_WORD, task.FIRST_WORD + 21]) == ["<bos>", "=17", "A0", "C5"]
    with pytest.raises(IctlError, match="lines=65 do not fit: there are 64 words"):
        task.fresh_lines(1, lines=65)


# ---- scores ---------------------------------------------------------------------------------------


def test_scores_of_heads_that_are_known() -> None:
    found = matched(task.fresh_lines(20))
    assert found.share[1, 0] == pytest.approx(1) and found.raw[1, 0] == pytest.approx(1)
    assert found.share[1, 1] == pytest.approx(found.chance) and found.labels[1, 1] == pytest.approx(1)
    assert found.share[0, 0] == pytest.approx(found.chance) and found.raw[0, 0] < found.raw[1, 1] < 0.2
    assert found.labels[0, 1] == pytest.approx(1) and found.share[0, 1] < 0.3  # the word's own line is no earlier one


def test_chance_and_shares_by_hand() -> None:
    between = np.zeros((1, 1, 4, 4))
    between[0, 0, 2] = [0.6, 0.2, 0, 0]  # kinds a b a b: line 2 puts three quarters on line 0, line 3 all on line 2
    between[0, 0, 3] = [0, 0, 0.5, 0]
    found = task.kind_match([between], [["a", "b", "a", "b"]])
    assert found.share[0, 0] == pytest.approx((0.75 + 0) / 2) and found.raw[0, 0] == pytest.approx(0.3)
    assert found.labels[0, 0] == pytest.approx(0.65) and found.chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    with pytest.raises(IctlError, match="give more lines"):
        task.kind_match([between], [["a", "b", "c", "d"]])


def test_shuffled_kinds_give_chance_and_agree_with_the_score() -> None:
    lines = task.fresh_lines(12)
    found, kinds = [task.attention_to_labels(one, oracle) for one in lines], [one.kinds for one in lines]
    null, score = task.shuffled_best(found, kinds, 30), task.kind_match(found, kinds)
    assert len(null) == 30 and null.max() < 0.3 < score.share.max() and null.min() > score.chance - 0.05
    fixed = [["a", "b"] * 20 for _ in kinds]  # trading among two kinds of known number
    assert task.shuffled_best(found, fixed, 50).mean() == pytest.approx(0.5, abs=0.05)


def test_answers_count_earlier_lines_and_heads_can_be_taken_out() -> None:
    model = Transformer(task.configs("smoke")[0]).eval()
    lines = task.fresh_lines(4, lines=12)
    found = task.answers(model, lines)
    assert found.seen[:12].tolist() == [lines[0].kinds[:i].count(k) for i, k in enumerate(lines[0].kinds)]
    assert found.loss.mean() == pytest.approx(np.log(task.D_VOCAB), abs=0.5) and 0 <= found.accuracy() < 0.2
    assert found.by_seen(2)[0] == found.right[found.seen == 0].mean() and np.isnan(found.by_seen(40)[-1])
    with torch.no_grad():
        model.W_U[:] = 0
        model.W_U[:, lines[0].ids[2]] = model.read_out(model.trunk(torch.tensor([lines[0].ids])))[0, 1]
    sets = {"intact": [], "all": [(layer, head) for layer in range(2) for head in range(4)]}
    lost = task.accuracy_without(model, lines, sets)
    assert lost["intact"] == task.answers(model, lines).accuracy() and set(lost) == set(sets)


def test_configurations() -> None:
    small, long = (task.configs(name)[1].tokens for name in ("smoke", "laptop"))
    assert small < long and task.configs(n_layers=1)[0].n_layers == 1 and task.configs(seed=3)[1].init_seed == 3
    with pytest.raises(IctlError, match="preset='gpu'"):
        task.configs("gpu")


# ---- prompts of words -----------------------------------------------------------------------------


def encode(text: str) -> list[int]:
    """A token a character: <bos> is 0."""
    return [ord(c) + 1 for c in text]


def decode(ids: list[int]) -> str:
    return "".join(chr(i - 1) for i in ids if i)


def test_pattern_lines_say_where_everything_is() -> None:
    one = prompts.pattern_lines(encode, lines=12, seed=3)
    rows = decode(one.ids).strip().split("\n")
    assert len(rows) == 12 and sorted(one.kinds) == sorted(list(range(4)) * 3)
    label = {}
    for row, ask, at, kind, words in zip(rows, one.asks, one.labels, one.kinds, one.words, strict=True):
        assert row.startswith(f"{words}: ") and decode([one.ids[ask]]) == ":"
        assert decode([one.ids[i] for i in at]) == row[-2:]
        first, second = words.split()
        pair = (first in prompts.FIRST["colour"]) * 2 + (second in prompts.SECOND["fruit"])
        assert pair == kind and label.setdefault(kind, row[-1]) == row[-1]
    assert sorted(label.values()) == list("0123")
    assert prompts.pattern_lines(encode, seed=4).words != one.words
    with pytest.raises(IctlError, match="at least 8"):
        prompts.pattern_lines(encode, lines=7)


def test_prompts_get_shorter_to_fit() -> None:
    found = prompts.fitting(encode, 200, n=3)
    assert {len(one.kinds) for one in found} == {len(found[0].kinds)} and 8 <= len(found[0].kinds) < 16
    assert max(len(one.ids) for one in found) <= 200
    with pytest.raises(IctlError, match="lines=7 are too few"):
        prompts.fitting(encode, 50, n=1)


def test_every_word_is_aligned() -> None:
    sentences = dict(prompts.PARALLEL)
    for name, aligned in prompts.ALIGNED.items():
        assert len(aligned) == len(sentences[name].split()) and max(aligned) < len(sentences["EN"].split())
    text = prompts.parallel_text(encode)
    asked = {decode(text.ids[: at + 1]).split("\n")[-1]: decode([text.ids[i] for i in np.flatnonzero(to)])
             for at, to in zip(text.asks, text.targets, strict=True)}  # fmt: skip
    assert asked["FR: La vieille maison"] == " near" and asked["DE: Das alte"] == " house maison"
    assert asked["DE: Das alte Haus am Fluss hat eine"] == " blue bleue"
    assert not (text.targets & ~text.before).any() and not text.before[:, 0].any()


def test_alignment_of_heads_that_are_known() -> None:
    text = prompts.parallel_text(encode)
    n = len(text.ids)
    knows, even = np.eye(n), np.tri(n)
    even[:, 0] = 0
    knows[text.asks] = text.targets / text.targets.sum(1, keepdims=True)
    even /= np.maximum(even.sum(1, keepdims=True), 1)
    found = prompts.alignment(text, lambda ids: [torch.from_numpy(np.stack([knows, even]))])
    assert found.raw[0, 0] == pytest.approx(1) and found.times_even[0, 1] == pytest.approx(1)
    assert found.times_even[0, 0] > 5


# ---- figures --------------------------------------------------------------------------------------


def test_figures_say_what_they_show() -> None:
    values = {"2L": np.array([[0.2, 0.3], [0.25, 0.7]])}
    marked = {"2L": values["2L"] > 0.5}
    fig = figures_generality.heads_against_chance(values, marked, 0.25, "Words", "share", {"2L": np.full(9, 0.4)}, 0.5)
    assert "2L best 0.70" in fig.alt and "chance 0.25" in fig.alt
    one = figures_generality.Learning("2L", np.array([0, 10]), np.array([0.1, 0.9]), np.array([0.1, 0.8]))
    fig = figures_generality.category_learning([one], 0.125)
    assert "2L 0.90 and 0.80" in fig.alt and [ax.get_xlabel() for ax in fig.axes] == ["training tokens"] * 2
    fig = figures_generality.word_matches(np.kron(np.eye(2), np.ones((3, 3))) * 4, 2, "L1H0")
    assert "the same word 4, others of its kind 4, words of other kinds 0" in fig.alt
    fig = figures_generality.accuracy_without({"intact": np.array([1.0]), "no head": np.array([0.4])}, 0.125)
    assert "no head 0.40" in fig.alt and "share" in fig.axes[0].get_xlabel()


def test_figures_of_runs() -> None:
    losses = {"repeats_first_nats": np.array([7.0, 11.0]), "repeats_second_nats": np.array([7.0, 6.0])}
    scores = np.array([[[0.1, 0.2], [0.6, 0.3]]])
    run = SimpleNamespace(tokens=np.array([0, 10]), series=losses.get, prefix=scores, per_head=lambda _: -scores)
    fig = figures_generality.second_copies({"2L": [run, run]})
    assert "2L ends at 11.0 and 6.0 nats, difference 5.0" in fig.alt
    assert {ax.get_ylabel() for ax in fig.axes} == {"loss (nats)", "difference (nats)"}
    fig = figures_generality.example_heads({"2L": [run]})
    assert "2L 0.60 and -0.60" in fig.alt and "translation 0.85 and +0.20" in fig.alt


def test_the_papers_heads_come_from_the_registration() -> None:
    assert json.dumps(figures_generality.paper_heads()) == (
        '[["literal", 0.89, 0.75], ["translation", 0.2, 0.85], ["pattern", 0.69, 0.94]]')


@pytest.mark.parametrize("mistake", [
    lambda: figures_generality.heads_against_chance({}, {}, 0.2, "a", "b"),
    lambda: figures_generality.heads_against_chance({"a": np.ones((1, 1))}, {}, 0.2, "a", "b"),
    lambda: figures_generality.category_learning([], 0.1),
    lambda: figures_generality.word_matches(np.eye(5), 2, "L1H0"),
    lambda: figures_generality.accuracy_without({}, 0.1),
    lambda: figures_generality.second_copies({}),
    lambda: figures_generality.example_heads({"2L": []}),
])  # fmt: skip
def test_mistakes(mistake) -> None:
    with pytest.raises(IctlError):
        mistake()
