"""The registration as it was written down, the tests' small language, and verdicts on numbers made up."""

import ast
import csv
import hashlib
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ictl_utils import claims, verdicts, zoo
from ictl_utils.claims import Claim, holds, load_claims, names_in
from ictl_utils.config import IctlError
from ictl_utils.verdicts import alone, judge, judge_all, leave_one_out, to_frame, to_json

PACKAGE = Path(claims.__file__).parent
REGISTRATION = "2c06355a318293311c1f97b026f5171b73a9a6aeee5d7932d7e0a0f9d640407d"
FILES = {
    "claims.csv": "dec8c16ba9cd41e5f2b870ff16f615ed895349d04859b0184a7eda7bd625deaa",
    "claims_terms.csv": "441da90bd17baa03a4558e0346db8fba2a27e942bc431cdf1d43bc16035db4be",
    "claims_families.csv": "b2f043617f0804e7670201c548040ffbbfbc214833e2911addc30b9808d96d69",
}


@pytest.fixture(scope="module")
def registered() -> dict[str, Claim]:
    return {claim.id: claim for claim in load_claims()}


def made_up(seeds: str = "median", good: str = "x >= 0.6", bad: str = "x < 0.3", scope: tuple[str, ...] = ("S",)
            ) -> Claim:
    return Claim("Z01", "part", "claim", "measure", "1", "x is large", "x is small", scope,
                 {"x": "one", "y": "two"}, good, bad, seeds, ("attn-2l",))  # fmt: skip


def seeds(*x: float, y: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame({"y": [y] * len(x), "x": x})


@pytest.mark.parametrize("of_five, word", [(4, "reproduced"), (3, "mixed")])
def test_a_share_of_seeds_is_reached_by_exactly_that_many(of_five: int, word: str) -> None:
    numbers = seeds(*[0.9] * of_five, *[0.5] * (5 - of_five))
    assert judge(made_up(seeds="0.8"), numbers).verdict == word
    assert judge(made_up(seeds="all"), numbers).verdict == "mixed"


# ---- the registration -------------------------------------------------------------------------------


def test_registered_bounds_never_move() -> None:
    """The eight registered columns, bit for bit.

    They were fixed before the models that decide were measured. A hash that is changed together with a bound
    makes every verdict of the book worthless: whoever wants other bounds adds a claim beside the old
    one and says when and why.
    """
    with (PACKAGE / "claims.csv").open(newline="", encoding="utf-8") as file:
        rows = [row[:8] for row in csv.reader(file)]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    assert tuple(rows[0]) == claims.REGISTERED
    assert hashlib.sha256(text.getvalue().encode()).hexdigest() == REGISTRATION


@pytest.mark.parametrize("name", FILES)
def test_registered_tests_never_move(name: str) -> None:
    """What the bounds mean for a program, fixed before the first full measurement, for the same reason."""
    text = (PACKAGE / name).read_text(encoding="utf-8")
    assert hashlib.sha256(text.encode()).hexdigest() == FILES[name]


def test_claims_load(registered: dict[str, Claim]) -> None:
    assert len(registered) == 66
    away = {"A06", "A17", "D02", "D03", "D04", "E06", "E07", "E09", "E10", "E11"}
    assert {name for name, claim in registered.items() if not claim.testable} == away
    assert registered["A01"].seeds == "all" and registered["B03"].seeds == "0.8"
    assert registered["B06"].models == ("key-1l", "value-1l", "query-1l")


def test_models_are_in_the_zoo(registered: dict[str, Claim]) -> None:
    named = {model for claim in registered.values() if claim.testable for model in claim.models}
    assert named <= {entry.name for entry in zoo.entries()}


def test_every_test_can_hold_alone(registered: dict[str, Claim]) -> None:
    """For each claim with bounds, some numbers reproduce it and others contradict it; neither test is void."""
    for claim in registered.values():
        if not claim.reproduced_test:
            continue
        bounds: dict[str, set[float]] = {}
        for node in ast.walk(ast.parse(f"({claim.reproduced_test}) or ({claim.contradicted_test})")):
            if isinstance(node, ast.Compare):
                bound = ast.literal_eval(node.comparators[0])
                bounds.setdefault(node.left.id, set()).update((bound - 1e-3, bound, bound + 1e-3))
        found = set()
        for point in itertools.product(*bounds.values()):
            row = dict(zip(bounds, point, strict=True))
            found.add((holds(claim.reproduced_test, row), holds(claim.contradicted_test, row)))
            if {(True, False), (False, True)} <= found:
                break
        assert {(True, False), (False, True)} <= found, claim.id


def test_no_single_number_passes_both_tests(registered: dict[str, Claim]) -> None:
    for claim in registered.values():
        if claim.reproduced_test and len(claim.numbers) == 1:
            (name,) = claim.numbers
            for value in [i / 100 for i in range(-100, 1201)] + [1e-5, 1e9]:
                both = [holds(test, {name: value}) for test in (claim.reproduced_test, claim.contradicted_test)]
                assert not all(both), f"{claim.id} at {value}"


def test_terms_and_families() -> None:
    assert {"window", "onset", "induction head", "effect"} <= set(claims.load_terms())
    assert len(claims.load_families()) == 12
    assert claims.load_families()["method"] == (r"^(def|class)$", r"\($", r"^(self|cls)")


def altered(tmp_path: Path, row: str, **cells: str) -> Path:
    """The registration with some cells of one row replaced."""
    with (PACKAGE / "claims.csv").open(newline="", encoding="utf-8") as file:
        rows = [r | (cells if r["id"] == row else {}) for r in csv.DictReader(file)]
    path = tmp_path / "claims.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, claims.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(("cells", "message"), [
    ({"reproduced_test": ""}, "row A02, column reproduced_test: .* needs both tests"),
    ({"contradicted_test": "drift >"}, "row A02, column contradicted_test: 'drift >' is not a test"),
    ({"contradicted_test": "gone > 1"}, "row A02, column contradicted_test: gone is not defined in numbers"),
    ({"numbers": "drift: one; drift: two"}, "row A02, column numbers: 'drift: two' is not a new"),
    ({"numbers": "drift: one; aside"}, "row A02, column numbers: 'aside' is not a new"),
    ({"contradicted_test": "drift > 1"}, "column numbers: gain_best, steady_best is in no test"),
    ({"seeds": "most"}, "row A02, column seeds: 'most' is not all, median or a share"),
    ({"seeds": "1.5"}, "row A02, column seeds"),
    ({"scope": "X"}, "row A02, column scope: 'X' is not among"),
    ({"models": ""}, "row A02, column models: no model"),
    ({"id": "A01"}, "row A01, column id: 'A01' comes 2 times"),
])  # fmt: skip
def test_errors_name_row_and_column(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(IctlError, match=message):
        load_claims(altered(tmp_path, "A02", **cells))


def test_a_bound_that_went_missing_is_an_error(tmp_path: Path) -> None:
    """Not a claim that is quietly "not testable here", also where a small model does not decide it."""
    with pytest.raises(IctlError, match="row A06, column reproduced_test: a claim with numbers needs both tests"):
        load_claims(altered(tmp_path, "A06", reproduced_test="", contradicted_test=""))
    for column in claims.REGISTERED[1:]:
        with pytest.raises(IctlError, match=f"row A02, column {column}"):
            load_claims(altered(tmp_path, "A02", **{column: " "}))
    assert not next(c for c in load_claims() if c.id == "D04").reproduced_test  # registered without one


def test_missing_rows_columns_and_cells(tmp_path: Path) -> None:
    lines = (PACKAGE / "claims.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    path = tmp_path / "claims.csv"
    path.write_text("".join(lines[:-1]))
    with pytest.raises(IctlError, match="65 rows; 66 were registered"):
        load_claims(path)
    path.write_text(lines[0].replace(",seeds", "") + lines[1])
    with pytest.raises(IctlError, match="expected id, part, .*seeds, models"):
        load_claims(path)
    path.write_text(lines[0] + lines[1].rsplit(",", 1)[0] + "\n")
    with pytest.raises(IctlError, match="row A01, column models: the row has not 13 cells"):
        load_claims(path)


# ---- tests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("test", "expected"), [
    ("x >= 2", True), ("x > 2", False), ("x <= 2", True), ("x < 2", False), ("x == 2", True), ("x == 1", False),
    ("y < -0.5", True), ("y < -1.5", False), ("x > 1e-4", True),
    ("x == 2 or x == 1 and y == 7", True), ("(x == 2 or x == 1) and y == 7", False),
    ("x == 1 and y == -1 or y == -1", True), ("x == 1 and (y == -1 or y == -1)", False),
    ("x == 2 and y == -1 and x < 3", True), ("x == 2 and y == -1 and x < 1", False),
])  # fmt: skip
def test_comparisons_and_precedence(test: str, expected: bool) -> None:
    assert holds(test, {"x": 2.0, "y": -1.0}) is expected


def test_rounding_errors_do_not_decide() -> None:
    """A rank correlation of exactly a fifth must not depend on the order in which a library adds."""
    assert not holds("x < 0.2", {"x": 0.2 - 3e-17}) and not holds("x > 0.3", {"x": 0.1 + 0.2})
    assert holds("x < 0.2", {"x": 0.2 - 1e-9})


def test_infinite_numbers_compare() -> None:
    assert holds("x > 2", {"x": float("inf")}) and not holds("x >= -1", {"x": float("-inf")})


def test_names() -> None:
    assert names_in("(a > 1 or b < 2) and a < 5") == {"a", "b"}


@pytest.mark.parametrize("test", [
    "", "x", "x >", "x > y", "1 < x", "0 < x < 1", "x != 1", "x is 1", "x in 1", "not x > 1", "x + 1 > 2", "-x > 2",
    "x > 1 + 1", "x > True", "x > '1'", "x > 1j", "x > None", "abs(x) > 1", "x.real > 1", "x[0] > 1",
    "__import__('os') > 1", "x > __import__('os')", "x > 1 if y else 2", "(lambda: 1)() > 0", "x := 1", "x > 1; y > 1",
    "x > 1 & y > 1", "x > float('nan')",
])  # fmt: skip
def test_nothing_else_is_a_test(test: str) -> None:
    with pytest.raises(IctlError, match="is not a"):
        holds(test, {"x": 2.0, "y": 1.0})


@pytest.mark.parametrize("values", [{}, {"x": float("nan")}])
def test_a_test_without_its_number(values: dict[str, float]) -> None:
    with pytest.raises(IctlError, match="no value for x"):
        holds("y > 0 or x > 0", {"y": 1.0, **values})


# ---- verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "x", "expected"), [
    ("median", (0.7, 0.6, 0.0), "reproduced"), ("median", (0.7, 0.2, 0.1), "contradicted"),
    ("median", (0.7, 0.5, 0.1), "mixed"), ("median", (0.5, 0.7), "reproduced"),
    ("all", (0.7, 0.6, 0.9), "reproduced"), ("all", (0.7, 0.6, 0.5), "mixed"), ("all", (0.1, 0.2), "contradicted"),
    ("all", (0.1, 0.2, 0.3), "mixed"),
    ("0.8", (1, 1, 1, 1, 0), "reproduced"), ("0.8", (1, 1, 1, 0, 0), "mixed"), ("0.8", (0, 0, 0, 0, 1), "contradicted"),
    ("0.8", (1, 1, 0), "mixed"), ("0.8", (1, 1, 1), "reproduced"),
])  # fmt: skip
def test_how_seeds_combine(rule: str, x: tuple[float, ...], expected: str) -> None:
    assert judge(made_up(rule), seeds(*x)).verdict == expected


def test_both_tests_holding_is_mixed() -> None:
    assert judge(made_up(good="x > 1", bad="y > 1"), seeds(2.0, y=2.0)).verdict == "mixed"
    assert judge(made_up(good="x > 1", bad="y > 1"), seeds(2.0, y=0.0)).verdict == "reproduced"


def test_medians_are_of_each_number() -> None:
    numbers = pd.DataFrame({"x": [1.0, 1.0, 0.0], "y": [1.0, 0.0, 1.0]})
    assert judge(made_up("median", "x == 1 and y == 1"), numbers).verdict == "reproduced"
    assert judge(made_up("0.5", "x == 1 and y == 1", "x == 2"), numbers).verdict == "mixed"


def test_value_and_range_are_of_the_first_number_registered() -> None:
    verdict = judge(made_up(), seeds(0.9, 0.1, 0.7, y=5.0).assign(other=1.0), "fig", "chapter")
    assert (verdict.value, verdict.low, verdict.high, verdict.n_seeds) == (0.7, 0.1, 0.9, 3)
    assert verdict.numbers == {"x": [0.9, 0.1, 0.7], "y": [5.0, 5.0, 5.0]}
    assert (verdict.figure, verdict.chapter, verdict.how_to_test) == ("fig", "chapter", "")


@pytest.mark.parametrize(("numbers", "message"), [
    (seeds(1.0, float("nan")), "claim Z01: x of seed 1 is NaN"),
    (seeds(1.0, y=float("nan")), "y of seed 0 is NaN"),
    (pd.DataFrame({"x": [1.0]}), "claim Z01: y is missing"),
    (seeds(), "no seed was measured"),
    (seeds(1.0, 2.0).set_axis([3, 3]), "a seed comes twice"),
    (None, "claim Z01: no numbers; measure them on attn-2l"),
])  # fmt: skip
def test_no_verdict_without_the_numbers(numbers: pd.DataFrame | None, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        judge(made_up(), numbers)


def test_leaving_out_one_seed_can_flip_the_verdict() -> None:
    numbers = seeds(0.9, 0.8, 0.1).set_axis([10, 11, 12])
    assert judge(made_up("all"), numbers).verdict == "mixed"
    assert leave_one_out(made_up("all"), numbers) == {10: "mixed", 11: "mixed", 12: "reproduced"}
    assert leave_one_out(made_up(), numbers) == {10: "mixed", 11: "mixed", 12: "reproduced"}
    assert alone(made_up("all"), numbers) == {10: "reproduced", 11: "reproduced", 12: "contradicted"}
    assert leave_one_out(made_up(), seeds(0.9)) == {}
    assert verdicts.on(made_up("all"), numbers, seeds={10, 11, 99}) == "reproduced"  # those that all models have
    assert verdicts.on(made_up("all"), numbers, seeds={12}) == "contradicted"
    assert verdicts.on(made_up(), numbers, seeds={10, 11, 12}) == verdicts.on(made_up(), numbers, seeds=set()) == ""
    assert leave_one_out(made_up(), seeds(float("inf"), float("-inf"), 0.9))[2] == "undefined"  # their median


def test_not_testable_here() -> None:
    verdict = judge(made_up(scope=("P", "L")), None)
    assert verdict.verdict == "not testable here" and verdict.value is None and verdict.n_seeds == 0
    for part in ("pretrained family", "large model", "attn-2l", "x is large", "x is small"):
        assert part in verdict.how_to_test
    assert judge(made_up(scope=("L",)), seeds(0.9)).verdict == "reproduced"
    without = replace(made_up(scope=("L",)), reproduced_test="", contradicted_test="")
    assert judge(without, seeds(0.9)).verdict == "not testable here"
    assert leave_one_out(without, seeds(0.9, 0.9)) == {}


def test_all_registered_claims_get_a_verdict(registered: dict[str, Claim]) -> None:
    def compute(claim: Claim) -> pd.DataFrame | None:
        return pd.DataFrame(0.5, index=range(3), columns=list(claim.numbers)) if claim.testable else None

    found = judge_all(registered.values(), compute, {"A01": ("score", "notebooks/x")})
    assert [v.id for v in found] == list(registered)
    assert {v.verdict for v in found} == set(verdicts.VERDICTS)
    assert (found[0].verdict, found[0].figure, found[0].chapter) == ("contradicted", "score", "notebooks/x")
    with pytest.raises(IctlError, match="claim A01: no numbers"):
        judge_all(registered.values(), lambda claim: None)


def test_tables() -> None:
    found = [judge(made_up(), seeds(float("inf"), 1.0, float("-inf"))), judge(made_up(scope=("P",)), None)]
    frame = to_frame(found)
    assert list(frame["verdict"]) == ["reproduced", "not testable here"] and "numbers" not in frame
    assert to_frame([]).columns.equals(frame.columns)
    first, second = json.loads(to_json(found))
    assert first["numbers"]["x"] == ["inf", 1.0, "-inf"] and (first["value"], first["high"]) == (1.0, "inf")
    assert second["value"] is None and second["how_to_test"].startswith("Needs a pretrained family")


def test_a_list_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(IctlError, match="nope.csv is no file; expected a list of claims"):
        load_claims(str(tmp_path / "nope.csv"))
