"""What chapters print: registered bounds, numbered figures, verdict badges; and the list of figures."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ictl_utils import figure_list, judgement
from ictl_utils.chapter import Chapter, spread, text_of
from ictl_utils.config import IctlError, require, run_id
from ictl_utils.figures import attention_pattern
from ictl_utils.judgement import judge_zoo
from ictl_utils.numbers_base import Zoo
from ictl_utils.tables import read
from ictl_utils.zoo import find, names

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> Chapter:
    return Chapter("07_argument_1_co_occurrence")


def test_registered_prints_both_bounds(page: Chapter) -> None:
    view = page.registered("A03", "C02")
    for words in ("1L change &lt; 35% of 2L change", "removes &gt;= 70% of post-window gain", "removes &lt; 30%"):
        assert words in view.html
    assert view.html.count('href="../book/claims.html#') == 2 and "1L gains little" in view.alt


def test_verdicts_say_what_was_measured(page: Chapter) -> None:
    judged = {j.claim.id: j for j in judge_zoo(read(), only=["A03", "A06"])}
    view = page.verdicts("A03", "A06")
    assert judged["A03"].word in view.html and text_of(judged["A03"].verdict.value) in view.html
    assert 'class="ictl-badge not-testable-here"' in view.html and "pythia" in view.alt


def test_verdicts_say_which_model_decides(page: Chapter) -> None:
    """Many registered numbers are those of the model that speaks most against the claim."""
    decided = page.verdicts("C02").html
    assert "of the models, the smallest" in decided and 'title="removed' not in decided
    assert 'title="effect of knocking out all induction heads together' in decided
    assert "of the models" not in page.verdicts("E03").html


def test_a_missing_verdict_names_the_missing_models() -> None:
    everything = read()
    ids = everything["runs"].query("name == 'attn-1l'")["run_id"]
    some = {name: frame[frame["run_id"].isin(ids)] for name, frame in everything.items()}
    (judged,) = judge_zoo(some, only=["A03"])
    assert judged.claim.models == ("attn-1l", "attn-2l") and judged.why == "not measured: attn-2l"


def test_a_number_that_fails_costs_one_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(zoo):
        require(False, "no fact of this run")

    monkeypatch.setitem(judgement.NUMBERS, "A03", fails)
    broken, whole = judge_zoo(read(), only=["A03", "B01"])
    assert (broken.word, broken.why) == ("missing", "no fact of this run") and whole.verdict is not None


def test_only_commands_that_can_decide_are_offered() -> None:
    judged = {j.claim.id: j.verdict.how_to_test for j in judge_zoo(read(), only=["A06", "A17", "D03"])}
    assert "`ictl pretrained NAME` for" in judged["A06"] and "--revisions training` for" in judged["A17"]
    assert "ictl pretrained" not in judged["D03"] and "pretrained family" in judged["D03"]
    assert judged["A06"].endswith("--corpus path:GLOB).") and "mixed at best" in judged["A17"]


def test_a_window_that_was_chosen_before_cannot_be_tried_again() -> None:
    """The attribution of C05 is along the change in the registered window: no other reading."""
    c05, a08 = judge_zoo(read(), only=["C05", "A08"])[::-1]
    assert c05.narrow == "" and c05.basis.windows > 0 and a08.narrow and a08.basis.windows == c05.basis.windows


def test_further_seeds_count() -> None:
    """Seeds beyond the zoo's own number are in its tables and verdicts."""
    entry = find("attn-0l", "smoke")
    model, cfg = entry.runs(entry.seeds + 2)[-1]
    assert names("smoke", entry.seeds + 2)[run_id(model, cfg)] == ("attn-0l", entry.family)
    row = {"run_id": run_id(model, cfg), "name": "attn-0l", "init_seed": cfg.init_seed, "data_seed": 0}
    assert Zoo({"runs": pd.DataFrame([row])}, preset_name="smoke").seeds("attn-0l") == [entry.seeds + 1]
    assert set(names("smoke")) < set(names("smoke", 9))


def test_figures_have_a_number_an_anchor_and_their_claims(page: Chapter) -> None:
    drawing = attention_pattern(np.eye(3), ["a", "b", "c"])
    view = page.figure("no-such-figure", drawing, "Three <tokens>.", claims="A01 A02")
    assert 'id="fig-no-such-figure"' in view.html and "Figure 7.?" in view.html and "Three &lt;tokens&gt;." in view.html
    assert "claims.html#A02" in view.html and drawing.alt in view.alt
    assert "<img" in view.html and "</figure>" in view.html


def test_a_missing_figure_keeps_its_place(page: Chapter) -> None:
    view = page.absent("no-such-figure", "The <ladder> is not measured yet.")
    assert 'id="fig-no-such-figure"' in view.html and "The &lt;ladder&gt; is not measured yet." in view.html
    assert view.alt == "Figure 7.? is not drawn. The <ladder> is not measured yet."


def test_findings(page: Chapter) -> None:
    assert page.see("One.")._repr_markdown_() == "**What we see.** One."
    assert repr(page.see("One.", "Two.")).count("\n* ") == 2
    assert spread([3.0]) == "3.00" and spread([1, 4, 2, 3], 1) == "2.5 (1.0 to 4.0)"
    assert text_of(float("inf")) == "∞" and text_of(-0.001234) == "−0.00123" and text_of(None) == "undefined"


@pytest.mark.parametrize("mistake", [
    lambda page: Chapter("argument_1"),
    lambda page: page.registered("Z99"),
    lambda page: page.verdicts("A99"),
    lambda page: page.see(),
    lambda page: spread([]),
])  # fmt: skip
def test_mistakes(page: Chapter, mistake) -> None:
    with pytest.raises(IctlError):
        mistake(page)


def test_the_list_of_figures_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "book" / "_tools" / "figure_map.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run `make claims`"


def test_every_figure_of_the_papers_is_answered_or_explained() -> None:
    answered = {name for figure in figure_list.book_figures() for name in figure.paper}
    ids = [figure.id for figure in figure_list.paper_figures()]
    assert len(ids) == len(set(ids)) == 59
    assert [f.id for f in figure_list.paper_figures() if f.id not in answered and not f.why_not] == []


def test_numbers_count_up_in_every_chapter() -> None:
    for chapter in {f.chapter for f in figure_list.book_figures()}:
        numbers = [f.number for f in figure_list.book_figures() if f.chapter == chapter]
        first = figure_list.chapter_number(chapter)
        assert numbers == [f"{first}.{i}" for i in range(1, len(numbers) + 1)]
        assert (ROOT / "notebooks" / f"{chapter}.ipynb").exists()


def test_claims_are_shown_where_the_list_says() -> None:
    for claim, (figure, chapter) in figure_list.places().items():
        assert re.fullmatch(r"[A-G]\d\d", claim) and re.fullmatch(r"Figure \d+\.\d+", figure)
        assert (ROOT / "notebooks" / f"{chapter}.ipynb").exists()
