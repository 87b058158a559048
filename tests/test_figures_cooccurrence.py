"""Figures and dates of chapters 7 and 12, on runs made up so that the answers are known."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ictl_utils import figures_cooccurrence as together
from ictl_utils import figures_depth as depth
from ictl_utils import figures_events as events
from ictl_utils import figures_onsets as onsets
from ictl_utils import figures_single as single
from ictl_utils.config import IctlError, run_id
from ictl_utils.figures import png
from ictl_utils.numbers import NUMBERS
from ictl_utils.numbers_base import PER_RUN, RunTables, Zoo
from ictl_utils.tokens import Tokens
from ictl_utils.zoo import find

END, HEADS, N_CTX, WINDOWS = 10_000_000, 2, 16, 12
X = np.linspace(0, 1, 101)  # snapshots, as shares of the run
UNITS = re.compile(r"nats|share|tokens|prefix matching|head, by depth|number of|parameters|−1 to 1")
NAMES = {f"{n}L": f"attn-{n}l" for n in (1, 2, 3)}


def ramp(a: float, b: float) -> np.ndarray:
    return np.clip((X - a) / (b - a), 0, 1)


def corner(at: float) -> np.ndarray:
    """A path that goes one way up to ``at`` and another, at a right angle, after it; twelve losses a snapshot."""
    path = np.zeros((len(X), WINDOWS))
    path[:, 0], path[:, 1] = np.minimum(X, at), np.maximum(X - at, 0)
    return 3 + 10 * path


def made(layers: int = 2, seed: int = 0, shift: float = 0.0, lower: float = 0.0) -> dict[str, pd.DataFrame]:
    """Tables of one run: score and loss fall from 40 to 50 % of it, heads form around it, later by ``shift``.

    The previous-token head (L0H0) goes from 0 to 0.8 over 20 to 40 %, the induction head (last layer, H1) from 0 to
    0.8 over 45 to 65 %; one layer has neither a fall nor heads. The final loss is lower by ``lower``.
    """
    deep, name = layers > 1, f"attn-{layers}l"
    run, n = run_id(*find(name).runs()[seed]), len(X)
    fall = ramp(0.4 + shift, 0.5 + shift) * deep
    at = {"run_id": run, "snapshot": np.arange(n)}
    heads = pd.MultiIndex.from_product([range(n), range(layers), range(HEADS)], names=["snapshot", "layer", "head"])
    heads = heads.to_frame(index=False).assign(run_id=run, prefix_matching=0.01, prefix_random=0.01, previous_token=0.1)
    heads["copying"] = np.where(heads["head"] == 1, -0.5, -0.9)
    if deep:
        best, first = (heads["layer"] == layers - 1) & (heads["head"] == 1), (heads["layer"] + heads["head"]) == 0
        heads.loc[best, "prefix_matching"] = 0.8 * ramp(0.45 + shift, 0.65 + shift)
        heads.loc[first, "previous_token"] = 0.8 * ramp(0.2 + shift, 0.4 + shift)
    loss = 4 - 0.5 * X - 0.5 * fall - lower * X
    where = pd.MultiIndex.from_product([range(n), range(N_CTX)], names=["snapshot", "position"]).to_frame(index=False)
    places = np.log(np.arange(1, N_CTX + 1))
    about = {"run_id": run, "name": name, "label": f"{layers}L", "n_layers": layers, "n_heads": HEADS,
             "init_seed": seed, "data_seed": 0, "batch_tokens": 1024, "parameters": 1000 * layers, "corpus_sha": "here"}
    kinds = {"loss_new_nats": loss, "loss_repeated_nats": loss - fall, "loss_mismatch_nats": loss + 0.1}
    return {
        "runs": pd.DataFrame([about]),
        "snapshots": pd.DataFrame(at | {"tokens": (X * END).round().astype(int), "icl_nats": -0.8 * fall - 0.1 * X,
                                        "icl_se_nats": 0.02, "loss_nats": loss} | kinds),
        "positions": where.assign(run_id=run, loss_nats=(loss[:, None] - fall[:, None] * places).ravel()),
        "heads": heads,
        "token_losses": pd.DataFrame(at | {"losses_nats": list(corner(0.45 if deep else 0.8))}),
    }  # fmt: skip


def reader(*runs: dict[str, pd.DataFrame]) -> Zoo:
    tables = {name: pd.concat([run.get(name, pd.DataFrame(columns=["run_id", "snapshot"])) for run in runs])
              for name in ("runs", *PER_RUN)}  # fmt: skip
    return Zoo({name: frame.reset_index(drop=True) for name, frame in tables.items()})


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return reader(made(1), made(1, 1), made(2), made(2, 1, shift=0.1), made(3, lower=0.2))


@pytest.fixture(scope="module")
def groups(zoo: Zoo) -> dict[str, list[RunTables]]:
    return together.measured(zoo, together.ATTENTION)


def tokens(sha: str = "here") -> Tokens:
    """Held-out text in which ids 1 to 8 come again and again in the same order."""
    ids = np.tile(np.arange(1, 9, dtype=np.uint16), 4 * WINDOWS)[: WINDOWS * N_CTX]
    return Tokens("made up", 9, ids, ids, None, sha, 1, 0)


@pytest.fixture(scope="module")
def drawn(zoo: Zoo, groups: dict[str, list[RunTables]]) -> dict[str, Figure]:
    deep = {label: runs for label, runs in groups.items() if label != "1L"}
    found, shares = events.turns(zoo, 0, NAMES)
    table, changes = events.timetable(zoo, NAMES), single.token_changes(groups["2L"], tokens())
    ends = onsets.finals(zoo, NAMES)
    return {
        "windows": together.windows_on_curve(groups),
        "slopes": together.slopes_by_position({k: wide(g) for k, g in groups.items()}),
        "bump": together.loss_bump(groups),
        "stages": together.two_stages(deep),
        "kinds": single.losses_by_kind(groups),
        "single": single.single_tokens(groups["2L"], tokens(), changes.iloc[:2]),
        "paths": events.paths_with_elbows(found, shares, {"2L": (4e6, 5e6)}),
        "times": events.event_times(table),
        "scores": onsets.final_scores(ends),
        "scores by size": onsets.final_scores(ends, "parameters"),
        "onsets": onsets.onsets(ends),
        "by depth": depth.heads_by_depth(groups),
        "copying": depth.prefix_and_copying({"all": [run for runs in groups.values() for run in runs]}),
        **{kind: depth.positions(groups, kind) for kind in depth.POSITIONS},
        "loss slopes": depth.loss_slopes(groups),
    }


def wide(runs: list[RunTables]) -> list[RunTables]:
    """The same runs with losses at 128 positions, which the registered slope needs."""
    where = pd.MultiIndex.from_product([range(len(X)), range(128)], names=["snapshot", "position"])
    return [replace(run, positions=where.to_frame(index=False).assign(loss_nats=3.0)) for run in runs]


def test_every_figure_has_title_alt_text_and_units_and_is_not_cut_off(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        words = [w for ax in fig.axes if ax.axison for w in (ax.get_xlabel(), ax.get_ylabel()) if w]
        assert fig.get_suptitle() and len(fig.alt) > 60 and words, name
        assert all(UNITS.search(word) for word in words), (name, words)
        image = np.asarray(Image.open(io.BytesIO(png(fig, 60))).convert("L"))
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.min() > 250, f"{name}: something touches the edge"


def test_only_what_was_measured_is_grouped(zoo: Zoo, groups: dict[str, list[RunTables]]) -> None:
    assert {label: len(runs) for label, runs in groups.items()} == {"1L": 2, "2L": 2, "3L": 1}
    assert together.measured(zoo, {"none": "key-1l"}) == {}
    assert list(together.first(groups, 2)) == ["1L", "2L"]


def test_the_narrow_window_lies_in_the_registered_one(groups: dict[str, list[RunTables]]) -> None:
    run = groups["2L"][0]
    small = together.narrow(run)
    assert run.window.start <= small.start <= 0.41 * END and 0.49 * END <= small.end <= run.window.end
    assert together.median_window([small, replace(small, start=small.start + 2e6)])[0] == small.start + 1e6


def test_stages_are_dated_by_half_of_the_final_score(groups: dict[str, list[RunTables]]) -> None:
    for run, shift in zip(groups["2L"], (0, 0.1), strict=True):
        half = together.halfway(run)
        assert half["previous-token head"] == pytest.approx((0.3 + shift) * END, rel=1e-6)
        assert half["induction head"] == pytest.approx((0.55 + shift) * END, rel=1e-6)


def test_timetable_has_the_dates_that_were_planted(zoo: Zoo) -> None:
    table = events.timetable(zoo, NAMES)
    one, two = (set(table[table["label"] == label]["event"]) for label in ("1L", "2L"))
    assert one == {"window", "narrow", "midpoint", "elbow"}
    assert two == set(events.EVENTS)
    row = table[(table["label"] == "2L") & (table["seed"] == 0)].set_index("event")
    assert row.loc["formed", "start"] == pytest.approx(0.55 * END, rel=1e-6)
    assert row.loc["bump", "start"] < 0.41 * END < row.loc["bump", "end"] + 1e5
    assert 0.40 * END < row.loc["gap", "start"] < 0.42 * END  # a tenth of the fall of 0.5 nats
    assert events.median_event(table, "2L", "formed") == pytest.approx(0.6 * END, rel=1e-6)
    assert np.isnan(events.median_event(table, "1L", "formed"))


def test_turns_are_those_of_the_registered_number(zoo: Zoo) -> None:
    found, shares = events.turns(zoo, 0)
    assert found["2L"].angle == pytest.approx(90, abs=3) and shares.sum() == pytest.approx(1)
    assert found["2L"].tokens[found["2L"].at] == pytest.approx(0.45 * END, rel=0.02)
    registered = NUMBERS["A12"](zoo).loc[0]
    assert max(found[k].angle for k in ("2L", "3L")) == pytest.approx(registered["angle_max"])
    assert found["1L"].angle == pytest.approx(registered["angle_1l"])
    assert found["2L"].snapshots((0, 2 * END)) == (0, len(found["2L"].tokens) - 1)


def test_single_tokens_are_read_from_the_table_with_their_text(groups: dict[str, list[RunTables]]) -> None:
    found = single.token_changes(groups["2L"][:1], tokens())
    assert found["change"][0] == pytest.approx(0.5, abs=0.35) and found["change"][1] == pytest.approx(0.5, abs=0.35)
    assert (found["change"][2:] == 0).all()
    assert set(found["kind"]) <= {"new", "repeated"}  # every id is always followed by the same one
    for row in found[found["kind"] == "repeated"].itertuples():
        assert int(row.token) == int(row.before[-1]) % 8 + 1


def test_other_text_needs_shipped_weights(groups: dict[str, list[RunTables]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single.weights, "shipped", lambda: [])
    with pytest.raises(IctlError, match="none of the runs has losses"):
        single.token_changes(groups["2L"], tokens("elsewhere"))


def test_finals_and_the_law(zoo: Zoo) -> None:
    found = onsets.finals(zoo, NAMES).set_index(["label", "seed"])
    row = found.loc["3L", 0]
    assert (row["n_layers"], row["layer"], row["head"]) == (3, 2, "L2H1")
    assert row["icl"] == pytest.approx(-0.9) and row["loss"] == pytest.approx(2.8)
    assert row["law"] == pytest.approx(10**5.7 * 32) and row["formed"] == pytest.approx(0.55 * END)
    assert np.isinf(found.loc[("1L", 0), "formed"])
    assert onsets.finals(zoo, {"none": "key-1l"}).empty


def test_losses_by_position_are_smoothed_and_not_shifted(groups: dict[str, list[RunTables]]) -> None:
    run = groups["2L"][0]
    flat = replace(run, positions=run.positions.assign(loss_nats=2.5))
    assert np.allclose(depth.by_position(flat), 2.5)
    smooth, exact = depth.by_position(run), run.history.loss_by_position[-1]
    assert abs(smooth - exact)[2:-2].max() < 0.05 and (np.diff(smooth) < 0).all()


def test_order_says_who_improves_faster(groups: dict[str, list[RunTables]]) -> None:
    places, sign = depth.order(groups)
    assert places[-1] == pytest.approx(END) and sign[-1] < -0.8  # 3L gains 0.2 nats more to the end


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: together.windows_on_curve({}), "groups is empty"),
        (lambda z: together.loss_bump({"2L": []}), "a label in it has no run"),
        (lambda z: single.losses_by_kind({}), "groups is empty"),
        (lambda z: single.single_tokens([], tokens(), pd.DataFrame()), "chosen is empty"),
        (lambda z: events.turns(z, 9), "measured with seed 9"),
        (lambda z: events.event_times(events.timetable(z, {})), "timetable is empty"),
        (lambda z: onsets.final_scores(onsets.finals(z, {})), "found is empty"),
        (lambda z: onsets.onsets(onsets.finals(z, NAMES), "width"), "by='width'"),
        (lambda z: depth.positions(together.measured(z, NAMES), "luck"), "kind='luck'"),
        (lambda z: depth.positions(together.measured(z, NAMES), "gap", "9L"), "reference='9L'"),
        (lambda z: depth.order(together.measured(z, {"2L": "attn-2l"})), "order of 1 models"),
    ],
)
def test_bad_input_is_one_clear_sentence(zoo: Zoo, call, message: str) -> None:
    with pytest.raises(IctlError, match=message):
        call(zoo)
