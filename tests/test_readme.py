"""The README's table of seeds is what was measured."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def seeds():
    spec = importlib.util.spec_from_file_location("three_seeds", ROOT / "bench" / "three_seeds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_seeds_table_is_the_measured_one(seeds) -> None:
    table = pd.read_csv(seeds.TABLE)
    assert seeds.block(table) in (ROOT / "README.md").read_text(encoding="utf8")


def test_both_models_form_an_induction_head(seeds) -> None:
    table = pd.read_csv(seeds.TABLE)
    for label in seeds.MODELS:
        rows = table[table["model"] == label].set_index("seed")["prefix_matching"]
        assert sorted(rows.index) == [0, 1, 2]
        assert rows[0] > 0.4 and rows.median() > 0.4, rows
