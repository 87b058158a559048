"""Chapters 5 and 6: searches whose answer is known, effects against slow loops, figures that describe themselves."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ictl_utils import circuits_effects as effects
from ictl_utils import circuits_examples as examples
from ictl_utils import figures_circuits, figures_composition, figures_terms, figures_trigrams, handmade, metrics
from ictl_utils.circuits import full_OV
from ictl_utils.circuits_paths import path_terms, term_importance
from ictl_utils.circuits_scores import qk_terms
from ictl_utils.circuits_trigrams import SourceTable
from ictl_utils.config import IctlError, ModelConfig
from ictl_utils.figures_style import View, png
from ictl_utils.model import Transformer
from ictl_utils.survey_trigrams import top_entries
from ictl_utils.tokens import Tokens, train_tokenizer

RNG = np.random.default_rng(0)


def small(n_layers: int, seed: int = 0, scale: float = 3.0, **changes) -> Transformer:
    """Random weights, large enough that patterns are not flat."""
    cfg = ModelConfig(**{"n_layers": n_layers, "d_model": 32, "n_heads": 2, "n_ctx": 24, "d_vocab": 64} | changes)
    model = Transformer(cfg, seed)
    with torch.no_grad():
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            getattr(model, name).mul_(scale)
    return model.requires_grad_(False)


def windows(n: int = 3, length: int = 25, d_vocab: int = 64) -> np.ndarray:
    rows = RNG.integers(1, d_vocab, (n, length))
    rows[:, 0] = 0
    return rows


def alphabet(d_vocab: int = 64) -> Tokens:
    ids = np.arange(d_vocab, dtype=np.uint16)
    return Tokens("none", d_vocab, ids, ids, None, "", 1, 0)


@pytest.fixture(scope="module")
def words() -> Tokens:
    """A tokenizer that knows ``for``, ``in``, ``range``, and ``inter`` whole and in two pieces."""
    text = [" for in range for in range", "inter in ter inter inter ter in"] * 40
    tokenizer = train_tokenizer(text, 272)
    ids = np.array(tokenizer.encode("\n".join(text)).ids, dtype=np.uint16)
    return Tokens("texts", 272, ids, ids, tokenizer, "", 2, 1)


# ---- searches -------------------------------------------------------------------------------------


def test_copying_is_found_where_it_was_put_and_nowhere_else() -> None:
    model = handmade.matching_model()  # every token attends to its copies and raises itself
    ids = np.arange(1, 40)
    found = examples.copying_found(model, ids, n=5, k=3)
    assert len(found) == 5
    for row in found:
        assert row.table.source == row.table.outs[0] == row.table.destinations[0] and row.hits == {row.table.source}
        assert row.table.qk[0] * row.table.ov[0] == pytest.approx(row.score)
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)
    assert len({row.table.source for row in found}) == 5
    assert examples.own_output(model, ids).tolist() == [1.0, 0.0]  # the second head is blank


def test_families_and_split_words_are_found_in_planted_entries(words: Tokens) -> None:
    model, ids = small(1, d_vocab=words.d_vocab), np.arange(1, words.d_vocab)
    known = {words.decode([int(i)]): int(i) for i in ids}
    assert {" for", " in", " range", "inter", "in", "ter"} <= set(known)
    tops = [tuple(x.copy() for x in pair) for pair in top_entries(model, ids, k=4)]
    others = np.setdiff1d(ids, [known[x] for x in (" in", " range", "in", "ter")])[:4]
    for destinations, outs in tops:  # nothing but two planted rules, both in head 1
        destinations[:], outs[:] = others, others
    for source, destination, out in ((" for", " in", " range"), ("inter", "in", "ter")):
        row = np.searchsorted(ids, known[source])
        tops[1][0][row, 2], tops[1][1][row, 3] = known[destination], known[out]
    loop = [row for row in examples.families_examples(model, words, tops, ids, k=4) if row.what == "loop"]
    assert [(row.name, row.table.source) for row in loop] == [("L0H1", known[" for"])]
    assert loop[0].hits == {known[" in"], known[" range"]}
    (split,) = examples.split_examples(model, words, tops, ids, k=4)
    assert (split.name, split.table.source, split.hits) == ("L0H1", known["inter"], {known["in"], known["ter"]})
    dealt = examples.families_by_chance(tops, ids, words, n=3)
    assert dealt.shape == (3,) and (dealt >= 0).all()


def test_probabilities_of_a_triple_are_those_of_the_model() -> None:
    model, ids = small(1), np.arange(1, 64)
    triples = np.array([[5, 9, 11], [7, 9, 2], [5, 3, 11]])
    after, without = examples.probabilities(model, triples, ids, n=63)
    for (a, b, c), p, base in zip(triples, after, without, strict=True):
        logp = [model(torch.tensor([[0, int(x), b]]))[0, -1].log_softmax(-1)[c] for x in (a, *ids)]
        assert p == pytest.approx(float(logp[0].exp()), rel=1e-4)
        assert base == pytest.approx(float(torch.stack(logp[1:]).mean().exp()), rel=1e-4)


def test_bugs_cross_two_pairs_of_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, rows = small(1), alphabet(), windows(600, 9)
    kinds = (10, (20, 30), (21, 31)), (40, (20, 31), (21, 30)), (41, (20, 32), (21, 33))
    for i, row in enumerate(rows):  # 10 goes with 20 30 and 21 31; 20 31 and 21 30 come without it
        source, first, second = kinds[i % 3]
        row[1:] = (1, source, 2, *first, 3, *second)
    monkeypatch.setattr(examples, "raised", lambda model, triples, ids: np.ones(len(triples), bool))
    found = examples.find_bugs(model, tokens, rows, most=50)
    assert {(bug.source, *sorted(zip(bug.destinations, bug.outs, strict=True))) for bug in found} >= {
        (10, (20, 30), (21, 31)), (40, (20, 31), (21, 30))}  # fmt: skip
    for bug in found:
        asked = np.array([[bug.source, b, c] for b in bug.destinations for c in bug.outs])
        after, without = examples.probabilities(model, asked, np.flatnonzero(tokens.counts)[1:])
        np.testing.assert_allclose(bug.after.ravel(), after, rtol=1e-5)
        np.testing.assert_allclose(bug.without.ravel(), without, rtol=1e-5)
        assert bug.cross == pytest.approx(min(bug.gains[0, 1], bug.gains[1, 0]))
    assert 0 <= examples.raised_by_chance(model, tokens, found) <= 1
    own = examples.raised_by_chance(model, tokens, found[:1])  # one source can only be dealt to its own pair
    assert own == float(found[0].cross > 0)
    best = examples.most_raised(found, 3)
    assert best[0].cross == max(bug.cross for bug in found)
    with pytest.raises(IctlError, match="read more"):
        examples.find_bugs(model, tokens, windows(2, 5))


def test_offsets_of_a_head_that_only_counts() -> None:
    model = handmade.fixed_offset_model(4)
    text, alone = examples.attention_by_offset(model, windows(4, 40, handmade.LARGEST), n=8)
    assert text.shape == alone.shape == (model.cfg.n_heads, 8)
    assert text[0].argmax() == 4 and text[0, 4] > 0.9
    with pytest.raises(IctlError, match="offsets"):
        examples.attention_by_offset(model, windows(2, 6), n=8)
    with pytest.raises(IctlError, match="layer=9 does not exist"):
        examples.attention_by_offset(model, windows(4, 40, handmade.LARGEST), layer=9)


# ---- effects --------------------------------------------------------------------------------------


def test_value_weighted_patterns_by_hand() -> None:
    model, ids = small(2), torch.from_numpy(windows(1, 12))
    found, cache = effects.value_weighted(model, ids, 1), model.forward_with_cache(ids)
    by_hand = np.zeros((2, 12, 12))
    for h, i, j in np.ndindex(2, 12, 12):
        by_hand[h, i, j] = cache.patterns[1][0, h, i, j] * (cache.v[1][0, h, j] @ model.W_O[1, h]).norm()
    np.testing.assert_allclose(found, by_hand / by_hand.max((1, 2), keepdims=True), rtol=1e-4, atol=1e-6)
    with pytest.raises(IctlError, match="one"):
        effects.value_weighted(model, torch.from_numpy(windows(2, 12)), 1)


def test_effects_of_all_heads_and_the_direct_path_are_the_logits() -> None:
    model, ids = small(1), torch.from_numpy(windows(1, 12))
    cache = model.forward_with_cache(ids)
    scale = cache.resid[-1].var(-1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    direct = ((cache.resid[0] - cache.resid[0].mean(-1, keepdim=True)) / scale * model.ln_final) @ model.W_U
    total = sum(effects.next_token_effect(model, ids, 0, h) for h in range(2))
    total = total + (direct - direct.mean(-1, keepdim=True))[0, :-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
    logits = cache.logits - cache.logits.mean(-1, keepdim=True)
    np.testing.assert_allclose(total, logits[0, :-1].gather(1, ids[0, 1:, None])[:, 0].numpy(), atol=1e-4)


def test_the_factors_of_a_bug_multiply_to_what_the_heads_add() -> None:
    model, bug = small(1), examples.Bug(5, (9, 3), (11, 2), np.ones((2, 2)), np.ones((2, 2)))
    attention, raised = effects.bug_parts(model, bug)
    for i, b in enumerate(bug.destinations):
        cache = model.forward_with_cache(torch.tensor([[0, 5, b]]))
        scale = float(cache.resid[-1][0, 2].var(unbiased=False).add(1e-5).sqrt())
        for h in range(2):
            row = full_OV(model, 0, h)
            added = float(cache.patterns[0][0, h, 2, 1]) / scale * (row.left[5] @ row.right[:, list(bug.outs)])
            np.testing.assert_allclose(attention[h, i] * raised[h], added, rtol=1e-4)
    with pytest.raises(IctlError, match="one"):
        effects.bug_parts(small(2), bug)


def test_a_written_induction_head_continues_repeats_and_loses_it_without_its_partner() -> None:
    model, tokens = handmade.induction_model(), alphabet(handmade.LARGEST)
    probe = metrics.repeated_blocks(tokens, n=3, length=10, repeats=3)
    found = effects.on_repeats(model, probe, 3)
    assert found.losses.shape == (30,)
    assert (found.top[1:] > 0.99).all() and found.top[0] < 0.5 and (found.among >= found.top - 1e-9).all()
    scores = effects.without_each(model, probe)
    assert list(scores)[0] == "intact" and scores["intact"][1].max() > 0.9
    assert scores["without L0H0"][1].max() < 0.2
    with pytest.raises(IctlError, match="blocks"):
        effects.on_repeats(model, probe, 4)


def test_paths_left_out_and_frozen_orders() -> None:
    model, rows = small(2), windows(5, 13)
    found = effects.path_effects(model, rows)
    pairs = {((0, a), (1, b)) for a in (0, 1) for b in (0, 1)}
    assert set(found) == {()} | pairs | {((i, h),) for i in (0, 1) for h in (0, 1)}
    frozen, anew = effects.frozen_importance(model, rows, chunk=2), term_importance(model, rows)
    intact = metrics.token_losses(model, rows).mean()
    assert frozen.losses[-1] == pytest.approx(intact, abs=1e-5) and anew.losses[-1] == pytest.approx(intact, abs=1e-5)
    assert frozen.gains.sum() == pytest.approx(np.log(64) - intact, abs=1e-5)
    plain = small(2, norm=False)
    found = [importance(plain, rows).losses for importance in (effects.frozen_importance, term_importance)]
    np.testing.assert_allclose(*found, rtol=1e-4)


# ---- figures --------------------------------------------------------------------------------------


def scores() -> dict[tuple[str, str, str], float]:
    found = {(k, f"L0H{a}", f"L1H{b}"): -0.01 * (a + b) for k in "qkv" for a in range(3) for b in range(3)}
    return found | {("k", "L0H2", "L1H0"): 0.1, ("q", "L0H0", "L1H1"): 0.03}


def gallery() -> dict[str, Figure]:
    eigen = RNG.normal(size=(3, 8)) + 1j * RNG.normal(size=(3, 8))
    tokens, share = np.linspace(0, 6e6, 9), np.linspace(0, 1, 9)
    labels = ["<bos>", "def", "·f", "(", "x", ")"]
    model, ids = small(2), torch.from_numpy(windows(1, 6))
    terms = {name: x[0].numpy() for name, x in qk_terms(model, ids, 1, 0).grouped().items()}
    heads = figures_terms.Heads("2L", ["L1H0", "L1H1"], [1.0, 0.6], [0.9, 0.7], [True, False])
    on = effects.OnRepeats(np.linspace(9, 2, 12), np.array([0.0, 0.5, 0.6]), np.array([0.1, 0.8, 0.9]))
    paths = {(): 1.0, ((0, 0),): 0.1, ((1, 0),): 0.3, ((0, 0), (1, 0)): 0.01}
    curve = [(tokens, share[:, None, None] * np.ones((1, 2, 3)))]
    without = {"intact": np.full((2, 2), 0.6), "without L0H0": np.full((2, 2), 0.1)}
    both, framed = {"right": scores(), "buggy": scores()}, {"right": {("k", "L0H2", "L1H0")}, "buggy": set()}
    return {
        "pattern_summary": figures_circuits.pattern_summary(RNG.random(4), RNG.random(4), (0.01, RNG.random(4))),
        "bug_factors": figures_circuits.bug_factors(RNG.random((2, 2)), RNG.random((2, 2)), "bd", "ce", "a"),
        "attention_by_offset": figures_circuits.attention_by_offset(
            RNG.random((2, 8)), RNG.random((2, 8)), ["L0H0", "L0H1"]
        ),
        "eigenvalue_planes": figures_circuits.eigenvalue_planes(eigen, np.abs(eigen), ["L0H0", "L0H1", "L0H2"]),
        "copying_histogram": figures_circuits.copying_histogram(
            np.array([0.9, 0.6, 0.1]), np.zeros(3), RNG.normal(0, 0.05, 50), "1L"
        ),
        "copying_over_training": figures_circuits.copying_over_training({"2L": curve}, RNG.normal(0, 0.05, 50)),
        "composition_maps": figures_composition.composition_maps(both, framed),
        "composition_graph": figures_composition.composition_graph(both, {"L0H2": "previous token"}),
        "norms_against": figures_composition.norms_against([(scores(), scores())]),
        "score_terms": figures_composition.score_terms(terms, labels, "Scores of L1H0"),
        "query_terms": figures_composition.query_terms(
            {name: x[5] for name, x in terms.items()}, np.eye(6)[2] * 0.4 + 0.1, labels, "L1H0, one query"
        ),
        "positivity_plane": figures_terms.positivity_plane([heads]),
        "gains": figures_terms.gains({"as registered": {"direct": [-0.1, 0.2], "single": [4.0, 3.0]}}, "Gains"),
        "repeats": figures_terms.repeats({"2L": on, "1L": on}, 3),
        "path_losses": figures_terms.path_losses(paths),
        "without_heads": figures_terms.without_heads(without, [(1, 0)], "without L0H0"),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return gallery()


UNITS = re.compile(r"nats|share|tokens|position|token|logits|head|random|copy of|−1 to 1")


def test_every_figure_has_title_alt_text_and_axes_with_units(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        axes = [ax for ax in fig.axes if ax.axison]
        named = [x for ax in axes for x in (ax.get_xlabel(), ax.get_ylabel()) if x]
        named += [x for x in (fig.get_supxlabel(), fig.get_supylabel()) if x]
        assert fig.get_suptitle() and len(fig.alt) > 60 and "nan" not in fig.alt, name
        assert (named or name == "composition_graph") and all(UNITS.search(x) for x in named), (name, named)


def test_nothing_touches_the_edge_of_a_picture(drawn: dict[str, Figure]) -> None:
    for name in ("bug_factors", "eigenvalue_planes", "composition_graph", "query_terms", "gains", "without_heads"):
        fig = drawn[name]  # rotated labels, text outside the axes
        image = np.asarray(Image.open(io.BytesIO(png(fig, dpi=60))).convert("L"))
        assert np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).min() > 245, name


def test_alt_texts_say_what_was_computed(drawn: dict[str, Figure]) -> None:
    assert "Trained: 2 of 3 above 0.5" in drawn["copying_histogram"].alt
    assert "2L layer 1: 3 of 3 above 0.5" in drawn["copying_over_training"].alt
    assert "K L0H2 to L1H0 +0.10, Q L0H0 to L1H1 +0.03" in drawn["composition_maps"].alt
    assert "Over half of the largest: 1 by the right norm, 1 by the wrong, 1 by both" in drawn["norms_against"].alt
    assert "at least 0.90. Others in the corner above 0.5: 2L L1H1" in drawn["positivity_plane"].alt
    assert "as registered, direct +0.05" in drawn["gains"].alt
    assert "without L0H0 0.10" in drawn["without_heads"].alt
    assert "most to '·f' (0.50)" in drawn["query_terms"].alt


def test_token_tables_are_escaped_described_and_framed(words: Tokens) -> None:
    ids = np.array(words.encode("<b>&in"))
    table = SourceTable(int(ids[0]), ids[:2], np.array([2.0, 1.0]), ids[-2:], np.array([3.0, 0.5]))
    row = examples.Found(1, table, frozenset({int(ids[0])}), 6.0, "loop")
    page = figures_trigrams.skip_trigram_table([row], words, "Rows <here>")
    bug = examples.Bug(int(ids[0]), (int(ids[1]), int(ids[2])), (int(ids[1]), int(ids[2])), np.full((2, 2), 0.5),
                       np.full((2, 2), 0.25))  # fmt: skip
    bugs = figures_trigrams.bug_table([bug], words, "Bugs")
    for view in (page, bugs):
        assert isinstance(view, View) and view.html.count("<div") == view.html.count("</div>")
        assert view.html.count("<span") == view.html.count("</span>") and "&lt;" in view.html
    assert "Rows &lt;here&gt;" in page.html and page.html.count('ictl-chip hit"') == 1 and "L0H1" in page.alt
    assert "25 % → 50 %" in bugs.html and "2.0 times as likely" in bugs.alt


def test_bad_input_is_refused_in_words(words: Tokens) -> None:
    for draw, match in (
        (lambda: figures_trigrams.skip_trigram_table([], words, "x"), "nothing to show"),
        (lambda: figures_trigrams.bug_table([], words, "x"), "nothing to show"),
        (lambda: figures_circuits.attention_by_offset(np.ones((2, 3)), np.ones((2, 4)), ["a", "b"]), "match"),
        (lambda: figures_circuits.copying_over_training({}, np.ones(3)), "at least one"),
        (lambda: figures_composition.composition_maps({"other": scores()}, {"other": set()}), "other"),
        (lambda: figures_composition.norms_against([]), "at least one"),
        (lambda: figures_composition.score_terms({"Id": np.ones((3, 3))}, ["a"], "x"), "labels"),
        (lambda: figures_terms.positivity_plane([]), "at least one"),
        (lambda: figures_terms.gains({}, "x"), "some gains"),
        (lambda: figures_terms.path_losses({(): 1.0}), "two layers"),
        (lambda: figures_terms.without_heads({"intact": np.ones((1, 1))}, [(0, 0)], "x"), "intact"),
    ):
        with pytest.raises(IctlError, match=match):
            draw()

def test_paths_and_heads_are_left_out_one_by_one() -> None:
    model, rows = small(2), windows(5, 13)
    terms, intact = path_terms(model, torch.from_numpy(rows[:, :-1])), metrics.token_losses(model, rows).mean()
    for path, effect in effects.path_effects(model, rows).items():
        rest = model.read_out(sum(terms.values()) - terms[path]) @ model.W_U
        loss = torch.nn.functional.cross_entropy(rest.transpose(1, 2), torch.from_numpy(rows[:, 1:]))
        assert effect == pytest.approx(float(loss) - intact, abs=1e-5)
    model.W_O[1, 0] = 0
    ids = torch.from_numpy(rows[:1])
    assert not effects.next_token_effect(model, ids, 1, 0).any() and effects.next_token_effect(model, ids, 1, 1).any()


def test_what_chance_gives_is_dealt_anew(words: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = small(1), alphabet()
    bugs = [examples.Bug(a, (20 + a, 30 + a), (40 + a, 50 + a), np.ones((2, 2)), np.ones((2, 2))) for a in range(1, 9)]
    own = {(bug.source, bug.destinations[i], bug.outs[1 - i]) for bug in bugs for i in (0, 1)}
    monkeypatch.setattr(examples, "probabilities", lambda model, asked, ids: (
        np.array([tuple(one) in own for one in asked.tolist()], float), np.full(len(asked), 0.5)))
    assert examples.raised_by_chance(model, tokens, bugs) < 0.5  # each by its own source only
    ids = np.arange(1, words.d_vocab)
    known = {words.decode([int(i)]): int(i) for i in ids}
    plain = np.full((len(ids), 2), known["ter"])
    tops = [(plain.copy(), plain.copy())]
    row = np.searchsorted(ids, known[" for"])
    tops[0][0][row, 0], tops[0][1][row, 0] = known[" in"], known[" range"]
    assert examples.families_found(tops, ids, words)["loop"]
    assert examples.families_by_chance(tops, ids, words, n=5).tolist() == [0] * 5


def test_positions_alone_and_offsets_by_hand() -> None:
    model, rows = small(2, n_ctx=24), windows(4, 21)
    text, alone = examples.attention_by_offset(model, rows, 0, 6)
    patterns = model.forward_with_cache(torch.from_numpy(rows[:, :-1])).patterns[0]
    p = model.sinusoids[:20]
    for h in range(2):
        score = (p @ model.W_Q[0, h]) @ (p @ model.W_K[0, h]).T / 4
        bare = score.masked_fill(torch.ones(20, 20).triu(1).bool(), -torch.inf).softmax(-1)
        for back in range(6):
            for found, a in ((text, patterns[:, h].mean(0)), (alone, bare)):
                assert found[h, back] == pytest.approx(np.mean([float(a[i, i - back]) for i in range(5, 20)]), abs=1e-5)
