"""Curiosities, patching and conclusions: figures and counts on made-up runs and verdicts whose answer is known."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ictl_utils import figures_conclusion as conclusion
from ictl_utils import figures_patching as patches
from ictl_utils import figures_since as since
from ictl_utils import handmade
from ictl_utils.chapter import Chapter
from ictl_utils.claims import load_claims
from ictl_utils.config import IctlError
from ictl_utils.figures_style import Plot, png
from ictl_utils.judgement import Judged
from ictl_utils.patching import Pair, Patched
from ictl_utils.verdicts import Verdict

CLAIMS = {claim.id: claim for claim in load_claims()}
X = np.linspace(0, 1e7, 41)


def run(label: str = "2L", early: float = 0.1, late: float = 0.1, grows: bool = False, seed: int = 0):
    """A run of two layers of two heads: L1H0 matches; L0H1 undoes 0.5 of the change at the end, half of it halfway."""
    rise = np.clip((X - 2e6) / 2e6, 0, 1)
    after = np.clip((X - 4e6) / 6e6, 0, 1)
    positions = np.zeros((len(X), 128)) + 3.0
    positions[:, 8:16] -= early * after[:, None]
    positions[:, 112:128] -= (rise + late * after)[:, None]
    prefix = np.zeros((len(X), 2, 2))
    prefix[:, 1, 0] = 0.8 * rise * (1 - 0.25 * after)
    share = np.zeros((len(X), 2, 2))
    share[:, 1, 0], share[:, 0, 1] = -2 * rise, -(after if grows else rise)
    effect = np.zeros((len(X), 2, 2)) - 0.01
    effect[:, 1, 0], effect[:, 0, 1] = 0.6 * rise * (1 - 0.5 * after), -0.2
    columns = {"attribution_nats": share, "icl_change_nats": effect, "icl_change_se_nats": effect * 0 + 0.02}
    loss = 3 - rise
    loss[30] += 0.25
    return SimpleNamespace(
        run={"name": f"attn-{label.lower()}", "label": label, "init_seed": seed, "n_layers": 2, "mlp": False},
        tokens=X, prefix=prefix, best_prefix=prefix.max((1, 2)), window=SimpleNamespace(start=2e6, end=4e6),
        history=SimpleNamespace(loss_by_position=positions), at=lambda values, at: float(np.interp(at, X, values)),
        at_share=lambda part: 1e7 * part, series=lambda column: loss,
        ablated=lambda column="icl_change_nats": (np.arange(len(X)), columns[column]),
        effect=lambda: effect[-1], per_head=lambda column: np.ones((len(X), 2, 2)) - 1.5 * (column == "ov_copying"),
    )  # fmt: skip


def judged(name: str, word: str, **more) -> Judged:
    claim = CLAIMS[name]
    if word == "missing":
        return Judged(claim, None, {}, {}, None, why="not measured: attn-9l")
    numbers = {number: [0.5, 0.7] for number in claim.numbers}
    verdict = Verdict(name, word, 0.6, 0.5, 0.7, 2, numbers)
    return Judged(claim, verdict, **{"without": {}, "alone": {}, "second_corpus": None} | more)


VERDICTS = [
    judged("A01", "mixed", narrow="reproduced"), judged("A03", "reproduced"), judged("A04", "contradicted"),
    judged("C06", "missing"), judged("E08", "reproduced", without={0: "reproduced", 1: "undefined"}),
    judged("A05", "reproduced"), judged("A06", "not testable here"), judged("G12", "reproduced"),
    judged("F01", "reproduced"),
]  # fmt: skip


def patched(shares: list[list[float]]) -> Patched:
    return Patched(np.array(shares), np.full(np.shape(shares), 0.05), -1.0, -9.0)


def gallery() -> dict[str, Plot]:
    runs = [run(), run("3L", late=0.3, grows=True)]
    pair = Pair(*(np.zeros((1, 9), dtype=int),) * 2, 7, 3)
    stream = patched([[0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0.9, 0, 0, 0, 0]])
    both = patched([[0.0, 0.7], [1.0, 0.0]]), patched([[0.0, 0.0], [0.9, 0.0]])
    scores = {"2L": (np.array([[0.0, 0.8]]), np.array([[0.0, 0.4]]))}
    return {
        "constant": since.constant_score({"2L": [run()], "3L": [run("3L")]}, runs),
        "late": since.late_heads(runs), "lasting": since.lasting_and_weight(runs),
        "costs": since.costs_by_position({"L1H0": np.linspace(0, 1, 128), "L0H1": np.linspace(1, 0, 128)}),
        "stream": patches.patched_stream({"only A": stream, "all": stream}, pair),
        "roles": patches.roles_by_patching({"enough": both}, {"enough": {(1, 0): "induction", (0, 1): "other"}}),
        "detector": patches.detector_against_matching(patches.detector_table(scores), 0.5),
        "evidence": conclusion.evidence(VERDICTS), "readings": conclusion.other_readings(VERDICTS),
    }  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict[str, Plot]:
    return gallery()


UNITS = re.compile(r"nats|share|tokens|position|layer")


def test_titles_alt_text_and_units(drawn: dict[str, Plot]) -> None:
    for name, fig in drawn.items():
        assert fig.get_suptitle() and len(fig.alt) > 60, name
        labels = [text for ax in fig.axes for text in (ax.get_xlabel(), ax.get_ylabel()) if text]
        assert all(UNITS.search(text) for text in labels), (name, labels)
        assert labels or name in ("evidence", "readings")


def test_nothing_touches_the_edge(drawn: dict[str, Plot]) -> None:
    for name, fig in drawn.items():
        image = np.asarray(Image.open(io.BytesIO(png(fig, 60))).convert("L"))
        assert min(image[0].min(), image[-1].min(), image[:, 0].min(), image[:, -1].min()) > 245, name


def test_alt_text_has_the_finding(drawn: dict[str, Plot]) -> None:
    assert "in 1 of them the late loss falls further" in drawn["constant"].alt
    assert "largest share at the end is 0.50; 1 heads grew late" in drawn["late"].alt
    assert "keeps 0.75 to 0.75" in drawn["lasting"].alt and "from 0.30 to 0.30" in drawn["lasting"].alt
    assert "L0H1: +0.91 nats early, +0.06 late" in drawn["costs"].alt
    assert "at the first A (1.00), before layer 1 at the B that followed it (0.90)" in drawn["stream"].alt
    assert "L1H0 1.00 by output and 0.90 by pattern" in drawn["roles"].alt
    assert "ends at 0.50; L0H1 of the 2L model has 0.80 and 0.40" in drawn["detector"].alt
    assert "Argument 1, some, attention-only: 1 reproduced, 1 mixed." in drawn["evidence"].alt
    assert "A01: registered mixed, narrow window reproduced." in drawn["readings"].alt


# ---- counts ---------------------------------------------------------------------------------------


def test_early_and_late_falls_after_the_window() -> None:
    assert since.falls_after(run(early=0.2, late=0.3)) == pytest.approx((0.2, 0.3))


def test_late_heads_are_found() -> None:
    steady, grown = since.other_heads([run()]), since.other_heads([run(grows=True)])
    assert list(steady["head"]) == list(grown["head"]) == ["L0H1"]
    assert not steady["late"][0] and grown["late"][0]
    assert grown["at the end"][0] == 0.5 and grown["halfway"][0] == pytest.approx(0.5 / 6)


def test_oddities_are_counted() -> None:
    row = since.oddities([run()]).iloc[0]
    assert row["largest rise (nats)"] == pytest.approx(0.25) and row["peak over end"] == pytest.approx(2)
    assert (row["induction heads"], row["improving"], row["anti-copying"]) == (1, 0, 1)
    assert since.costly_head(run()) == (0, 1)


def test_runs_come_once() -> None:
    page = Chapter("14_curiosities_and_since")
    ids = [r.run["run_id"] for r in since.every_run(page.zoo)]
    assert len(ids) == len(set(ids)) > 0
    assert all(r.run["n_layers"] >= 2 and r.best_prefix[-1] > 0.4 for r in since.every_run(page.zoo, 2, formed=True))


def test_a_head_changes_only_what_it_carries() -> None:
    model = handmade.induction_model()
    block = np.random.default_rng(0).permutation(np.arange(1, 31))
    rows = np.concatenate([[0], block, block])[None]
    change = since.changes_by_position(model, rows, [(1, 0), (1, 1)])[:, 0]
    assert change.shape == (2, rows.shape[1] - 1)
    assert change[0, 31:].min() > 2 > -2 > change[0, :30].max()  # without a match it copies <bos>, and is wrong
    assert np.abs(change[1]).max() < 0.1


# ---- verdicts -------------------------------------------------------------------------------------


def test_claims_find_their_cell() -> None:
    where = {name: (conclusion.argument_of(CLAIMS[name]), conclusion.models_of(CLAIMS[name])) for name in CLAIMS}
    assert where["A01"] == ("1", {"attention-only"}) and where["C06"] == ("3", {"with MLPs"})
    assert where["A06"] == ("6", {"large"}) and where["G12"] == ("P2, two layers", {"attention-only", "with MLPs"})
    assert where["E08"][0] == "5" and where["D02"] == ("4", {"large"}) and where["F03"][0] == "P2, one layer"
    assert {argument for argument, _ in where.values()} == set(conclusion.ARGUMENTS)
    majority = conclusion.cell(VERDICTS, "1", "the majority", "attention-only")
    assert [j.claim.id for j in majority] == ["A04"]


def test_tables_say_how_many_and_which() -> None:
    assert conclusion.counts_of(VERDICTS) == {"reproduced": 5, "mixed": 1, "contradicted": 1, "missing": 1,
                                              "not testable here": 1}  # fmt: skip
    assert "P1, Argument 1: co-occurrence: 1 mixed, 1 reproduced, 1 contradicted" in repr(conclusion.tally(VERDICTS))
    failed = conclusion.shortfalls(VERDICTS)
    assert repr(failed).index("A04") < repr(failed).index("A01") and "A03" not in repr(failed)
    assert "0.6 [0.5, 0.7]" in failed.html and CLAIMS["A04"].reproduced_test.replace(">", "&gt;") in failed.html
    assert "not measured: attn-9l" in repr(conclusion.shortfalls(VERDICTS, ["missing"]))
    assert [j.claim.id for j in conclusion.unstable(VERDICTS)] == ["A01", "E08"]


def test_every_cell_of_the_papers_table_has_words_or_none() -> None:
    assert list(conclusion.PAPER)[:6] == list("123456")
    assert all(set(rows) == set(conclusion.ROWS) and all(len(cells) == 3 for cells in rows.values())
               for rows in conclusion.PAPER.values())  # fmt: skip


# ---- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "message"), [
    (lambda: since.constant_score({}, [run()]), "groups is empty"),
    (lambda: since.constant_score({"2L": [run()]}, []), "runs is empty"),
    (lambda: since.late_heads([]), "runs is empty"),
    (lambda: since.lasting_and_weight([]), "runs is empty"),
    (lambda: since.costs_by_position({}), "changes is empty"),
    (lambda: since.costs_by_position({"L0H0": [np.nan] * 9}), "NaN"),
    (lambda: patches.patched_stream({}, None), "found is empty"),
    (lambda: patches.roles_by_patching({}, {}), "found is empty"),
    (lambda: patches.detector_against_matching(pd.DataFrame(), 0.5), "rows is empty"),
    (lambda: conclusion.evidence([]), "judged is empty"),
    (lambda: conclusion.other_readings(VERDICTS[1:2]), "nothing to draw"),
])  # fmt: skip
def test_mistakes(call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call()
