"""Numbers of the claims on heads and circuits, from tables made up so that the answers are known."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from ictl_utils import numbers_heads
from ictl_utils.claims import Claim, load_claims
from ictl_utils.config import IctlError
from ictl_utils.metrics import phase_change
from ictl_utils.numbers_base import Zoo
from ictl_utils.numbers_circuits import CIRCUITS
from ictl_utils.numbers_heads import HEADS
from ictl_utils.verdicts import judge

NUMBERS = HEADS | CIRCUITS
CLAIMS = {claim.id: claim for claim in load_claims() if claim.id in NUMBERS}
TOKENS = np.linspace(0, 10e6, 41)
STEP = 1 / (1 + np.exp(-(TOKENS - 4.1e6) / 2e5))  # 0 before the phase change, 1 after it
N, H = len(TOKENS), 4
KEPT, FULL = "pattern-preserving", "full"


@dataclass
class Made:
    """One run made up: by default one that reproduces every claim. L0H0 and two later heads play the roles."""

    name: str
    seed: int
    icl: np.ndarray = field(default_factory=lambda: -0.1 - 0.6 * STEP)
    repeats_accuracy: float = 0.9

    def __post_init__(self) -> None:
        self.kind, self.n = self.name[:-2].split("-")[0], int(self.name[-2])
        rng, shape = np.random.default_rng([self.seed, self.n, len(self.kind)]), (self.n, H)
        self.mine = np.zeros(shape, dtype=bool)
        if self.n > 1:
            self.mine[self.n - (2 if self.kind == "mlp" and self.n > 4 else 1), :2] = True
        u = np.where(self.mine, rng.uniform(0.9, 1, shape), rng.uniform(0, 0.9 if self.n > 1 else 0.2, shape))
        copying = u if self.n == 1 else 2 * u - 1
        if self.n == 1:
            copying = 0.8 + u / 10
        trace = 3 * u
        trace[:1] = np.nan
        self.heads = {
            "prefix_matching": over_time(np.where(self.mine, 0.7 + u / 5, u / 4)), "copying": over_time(copying),
            "ov_copying": over_time(copying), "qk_trace": over_time(trace),
            "qk_positivity": over_time(np.where(self.mine, 0.9, 0.1)),
            "resting": over_time(np.where(self.mine, 0.8, 0)),
            "previous_token": over_time(np.where(np.arange(self.n * H).reshape(shape) == 0, 0.9, 0.1)),
            "present_token": over_time(np.full(shape, 0.1)),
        }  # fmt: skip
        effect = over_time(np.where(self.mine, 0.3 + u / 10, -0.02 + u / 100))
        self.effects = {(kind, fill): effect.copy() for kind in (KEPT, FULL) for fill in ("zero", "mean", "resample")}
        self.effects[FULL, "zero"][:, :1, 0] = 0.4 * STEP[:, None]
        self.attribution = -self.heads["prefix_matching"]
        self.composition = {k: np.full((H, H), 0.1) + rng.uniform(-0.02, 0.02, (H, H)) for k in "qkv"}
        self.composition["k"][0, 0], self.composition["v"][1, 1] = 0.6, 0.4
        self.facts = FACTS | {(f"composition_{k}_buggy", f"L0H{a} L1H{b}"): 0.5 * (k == "k" and a == b == 0)
                              for k in "qkv" for a in range(H) for b in range(H)}  # fmt: skip

    def set(self, measure: str, value: float, item: str = "") -> None:
        assert (measure, item) in self.facts
        self.facts[measure, item] = value

    def last(self, column: str) -> np.ndarray:
        """The column of ``heads`` at the last snapshot, to be read and written."""
        return self.heads[column][-1]

    def tables(self) -> dict[str, pd.DataFrame]:
        where = dict(zip(("snapshot", "layer", "head"), (x.ravel() for x in np.indices((N, self.n, H))), strict=True))
        pairs = dict(zip(("from_head", "to_head"), (x.ravel() for x in np.indices((H, H))), strict=True))
        pairs |= {"from_layer": 0, "to_layer": 1}
        nonsense = dict.fromkeys("qv", 9.0) | {"k": 0.0}  # the composition of initial weights must not be read
        parts = {
            "runs": [{"init_seed": [self.seed], "data_seed": 0, "n_layers": self.n, "n_heads": H}],
            "snapshots": [{"snapshot": range(N), "tokens": TOKENS, "icl_nats": self.icl,
                           "repeats_accuracy": self.repeats_accuracy * STEP}],
            "heads": [where | {name: x.ravel() for name, x in self.heads.items()}],
            "ablations": [self.ablation(where, *key, x) for key, x in self.effects.items()],
            "composition": [pairs | nonsense | {"snapshot": 0},
                            pairs | {k: x.ravel() for k, x in self.composition.items()} | {"snapshot": N - 1}],
            "facts": [{"measure": [m for m, _ in self.facts], "item": [item for _, item in self.facts],
                       "value": list(self.facts.values()), "snapshot": N - 1}],
            "positions": [{"snapshot": [0]}], "token_losses": [{"snapshot": [0]}],
        }  # fmt: skip
        run = {"run_id": f"{self.name}-{self.seed}"}
        return {name: pd.concat([pd.DataFrame(rows | run) for rows in each]) for name, each in parts.items()}

    def ablation(self, where: dict[str, np.ndarray], kind: str, fill: str, effect: np.ndarray) -> dict[str, object]:
        """Zero ablations of every snapshot, others of the last."""
        rows = slice(0 if fill == "zero" else (N - 1) * self.n * H, None)
        columns = where | {"icl_change_nats": effect.ravel(), "attribution_nats": self.attribution.ravel()}
        return {name: x[rows] for name, x in columns.items()} | {"kind": kind, "fill": fill}


FACTS = {
    ("joint_icl_change_nats", f"{KEPT}, induction"): 0.5, ("path_sum_error_logits", ""): 1e-6,
    ("joint_icl_change_nats", f"{FULL}, induction"): 9.0,
    ("bigram_kl_nats", "model from text"): 0.1, ("bigram_correlation", "all next tokens"): 0.9,
    ("cross_terms", ""): 10.0, ("cross_terms_raised", ""): 0.6, ("split_token_heads", ""): 2.0,
    **{("family_found", f"family {i}"): float(i < 5) for i in range(12)},
    **{(f"score_share_{k}", f"L1H{h}"): x for k, x in (("k", 0.5), ("q", 0.1)) for h in range(H)},
    ("composition_random_mean", "right"): 0.15, ("composition_random_mean", "buggy"): 0.1,
    ("term_gain_nats", "order 0"): 2.0, ("term_gain_nats", "order 1"): 2.5, ("term_gain_nats", "order 2"): 0.3,
    ("layer_gain_nats", "first given second"): 0.1, ("layer_gain_nats", "second given first"): 2.0,
    **{("prefix_without_previous", f"L1H{h}"): 0.01 for h in range(H)},
    ("recovered", "previous"): 0.95, ("recovered", "match"): 0.6, ("recovered", "two-token match"): 0.7,
}  # fmt: skip


def over_time(end: np.ndarray) -> np.ndarray:
    """Values that rise, or fall, from 0 to ``end`` in the phase change."""
    return STEP[:, None, None] * end / STEP[-1]


Edit = Callable[[Made], object]


def zoo_of(*runs: Made) -> Zoo:
    parts = [run.tables() for run in runs]
    names = {run.name: [f"{other.name}-{other.seed}" for other in runs if other.name == run.name] for run in runs}
    return Zoo({name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}, names)


def made(claim: Claim, edit: Edit = lambda run: None, seed: int = 0) -> list[Made]:
    runs = [Made(name, seed) for name in claim.models]
    for run in runs:
        edit(run)
    return runs


def numbers(name: str, edit: Edit = lambda run: None) -> dict[str, float]:
    """The numbers of a claim for seed 0 of all its models, each run changed by ``edit``."""
    found = NUMBERS[name](zoo_of(*made(CLAIMS[name], edit)))
    assert list(found.index) == [0] and list(found.columns) == list(CLAIMS[name].numbers)
    return found.loc[0].to_dict()


def verdict(name: str, edit: Edit = lambda run: None) -> str:
    return judge(CLAIMS[name], NUMBERS[name](zoo_of(*made(CLAIMS[name], edit)))).verdict


# ---- every claim can go both ways -------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERS)
def test_reproduced(name: str) -> None:
    found = NUMBERS[name](zoo_of(*made(CLAIMS[name])))
    assert list(found.index) == [0] and list(found.columns) == list(CLAIMS[name].numbers)
    assert judge(CLAIMS[name], found).verdict == "reproduced", found


def turn_effects(run: Made) -> None:
    run.effects = {key: -x for key, x in run.effects.items()}


def fact(measure: str, value: float, item: str = "") -> Edit:
    return lambda run: run.set(measure, value, item)


def heads(column: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda run: run.heads.update({column: change(run.heads[column])})


def no_decay(run: Made) -> None:
    run.effects[KEPT, "zero"][-1] *= 0.1


def patterns_do_not_matter(run: Made) -> None:
    run.effects[FULL, "zero"] = np.abs(run.effects[KEPT, "zero"])


def flipped_fill(run: Made) -> None:
    run.effects[KEPT, "mean"] *= -1


def attributed_to_others(run: Made) -> None:
    run.attribution = run.heads["prefix_matching"]


def q_instead(run: Made) -> None:
    for head in ("L1H0", "L1H1"):
        run.set("score_share_q", 0.7, head)


def v_composes(run: Made) -> None:
    run.composition["v"][2, 1] = 0.7


def same_norms(run: Made) -> None:
    random = run.facts["composition_random_mean", "right"] - run.facts["composition_random_mean", "buggy"]
    for kind, scores in run.composition.items():
        for (a, b), x in np.ndenumerate(scores):
            run.set(f"composition_{kind}_buggy", x - random, f"L0H{a} L1H{b}")


def unlike_random(run: Made) -> None:
    run.set("composition_random_mean", 0.05, "right")


AGAINST: dict[str, Edit] = {
    "C01": turn_effects, "C02": fact("joint_icl_change_nats", 0.1, f"{KEPT}, induction"), "C03": no_decay,
    "C04": turn_effects, "C05": attributed_to_others, "C06": turn_effects, "C07": patterns_do_not_matter,
    "C08": flipped_fill,
    "E01": heads("copying", np.negative), "E02": heads("copying", np.negative), "E03": heads("qk_trace", np.negative),
    "E04": heads("prefix_matching", lambda x: x[:, ::-1]),
    "E05": heads("prefix_matching", lambda x: np.roll(x, 1, axis=1)), "E08": q_instead,
    "F01": fact("bigram_kl_nats", 0.7, "model from text"),
    "F02": fact("path_sum_error_logits", 0.1), "F03": heads("ov_copying", lambda x: x - 0.5),
    "F04": heads("ov_copying", lambda x: x + 0.1), "F05": heads("previous_token", np.zeros_like),
    "F06": fact("cross_terms_raised", 0.2),
    "F07": lambda run: [run.set("family_found", 0, f"family {i}") for i in range(5)],
    "F08": fact("split_token_heads", 0),
    "G01": v_composes, "G02": unlike_random, "G03": same_norms, "G04": heads("qk_positivity", lambda x: x / 2),
    "G05": fact("term_gain_nats", 3.0, "order 2"), "G06": fact("term_gain_nats", 2.1, "order 2"),
    "G07": fact("layer_gain_nats", 1.0, "first given second"),
    "G08": lambda run: setattr(run, "repeats_accuracy", 0.05), "G09": heads("resting", lambda x: x / 5),
    "G10": lambda run: [run.set("prefix_without_previous", 0.8, f"L1H{h}") for h in range(H)],
    "G11": fact("recovered", 0.2, "match"), "G12": heads("previous_token", lambda x: x / 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_contradicted(name: str) -> None:
    assert verdict(name, AGAINST[name]) == "contradicted", numbers(name, AGAINST[name])


# ---- which models and seeds count -------------------------------------------------------------------


def test_each_seed_has_its_row() -> None:
    runs = [Made("attn-2l", 0), Made("attn-2l", 3)]
    runs[1].set("term_gain_nats", 0.5, "order 2")
    assert CIRCUITS["G05"](zoo_of(*runs))["order2"].to_dict() == pytest.approx({0: 0.3 / 4.8, 3: 0.1})


@pytest.mark.parametrize(("name", "first"), [("C01", "attn-2l"), ("C06", "mlp-2l"), ("E01", "attn-1l")])
def test_a_seed_counts_if_the_first_model_has_it(name: str, first: str) -> None:
    claim = CLAIMS[name]
    others = [run for run in made(claim, seed=1) if run.name != first]
    assert NUMBERS[name](zoo_of(*others)).empty
    assert list(NUMBERS[name](zoo_of(*others, Made(first, 2))).index) == [2]


@pytest.mark.parametrize("name", ["E04", "E05"])
def test_numbers_that_need_all_models(name: str) -> None:
    some = made(CLAIMS[name], seed=1)[:-1]
    assert NUMBERS[name](zoo_of(*some)).empty
    assert list(NUMBERS[name](zoo_of(*some, *made(CLAIMS[name]))).index) == [0]


# ---- statistics -------------------------------------------------------------------------------------


def test_rank_correlation_and_interval_against_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 6, 12).astype(float)  # with ties
    y = x + rng.normal(0, 3, 12)
    assert float(numbers_heads.rank_correlation(x, y)) == pytest.approx(spearmanr(x, y).statistic)
    assert float(numbers_heads.correlation(x, y)) == pytest.approx(np.corrcoef(x, y)[0, 1])
    drawn = np.random.default_rng(0).integers(0, 12, (1000, 12))
    expected = np.percentile([spearmanr(x[i], y[i]).statistic for i in drawn], (2.5, 97.5))
    assert numbers_heads.interval(x, y) == pytest.approx(tuple(expected))


def test_interval_of_few_heads_leaves_out_draws_that_do_not_vary() -> None:
    low, high = numbers_heads.interval(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))
    assert (low, high) == pytest.approx((1.0, 1.0))


# ---- ablations --------------------------------------------------------------------------------------


def two_models(two: Edit, three: Edit) -> list[Made]:
    runs = [Made("attn-2l", 0), Made("attn-3l", 0)]
    two(runs[0]), three(runs[1])
    return runs


def test_precision_pools_heads_not_models() -> None:
    def miss(run: Made) -> None:  # one induction head, and another head matters more
        run.last("prefix_matching")[1, 1] = 0.3
        run.effects[KEPT, "zero"][-1, 0, 2] = 1.0

    def hit(run: Made) -> None:  # three induction heads, all with the largest effects
        run.last("prefix_matching")[1, 3], run.effects[KEPT, "zero"][-1, 1, 3] = 0.41, 0.2

    found = numbers_heads.c01(zoo_of(*two_models(miss, hit))).loc[0]
    assert (found["precision"], found["top_best"]) == (0.75, 0.5)


def test_without_induction_heads_the_best_head_is_one() -> None:
    def weak(run: Made) -> None:
        run.heads["prefix_matching"] *= 0.4
        run.last("prefix_matching")[0, 2] = 0.399
        run.effects[KEPT, "zero"][-1, 0, 2] = 2.0

    found = numbers("C01", weak)
    assert (found["precision"], found["top_best"]) == (1, 1)
    assert numbers("C04", weak)["share"] < numbers("C04")["share"] == 1  # the two heads count as others now


def test_the_score_exactly_at_the_threshold_is_no_induction_head() -> None:
    def exact(run: Made) -> None:
        run.last("prefix_matching")[1, 1] = 0.4

    zoo = zoo_of(*two_models(exact, exact))
    assert zoo.run("attn-2l", 0).induction == [(1, 0)]


def test_removed_is_a_share_of_the_gain_from_the_start_of_the_window() -> None:
    zoo = zoo_of(*two_models(fact("joint_icl_change_nats", 0.3, f"{KEPT}, induction"), lambda run: None))
    icl = -0.1 - 0.6 * STEP
    start = phase_change(TOKENS, icl).start
    assert start not in TOKENS
    gain = np.interp(start, TOKENS, icl) - icl[-1]
    found = numbers_heads.c02(zoo).loc[0]
    assert found["removed"] == pytest.approx(0.3 / gain) and found["removed_best"] == pytest.approx(0.5 / gain)


def test_no_verdict_where_nothing_was_gained_or_no_effect_ever_peaked() -> None:
    def worse(run: Made) -> None:
        run.icl = np.where(TOKENS > 8e6, 0.5, run.icl)

    with pytest.raises(IctlError, match="claim C02: removed of seed 0.*NaN"):
        verdict("C02", worse)
    with pytest.raises(IctlError, match="claim C03: before of seed 0.*NaN"):
        verdict("C03", lambda run: run.effects[KEPT, "zero"].__imul__(-1))


def test_effect_before_the_window_and_at_the_end() -> None:
    def known(run: Made) -> None:
        effect = run.effects[KEPT, "zero"]
        effect[:] = 0
        effect[1::2, run.mine], effect[2::2, run.mine] = 0.1, -0.1  # before: 0.1 in size, except at snapshot 0
        effect[TOKENS > 3.5e6] = 0
        effect[25, run.mine], effect[-1, run.mine] = 0.8, 0.2 if run.n == 2 else 0.6

    zoo = zoo_of(*made(CLAIMS["C03"], known))
    run = zoo.run("attn-2l", 0)
    early = np.flatnonzero(run.tokens <= run.window.start)
    assert 2.5e6 < TOKENS[early[-1]] <= 3.5e6
    found = numbers_heads.c03(zoo).loc[0]
    assert found["before"] == pytest.approx(0.1 * (len(early) - 1) / len(early) / 0.8)
    assert (found["end"], found["end_best"]) == pytest.approx((0.25, 0.75))


def test_a_head_that_was_an_induction_head_once_counts_for_c03_alone() -> None:
    def once(run: Made) -> None:
        run.heads["prefix_matching"][20, 0, 3] = 0.5
        run.effects[KEPT, "zero"][:, 0, 3] = 0
        run.effects[KEPT, "zero"][30, 0, 3] = 10

    first, second = numbers("C03"), numbers("C03", once)
    assert second["end"] < 0.1 < first["end"] == pytest.approx(1, abs=1e-3)
    assert numbers("C01", once) == numbers("C01")


def test_attribution() -> None:
    def wrong_in_three(run: Made) -> None:
        run.attribution[-1] = np.where(run.mine, -0.5, 0.1)
        if run.n == 3:
            run.attribution[-1, 0, 2] = -0.6

    found = numbers("C05", wrong_in_three)
    assert found["top"] == pytest.approx(0.8) and found["mean"] == pytest.approx(-0.5) and found["rho_high"] < 0
    assert verdict("C05", wrong_in_three) == "mixed"


def test_ratio_of_the_previous_token_head() -> None:
    def known(run: Made) -> None:
        run.effects[FULL, "zero"][-1, 0, 0] = 0.1 * run.n
        run.effects[KEPT, "zero"][-1, 0, 0] = -0.05
        run.last("previous_token")[-1, 3] = 1.0  # in the last layer: not the previous-token head

    found = numbers("C07", known)
    assert (found["ratio"], found["ratio_best"]) == pytest.approx((4, 12))


def test_ranking_of_the_worst_pair_of_fills() -> None:
    def known(run: Made) -> None:
        ranks = np.arange(run.n * H, dtype=float).reshape(run.n, H)
        for fill in ("zero", "mean", "resample"):
            run.effects[KEPT, fill][-1] = ranks
        if run.n == 3:
            run.effects[KEPT, "resample"][-1] = ranks.ravel()[::-1].reshape(ranks.shape)

    found = numbers("C08", known)
    assert (found["rho"], found["rho_best"]) == pytest.approx((-1, 1))


# ---- scores of heads --------------------------------------------------------------------------------


def test_the_first_layer_has_no_trace() -> None:
    def known(run: Made) -> None:
        ranks = np.arange(run.n * H, dtype=float).reshape(run.n, H) / 100
        run.heads["prefix_matching"][-1] = run.heads["qk_trace"][-1] = ranks
        run.last("prefix_matching")[0], run.last("qk_trace")[0] = 0.9, np.nan

    assert numbers("E03", known)["rho"] == pytest.approx(1)


def test_layers_of_the_best_heads() -> None:
    def early_in(*depths: int) -> Edit:
        return lambda run: run.last("prefix_matching").__setitem__((0, 0), 0.99) if run.n in depths else None

    assert [numbers("E04", early_in(*depths))["last"] for depths in ((), (3,), (3, 4), (2, 3, 4, 5))] == [5, 4, 3, 1]
    assert verdict("E04", early_in(3, 4)) == "mixed"


def test_the_middle_of_five_layers_is_in_neither_half() -> None:
    def moved(layer_of_five: int) -> Edit:
        def edit(run: Made) -> None:
            run.last("prefix_matching")[:] = 0
            run.last("prefix_matching")[layer_of_five if run.n == 5 else 4, 0] = 0.9
        return edit

    found = {layer: numbers("E05", moved(layer)) for layer in range(5)}
    assert [x["elsewhere"] for x in found.values()] == [0.5, 0.5, 0, 0, 0.5]
    assert [x["second"] for x in found.values()] == [0.5, 0.5, 0.5, 1, 0.5]


def test_models_without_a_previous_token_head() -> None:
    def without(run: Made) -> None:
        if run.name in ("attn-3l", "mlp-2l"):
            run.heads["previous_token"][-1] = 0.5
        if run.name == "mlp-2l":
            run.heads["prefix_matching"][-1] = 0.4

    assert numbers("G12", without) == {"lowest": 0.5, "without": 1}


def test_initial_and_last_weights_are_not_mixed_up() -> None:
    def known(run: Made) -> None:
        run.heads["ov_copying"][0], run.heads["ov_copying"][-1] = 0.02, 0.7

    assert numbers("F04", known)["mean"] == pytest.approx(0.02)
    assert numbers("F03", known)["share"] == 1


def test_positional_heads() -> None:
    def known(run: Made) -> None:
        run.heads["previous_token"][-1], run.heads["present_token"][-1] = [[0.3, 0.6, 0, 0.25]], [[0.3, 0, 0.5, 0.25]]

    assert numbers("F05", known) == {"count": 2, "share": 0.5}
    assert verdict("F05", known) == "mixed"


# ---- facts ------------------------------------------------------------------------------------------


def test_no_quadruple_no_verdict() -> None:
    def none(run: Made) -> None:
        run.set("cross_terms", 0)
        del run.facts["cross_terms_raised", ""]

    with pytest.raises(IctlError, match="claim F06: share of seed 0 is NaN"):
        verdict("F06", none)


def test_a_fact_that_was_not_measured_is_an_error_not_a_number() -> None:
    with pytest.raises(IctlError, match="no fact 'recovered' of 'match'"):
        numbers("G11", lambda run: run.facts.pop(("recovered", "match")))
    with pytest.raises(IctlError, match="claim F07: families of seed 0 is NaN"):
        verdict("F07", lambda run: [run.facts.pop(("family_found", f"family {i}")) for i in range(12)])


def test_second_layer_heads_where_none_passes() -> None:
    def weak(run: Made) -> None:
        run.heads["prefix_matching"][-1] = [[0.9, 0, 0, 0], [0.1, 0.2, 0.3, 0.25]]  # the only one is in the first layer
        run.heads["ov_copying"][-1, 1], run.heads["qk_positivity"][-1, 1] = 0.8, [0.6, 0.7, 0.9, 0.2]
        run.set("score_share_k", 0.4, "L1H2"), run.set("score_share_q", 0.6, "L1H2")
        run.set("prefix_without_previous", 0.06, "L1H2")

    assert numbers("E08", weak) == pytest.approx({"lead": -0.2, "lead_best": -0.2})
    assert numbers("G04", weak) == {"lowest": 0.8, "others": 2}
    assert numbers("G10", weak) == pytest.approx({"fall": 0.8})


def test_each_induction_head_counts() -> None:
    def known(run: Made) -> None:
        run.heads["prefix_matching"][-1, 1, :2] = 0.5, 0.8
        run.set("score_share_k", 0.05, "L1H1")
        run.set("prefix_without_previous", 0.1, "L1H0"), run.set("prefix_without_previous", 0.4, "L1H1")
        run.heads["resting"][-1, 1] = 0.1, 0.5, 0.9, 0.9

    assert numbers("E08", known) == pytest.approx({"lead": -0.05, "lead_best": 0.4})
    assert numbers("G10", known)["fall"] == pytest.approx((0.8 + 0.5) / 2)
    assert numbers("G09", known)["rest"] == pytest.approx(0.3)
    assert verdict("E08", known) == "mixed"


def test_k_composition_stands_out() -> None:
    def known(run: Made) -> None:
        q, k, v = (run.composition[kind] for kind in "qkv")
        q[:], k[:], v[:] = 0.1, 0.1, 0.2
        k[0] = 0.3, 0.7, 0.5, 0.4  # with the previous-token head: no part of the rest
        k[2, 2], v[0, 3] = 0.8, 0.6

    found, rest = numbers("G01", known), [0.1] * 27 + [0.8] + [0.2] * 15 + [0.6]
    assert found["z"] == pytest.approx((0.7 - np.mean(rest)) / np.std(rest, ddof=1))
    assert (found["lead"], found["k_lead"]) == pytest.approx((-0.1, 0.2))


def test_norms_of_composition() -> None:
    def known(run: Made) -> None:  # above random matrices: right 0.4, 0.21, 0.19, buggy 0.5, 0.25
        for scores in run.composition.values():
            scores[:] = 0.05
        run.composition["k"][0, 1], run.composition["q"][1, 2], run.composition["v"][3, 3] = 0.55, 0.36, 0.34
        run.set("composition_k_buggy", 0.6, "L0H0 L1H1"), run.set("composition_k_buggy", 0.35, "L0H0 L1H2")

    def other(run: Made) -> None:
        known(run)
        run.set("composition_v_buggy", 0.4, "L0H2 L1H0")

    assert numbers("G03", known) == {"isolated": 1, "more": 1, "different": 2}
    assert numbers("G03", other) == {"isolated": 0, "more": 1, "different": 3}
    assert numbers("G02", known)["share"] == pytest.approx(45 / 48)


def test_terms_and_patterns() -> None:
    assert numbers("G05")["order2"] == pytest.approx(0.3 / 4.8)
    assert numbers("G06") == pytest.approx({"one_over_zero": 0.5, "zero_over_two": 1.7})
    assert numbers("G07")["ratio"] == pytest.approx(20)
    assert numbers("G11") == pytest.approx({"prev": 0.95, "induction": 0.6, "gain": 0.1})
    for nothing in (0.0, -0.01):
        assert numbers("G07", fact("layer_gain_nats", nothing, "first given second"))["ratio"] == np.inf
