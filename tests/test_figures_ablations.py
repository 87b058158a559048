"""Figures of smeared keys and of ablations: what they say, axes with units, bad input. All runs are made up."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from ictl_utils import figures_ablations as ablations
from ictl_utils import figures_smeared as smeared
from ictl_utils.ablations import FILLS, KINDS
from ictl_utils.config import IctlError
from ictl_utils.figures_style import png
from ictl_utils.numbers_base import RunTables

T = np.linspace(0, 10_000_000, 41).astype(int)
FILL_SIZES = dict(zip(FILLS, (1.0, 0.9, 1.4), strict=True))
HEADS = 3
UNITS = re.compile(r"nats|share|tokens|number|head taken out")


def made(label: str = "2L", layers: int = 2, seed: int = 0, onset: float = 4e6, formed: bool = True) -> RunTables:
    """A run whose head 1 of the last layer is an induction head from ``onset`` on, with an effect of 0.8 nats.

    Head 0 of the first layer is its previous-token head: 0.5 nats in full, -0.05 with patterns kept. Every other
    head has an effect of -0.02. The score falls from 0 to -1.
    """
    rise = np.clip((T - onset) / 1e6, 0, 1) * formed
    at = {"snapshot": np.arange(len(T))}
    names = ["snapshot", "layer", "head"]
    rows = pd.MultiIndex.from_product([at["snapshot"], range(layers), range(HEADS)], names=names)
    heads, up = rows.to_frame(index=False), np.repeat(rise, layers * HEADS)
    best, previous = (heads["layer"] == layers - 1) & (heads["head"] == 1), (heads["layer"] == 0) & (heads["head"] == 0)
    scores = {"prefix_matching": np.where(best, 0.9 * up, 0.01), "prefix_random": 0.0, "copying": 0.0,
              "previous_token": np.where(previous, 0.8, 0.1), "sigma_alpha": 0.5 - np.where(best, 0.4, -0.3) * up}
    parts = []
    for kind in KINDS:
        for fill, size in FILL_SIZES.items():
            small = np.where(previous & (layers > 1), 0.5 if kind == "full" else -0.05, -0.02)
            change = np.where(best & formed, 0.8, small) * up * size
            parts.append(heads.assign(kind=kind, fill=fill, icl_change_nats=change, icl_change_se_nats=0.01,
                                      loss_change_nats=change, attribution_nats=-10 * change))
    joint = {"induction": 0.9, "control 0": -0.1, "control 1": 0.1}
    facts = [{"measure": f"joint_icl_change{se}_nats", "item": f"{kind}, {name}", "value": 0.02 if se else value}
             for kind in KINDS for se in ("", "_se") for name, value in joint.items()]
    row = {"run_id": f"{label}-{seed}", "label": label, "init_seed": seed, "n_layers": layers, "n_heads": HEADS}
    positions = pd.MultiIndex.from_product([at["snapshot"], range(4)], names=["snapshot", "position"])
    return RunTables(
        run=pd.Series(row), snapshots=pd.DataFrame(at | {"tokens": T, "icl_nats": -rise, "icl_se_nats": 0.02,
                                                         "loss_nats": 3 - rise}),
        positions=positions.to_frame(index=False).assign(loss_nats=3.0), heads=heads.assign(**scores),
        composition=pd.DataFrame(), ablations=pd.concat(parts), facts=pd.DataFrame(facts),
        token_losses=pd.DataFrame(at | {"losses_nats": [np.ones(3)] * len(T)}),
    )  # fmt: skip


ONE, TWO = made("1L", 1, formed=False), [made(seed=seed, onset=4e6 + 5e5 * seed) for seed in range(2)]
KEY_ONE, KEY_TWO = made("1L smeared keys", 1, onset=1e6), made("2L smeared keys", onset=1e6)
GROUPS = {"1L": [ONE], "2L": TWO, "3L": []}
FOUR = {"1L": [ONE], "2L": TWO, "1L smeared keys": [KEY_ONE], "2L smeared keys": []}


def gallery() -> dict[str, Figure]:
    histories = {label: [run.history for run in group] for label, group in FOUR.items()}
    return {
        "smearing": smeared.smearing(),
        "share_sweep": smeared.share_sweep([0, 0.5, 1], {"fixed": [1, 0.4, 0], "random": [0.9, 0.3, 0]}),
        "two_by_two": smeared.two_by_two(histories),
        "heads": smeared.two_by_two(histories, "prefix"),
        "learned_shares": smeared.learned_shares({"1L smeared keys": [KEY_ONE], "2L smeared keys": []}),
        "windows": smeared.windows_side_by_side(FOUR),
        "rates": smeared.fall_rates({"2L": TWO, "2L smeared keys": []}),
        "over_training": ablations.effects_over_training(GROUPS),
        "attribution": ablations.effects_over_training(GROUPS, "attribution_nats", scores=False),
        "of_heads": ablations.effects_of_heads(GROUPS),
        "full_kept": ablations.full_against_kept({"2L": TWO}),
        "joint": ablations.joint_against_single({"2L": TWO}),
        "fills": ablations.fills_against_each_other({"2L": TWO}),
        "bars": ablations.head_bars(TWO[0]),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return gallery()


def test_every_figure_has_title_alt_text_and_axes_with_units(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        assert fig.get_suptitle() and len(fig.alt) > 60, name
        words = [word for ax in fig.axes if ax.axison for word in (ax.get_xlabel(), ax.get_ylabel()) if word]
        words += [word for word in (fig.get_supylabel(),) if word]
        assert words or name == "smearing", name
        assert all(UNITS.search(word) or "at the end" in word for word in words), (name, words)


def test_nothing_is_cut_off(drawn: dict[str, Figure]) -> None:
    for name, fig in drawn.items():
        image = np.asarray(Image.open(io.BytesIO(png(fig, dpi=40))).convert("L"))
        assert np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).min() > 250, name


def test_alt_text_tells_what_was_found(drawn: dict[str, Figure]) -> None:
    found = {
        "share_sweep": "random from 0.00 to 0.90", "learned_shares": "L0H1, with prefix matching 0.90, ends at 0.10",
        "over_training": "2L, seed 1: largest +0.80 nats, L1H1 (induction)", "two_by_two": "2L ends at -1.00",
        "attribution": "2L, seed 0: largest -8.00 nats, L1H1 (induction)", "heads": "2L ends at 0.90",
        "of_heads": "1L, seed 0: largest",
        "joint": "0.90 ± 0.02 nats together, 0.80 summed one by one, +0.00 for others",
        "full_kept": "previous-token head L0H0: -0.05 nats with patterns kept, +0.50 in full",
        "fills": "zero and resample: rank correlation 1.00", "bars": "+0.80 nats, L1H1 (induction)",
    }  # fmt: skip
    for name, words in found.items():
        assert words in drawn[name].alt, (name, drawn[name].alt)


def test_what_is_not_measured_is_said(drawn: dict[str, Figure]) -> None:
    for name in ("two_by_two", "heads", "learned_shares", "windows", "rates", "over_training", "attribution"):
        assert "not measured yet" in drawn[name].alt, name
    shown = [text.get_text() for ax in drawn["over_training"].axes for text in ax.texts]
    assert any("3L" in text and "not measured yet" in text for text in shown)
    first = drawn["over_training"].axes[0].yaxis  # an empty panel takes no ticks from its neighbours
    assert first.get_tick_params().get("labelleft", True) and len(first.get_ticklocs()) > 2


def test_kinds_of_heads() -> None:
    run = TWO[0]
    assert [ablations.kind_of(run, (1, 1)), ablations.kind_of(run, (0, 0))] == ["induction", "previous-token"]
    assert {ablations.kind_of(run, (layer, 2)) for layer in range(2)} == {"other"}
    assert {ablations.kind_of(ONE, (0, head)) for head in range(HEADS)} == {"other"}  # none passes the threshold
    assert ablations.kind_of(KEY_ONE, (0, 1)) == "induction"


def test_induction_heads_are_coloured_over_training(drawn: dict[str, Figure]) -> None:
    lines = drawn["attribution"].axes[1].lines
    orange = [line for line in lines if to_hex(line.get_color()) == ablations.LOOKS["induction"][0]]
    assert len(orange) == len(TWO) and all(line.get_ydata()[-1] == pytest.approx(-8) for line in orange)


def test_joint_effects_of_one_run() -> None:
    found = ablations.joint_effects(TWO[0])
    assert (found.single, found.together, found.together_se) == (pytest.approx(0.8), 0.9, 0.02)
    assert found.controls == [-0.1, 0.1] and found.gain == pytest.approx(1, abs=0.02)
    assert found.removed == pytest.approx(0.9, abs=0.02)
    flat = replace(TWO[0], snapshots=TWO[0].snapshots.assign(icl_nats=0.0))
    assert np.isnan(ablations.joint_effects(flat).removed)
    with pytest.raises(IctlError, match="no joint ablation"):
        ablations.joint_effects(replace(TWO[0], facts=TWO[0].facts.iloc[:0]))


def test_windows_and_rates_are_where_the_change_was_made() -> None:
    run = made(onset=4e6)
    heads, rate = smeared.heads_window(run), smeared.fall_rate(run)
    assert 3.5e6 < heads.start < 4e6 < 5e6 < heads.end < 5.5e6
    assert run.steps[rate.argmax()] == pytest.approx(4.5e6, abs=2e5)
    assert rate.max() == pytest.approx(1, abs=0.05)  # one nat within a million tokens
    assert (rate * np.gradient(run.steps)).sum() / 1e6 == pytest.approx(1, abs=0.01)


def test_no_head_no_window_of_heads(drawn: dict[str, Figure]) -> None:
    assert "1L, seed 0: score" in drawn["windows"].alt and "no head formed" in drawn["windows"].alt
    assert len(drawn["windows"].axes[0].patches) == 2 * 4 - 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: smeared.two_by_two({"1L": [ONE.history]}), "pass four"),
        (lambda: smeared.two_by_two({str(i): [] for i in range(4)}, "loss"), "show"),
        (lambda: smeared.windows_side_by_side({"2L": []}), "no run"),
        (lambda: smeared.share_sweep([0, 1], {"fixed": [0.5]}), "one a share"),
        (lambda: ablations.effects_over_training(GROUPS, "loss"), "column"),
        (lambda: ablations.effects_of_heads({"2L": []}), "no run"),
        (lambda: ablations.full_against_kept({}), "no run"),
        (lambda: ablations.head_bars(TWO[0], 99), "snapshot=99"),
    ],
)
def test_bad_input(call, words: str) -> None:
    with pytest.raises(IctlError, match=words):
        call()
