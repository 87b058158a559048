"""The chapters: committed clean, run by papermill at preset smoke, and what came out is what it should be."""

import json
import os
from pathlib import Path

import numpy as np
import papermill
import pytest

from ictl_utils.measure import measure
from ictl_utils.snapshots import find_runs

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory):
    """Chapters share one folder of models, as in the book; the corpus is encoded once."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICTL_RUNS", str(folder))
        yield folder


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_committed_clean(chapter: Path) -> None:
    notebook = json.loads(chapter.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "widgets" not in notebook["metadata"] and "colab" in notebook["metadata"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert "google.colab" in "".join(code[0]["source"]) and 'preset = "laptop"' in "".join(code[1]["source"])
    longest = max(sum(bool(line.strip()) for line in cell["source"]) for cell in code)
    assert longest <= 15
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_runs_at_preset_smoke(chapter: Path, runs_folder: Path, tmp_path: Path) -> None:
    done = papermill.execute_notebook(
        chapter, tmp_path / chapter.name, parameters={"preset": "smoke"}, cwd=chapter.parent,
        progress_bar=False, execution_timeout=400, kernel_name="python3",
    )  # fmt: skip
    html = [output["data"]["text/html"] for cell in done.cells for output in cell.get("outputs", [])
            if "text/html" in output.get("data", {})]  # fmt: skip
    assert len(html) >= 3 and all(len("".join(page)) > 100 for page in html)
    size = os.path.getsize(tmp_path / chapter.name)
    assert size < 12e6, f"{size / 1e6:.1f} MB of output"


def test_what_came_out(runs_folder: Path) -> None:
    found = {run.label: measure(run) for run in find_runs(runs_folder) if run.train_cfg.corpus == "stdlib"}
    assert set(found) == {"1L", "1L smeared keys", "2L"}
    smeared, plain = found["1L smeared keys"], found["1L"]
    assert smeared.prefix_matching[-1].max() > 0.4 and smeared.prefix_random[-1].max() > 0.4
    assert plain.prefix_matching[-1].max() < 0.1 and plain.prefix_random[-1].max() < 0.1
    assert smeared.icl[-1] < plain.icl[-1] - 3 * np.hypot(smeared.icl_se[-1], plain.icl_se[-1])
    assert all(history.loss[-1] < 4.0 < 6.0 < history.loss[0] for history in found.values())
