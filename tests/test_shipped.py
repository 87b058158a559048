"""What comes with the package: measurements as precise as promised, long enough runs, and small files."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from ictl_utils import tables, weights
from ictl_utils.claims import load_claims
from ictl_utils.cli import app
from ictl_utils.curves import phase_change
from ictl_utils.judgement import judge_zoo, missing, report
from ictl_utils.numbers_base import Zoo
from ictl_utils.numbers_shapes import FORMED
from ictl_utils.zoo import entries

TABLES = tables.read()
NAMES = sorted(set(TABLES["runs"]["name"]))
LONG = 0.999 * 15e6  # whole batches make it a little less


def test_scores_are_precise_and_snapshots_many() -> None:
    found = TABLES["snapshots"].groupby("run_id")
    assert found["icl_se_nats"].max().max() <= 0.03
    assert found.size().min() >= 60


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_three_times_as_long_as_their_onset_or_long(name: str) -> None:
    zoo, known = Zoo(TABLES), {e.name for e in entries()}
    for run in (zoo.run(name, seed) for seed in zoo.seeds(name)):
        if run.best_prefix.max() > FORMED:
            onset = phase_change(run.tokens, -run.best_prefix).start
            assert run.tokens[-1] >= 3 * onset or f"{name}-long" in known, (run.run["run_id"], onset)
        elif run.run["n_layers"]:  # nothing forms: long, here or in a control
            assert run.tokens[-1] >= LONG or f"{name}-long" in known
        assert not name.endswith("-long") or run.tokens[-1] >= LONG


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
    assert not missing(judged)
    assert all(j.verdict.n_seeds >= 3 for j in judged if j.claim.testable and j.claim.id[0] in "ABC")


def test_summary_counts_the_tables() -> None:
    row = strict(CliRunner().invoke(app, ["table", "--summary", "--json"]).stdout)
    assert (row["runs"], row["configurations"]) == (len(TABLES["runs"]), len(NAMES))
    assert (row["snapshots"], row["ablations"]) == (len(TABLES["snapshots"]), len(TABLES["ablations"]))
