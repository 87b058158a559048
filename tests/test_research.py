"""The research project's tools: what a choice, a prediction and evidence must be, and a whole small project."""

import copy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from ictl_utils import coursework, grading_a5, research
from ictl_utils import research_report as report
from ictl_utils.config import IctlError, digest
from ictl_utils.research import ARMS, choice_fault, planned, prediction_fault, seal

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "assignments" / "instructor" / "a5_research_project.ipynb"
SIZE = {"corpus": "bursty", "d_vocab": 256, "n_layers": 1, "d_model": 16, "n_heads": 2, "tokens": 8192, "snapshots": 2}
CHOICE = {"claim": "B06", "preset": "smoke", "baseline": {**SIZE, "smear": "key"},
          "variant": {**SIZE, "smear": "value"}, "why": "It tells keys from any mixing."}  # fmt: skip
PREDICTION = {"measure": "icl_nats", "direction": "higher", "holds_beyond": 0.5, "fails_below": 0.1,
              "because": "One layer needs keys.", "against": "No difference."}  # fmt: skip


def with_(arm: str, **fields) -> dict:
    """The choice with other fields in one arm."""
    return {**CHOICE, arm: {**CHOICE[arm], **fields}}


@pytest.mark.parametrize("choice, words", [
    ({**CHOICE, "claim": "Z99"}, "A01 to G12"),
    ({**CHOICE, "claim": "b06"}, "ids have a capital"),
    (with_("variant", n_layers="2"), "n_layers must be an integer; it is '2'"),
    (with_("variant", init_seed="1"), "init_seed must be an integer"),
    (with_("variant", lr="0.1"), "lr must be a number"),
    ({**CHOICE, "preset": "tiny"}, "smoke, laptop, gpu"),
    (with_("variant", smear="keys"), "none, key, query, value"),
    (with_("variant", colour="red"), "'colour' is no field"),
    (with_("variant", n_layers="two"), "variant"),
    ({**CHOICE, "variant": 3}, "variant"),
    (with_("variant", smear="key"), "0 fields differ"),
    (with_("variant", positions="rotary"), "2 fields differ between the arms: positions, smear"),
    ({**CHOICE, "variant": {**CHOICE["baseline"], "tokens": 4096}}, "the ruler"),
])  # fmt: skip
def test_a_choice_is_one_legal_change(choice: dict, words: str) -> None:
    assert words in choice_fault(choice)
    with pytest.raises(IctlError, match="nothing was trained"):
        research.collect(choice, PREDICTION)


def test_the_sound_ones_pass() -> None:
    assert choice_fault(CHOICE) is None and prediction_fault(PREDICTION) is None
    assert research.changed(CHOICE) == ["smear"]


@pytest.mark.parametrize("change, words", [
    ({"measure": "accuracy"}, "prefix_matching"), ({"direction": "up"}, "'higher' nor 'lower'"),
    ({"holds_beyond": "0.5"}, "must both be numbers"), ({"fails_below": float("nan")}, "must both be numbers"),
    ({"holds_beyond": True}, "must both be numbers"), ({"fails_below": 0.5}, "0 <= fails_below < holds_beyond"),
    ({"fails_below": -0.1}, "0 <= fails_below"), ({"measure": "copying", "holds_beyond": 2.5}, "at most 2"),
])  # fmt: skip
def test_a_prediction_can_lose(change: dict, words: str) -> None:
    assert words in prediction_fault({**PREDICTION, **change})


def test_a_seal_breaks_with_any_word_and_not_with_the_order_of_keys() -> None:
    sealed = seal(CHOICE, PREDICTION)
    assert sealed == seal(dict(reversed(CHOICE.items())), dict(reversed(PREDICTION.items())))
    assert sealed != seal(CHOICE, {**PREDICTION, "because": "One layer needs keys!"})
    assert sealed != seal({**CHOICE, "why": ""}, PREDICTION)
    assert digest(CHOICE, PREDICTION).startswith(sealed)


def test_seeds_vary_what_the_choice_does_not() -> None:
    drawn = planned(CHOICE, (0, 3))
    assert [cfg.init_seed for _, cfg in drawn.values()] == [0, 0, 3, 3]
    lucky = {**CHOICE, "variant": {**CHOICE["baseline"], "init_seed": 1}}
    runs = planned(lucky, (0, 3))
    assert [(cfg.init_seed, cfg.data_seed) for _, cfg in runs.values()] == [(0, 0), (1, 0), (0, 3), (1, 3)]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> dict:
    return research.collect(CHOICE, PREDICTION, seeds=(0, 1), out=tmp_path_factory.mktemp("runs"), jobs=1)


def test_collected_evidence_is_sound(evidence: dict) -> None:
    faults = (research.rows_fault, research.arms_fault, research.runs_fault)
    assert [fault(evidence) for fault in faults] == [None] * 3
    assert len(evidence["rows"]) == 8 and set(research.values(evidence, "variant")) == {0, 1}
    names: dict = {}
    exec(research.as_cell(evidence), names)
    assert names["evidence"] == evidence
    with pytest.raises(IctlError, match="at least two"):
        research.collect(CHOICE, PREDICTION, seeds=(0, 0))


@pytest.mark.parametrize("fault, change, words", [
    (research.rows_fault, lambda rows: rows[0].pop("seed"), "row 0"),
    (research.rows_fault, lambda rows: rows.append(dict(rows[0])), "comes twice"),
    (research.rows_fault, lambda rows: rows[-1].update(value=-1.0), "cannot be"),
    (research.rows_fault, lambda rows: rows[-1].update(value="2.1"), "cannot be"),
    (research.arms_fault, lambda rows: rows.pop(0), "expected the same"),
    (research.arms_fault, lambda rows: rows.clear(), "0 seeds"),
    (research.runs_fault, lambda rows: rows[0].update(seed=5), "your choice gives"),
    (research.runs_fault, lambda rows: rows[0].update(tokens=1024), "your choice trains 8192"),
])  # fmt: skip
def test_evidence_that_does_not_fit_is_named(evidence: dict, fault, change, words: str) -> None:
    broken = copy.deepcopy(evidence)
    change(broken["rows"])
    assert words in fault(broken)


def test_the_same_arm_twice_is_noticed(evidence: dict) -> None:
    broken = copy.deepcopy(evidence)
    for row in broken["rows"]:
        row["value"] = float(row["seed"])
    assert "exactly the same values" in research.arms_fault(broken)


def test_a_figure_is_described(evidence: dict) -> None:
    figure, axes = plt.subplots()
    for i, arm in enumerate(ARMS):
        axes.scatter([i, i], list(research.values(evidence, arm).values()), label=arm)
    axes.set(title="Both arms are as good as untrained", xlabel="arm", ylabel="ICL score, nats")
    axes.legend()
    found = report.describe(figure, evidence)
    plt.close(figure)
    faults = (report.labels_fault, report.unit_fault, report.names_fault, report.points_fault, report.title_fault)
    assert [fault(found) for fault in faults] == [None] * 5
    assert "no text: xlabel" in report.labels_fault({**found, "xlabel": " "})
    assert "unit: nats" in report.unit_fault({**found, "ylabel": "score"})
    assert "variant" in report.names_fault({**found, "names": ["baseline"]})
    assert "4 of 4" in report.points_fault({**found, "points": []})
    assert report.title_fault({**found, "title": "ICL score"})


def one_panel_an_arm(figure, evidence: dict) -> None:
    """A title of the figure, an arm a panel, scattered points."""
    for arm, axes in zip(ARMS, figure.subplots(1, 2, sharey=True), strict=True):
        found = research.values(evidence, arm)
        axes.scatter(list(found), list(found.values()))
        axes.set_title(arm)
    figure.suptitle("Both arms are as good as untrained")
    figure.supxlabel("seed")
    figure.supylabel("ICL score, nats")


def one_bar_a_run(figure, evidence: dict) -> None:
    """A bar a run, its arm in the tick's label."""
    axes = figure.subplots()
    runs = {f"{arm} {seed}": y for arm in ARMS for seed, y in research.values(evidence, arm).items()}
    axes.bar(list(runs), list(runs.values()))
    axes.set(title="Both arms are as good as untrained", xlabel="run", ylabel="ICL score, nats")


def legend_of_the_figure(figure, evidence: dict) -> None:
    """Lines over seeds, the legend outside of the axes, a point that is missing."""
    axes = figure.subplots()
    for arm in ARMS:
        axes.plot([*research.values(evidence, arm).values(), float("nan")], "o-", label=arm)
    axes.set(xlabel="seed", ylabel="ICL score, nats")
    figure.suptitle("Both arms are as good as untrained")
    figure.legend()


@pytest.mark.parametrize("draw", [one_panel_an_arm, one_bar_a_run, legend_of_the_figure])
def test_all_that_a_figure_shows_is_described(evidence: dict, draw) -> None:
    figure = plt.figure()
    draw(figure, evidence)
    found = report.describe(figure, evidence)
    plt.close(figure)
    faults = (report.labels_fault, report.unit_fault, report.names_fault, report.points_fault, report.title_fault)
    assert [fault(found) for fault in faults] == [None] * 5
    assert "1 of 5" in report.points_fault({**found, "values": [*found["values"], 9.0]})


def test_what_is_no_figure_is_named(evidence: dict) -> None:
    with pytest.raises(IctlError, match="draw returned None"):
        report.describe(None, evidence)
    with pytest.raises(IctlError, match="class tuple; expected the matplotlib figure"):
        report.describe((1, 2), evidence)


def concluded(differences: list[float], interval: tuple[float, float], verdict: str) -> dict:
    """A conclusion on runs with these differences seed by seed."""
    rows = [{"arm": arm, "seed": seed, "measure": "icl_nats", "value": d * (arm == "variant") - 1}
            for seed, d in enumerate(differences) for arm in ARMS]  # fmt: skip
    evidence = {"choice": CHOICE, "prediction": PREDICTION, "rows": rows}
    return {"prediction": PREDICTION, "evidence": evidence, "interval": interval, "verdict": verdict}


@pytest.mark.parametrize("interval, verdict, wrong", [
    ((-0.0123, 0.0623), "fails", ""), ((0.024, 0.026), "fails", "interval"), ((-50.0, 50.05), "fails", "interval"),
    ((-0.016, 0.046), "fails", "interval"), ((-0.0123, 0.0623), "open", "verdict"),
    ((-0.0123, 0.0623), "holds", "verdict"),
])  # fmt: skip
def test_interval_and_verdict_are_those_of_the_rows(interval: tuple, verdict: str, wrong: str) -> None:
    answer = concluded([0.01, 0.04, 0.025], interval, verdict)
    told = {"interval": report.interval_fault(answer), "verdict": report.verdict_fault(answer)}
    assert bool(told["interval"]) == (wrong == "interval")
    assert wrong != "verdict" or "exercise 4" in told["verdict"]
    assert wrong or told == {"interval": None, "verdict": None}
    assert "0.0" not in str(told["interval"])


@pytest.mark.parametrize("differences, half_width", [
    ([0.2, 0.2, 0.2], 0.0), ([0.0, 1.0] * 6, 0.3317), ([-300.0, 500.0], 12.706 * 400),
])  # fmt: skip
def test_intervals_of_no_spread_of_many_seeds_and_of_a_large_spread(differences: list, half_width: float) -> None:
    middle = sum(differences) / len(differences)
    for factor, right in ((1, True), (1.05, half_width == 0), (0.95, half_width == 0)):
        answer = concluded(differences, (middle - factor * half_width, middle + factor * half_width), "open")
        assert (report.interval_fault(answer) is None) == right
    wider = concluded(differences, (middle - half_width - 9, middle + half_width + 9), "open")
    assert "exercise 3" in report.interval_fault(wider)


def test_a_conclusion_needs_evidence_of_runs(evidence: dict) -> None:
    rule = next(r for r in coursework.question("a5.q7").rules if r.name == "the evidence is that of exercise 5")
    assert rule.broken({}, {"evidence": evidence}, None) is None
    for change in ({"choice": {"claim": "B06"}}, {"rows": evidence["rows"][1:]},
                   {"rows": [{**row, "run_id": "mine"} for row in evidence["rows"]]}):  # fmt: skip
        try:
            assert rule.broken({}, {"evidence": {**evidence, **change}}, None)
        except KeyError:
            assert "choice" in change  # a rule that cannot be worked out is broken


def test_no_interval_of_one_seed() -> None:
    assert "fewer than two seeds" in report.interval_fault(concluded([0.1], (0, 1), "open"))


@pytest.mark.parametrize("differences, direction, word", [
    ([0.60, 0.62, 0.61], "higher", "holds"), ([0.60, 0.62, 0.61], "lower", "fails"),
    ([-0.60, -0.62, -0.61], "lower", "holds"), ([0.09, 0.08, 0.085], "higher", "fails"),
    ([0.4, 0.8, 0.6], "higher", "open"), ([0.3, 0.31, 0.29], "higher", "open"),
])  # fmt: skip
def test_one_word_fits_the_rows(differences: list, direction: str, word: str) -> None:
    answer = concluded(differences, (0, 0), word)
    answer["prediction"] = {**PREDICTION, "direction": direction, "holds_beyond": 0.5, "fails_below": 0.1}
    fits = [w for w in ("holds", "fails", "open") if report.verdict_fault({**answer, "verdict": w}) is None]
    assert fits == [word]


@pytest.mark.parametrize("words, lacking", [
    ("higher by 0.512 to 0.71 nats over 3 seeds: holds", ""), ("higher by 0,51 to 0,7 nats: holds", ""),
    ("higher in all of 3 seeds of 1 layer: holds", "0.51"), ("higher by 0.51 nats over 3 seeds: holds", "0.71"),
    ("higher by 0.51 to 0.71 nats", "the verdict"), ("higher by 0.51 to 0.71 nats: holds, not as in B07", ""),
])  # fmt: skip
def test_the_sentence_has_both_ends_of_its_interval(words: str, lacking: str) -> None:
    answer = concluded([0.6, 0.62, 0.61], (0.512, 0.708), "holds")
    answer["evidence"]["choice"] = {"claim": "B06"}
    told = report.sentence_fault(answer | {"sentence": f"Claim B06: smeared values are {words}."})
    assert lacking in told if lacking else told is None


@pytest.mark.slow
@pytest.mark.skipif(not NOTEBOOK.exists(), reason="this copy has no instructor notebooks")
def test_the_solutions_evidence_can_be_measured_again(tmp_path) -> None:
    kept = coursework.solutions(NOTEBOOK)["a5.q5"].answer
    again = research.collect(kept["choice"], kept["prediction"], out=tmp_path)
    assert again["seal"] == kept["seal"]
    for old, new in zip(kept["rows"], again["rows"], strict=True):
        assert {**new, "value": 0} == {**old, "value": 0} and abs(new["value"] - old["value"]) < 0.3, (old, new)


@pytest.mark.parametrize("seed", [0, 1001, 1002])
def test_cases_of_the_verdict_need_both_bounds_and_both_ends(seed: int) -> None:
    """Zero in the place of either bound, or ends that are not exchanged for `lower`, give another word somewhere."""

    def words(beyond: float = 1, below: float = 1, exchange: bool = True) -> list[str]:
        found = []
        for case in grading_a5._verdict_cases(seed):
            low, high, p = case.given["low"], case.given["high"], case.given["prediction"]
            if p["direction"] == "lower":
                low, high = (-high, -low) if exchange else (-low, -high)
            found.append("holds" if low >= beyond * p["holds_beyond"] else
                         "fails" if high <= below * p["fails_below"] else "open")  # fmt: skip
        return found

    assert set(words()) == {"holds", "fails", "open"}
    assert words() not in (words(beyond=0), words(below=0), words(exchange=False))


def test_cases_of_the_verdict_have_each_failure_in_each_direction() -> None:
    """Next to nothing, and clearly the other way; an answer that forgets one for one direction loses points."""
    kinds = {(c.given["prediction"]["direction"], c.note.split(" and ")[1])
             for seed in (1001, 1002) for c in grading_a5._verdict_cases(seed)}  # fmt: skip
    wanted = {"it is wholly beyond the bound", "it is clearly the other way", "it is next to nothing, or the other way"}
    for way in ("higher", "lower"):
        assert wanted < {note for direction, note in kinds if direction == way}
