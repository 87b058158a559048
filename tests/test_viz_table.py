"""The table of all models: numbers of its cells, its page with and without a script, in Chromium where there is one.

The measurements are made up: a ramp of the score in the middle of the run, and one head that follows it.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ictl_utils import zoo as the_zoo
from ictl_utils.config import IctlError
from ictl_utils.figures_table import FAMILIES, ROWS, all_columns, columns, windows_and_heads
from ictl_utils.figures_table_cells import COLOURS, HIGH, LEVELS, WIDE, Axes, palette, path_of
from ictl_utils.figures_table_counts import CONTROLS, agreement, final_numbers
from ictl_utils.figures_table_panels import MAP, panels
from ictl_utils.numbers_base import RunTables, Zoo
from ictl_utils.viz_table import analysis_table

T, N, CTX, EXAMPLES = 10_000_000, 41, 32, 24
SNAPSHOTS = 68  # of most runs of the zoo
X = np.linspace(0, 1, N)
RAMP = np.clip((X - 0.4) / 0.2, 0, 1)


class MadeUp:
    """A zoo of made-up runs: models of two and more layers, and smeared keys, form a head with score 0.8."""

    def __init__(self, seeds: dict[str, int], noise: float = 0.0) -> None:
        self.n, self.noise, self.known = seeds, noise, {e.name: e for e in the_zoo.entries()}
        self.made: dict[tuple[str, int], RunTables] = {}

    def seeds(self, name: str) -> list[int]:
        return list(range(self.n.get(name, 0)))

    def run(self, name: str, seed: int) -> RunTables:
        if (name, seed) not in self.made:
            self.made[name, seed] = one_run(self.known[name], seed, self.noise)
        return self.made[name, seed]


def one_run(entry: the_zoo.Entry, seed: int, noise: float) -> RunTables:
    layers, heads = entry.model.n_layers, entry.model.n_heads
    forms = layers > 1 or entry.model.smear == "key"
    rise, rng = RAMP * forms, np.random.default_rng(seed)
    snap = np.arange(N)
    at = pd.MultiIndex.from_product([snap, range(layers), range(heads)], names=["snapshot", "layer", "head"])
    each = at.to_frame(index=False)
    best = ((each["layer"] == layers - 1) & (each["head"] == 1)).to_numpy()
    up = rise[each["snapshot"]] * best + noise * rng.normal(size=len(each))
    table = each.assign(prefix_matching=0.01 + 0.79 * up, prefix_random=0.01, previous_token=0.1, copying=0.0,
                        qk_trace=np.where(each["layer"] > 0, 5000 * up, np.nan))  # fmt: skip
    removed = each.assign(kind="pattern-preserving", fill="zero", icl_change_nats=0.5 * up - 0.01,
                          attribution_nats=-20 * up + 0.5)  # fmt: skip
    loss = 3 + 4 * np.exp(-20 * X) - 0.3 * rise + 0.01 * seed
    places = pd.MultiIndex.from_product([snap, range(CTX)], names=["snapshot", "position"]).to_frame(index=False)
    more = 1 + rise[places["snapshot"]]
    places["loss_nats"] = loss[places["snapshot"]] - 0.5 * np.log(places["position"] + 1) * more
    places["loss_nats"] += noise * rng.normal(size=len(places))
    turn = np.stack([X, np.maximum(0, X - 0.5)], axis=1) @ np.eye(2, EXAMPLES) * 20
    vectors = list(turn + rng.normal(0, 0.01, turn.shape))
    row = pd.Series({"run_id": f"{entry.name}-{seed}", "name": entry.name, "label": entry.model.label,
                     "init_seed": seed, "data_seed": 0, "n_layers": layers, "n_heads": heads,
                     "smear": entry.model.smear})  # fmt: skip
    snapshots = pd.DataFrame({"snapshot": snap, "tokens": (X * T).astype(int), "loss_nats": loss,
                              "icl_nats": -0.1 * X - 0.6 * rise, "icl_se_nats": 0.01})  # fmt: skip
    empty = pd.DataFrame(columns=["snapshot"])
    return RunTables(row, snapshots, places, table, empty, removed, empty,
                     pd.DataFrame({"snapshot": snap, "losses_nats": vectors}))  # fmt: skip


@pytest.fixture(scope="module")
def zoo() -> MadeUp:
    return MadeUp({"attn-1l": 1, "attn-2l": 3, "attn-3l": 1, "key-1l": 1, "attn-0l": 1})


@pytest.fixture(scope="module")
def attn(zoo: MadeUp) -> dict[str, list]:
    return panels(columns(zoo, "attn"))


def parsed(path: str) -> list[tuple[int, int]]:
    """Points of an SVG path of the steps M, l, h and v."""
    found, x, y = [], 0, 0
    for step, rest in re.findall(r"([Mlhv])([^Mlhv]*)", path):
        given = [int(n) for n in re.findall(r"-?\d+", rest)]
        pairs = {"h": [(n, 0) for n in given], "v": [(0, n) for n in given]}.get(step)
        for dx, dy in pairs or zip(given[::2], given[1::2], strict=True):
            x, y = (dx, dy) if step == "M" else (x + dx, y + dy)
            found.append((x, y))
    return found


# ---- rows, columns, numbers ---------------------------------------------------------------------------


def test_every_model_of_the_zoo_has_a_column() -> None:
    zoo = MadeUp({})
    found = {family: [c.name for c in columns(zoo, family)] for family in FAMILIES}
    assert {name for names in found.values() for name in names} == {e.name for e in the_zoo.entries()}
    assert found["attn"] == [f"attn-{n}l" for n in range(1, 7)]
    assert found["smeared"][0] == "attn-1l" and found["smeared"][4] == "attn-2l" and len(found["smeared"]) == 8
    assert "docs-key-1l" in found["docs-attn"] and all(name.startswith("docs-mlp") for name in found["docs-mlp"])
    with pytest.raises(IctlError, match="'full' is not in the table"):
        columns(zoo, "full")


def test_measured_models_come_once(zoo: MadeUp) -> None:
    assert [c.name for c in all_columns(zoo)] == ["attn-1l", "attn-2l", "attn-3l", "key-1l", "attn-0l"]
    assert [len(c.runs) for c in all_columns(zoo)] == [1, 3, 1, 1, 1]


def test_empty_cells_say_why(zoo: MadeUp, attn: dict[str, list]) -> None:
    assert [attn[row][0].words for row in ("trace", "attribution")] == ["N/A: no earlier layer", "N/A: one layer"]
    assert attn["ablation"][0].drawn  # the paper's figure of ablations has one layer too
    assert all(not attn[row.key][5].drawn and attn[row.key][5].words == "not measured yet" for row in ROWS)
    none = panels(columns(zoo, "variants"))
    assert [p.words for row in ("prefix", "trace", "ablation") for p in none[row][:1]] == ["N/A: no heads"] * 3
    smeared = panels(columns(zoo, "smeared"))
    assert smeared["ablation"][1].drawn and not smeared["trace"][1].drawn


def test_cells_hold_the_measurements(zoo: MadeUp, attn: dict[str, list]) -> None:
    run = zoo.run("attn-2l", 0)
    assert [line.name for line in attn["icl"][1].lines] == ["seed 0", "seed 1", "seed 2", "median"]
    assert np.allclose(attn["loss"][1].lines[-1].y, zoo.run("attn-2l", 1).history.loss)  # the middle of three
    assert len(attn["prefix"][1].lines) == 2 * run.run["n_heads"] and len(attn["trace"][1].lines) == run.run["n_heads"]
    assert "L1H1 with 0.80; a head first passes 0.4 after 4.99M tokens" in attn["prefix"][1].words
    assert "Most negative at the end: L1H1 with -19.50 nats; kind: induction" in attn["attribution"][1].words
    assert "Largest at the end: L1H1 with +0.49 nats; kind: induction" in attn["ablation"][1].words
    assert attn["ablation"][1].lines[-1].name == "L1H1" and attn["ablation"][1].lines[-1].group == "induction head"
    assert len(attn["icl"][0].windows) == 0 and len(attn["icl"][1].windows) == 2
    (start, end), (inner_start, inner_end) = attn["icl"][1].windows
    assert 0.35 * T < start < inner_start < inner_end < end < 0.65 * T


def test_maps_are_regular(attn: dict[str, list]) -> None:
    panel = attn["loss-map"][1]
    assert panel.grid.shape == MAP and panel.up == (1.0, CTX) and panel.across == T
    assert (np.diff(panel.grid[:, -1]) < 0).all()  # loss falls with the position
    last = 3 + 4 * np.exp(-20.0) - 0.3 - 0.5 * np.log(CTX) * 2
    assert panel.grid[-1, -1] == pytest.approx(last, abs=0.02)
    assert attn["derivative"][1].grid[-8:, -1] == pytest.approx(np.full(8, -1.0), abs=0.1)


def test_paths_in_whole_units() -> None:
    assert path_of(np.array([0.0, 10.2, 20, 20]), np.array([5.0, 5.4, 8, 2])) == "M0 5h10l10 3v-6"
    x, y = np.array([0.0, 0.1, 0.2, 5, 5.3]), np.array([1.0, 2, 3, 4, 5])
    assert parsed(path_of(x, y, thin=True)) == [(0, 1), (0, 3), (5, 5)]
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.uniform(0, WIDE, 50)), rng.uniform(0, HIGH, 50)
    assert parsed(path_of(x, y)) == list(zip(np.round(x).astype(int), np.round(y).astype(int), strict=True))


def test_values_can_be_read_off_the_page(attn: dict[str, list]) -> None:
    row = next(row for row in ROWS if row.key == "icl")
    axes = Axes(row, attn["icl"], T)
    svg = axes.cell(attn["icl"][1], "attn-2l")
    path = parsed(re.findall(r'data-n="median" d="([^"]*)"', svg)[0])
    low, high = axes.y
    values = [high - y / HIGH * (high - low) for _, y in path]
    want = np.interp([x / WIDE for x, _ in path], X, -0.1 * X - 0.6 * RAMP)
    assert np.allclose(values, want, atol=1.5 * (high - low) / HIGH)
    assert all(axes.y[0] <= high - y / HIGH * (high - low) <= axes.y[1] for y, _ in axes.up)
    assert Axes(next(row for row in ROWS if row.key == "prefix"), attn["prefix"], T).y == (0.0, 1.0)


@pytest.mark.parametrize("key", COLOURS)
def test_colours_give_the_values_back(attn: dict[str, list], key: str) -> None:
    axes = Axes(next(row for row in ROWS if row.key == key), attn[key], T)
    data = re.search(r"base64,([^\"]+)", axes.cell(attn[key][1], "attn-2l"))[1]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).reshape(-1, 3)
    colours = np.frombuffer(bytes.fromhex(palette(key)), np.uint8).reshape(LEVELS, 3).astype(int)
    level = ((seen[:, None].astype(int) - colours) ** 2).sum(-1).argmin(1)
    low, high = axes.colour
    values = (low + (level + 0.5) / LEVELS * (high - low)).reshape(MAP)[::-1]
    assert np.allclose(values, np.clip(attn[key][1].grid, low, high), atol=1.5 * (high - low) / LEVELS)


def test_numbers_beside_the_table(zoo: MadeUp) -> None:
    ends = final_numbers(all_columns(zoo))
    assert ends.loc["attn-2l", "ICL score (nats)"] == pytest.approx(-0.7) and ends.loc["attn-2l", "seeds"] == 3
    assert repr(ends.loc["attn-3l", "layer of the best head"]) == "2"
    assert np.isnan(ends.loc["attn-0l", "best prefix matching"])
    assert ends["passes 0.4 after (million tokens)"].tolist()[0] == np.inf
    counts = agreement(zoo)
    assert counts.index.tolist() == ["small attention-only", "smeared keys and controls", CONTROLS]
    assert counts.iloc[0].tolist() == [4] + ["4 of 4"] * 6
    assert counts.iloc[1].tolist() == [1, "1 of 1", "1 of 1", "1 of 1", "-", "1 of 1", "1 of 1"]
    assert counts.iloc[2].tolist() == [2, "0 of 2", "-", "-", "-", "-", "-"]


def test_the_figure_that_sums_up(zoo: MadeUp) -> None:
    fig = windows_and_heads(all_columns(zoo))
    assert "Of 4 runs with two or more layers, 4 form it inside the registered window, 4 inside the narrow" in fig.alt
    assert fig.axes[0].get_xlabel() == "training tokens"
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()][:2] == ["attn-1l", "attn-2l"]
    for bad in ([], columns(MadeUp({}), "attn")):
        with pytest.raises(IctlError, match="models is empty, or one has no run"):
            windows_and_heads(bad)


# ---- the page -----------------------------------------------------------------------------------------


def test_the_page_is_closed_escaped_and_described(zoo: MadeUp) -> None:
    view = analysis_table(zoo)
    for tag in ("div", "section", "table", "svg", "g", "tr", "td", "th", "script", "style"):
        assert len(re.findall(rf"<{tag}[ >]", view.html)) == view.html.count(f"</{tag}>"), tag
    drawn = view.html.count("data-row=")
    assert len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]{30,}"', view.html)) == drawn
    text = re.sub(r"base64,[^\"]+", "", view.html)
    assert "http" not in text and "__ID__" not in text and "nan" not in text
    assert "attn-2l (3 seeds)" in view.alt and "small with MLP: nothing measured yet" in view.alt
    assert "Not measured yet: <code>mlp-1l</code>" in view.html
    ids = [re.search(r'id="(ictl-table-[\w-]+)"', analysis_table(zoo, ["attn"]).html)[1] for _ in range(2)]
    assert ids[0] != ids[1]
    for families, words in (([], "families is empty"), (["full"], "'full' is not in the table")):
        with pytest.raises(IctlError, match=words):
            analysis_table(zoo, families)


def test_a_zoo_without_measurements_has_a_page() -> None:
    page = analysis_table(MadeUp({}))
    assert page.html.count("Not measured yet") == len(FAMILIES) and "data-row=" not in page.html


def test_the_whole_zoo_is_small() -> None:
    """All models with all seeds and with noise on every curve, at the number of snapshots of the zoo."""
    zoo = MadeUp({e.name: e.seeds for e in the_zoo.entries()}, noise=0.02)
    page = analysis_table(zoo).html
    curves = sum(map(len, re.findall(r' d="[^"]*"', page)))
    assert len(page) - curves + curves * SNAPSHOTS / N < 1_500_000


def test_shipped_measurements_fit() -> None:
    from ictl_utils import tables

    view = analysis_table(Zoo(tables.read()))
    assert len(view.html.encode()) < 1_500_000 and "attn-2l" in view.alt


# ---- in a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(zoo: MadeUp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Table</title>'
    path.write_text(f"{head}<main><h1>Table</h1>{analysis_table(zoo).html}</main>", encoding="utf-8")
    return path


@pytest.fixture
def page(chromium, file: Path):
    """The page, with every request to a host refused and every error recorded; at the end there must be none."""
    context = chromium.new_context(viewport={"width": 1000, "height": 900}, accept_downloads=True)
    opened, trouble = context.new_page(), []
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
    opened.route(re.compile(r"^https?:"), lambda route: (trouble.append(route.request.url), route.abort()))
    opened.goto(file.as_uri())
    yield opened
    assert trouble == []
    context.close()


SHOWN = ".ictl-family:not(.ictl-off)"


def cell(page, row: str, n: int):
    return page.locator(f"{SHOWN} td[data-row={row}] button").nth(n)


def test_tabs(page) -> None:
    tabs = page.get_by_role("tab")
    assert tabs.all_text_contents() == list(FAMILIES.values())
    assert page.locator(".ictl-family:visible").count() == 1
    tabs.nth(2).click()
    assert page.locator(SHOWN).get_attribute("data-name") == "smeared keys and controls"
    page.keyboard.press("ArrowLeft")
    assert page.locator(SHOWN).get_attribute("data-name") == "small with MLP"
    assert "Not measured yet" in page.locator(SHOWN).inner_text()
    page.keyboard.press("End")
    assert tabs.nth(6).get_attribute("aria-selected") == "true"
    assert page.evaluate("document.activeElement.textContent") == "variants"
    assert page.get_by_role("tabpanel").count() == 1


def test_pointing_at_a_cell_tells_its_numbers(page) -> None:
    cell(page, "prefix", 1).hover()
    tip = page.locator(".ictl-tip")
    assert tip.is_visible() and "Prefix matching, attn-2l. Highest at the end: L1H1 with 0.80" in tip.inner_text()
    page.mouse.move(2, 2)
    assert not tip.is_visible()


def test_the_large_figure_by_keyboard(page) -> None:
    button = cell(page, "prefix", 1)
    button.focus()
    page.keyboard.press("Enter")
    dialog, said = page.locator("dialog"), page.locator("dialog output")
    assert dialog.is_visible() and "Prefix matching: 2L (attn-2l)" in dialog.inner_text()
    assert "layer 0" in dialog.inner_text() and "phase change, registered rule" in dialog.inner_text()
    page.keyboard.press("ArrowLeft")
    assert re.search(r"L1H\d, layer 1: \d\.\d\d after 9\.75M tokens", said.inner_text())
    page.keyboard.press("ArrowUp")
    assert re.search(r"after 9\.75M tokens", said.inner_text())
    page.get_by_role("button", name="Next model").click()
    assert "Prefix matching: 3L (attn-3l)" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.getAttribute('class')") == "ictl-cell"
    assert page.evaluate("document.activeElement.closest('td').dataset.model") == "attn-3l"


def test_pointing_into_the_large_figure(page) -> None:
    cell(page, "icl", 2).click()
    frame = page.locator("dialog .ictl-frame").bounding_box()
    page.mouse.move(frame["x"] + 0.5 * frame["width"], frame["y"] + 0.5 * frame["height"])
    assert page.locator("dialog output").inner_text() == "seed 0: −0.35 after 5.00M tokens"
    assert page.locator("dialog .ictl-dot").get_attribute("visibility") == "visible"
    page.keyboard.press("Escape")
    cell(page, "loss-map", 1).click()
    frame = page.locator("dialog .ictl-frame").bounding_box()
    page.mouse.move(frame["x"] + 0.99 * frame["width"], frame["y"] + 0.01 * frame["height"])
    value, place = re.match(r"([\d.−]+) at position (\d+) after", page.locator("dialog output").inner_text()).groups()
    assert abs(float(value.replace("−", "-")) - (2.7 - np.log(CTX))) < 0.2 and int(place) >= 28
    page.keyboard.press("ArrowDown")
    assert page.locator("dialog output").inner_text().startswith(("−", "0"))
    page.mouse.click(5, 5)  # beside the dialog
    assert not page.locator("dialog").is_visible()


def test_every_cell_opens(page) -> None:
    for row in ROWS:
        cell(page, row.key, 1).click()
        assert page.locator("dialog .ictl-inner").count() == 1 and page.locator("dialog .ictl-key li").count()
        page.keyboard.press("ArrowLeft")
        assert "Point at" not in page.locator("dialog output").inner_text(), row.key
        page.keyboard.press("Escape")


def test_the_curves_can_be_saved(page) -> None:
    with page.expect_download() as waiting:
        page.locator(f"{SHOWN} .ictl-save").click()
    assert waiting.value.suggested_filename == "models-attn.csv"
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    found = [r for r in rows if (r["model"], r["row"], r["line"]) == ("attn-2l", "icl", "median")]
    assert len(found) == N and float(found[0]["x"]) == 0 and float(found[-1]["x"]) == T
    assert float(found[-1]["y"]) == pytest.approx(-0.7, abs=0.005)
    assert {r["row"] for r in rows} == {row.key for row in ROWS if row.kind != "map"}


def test_on_a_phone_the_table_scrolls_and_the_page_does_not(page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(f"{SHOWN} .ictl-scroll")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    box.evaluate("e => e.scrollLeft = 300")
    assert page.locator(f"{SHOWN} tbody th").first.bounding_box()["x"] >= 0
    cell(page, "icl", 1).click()
    assert page.locator("dialog").bounding_box()["width"] <= 390


def test_without_a_script_and_in_print_all_tabs_stand_open(chromium, file: Path, page) -> None:
    context = chromium.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(file.as_uri())
    page.emulate_media(media="print")
    for view in (still, page):
        assert view.locator(".ictl-family:visible").count() == len(FAMILIES)
        assert view.locator("table.ictl-grid:visible caption").first.inner_text() == "small attention-only"
        assert view.locator("td svg").first.bounding_box()["height"] > 40
    assert not page.get_by_role("tab").first.is_visible()
    context.close()


def test_no_serious_findings_of_axe(page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    cell(page, "icl", 1).click()
    for part in ("dialog", "page"):
        found = axe.Axe().run(page).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"][:150]) for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], part
        page.keyboard.press("Escape")
