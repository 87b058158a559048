"""What comes with the package: measurements as precise as promised, long enough runs, and small files."""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from typer.testing import CliRunner

from ictl_utils import cards, survey, tables, weights
from ictl_utils.claims import load_claims
from ictl_utils.cli import app
from ictl_utils.curves import phase_change
from ictl_utils.figures_cooccurrence import narrow
from ictl_utils.judgement import judge_zoo, missing, report
from ictl_utils.model import Transformer
from ictl_utils.numbers_base import Zoo
from ictl_utils.numbers_shapes import FORMED
from ictl_utils.tokens import load_tokens, other_text

TABLES = tables.read()
NAMES = sorted(set(TABLES["runs"]["name"]))
PAPER = ({f"{kind}-{n}l" for kind in ("attn", "mlp", "docs-attn", "docs-mlp") for n in range(1, 7)}
         | {"key-1l", "key-2l"} | {f"ladder-{n}" for n in range(1, 7)} - {"ladder-3"})  # that one is attn-4l
LONG = 0.999 * 15e6  # whole batches make it a little less


def test_scores_are_precise_and_snapshots_many() -> None:
    found = TABLES["snapshots"].groupby("run_id")
    assert found["icl_se_nats"].max().max() <= 0.03
    assert found.size().min() >= 60


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_three_times_as_long_as_their_onset_or_long(name: str) -> None:
    """Three times the onset; 15 M tokens where nothing forms; else there is a longer run with the same seed."""
    zoo = Zoo(TABLES)
    for run in (*(zoo.run(name, seed) for seed in zoo.seeds(name)), *zoo.orders(name)):
        needed = 3 * phase_change(run.tokens, -run.best_prefix).start if run.best_prefix.max() > FORMED else LONG
        seed = int(run.run["init_seed"])
        longer = f"{name}-long" in NAMES and seed in zoo.seeds(f"{name}-long")
        enough = run.tokens[-1] >= needed or not run.run["n_layers"]
        assert enough or longer, (run.run["run_id"], needed)


@pytest.mark.parametrize("name", NAMES)
def test_snapshots_are_dense_around_the_change(name: str) -> None:
    zoo = Zoo(TABLES)
    for run in (zoo.run(name, seed) for seed in zoo.seeds(name)):
        if run.best_prefix[-1] > FORMED:
            window = narrow(run)
            assert ((run.tokens >= window.start) & (run.tokens <= window.end)).sum() >= 5, run.run["run_id"]


def test_files_are_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert max(sizes.values()) <= 5e6 and sum(sizes.values()) < 50e6


def test_weights_are_there_and_of_measured_runs() -> None:
    files, ids = weights.shipped(), set(TABLES["runs"]["run_id"])
    assert files and {one.run_id for one in files} <= ids
    assert {one.file for one in files if one.sha256} == {path.name for path in weights.FOLDER.glob("*.safetensors")}
    for name, n in weights.AROUND.items():
        assert name not in NAMES or n - 2 <= sum(one.name == name for one in files) <= n


def test_weights_are_those_that_were_registered() -> None:
    for one in weights.shipped():
        assert one.logits_error <= weights.TOLERANCE
        if one.sha256:
            assert hashlib.sha256((weights.FOLDER / one.file).read_bytes()).hexdigest() == one.sha256, one.file


def test_cards_are_those_of_the_tables(tmp_path: Path) -> None:
    cards.write_cards(TABLES, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text() == (tables.SHIPPED / path.name).read_text(), "run `ictl zoo pack`"


def test_numbers_agree_with_shipped_weights() -> None:
    """On the Python and packages the zoo was trained with; elsewhere the text is another."""
    if other_text(load_tokens("stdlib")):
        pytest.skip("the text of this Python's standard library is another")
    assert weights.verify(TABLES, n=1)["agrees"].all()


class Last:
    """As much of a run as its survey asks for to measure the last snapshot."""

    def __init__(self, model: Transformer, folder: Path) -> None:
        self.model_cfg, self.manifest, self.path = model.cfg, {"snapshots": []}, folder

    def __len__(self) -> int:
        return 1


def agree(now: pd.Series, shipped: pd.Series) -> None:
    """Numbers to 0.002 or 0.2 %, words exactly; coarser where numbers were rounded more, or are counts of a few."""
    if now.dtype.kind in "fiub":
        step = 0.005 if now.name == "repeats_accuracy" else 0.002  # one of its 240 predictions
        np.testing.assert_allclose(now, shipped.astype(float), 0.002, step, err_msg=str(now.name))
    elif now.name == "losses_nats":
        np.testing.assert_allclose(np.stack(now), np.stack(shipped), atol=0.06)
    else:
        assert now.astype(str).tolist() == shipped.astype(str).tolist(), now.name


@pytest.mark.parametrize("name", ["attn-0l", "attn-1l", "attn-2l", "key-2l", "mlp-1l"])
def test_all_tables_of_a_last_snapshot_can_be_measured_again(name: str, tmp_path: Path) -> None:
    """Every fact, and every column but the one along the before-and-after vector, which other snapshots decide."""
    tokens, model = load_tokens("stdlib"), weights.load(name)
    if other_text(tokens):
        pytest.skip("the text of this Python's standard library is another")
    surveyor, scores = survey._Surveyor(Last(model, tmp_path), tokens, survey.FULL), [None, None]
    with torch.no_grad():
        found = surveyor.snapshot(model) | surveyor.ablations(0, np.ones((len(surveyor.few), len(surveyor.at))), model)
        if model.cfg.n_layers:
            scores = [found["heads"][column].to_numpy().reshape(-1, model.cfg.n_heads)
                      for column in ("prefix_matching", "previous_token")]  # fmt: skip
        found["facts"] = survey.facts(model, tokens, surveyor.few, *scores, trained=100)
    for table, now in found.items():
        shipped = tables.select(TABLES, table, name=name, init_seed=0, data_seed=0)
        shipped = shipped[shipped["snapshot"] == shipped["snapshot"].max()]
        if table == "facts":  # skip-trigrams are counted in less text here
            now, shipped = (x[~x["measure"].str.startswith("cross_terms")] for x in (now, shipped))
        for column in now.columns.drop("attribution_nats", errors="ignore"):
            agree(now[column], shipped[column])


def strict(text: str) -> object:
    """JSON as other languages read it: without NaN and Infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_claims_as_programs_and_readers_get_them() -> None:
    judged = judge_zoo(TABLES)
    assert [row["id"] for row in strict(report(judged, as_json=True))] == [c.id for c in load_claims()]
    for j in judged:
        assert report(judged, j.claim.id).splitlines()[4].strip() == f"verdict: {j.word}"
        (row,) = strict(report(judged, j.claim.id, as_json=True))
        assert row["verdict"] == j.word and row["n_seeds"] == (j.verdict.n_seeds if j.verdict else 0)


def test_claims_command_fails_only_where_a_verdict_is_missing() -> None:
    found = CliRunner().invoke(app, ["claims", "--json"])
    absent = [row["id"] for row in strict(found.stdout) if row["verdict"] == "missing"]
    assert found.exit_code == bool(absent) and (not absent or ", ".join(absent) in found.stderr)


@pytest.mark.parametrize("name", tables.SCHEMA)
def test_tables_as_json(name: str) -> None:
    one = Zoo(TABLES).run("key-2l", 0).run["run_id"]  # two layers and smeared keys: it has rows in every table
    found = CliRunner().invoke(app, ["table", name, "--json", "--where", f"run_id={one}"])
    assert found.exit_code == 0, found.output
    same, made = TABLES[name][TABLES[name]["run_id"] == one], pd.DataFrame(strict(found.stdout))
    assert len(made) == len(same) > 0
    for column in same.select_dtypes("float"):
        assert np.allclose(made[column].astype(float), same[column].astype(float), rtol=1e-5, equal_nan=True), column


def test_what_the_package_promises() -> None:
    """As many models and twice the ablations of the paper's table, a verdict on each claim, seeds for the arguments."""
    row, judged = tables.summary(TABLES), judge_zoo(TABLES)
    assert row["configurations"] >= 34 and row["ablations"] >= 100_800
    zeros = TABLES["ablations"].query("fill == 'zero'")  # the paper's: one number a head, snapshot and kind
    assert len(zeros) >= 100_800
    assert not missing(judged)
    assert all(j.verdict.n_seeds >= 3 for j in judged if j.claim.testable and j.claim.id[0] in "ABC")


def test_every_model_of_the_paper_s_table_is_measured() -> None:
    """34 places; plain models of one and two layers stand in two of them, and so does the ladder's third."""
    assert sorted(PAPER - set(NAMES)) == [] and len(PAPER) == 31


def test_summary_counts_the_tables() -> None:
    row = strict(CliRunner().invoke(app, ["table", "--summary", "--json"]).stdout)
    assert (row["runs"], row["configurations"]) == (len(TABLES["runs"]), len(NAMES))
    assert (row["snapshots"], row["ablations"]) == (len(TABLES["snapshots"]), len(TABLES["ablations"]))
