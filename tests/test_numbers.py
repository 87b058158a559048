"""Numbers of the claims about training (A, B, D01), on tables made up so that the answer is known.

Scores fall along straight ramps. A ramp from ``a`` to ``b`` (shares of the run), smoothed with a Gaussian of
0.02, has 15 % of its slope 1.036 standard deviations outside its ends: its window is ``a - EDGE`` to ``b + EDGE``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ictl_utils import zoo as the_zoo
from ictl_utils.claims import load_claims
from ictl_utils.config import IctlError, run_id
from ictl_utils.judgement import AGAIN, Basis, Judged
from ictl_utils.numbers import NUMBERS
from ictl_utils.numbers_base import PER_RUN, RunTables, Zoo, crossing
from ictl_utils.numbers_shapes import beginning, bumps, elbow, largest_fall, parting, slope_by_position
from ictl_utils.verdicts import Verdict, alone, judge, leave_one_out, on

T = 10_000_000
X = np.linspace(0, 1, 201)  # snapshots, as shares of the run
EDGE = 0.02 * 1.0364
CLAIMS = {claim.id: claim for claim in load_claims()}
MINE = [f"A{i:02}" for i in range(1, 17) if i != 6] + [f"B{i:02}" for i in range(1, 7)] + ["D01"]
LOSSES = ("loss_nats", "loss_new_nats", "loss_repeated_nats", "loss_mismatch_nats", "repeats_second_nats")
Made = dict[str, pd.DataFrame]


def ramp(a: float, b: float, size: float = 0.4) -> np.ndarray:
    return size * np.clip((X - a) / (b - a), 0, 1)


def step(at: float, before: float, after: float) -> np.ndarray:
    return np.where(at > X, before, after)


USUAL = ramp(0.4, 0.5)


def made(name: str, seed: int = 0, *, fall: np.ndarray = USUAL, best: np.ndarray | float = 0.0,
         random: np.ndarray | float = 0.0, positions: np.ndarray | None = None, vectors: np.ndarray | None = None,
         data_seed: int = 0, layers: int = 2, batch_tokens: int = 1024, run: str = "", smear: str = "none",
         **losses: np.ndarray) -> Made:  # fmt: skip
    """Tables of one run whose score is minus ``fall`` and whose second head in the last layer matches prefixes."""
    n, run = len(X), run or f"{name}-s{seed}-d{data_seed}"
    at = {"run_id": run, "snapshot": np.arange(n)}
    heads = pd.MultiIndex.from_product([range(n), range(layers), range(2)], names=["snapshot", "layer", "head"])
    heads = heads.to_frame(index=False).assign(run_id=run, prefix_matching=0.01, prefix_random=0.01, previous_token=0.1)
    formed = (heads["layer"] == layers - 1) & (heads["head"] == 1)
    heads.loc[formed, "prefix_matching"], heads.loc[formed, "prefix_random"] = best, random
    loss = {column: losses.get(column, 3.0) for column in LOSSES}
    found = {
        "runs": pd.DataFrame([{"run_id": run, "name": name, "n_layers": layers, "n_heads": 2, "init_seed": seed,
                               "smear": smear, "data_seed": data_seed, "batch_tokens": batch_tokens}]),
        "snapshots": pd.DataFrame(at | {"tokens": (X * T).round().astype(int), "icl_nats": -fall} | loss),
        "heads": heads.sample(frac=1, random_state=0),
    }  # fmt: skip
    if positions is not None:
        where = pd.MultiIndex.from_product([range(n), range(positions.shape[1])], names=["snapshot", "position"])
        found["positions"] = where.to_frame(index=False).assign(run_id=run, loss_nats=positions.ravel())
    if vectors is not None:
        found["token_losses"] = pd.DataFrame(at | {"losses_nats": list(vectors)})
    return found


def reader(*runs: Made) -> Zoo:
    """A zoo of these runs alone."""
    tables = {name: pd.concat([run.get(name, pd.DataFrame(columns=["run_id", "snapshot"])) for run in runs])
              for name in ("runs", *PER_RUN)}  # fmt: skip
    ids = tables["runs"].groupby("name")["run_id"].agg(list).to_dict()
    return Zoo({name: frame.reset_index(drop=True) for name, frame in tables.items()}, ids)


def only(made_up: Made) -> RunTables:
    row = made_up["runs"].iloc[0]
    return reader(made_up).run(row["name"], row["init_seed"])


def verdict(claim: str, *runs: Made) -> tuple[str, pd.DataFrame]:
    numbers = NUMBERS[claim](reader(*runs))
    assert list(numbers.columns) == list(CLAIMS[claim].numbers)
    return judge(CLAIMS[claim], numbers).verdict, numbers


def five(make: Callable[[int], Made]) -> list[Made]:
    return [make(n) for n in (2, 3, 4, 5, 6)]


# ---- reading ----------------------------------------------------------------------------------------


def test_seeds_and_runs() -> None:
    zoo = reader(made("attn-2l", 1), made("attn-2l", 0), made("attn-2l", 0, data_seed=1), made("attn-1l", 1, layers=1))
    assert zoo.seeds("attn-2l") == [0, 1] and zoo.seeds("attn-2l", "attn-1l") == [1]
    assert zoo.seeds("attn-3l") == [] and zoo.seeds("attn-2l", "attn-3l") == []
    assert zoo.run("attn-2l", 0).run["run_id"] == "attn-2l-s0-d0"
    assert zoo.run("attn-2l", 0) is zoo.run("attn-2l", 0)
    assert [r.run["run_id"] for r in zoo.orders("attn-2l")] == ["attn-2l-s0-d1"] and zoo.orders("attn-1l") == []
    assert [r.run["name"] for r in zoo.models(("attn-1l", "attn-2l", "attn-3l"), 1)] == ["attn-1l", "attn-2l"]
    with pytest.raises(IctlError, match="attn-1l was not measured with seed 0; measured: \\[1\\]"):
        zoo.run("attn-1l", 0)
    with pytest.raises(IctlError, match="'attn-9l' is no model of the zoo"):
        zoo.seeds("attn-9l")


@pytest.mark.parametrize("preset", ["laptop", "smoke"])
def test_runs_of_two_names(preset: str) -> None:
    """ladder-3 is attn-4l: a run is found by its id under both names, whatever ``runs`` calls it."""
    ids = [run_id(*run) for run in the_zoo.find("ladder-3", preset).runs()]
    rows = pd.DataFrame([{"run_id": ids[0], "name": "attn-4l", "init_seed": 0, "data_seed": 0}])
    zoo = Zoo({"runs": rows}, preset_name=preset)
    assert zoo.seeds("ladder-3", "attn-4l") == [0] and zoo.seeds("attn-2l") == []
    assert Zoo({"runs": rows}, preset_name="laptop" if preset == "smoke" else "smoke").seeds("attn-4l") == []


def test_what_a_verdict_rests_on() -> None:
    """Seeds of every model, and the runs whose best head is no induction head; one plain layer cannot have one."""
    claim = replace(CLAIMS["A03"], models=("attn-1l", "attn-2l", "attn-3l"))
    zoo = reader(made("attn-1l", 0, layers=1), made("attn-2l", 0, best=ramp(0.42, 0.48, 0.8)),
                 made("attn-2l", 1, best=0.4), made("attn-3l", 0, layers=3, best=0.39))  # fmt: skip
    basis = Basis.of_claim(claim, zoo)
    assert replace(basis, lengths=(0, 0)) == Basis({"attn-1l": 1, "attn-2l": 2, "attn-3l": 1}, 2, 3)
    assert str(Basis({"a": 1}, 0, 1, lengths=(15_000_000, 30_000_000))) == "runs of 15 to 30 M tokens"
    assert str(basis) == "no induction head in 2 of 3 runs" and str(replace(basis, without=0)) == ""
    assert str(Basis({"mlp-2l": 1, "mlp-3l": 0}, 0, 1)) == "1 of 2 models measured"
    smeared = Basis.of_claim(replace(claim, models=("key-1l",)), reader(made("key-1l", layers=1, smear="key")))
    assert replace(smeared, lengths=(0, 0)) == Basis({"key-1l": 1}, 1, 1) and min(smeared.lengths) > 0
    two = Verdict("A03", "mixed", 0.6, 0.5, 0.7, 2, {"ratio": [0.5, 0.7]})
    judged = Judged(claim, two, {}, {0: "mixed", 1: "mixed"}, replace(two, n_seeds=1), basis=basis, second_basis=basis)
    assert judged.seeds == "1 to 2" and replace(judged, basis=Basis({"attn-2l": 5}, 0, 5)).seeds == "2"
    fewer = replace(judged, complete=("contradicted", 1), basis=Basis({"attn-2l": 2, "attn-3l": 1}, 0, 3))
    assert fewer.rests_on == "contradicted on the 1 seed that all its models have" and fewer.seeds == "1 to 2"
    assert replace(fewer, complete=("mixed", 1)).rests_on == ""
    assert judged.on_second_corpus == "mixed (1 seed, no induction head in 2 of 3 runs)"
    assert replace(judged, second_basis=Basis({}, 0, 0)).on_second_corpus == "mixed (1 seed)"
    assert replace(judged, second_corpus=None).on_second_corpus == ""
    assert replace(judged, second_corpus=None, second_why="0 over 0").on_second_corpus == "undefined"
    assert judged.rests_on == str(basis) and judged.agreeing == 2
    assert replace(judged, alone={0: "reproduced", 1: "mixed"}, basis=Basis({}, 0, 0), remark="A remark.").rests_on == (
        "mixed by 1 of 2 seeds taken alone; A remark.")


def test_windows_that_begin_with_the_run_are_counted() -> None:
    """The score falls from the first snapshot on, or later; only a verdict that reads the window counts them."""
    claim = replace(CLAIMS["A16"], models=("attn-2l", "attn-3l"))
    zoo = reader(made("attn-2l", 0, fall=ramp(0, 0.3)), made("attn-2l", 1), made("attn-3l", 0, layers=3))
    assert [zoo.run("attn-2l", seed).window.start > 0 for seed in (0, 1)] == [False, True]
    found = Basis.of_claim(claim, zoo, window=True)
    assert (found.from_start, found.windows) == (1, 3)
    assert str(found).endswith("window from the first snapshot on in 1 of 3 runs")
    assert Basis.of_claim(claim, zoo).windows == 0


def test_the_beginning_of_a_run() -> None:
    run = only(made("attn-2l", best=ramp(0.42, 0.48, 0.8)))
    half = beginning(run, T / 2)
    assert half.tokens.tolist() == run.tokens[run.tokens <= T / 2].tolist() and half.length == T / 2
    assert half.prefix.tolist() == run.prefix[: len(half.tokens)].tolist() and run.tokens[-1] == T


def test_terms() -> None:
    run = only(made("attn-2l", fall=USUAL + 0.1, best=ramp(0.42, 0.48, 0.8)))
    assert run.window.start == pytest.approx((0.4 - EDGE) * T, abs=0.003 * T)
    assert run.window.end == pytest.approx((0.5 + EDGE) * T, abs=0.003 * T)
    assert run.midpoint == pytest.approx(0.45 * T, abs=1e-3 * T)
    assert run.change == pytest.approx(0.4) and run.jump == pytest.approx(0.4 * 0.969, abs=3e-3)
    assert run.curve_at(0) == pytest.approx(-0.1) and run.curve_at(0.45 * T) == pytest.approx(-0.3, abs=1e-3)
    assert run.prefix.shape == (201, 2, 2) and run.prefix[-1].tolist() == [[0.01, 0.01], [0.01, 0.8]]
    assert run.induction == [(1, 1)] and run.previous_head == (0, 0)
    assert run.at("icl_nats", 0.4475 * T) == pytest.approx(-0.29)


def test_no_head_over_the_threshold() -> None:
    assert only(made("attn-2l", best=0.4)).induction == [(1, 1)]
    assert only(made("attn-2l", best=0.0)).induction == [(0, 0)]
    assert only(made("attn-1l", layers=1)).previous_head == (0, 0)


def test_ablations_and_facts() -> None:
    rows = pd.DataFrame({"run_id": "x", "snapshot": [200] * 8 + [0] * 8, "layer": [0, 0, 1, 1] * 4, "head": [0, 1] * 8,
                         "kind": (["full"] * 4 + ["pattern-preserving"] * 4) * 2, "fill": "zero",
                         "icl_change_nats": np.arange(16.0)})  # fmt: skip
    facts = pd.DataFrame({"run_id": "x", "snapshot": 200, "measure": ["a", "a", "b"], "item": ["", "L1H0", ""],
                          "value": [1, 2, 3.0]})  # fmt: skip
    run = only(made("attn-2l", run="x") | {"ablations": rows, "facts": facts})
    assert run.effect().tolist() == [[4, 5], [6, 7]] and run.effect("full").tolist() == [[0, 1], [2, 3]]
    measured, found = run.ablated()
    assert measured.tolist() == [0, 200] and found[0].tolist() == [[12, 13], [14, 15]]
    assert run.fact("a", "L1H0") == 2 and run.facts_of("a") == {"": 1, "L1H0": 2} and run.facts_of("c") == {}
    with pytest.raises(IctlError, match="no pattern-preserving mean ablation of snapshot 200"):
        run.effect(fill="mean")
    with pytest.raises(IctlError, match="x: no fact 'b' of 'L0H0'"):
        run.fact("b", "L0H0")
    broken = made("attn-2l", run="x") | {"ablations": rows.iloc[:-1]}
    with pytest.raises(IctlError, match=r"x: 7 values of icl_change_nats, not \(2, 2, 2\)"):
        only(broken).ablated()


def test_nothing_measured_gives_no_rows() -> None:
    empty = Zoo({name: pd.DataFrame(columns=["run_id", "snapshot"]) for name in ("runs", *PER_RUN)})
    assert set(MINE) <= set(NUMBERS) <= {name for name, claim in CLAIMS.items() if claim.testable}
    assert [name for name in MINE if len(NUMBERS[name](empty))] == []


# ---- shapes -----------------------------------------------------------------------------------------


def test_crossing() -> None:
    x, y = np.array([0.0, 1, 2, 3]), np.array([0.0, 0.2, 0.6, 0.1])
    assert crossing(x, y, 0.4) == pytest.approx(1.5) and crossing(x, y, 0.7) == np.inf and crossing(x, y, -1) == 0


@pytest.mark.parametrize("length", [0.2, 0.111])
def test_largest_fall_is_that_of_the_naive_search(length: float) -> None:
    fall = np.cumsum(np.random.default_rng(0).normal(0.01, 0.05, len(X)))
    run = only(made("attn-2l", fall=fall))
    starts = np.linspace(0.3, 1 - length, 20001) * T
    naive = max(np.interp(starts, run.steps, run.curve) - np.interp(starts + length * T, run.steps, run.curve))
    assert naive - 1e-12 <= largest_fall(run, length * T, 0.3 * T) <= naive + 1e-5
    at_the_end = only(made("attn-2l", fall=ramp(0.9, 1) - ramp(0.7, 0.9)))
    assert largest_fall(at_the_end, 0.2 * T, 0.6 * T) < 0.2 < largest_fall(at_the_end, 0.1 * T, 0.6 * T)


def test_slope_by_position_reads_12_to_100() -> None:
    losses = np.full((len(X), 128), 99.0)
    losses[:, 12:101] = 5 - 0.1 * X[:, None] * np.log(np.arange(12, 101))
    assert slope_by_position(only(made("attn-2l", positions=losses))) == pytest.approx(-0.1 * X)


def test_bumps_are_steep_and_after_the_tenth() -> None:
    convex = 3 + np.exp(-X / 0.3)
    assert bumps(only(made("attn-2l", loss_nats=convex))) == []
    ((start, end),) = bumps(only(made("attn-2l", loss_nats=convex - ramp(0.4, 0.5))))
    assert 0.3 * T < start < 0.4 * T < end < 0.5 * T
    assert bumps(only(made("attn-2l", loss_nats=convex - ramp(0.4, 0.5, 0.025)))) == []
    steep_at_first = 3 + 3 * np.exp(-X / 0.02)
    assert len(bumps(only(made("attn-2l", loss_nats=steep_at_first - ramp(0.4, 0.5, 0.2))))) == 1
    early = 3 + np.exp(-X / 0.3) - ramp(0.03, 0.05, 0.4)
    assert bumps(only(made("attn-2l", loss_nats=early))) == []


def test_parting_inside_before_and_never() -> None:
    one = only(made("attn-1l"))
    inside, lead = parting(one, only(made("attn-2l", loss_nats=3 - ramp(0.4, 0.5, 0.2))))
    assert inside == pytest.approx(1 - 0.0031 / 0.05, abs=0.01) and -1 < lead < 0
    inside, lead = parting(one, only(made("attn-2l", loss_nats=np.full(len(X), 2.9))))
    assert inside == 0 and lead == pytest.approx((0.4 - EDGE - 0.1) / (0.1 + 2 * EDGE), abs=0.05)
    inside, lead = parting(one, only(made("attn-2l", loss_nats=3 - ramp(0.44, 0.46, 0.03))))
    assert inside == pytest.approx(0.6, abs=0.01) and lead == pytest.approx(-(0.6 + EDGE) / (0.1 + 2 * EDGE), abs=0.05)
    inside, _ = parting(one, only(made("attn-2l", loss_nats=3 - ramp(0.8, 0.9, 0.2))))
    assert inside == pytest.approx(0, abs=1e-6)
    with pytest.raises(IctlError, match="attn-1l-s0-d0 ends at .* tokens, before attn-2l-s0-d0; compare runs of one"):
        parting(beginning(one, T / 2), only(made("attn-2l")))


def test_elbow() -> None:
    path = np.array([[0, 0], [1, 0], [2, 0], [2 + 0.5, 3**0.5 / 2], [3, 3**0.5]])
    assert elbow(path) == (2, pytest.approx(60)) and elbow(path[::-1]) == (2, pytest.approx(60))
    assert elbow(np.arange(5)[:, None] * np.array([[1.0, 0]]))[1] == 0
    back = np.array([[0, 0], [2, 0], [1, 1e-9]])
    assert elbow(back) == (1, pytest.approx(180, abs=1e-4))
    with pytest.raises(IctlError, match="a path of 2 snapshots has no elbow"):
        elbow(path[:2])


# ---- the score over training ------------------------------------------------------------------------


def test_a01() -> None:
    found, numbers = verdict("A01", made("attn-2l"), made("attn-3l", fall=ramp(0.6, 0.7)), made("attn-2l", 1))
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([1, 1], abs=1e-3)
    found, numbers = verdict("A01", made("attn-2l", fall=0.4 * X))
    assert found == "contradicted" and numbers.loc[0].tolist() == pytest.approx([0.2, 0.5], abs=1e-3)
    found, numbers = verdict("A01", made("attn-2l"), made("attn-3l", fall=0.4 * X))
    assert found == "mixed" and numbers.loc[0].tolist() == pytest.approx([0.2, 1], abs=1e-3)
    two_steps = ramp(0.1, 0.2, 0.1) + ramp(0.7, 0.8, 0.3)
    assert verdict("A01", made("attn-2l", fall=two_steps))[1].loc[0, "share20"] == pytest.approx(0.75, abs=1e-3)
    assert verdict("A01", made("attn-2l", fall=-USUAL))[1].loc[0].tolist() == [0, 0]


def test_a02() -> None:
    assert verdict("A02", made("attn-2l"), made("attn-4l"))[0] == "reproduced"
    on = ramp(0.2, 0.25) + ramp(0.25, 1, 0.3)
    found, numbers = verdict("A02", made("attn-2l", fall=on), made("attn-3l", fall=on + ramp(0.8, 0.85, 0.1)))
    assert found == "contradicted"
    run = only(made("attn-2l", fall=on))
    end = run.window.end / T
    assert numbers.loc[0, "gain_best"] == pytest.approx((1 - end) * 0.4 / run.jump, abs=0.01)
    assert numbers.loc[0, "steady_best"] == pytest.approx((1 - end) * 0.2 / run.jump, abs=0.01)
    assert numbers.loc[0, "drift"] == pytest.approx(((1 - end) * 0.4 + 0.1) / run.jump, abs=0.01)
    assert numbers.loc[0, "rest"] == pytest.approx(1 - end)
    back = ramp(0.2, 0.25) - ramp(0.4, 0.8, 0.3)
    found, numbers = verdict("A02", made("attn-2l", fall=back))
    assert found == "mixed" and numbers.loc[0, "drift"] == pytest.approx(0.3 / 0.39, abs=0.02)
    assert numbers.loc[0, "gain_best"] == pytest.approx(-numbers.loc[0, "drift"])
    step_back = ramp(0.2, 0.25) + ramp(0.3, 0.5, 0.3) - ramp(0.8, 1, 0.05)
    found, numbers = verdict("A02", made("attn-2l", fall=step_back))
    assert found == "mixed" and numbers.loc[0, "gain_best"] > 0.5 and numbers.loc[0, "steady_best"] < 0
    found, numbers = verdict("A02", made("attn-2l"), made("attn-3l", fall=ramp(0.85, 0.93)))
    assert found == "mixed" and numbers.loc[0, "drift"] < 0.25 and numbers.loc[0, "rest"] < 0.1


@pytest.mark.parametrize(("one", "expected"), [(0.1, "reproduced"), (0.2, "mixed"), (0.3, "contradicted")])
def test_a03(one: float, expected: str) -> None:
    found, numbers = verdict("A03", made("attn-1l", fall=ramp(0.4, 0.5, one) + 0.7, layers=1), made("attn-2l"),
                             made("attn-2l", 1))  # fmt: skip
    assert found == expected and list(numbers.index) == [0] and numbers.loc[0, "ratio"] == pytest.approx(one / 0.4)


def test_a04() -> None:
    found, numbers = verdict("A04", made("attn-2l", fall=USUAL + 0.1), made("attn-3l", fall=USUAL))
    assert found == "reproduced"
    assert numbers.loc[0].tolist() == pytest.approx([0.8 * 0.969, 0.969], abs=0.01)
    found, numbers = verdict("A04", made("attn-2l", fall=USUAL + 0.8))
    assert found == "contradicted" and numbers.loc[0, "share"] == pytest.approx(0.969 / 3, abs=0.01)


@pytest.mark.parametrize(("sizes", "expected", "spread"), [
    ((0.38, 0.40, 0.42, 0.40, 0.40), "reproduced", 0.1), ((0.2, 0.3, 0.4, 0.5, 0.6), "contradicted", 1.0),
    ((0.2, 0.4, 0.3, 0.5, 0.6), "mixed", 1.0), ((0.3, 0.35, 0.4, 0.45, 0.5), "mixed", 0.5),
])  # fmt: skip
def test_a05(sizes: tuple[float, ...], expected: str, spread: float) -> None:
    runs = five(lambda n: made(f"attn-{n}l", fall=ramp(0.4, 0.5, sizes[n - 2])))
    found, numbers = verdict("A05", *runs, made("attn-2l", 1))
    assert found == expected and list(numbers.index) == [0]
    assert numbers.loc[0, "spread"] == pytest.approx(spread)
    assert numbers.loc[0, "growth"] == pytest.approx(sizes[-1] / sizes[0])
    assert len(NUMBERS["A05"](reader(*runs[:-1]))) == 0


def test_a14() -> None:
    found, numbers = verdict("A14", made("docs-attn-2l", best=ramp(0.42, 0.48, 0.8)), made("attn-2l", 5, fall=X))
    assert found == "reproduced" and list(numbers.index) == [0]
    slow = made("docs-attn-3l", fall=0.4 * X, best=ramp(0.42, 0.48, 0.8))
    found, numbers = verdict("A14", made("docs-attn-2l", best=ramp(0.42, 0.48, 0.8)), slow)
    assert found == "mixed"
    assert numbers.loc[0, ["share20", "share20_best"]].tolist() == pytest.approx([0.2, 1], abs=1e-3)
    late, never = ramp(0.9, 0.98, 0.8), 0.0
    for best in (late, never):
        assert verdict("A14", made("docs-attn-2l", best=best))[0] == "contradicted"
    assert len(NUMBERS["A14"](reader(made("docs-attn-3l")))) == 0


@pytest.mark.parametrize(("half", "double", "expected"), [
    (0.35, 0.5, "reproduced"), (0.2, 0.8, "contradicted"), (0.2, 0.4, "mixed"),
])  # fmt: skip
def test_a15(half: float, double: float, expected: str) -> None:
    others = [made(f"attn-2l-warm-{name}", fall=ramp(at, at + 0.1))
              for name, at in (("half", half), ("double", double))]  # fmt: skip
    found, numbers = verdict("A15", made("attn-2l"), *others)
    assert found == expected
    assert numbers.loc[0].tolist() == pytest.approx([half / 0.45 + 1 / 9 - 1, double / 0.45 + 1 / 9 - 1], abs=0.01)
    assert len(NUMBERS["A15"](reader(made("attn-2l"), others[0]))) == 0


@pytest.mark.parametrize(("last", "expected"), [(0.5, "reproduced"), (0.7, "mixed"), (0.85, "contradicted")])
def test_a16(last: float, expected: str) -> None:
    first = 0.3 if last < 0.8 else 0.16
    runs = five(lambda n: made(f"attn-{n}l", fall=ramp(*((last, last + 0.1) if n == 6 else (first, first + 0.1)))))
    found, numbers = verdict("A16", *runs)
    assert found == expected and numbers.loc[0, "spread"] == pytest.approx((last - EDGE) / (first - EDGE), rel=0.03)
    mean = ((first - EDGE) ** 4 * (last - EDGE)) ** 0.2 * T
    assert numbers.loc[0, "law"] == pytest.approx(mean / (10**5.7 * 32), rel=0.02)
    assert len(NUMBERS["A16"](reader(*runs[1:]))) == 0


# ---- losses over training ---------------------------------------------------------------------------


def test_a07() -> None:
    def sloped(name: str, before: float, after: float) -> Made:
        losses = np.full((len(X), 128), 9.0)
        losses[:, 1:] = 5 + step(0.45, before, after)[:, None] * np.log(np.arange(1, 128))
        return made(name, positions=losses)

    found, numbers = verdict("A07", sloped("attn-2l", -0.02, -0.2), sloped("attn-3l", -0.01, -0.1))
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([-0.02, -0.1, 0.18])
    found, numbers = verdict("A07", sloped("attn-2l", -0.05, -0.05), sloped("attn-3l", -0.06, -0.05))
    assert found == "contradicted" and numbers.loc[0].tolist() == pytest.approx([-0.06, -0.05, 0], abs=1e-6)


CONVEX = 3 + np.exp(-X / 0.3)


def test_a10() -> None:
    bump = CONVEX - ramp(0.4, 0.5)
    one = made("attn-1l", loss_nats=CONVEX, layers=1)
    found, numbers = verdict("A10", made("attn-2l", loss_nats=bump), made("attn-5l", loss_nats=bump), one)
    assert found == "reproduced" and numbers.loc[0].tolist() == [1, 1, 0]
    found, numbers = verdict("A10", made("attn-2l", loss_nats=bump), made("attn-5l", loss_nats=CONVEX), one)
    assert found == "mixed" and numbers.loc[0].tolist() == [0.5, 1, 0]
    elsewhere = made("attn-2l", loss_nats=bump, fall=ramp(0.8, 0.9))
    found, numbers = verdict("A10", elsewhere, one)
    assert found == "contradicted" and numbers.loc[0].tolist() == [0, 0, 0]
    bumpy = made("attn-1l", loss_nats=bump, fall=ramp(0.8, 0.9), layers=1)
    found, numbers = verdict("A10", made("attn-2l", loss_nats=bump), bumpy)
    assert found == "contradicted" and numbers.loc[0].tolist() == [1, 1, 1]
    assert len(NUMBERS["A10"](reader(made("attn-2l", loss_nats=bump)))) == 0


def test_a11() -> None:
    one, usual = made("attn-1l", layers=1), made("attn-2l", loss_nats=3 - ramp(0.4, 0.5, 0.2))
    assert verdict("A11", one, usual)[0] == "reproduced"
    below = np.full(len(X), 2.9)
    found, numbers = verdict("A11", one, usual, made("attn-3l", loss_nats=below))
    assert found == "mixed" and numbers.loc[0, "inside"] == 0 and numbers.loc[0, "lead_best"] < 0
    found, numbers = verdict("A11", one, made("attn-2l", loss_nats=below))
    assert found == "contradicted" and numbers.loc[0, "lead_best"] > 1


def paths(turn: float, degrees: float) -> np.ndarray:
    """Vectors of 40 losses on a path that turns, after noise in the first tenth."""
    rng = np.random.default_rng(7)
    plane = np.linalg.qr(rng.normal(size=(40, 2)))[0].T
    along = np.minimum(X, turn)[:, None] * np.array([1.0, 0])
    ahead = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    path = (along + np.maximum(X - turn, 0)[:, None] * ahead) @ plane
    return np.where(X[:, None] > 0.1, path, rng.normal(size=(len(X), 40)))


def test_a12() -> None:
    one = made("attn-1l", vectors=paths(0.5, 10), layers=1)
    runs = [made("attn-2l", vectors=paths(0.45, 90)), made("attn-3l", vectors=paths(0.48, 70))]
    found, numbers = verdict("A12", *runs, one)
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([1, 70, 90, 10], abs=1e-6)
    late = made("attn-4l", vectors=paths(0.8, 130))
    found, numbers = verdict("A12", *runs, late, one)
    assert found == "mixed" and numbers.loc[0].tolist() == pytest.approx([2 / 3, 70, 130, 10], abs=1e-6)
    found, numbers = verdict("A12", made("attn-2l", vectors=paths(0.8, 90)), one)
    assert found == "contradicted" and numbers.loc[0, "inside"] == 0


def kinds(name: str, repeated: float, mismatch: float, new: float) -> Made:
    return made(name, loss_repeated_nats=step(0.45, 3, 3 + repeated), loss_mismatch_nats=step(0.45, 3, 3 + mismatch),
                loss_new_nats=step(0.45, 3, 3 + new))  # fmt: skip


def test_a13() -> None:
    found, numbers = verdict("A13", kinds("attn-2l", -1, 0.2, 0.3), kinds("attn-3l", -0.5, -0.2, 0.1))
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([-0.5, 0.4, 0.2, 1.2])
    found, numbers = verdict("A13", kinds("attn-2l", -0.5, -0.5, 0), kinds("attn-3l", -0.5, -0.8, 0))
    assert found == "contradicted" and numbers.loc[0].tolist() == pytest.approx([-0.5, 1.6, 0, 0])
    assert verdict("A13", kinds("attn-2l", -1, 0.2, 0), kinds("attn-3l", 0.1, -0.2, 0))[0] == "mixed"


@pytest.mark.parametrize(("falls", "expected"), [
    ((4, 3.5), "reproduced"), ((4, 2), "mixed"), ((0.1, 0.4), "contradicted"),
])  # fmt: skip
def test_d01(falls: tuple[float, float], expected: str) -> None:
    runs = [made(f"attn-{n}l", repeats_second_nats=step(0.45, 7, 7 - fall))
            for n, fall in zip((2, 4), falls, strict=True)]  # fmt: skip
    found, numbers = verdict("D01", *runs)
    assert found == expected and numbers.loc[0].tolist() == pytest.approx([min(falls), max(falls)])


def test_ends_of_the_window_are_interpolated() -> None:
    zoo = reader(made("attn-2l", repeats_second_nats=7 - X))
    assert NUMBERS["D01"](zoo).loc[0, "fall"] == pytest.approx(zoo.run("attn-2l", 0).width / T)


# ---- heads over training ----------------------------------------------------------------------------


def test_a08() -> None:
    early, late = ramp(0.42, 0.48, 0.8), ramp(0.8, 0.9, 0.8)
    found, numbers = verdict("A08", made("attn-2l", best=early), made("attn-3l", best=early + ramp(0.1, 0.2, 0.1)))
    assert found == "reproduced" and abs(numbers.loc[0, "lag"]) < 0.1
    width = 0.1 + 2 * EDGE
    found, numbers = verdict("A08", made("attn-2l", best=late), made("attn-2l", 1, best=late))
    assert found == "contradicted"
    assert numbers.loc[1].tolist() == pytest.approx([0.4 / width, 0.4 / width, 1], abs=0.06)
    found, numbers = verdict("A08", made("attn-2l", best=0.3))
    assert found == "contradicted" and numbers.loc[0].tolist() == [np.inf, np.inf, 1]
    found, numbers = verdict("A08", made("attn-2l", best=early), made("attn-3l"))
    assert found == "mixed" and numbers.loc[0, "lag"] == np.inf and abs(numbers.loc[0, "lag_best"]) < 0.1
    before = made("attn-2l", 1, fall=ramp(0.8, 0.9), best=ramp(0.2, 0.3, 0.8))
    found, numbers = verdict("A08", made("attn-2l", best=late), before, made("attn-2l", 2, best=late))
    assert found == "mixed" and numbers["same_sign"].tolist() == [0, 0, 0] and numbers.loc[1, "lag"] < -2


def test_a08_without_a_seed_asks_the_others_for_their_sign() -> None:
    late, before = ramp(0.8, 0.9, 0.8), made("attn-2l", 2, fall=ramp(0.8, 0.9), best=ramp(0.2, 0.3, 0.8))
    numbers = NUMBERS["A08"](reader(made("attn-2l", best=late), made("attn-2l", 1, best=late), before))
    without = leave_one_out(CLAIMS["A08"], numbers, *AGAIN["A08"])
    assert judge(CLAIMS["A08"], numbers.drop(index=2).assign(same_sign=1.0)).verdict == without[2] == "contradicted"


@pytest.mark.parametrize(("random", "expected"), [(0.1, "reproduced"), (0.3, "mixed"), (0.5, "contradicted")])
def test_a09(random: float, expected: str) -> None:
    found, numbers = verdict("A09", made("attn-1l", best=0.9, random=step(0.3, random, 0), layers=1), made("attn-2l"))
    assert found == expected and numbers.loc[0, "prefix"] == random


# ---- smeared keys -----------------------------------------------------------------------------------


def test_b01() -> None:
    two = made("attn-2l")
    found, numbers = verdict("B01", two, made("key-1l", fall=ramp(0.2, 0.3, 0.3)))
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([0.75, 0.1 + 2 * EDGE], abs=0.005)
    assert verdict("B01", two, made("key-1l", fall=ramp(0.2, 0.5, 0.3)))[0] == "mixed"
    assert verdict("B01", two, made("key-1l", fall=ramp(0.2, 0.3, 0.1)))[0] == "contradicted"
    assert len(NUMBERS["B01"](reader(two, made("key-1l", 1)))) == 0


@pytest.mark.parametrize(("best", "size", "expected"), [
    (0.5, 0.3, "reproduced"), (0.1, 0.3, "contradicted"), (0.1, 0.1, "mixed"), (0.3, 0.3, "mixed"),
])  # fmt: skip
def test_b02(best: float, size: float, expected: str) -> None:
    key = made("key-1l", fall=ramp(0.4, 0.5, size), best=step(0.6, best, 0), layers=1)
    found, numbers = verdict("B02", made("attn-2l", best=0.9), key)
    assert found == expected and numbers.loc[0].tolist() == pytest.approx([best, size / 0.4])


def test_b03() -> None:
    early, late = made("key-2l", fall=ramp(0.2, 0.3)), made("key-2l", 1, fall=ramp(0.5, 0.6))
    found, numbers = verdict("B03", early, late, made("attn-2l"), made("attn-2l", 1), made("attn-2l", 2))
    assert found == "mixed"
    assert numbers["ratio"].tolist() == pytest.approx([(at - EDGE) / (0.4 - EDGE) for at in (0.2, 0.5)], abs=0.02)
    assert verdict("B03", early, made("attn-2l"))[0] == "reproduced"
    assert verdict("B03", late, made("attn-2l", 1))[0] == "contradicted"
    both = verdict("B03", made("key-2l", fall=ramp(0.0, 0.05)), made("attn-2l", fall=ramp(0.0, 0.05)))
    assert both[0] == "contradicted" and both[1]["ratio"].tolist() == [1.0]  # at the first token, both of them


def test_b04() -> None:
    flat, formed, late = 0.05 * X, ramp(0.4, 0.5, 0.8), ramp(0.8, 0.9, 0.8)
    one, two = made("attn-1l", fall=flat, layers=1), made("attn-2l", best=formed)
    both = [made("key-1l", best=formed, layers=1), made("key-2l", best=ramp(0.42, 0.52, 0.8))]
    found, numbers = verdict("B04", one, two, *both)
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([4, 0.02 / (0.1 + 2 * EDGE)], abs=0.02)
    apart = made("key-2l", best=late)
    found, numbers = verdict("B04", one, two, both[0], apart)
    assert found == "mixed" and numbers.loc[0].tolist() == pytest.approx([3, 0.4 / (0.1 + 2 * EDGE)], abs=0.06)
    found, numbers = verdict("B04", one, two, both[0], made("key-2l", best=ramp(0.1, 0.2, 0.8)))
    assert found == "mixed" and numbers.loc[0].tolist() == pytest.approx([3, 0.3 / (0.1 + 2 * EDGE)], abs=0.06)
    heads_only = made("key-1l", fall=flat, best=formed, layers=1)
    score_only = made("attn-1l", layers=1)
    found, numbers = verdict("B04", score_only, two, heads_only, apart)
    assert found == "contradicted" and numbers.loc[0, "together"] == 1
    found, numbers = verdict("B04", score_only, made("attn-2l"), heads_only, made("key-2l", best=0.3))
    assert found == "contradicted" and numbers.loc[0].tolist() == [0, 0]


def test_b04_reads_heads_and_score_by_one_rule() -> None:
    """With the narrow window both onsets move."""
    runs = [made("attn-1l", fall=0.05 * X, layers=1), made("attn-2l", best=ramp(0.4, 0.5, 0.8)),
            made("key-1l", best=ramp(0.4, 0.5, 0.8), layers=1), made("key-2l", best=ramp(0.4, 0.5, 0.8))]  # fmt: skip
    for share in (0.15, 0.5):
        zoo = reader(*runs)
        zoo.share = share
        assert NUMBERS["B04"](zoo).loc[0, "apart"] == pytest.approx(0, abs=0.05)


def test_b05() -> None:
    two = made("attn-2l", fall=ramp(0.6, 0.7))
    found, numbers = verdict("B05", two, made("key-2l", fall=ramp(0.2, 0.25)))
    assert found == "reproduced" and numbers.loc[0].tolist() == pytest.approx([0.02, 0], abs=0.02)
    twice = ramp(0.2, 0.25, 0.5) + ramp(0.6, 0.7, 0.5)
    found, numbers = verdict("B05", two, made("key-2l", fall=twice))
    assert found == "contradicted" and numbers.loc[0].tolist() == pytest.approx([0.5, 0.485], abs=0.02)
    at_other_time = ramp(0.2, 0.25, 0.5) + ramp(0.85, 0.95, 0.5)
    found, numbers = verdict("B05", two, made("key-2l", fall=at_other_time))
    assert found == "mixed" and numbers.loc[0].tolist() == pytest.approx([0.5, 0], abs=0.02)
    found, numbers = verdict("B05", made("attn-2l", fall=ramp(0.2, 0.3)), made("key-2l", fall=ramp(0.85, 0.95)))
    assert numbers.loc[0, "at_vanilla"] == 0 and numbers.loc[0, "second"] < 0.05
    same = made("attn-2l", fall=ramp(0.2, 0.25) + ramp(0.25, 0.4, 0.2))
    numbers = verdict("B05", same, made("key-2l", fall=twice))[1]
    assert numbers.loc[0, "at_vanilla"] == pytest.approx(0.015, abs=0.02)


@pytest.mark.parametrize(("value", "query", "expected"), [
    (0.2, 0.1, "reproduced"), (0.2, 0.39, "contradicted"), (0.5, 0.1, "contradicted"),
])  # fmt: skip
def test_b06(value: float, query: float, expected: str) -> None:
    runs = [made(f"{name}-1l", fall=ramp(0.4, 0.5, size), layers=1)
            for name, size in (("value", value), ("query", query))]  # fmt: skip
    found, numbers = verdict("B06", made("key-1l", layers=1), *runs)
    assert found == expected and numbers.loc[0, "ratio"] == pytest.approx(max(value, query) / 0.4)
    assert len(NUMBERS["B06"](reader(made("key-1l"), runs[0]))) == 0

def test_one_seed_alone_has_one_sign() -> None:
    """Heads after the window in two seeds, before it in the third: each alone contradicts."""
    late, before = ramp(0.8, 0.9, 0.8), made("attn-2l", 2, fall=ramp(0.8, 0.9), best=ramp(0.2, 0.3, 0.8))
    numbers = NUMBERS["A08"](reader(made("attn-2l", best=late), made("attn-2l", 1, best=late), before))
    assert judge(CLAIMS["A08"], numbers).verdict == "mixed"
    assert alone(CLAIMS["A08"], numbers, *AGAIN["A08"]) == dict.fromkeys((0, 1, 2), "contradicted")
    assert on(CLAIMS["A08"], numbers, *AGAIN["A08"], seeds={0, 1}) == "contradicted"


def test_slope_by_position_reads_both_ends() -> None:
    for at in (12, 100):
        losses = np.full((len(X), 128), 5.0)
        losses[:, at] = 6
        assert abs(slope_by_position(only(made("attn-2l", positions=losses)))).min() > 1e-4
    for at in (11, 101):
        losses = np.full((len(X), 128), 5.0)
        losses[:, at] = 6
        assert slope_by_position(only(made("attn-2l", positions=losses))) == pytest.approx(0 * X, abs=1e-12)


def test_the_bounds_of_bumps_and_gains() -> None:
    """0.15 of the steepest slope, and 0.35 of the change: a little less and a little more."""
    x = np.linspace(0, 1, 500)
    for size, n in ((0.1, 0), (0.2, 1)):
        slope = np.where(x < 0.5, -1.0, -1.0 - size)
        loss = np.interp(X, x, 9 + np.concatenate([[0], np.cumsum(slope[:-1]) / 499]))
        steepest = 1 + size
        assert len(bumps(only(made("attn-2l", loss_nats=loss)))) == int(size / steepest > 0.15) == n
    for size, together in ((0.33, 3), (0.37, 4)):
        formed = ramp(0.4, 0.5, 0.8)
        runs = [made("attn-1l", fall=0.01 * X, layers=1), made("attn-2l", best=formed),
                made("key-1l", fall=ramp(0.4, 0.5, 0.4 * size), best=formed, layers=1), made("key-2l", best=formed)]
        assert NUMBERS["B04"](reader(*runs)).loc[0, "together"] == together
