"""The benchmark compares equal things: same weights, same losses, whoever trains; and it runs."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from ictl_utils import tables
from ictl_utils import train as training
from ictl_utils.config import Device, IctlError, ModelConfig, TrainConfig, run_id
from ictl_utils.loss import mean_loss
from ictl_utils.zoo import entries, find

sys.path.insert(0, str(ROOT / "bench"))

import ladder  # noqa: E402
import record  # noqa: E402
import snapshot_cost  # noqa: E402
import time_to_change  # noqa: E402
import train_throughput as bench  # noqa: E402

MODEL = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=24, d_vocab=64, positions="learned")
TRAIN = TrainConfig(batch=4, lr=1e-2, warmup=0, schedule="constant")
CPU = Device("cpu", "float32", "test")


@pytest.fixture(scope="module")
def result() -> bench.Result:
    """One round at a tiny size; every AdamW with the beta2 that TransformerLens' loop does not let choose."""
    pytest.importorskip("transformer_lens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BETAS", (0.9, 0.999))
        return bench.measure(bench.Setting(MODEL, TRAIN, CPU, rounds=1, steps=19), say=lambda _: None)


def test_all_start_from_the_same_weights_and_train_to_the_same_loss(result: bench.Result) -> None:
    assert not result.skipped and list(result.losses) == list(bench.CONTESTANTS)
    ours = result.losses[bench.OURS]
    assert len(ours) == 21 and ours[0] - ours[20] > 0.3, "the model must have moved for a comparison to mean something"
    for name in result.losses.keys() - {bench.OURS, bench.SHORTFORMER}:
        assert result.apart(name, 0) < 1e-4 and result.apart(name, 20) < 1e-3, name


def test_every_implementation_is_timed_over_whole_steps(result: bench.Result) -> None:
    assert all(len(rates) == 1 and rates[0] > 0 for rates in result.rates.values()) and result.gemm[0] > 1e8
    assert 0 < result.share(bench.OURS) < 1
    lap = bench.Lap(bench.Setting(MODEL, TRAIN, CPU, steps=2), ticks=[0.0, 10.0, 11.0, 12.0])
    assert lap.rate == 2 * 4 * 24 / 2.0


@pytest.mark.parametrize("layers", [1, 3])
def test_flops_by_formula_are_those_pytorch_counts(layers: int) -> None:
    cfg = ModelConfig(n_layers=layers)
    assert bench.counted_flops(cfg) == pytest.approx(bench.Transformer(cfg).flops_per_token(), rel=0.02)


def test_another_start_is_refused() -> None:
    result = bench.Result(bench.Setting(MODEL, TRAIN, CPU), losses={bench.OURS: [4.0], "plain loop": [4.001]})
    with pytest.raises(IctlError, match=r"plain loop starts from a loss of 4\.00100, ours from 4\.00000"):
        bench.check_start(result)


def test_command_prints_a_line_a_row_and_says_what_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens.config", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    bench.main(["--layers", "1", "--rounds", "1", "--steps", "1", "--json", str(tmp_path / "out.json")])
    out, numbers = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    rows = [line.split()[0] for line in out.splitlines() if " - " in line and "%" in line]
    assert rows == ["ictl_utils", "ictl_utils,", "plain"]
    out = " ".join(out.split())  # one long line: the console wraps
    assert "skipped TransformerLens" in out and "skipped HF Trainer" in out and "goals are 1.3 times and 60%" in out
    assert list(numbers["skipped"]) == ["TransformerLens", "HF Trainer", "HF Trainer, no DataLoader"]
    assert numbers["tokens_per_second"]["plain loop"][0] > 0


def test_bad_options_are_one_sentence(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match=r"^train_throughput: rounds=0 must be at least 1\.$"):
        bench.main(["--rounds", "0"])


def test_nanogpt_ties_its_embeddings_and_decays_matrices_alone() -> None:
    model, opt, model_cfg, cfg = time_to_change.start("nanoGPT defaults", 0)
    assert model_cfg.positions == "learned" and torch.equal(model.W_U, model.W_E.T)
    decayed, rest = ({id(p) for p in group["params"]} for group in opt.param_groups)
    assert {name for name, p in model.named_parameters() if id(p) in rest} == {"ln1", "ln_final"}
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.0] and not decayed & rest
    ids = torch.arange(256).view(2, 128)
    mean_loss(model.read_out(model.trunk(ids)).flatten(0, 1), model.W_U, ids.flatten()).backward()
    other = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    assert torch.allclose(torch.autograd.grad(other, model.W_E)[0], model.W_E.grad, atol=1e-6)
    assert 0.018 < float(model.W_E.detach().std()) < 0.022 and 0.009 < float(model.W_O.detach().std()) < 0.011
    results = [time_to_change.Result(who, seed, who == "ours", 1, seconds, 0.4) for seed in (0, 1)
               for who, seconds in zip(time_to_change.CONTESTANTS, (4.0, 15.0), strict=True)]  # fmt: skip
    assert "core seconds: at least 3.75 (3.75 to 3.75), goal 3" in time_to_change.table(results)


def test_the_ladders_cost_is_that_of_its_runs() -> None:
    runs = tables.read()["runs"]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in ladder.cost(runs).splitlines() if "|" in row]
    assert rows[0] == list(ladder.COLUMNS) and [len(row) for row in rows] == [7] * len(rows)
    assert int(rows[-1][2]) == len(runs) == sum(int(row[2]) for row in rows[2:-1])
    assert float(rows[-1][5]) == pytest.approx(tables.summary({**tables.read()})["core_hours"], abs=0.01)
    half = runs[runs["n_layers"] < 2]
    missing = {run_id(*run) for entry in entries("laptop") for run in entry.runs()} - set(half["run_id"])
    assert f"{len(missing)} runs of the zoo are not measured yet" in ladder.cost(half)


def test_a_ladder_is_timed_with_its_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "climb", partial(ladder.climb, family="docs-attn-[12]l"))
    words = ladder.climbed("smoke", "cpu")
    tokens = sum(find(f"docs-attn-{n}l", "smoke").train.tokens for n in (1, 2))
    assert re.fullmatch(rf"preset smoke on cpu: 2 runs, {tokens / 1e6:.1f} M tokens, trained and measured in "
                        r"\d+\.\d minutes", words)  # fmt: skip


def test_goals_are_read_off_the_sections() -> None:
    text = record.RESULTS.read_text()
    sections = re.split(r"(?m)^(?=## )", text)[1:]
    assert record.overview(sections) in text and record.overview(sections).count("\n") == 1 + len(record.GOALS)
    worse = [part.replace("median 1.0", "median 1.3") for part in sections]
    assert "| 1.03 | met |" in record.overview(sections) and "| 1.03 | missed |" in record.overview(worse)


def test_snapshots_are_timed_inside_a_run() -> None:
    n, train, keep = snapshot_cost.timed(4, 20 * 8 * 128)
    assert n == 4 and 0 < keep and 0 < train


def test_results_are_kept_a_section_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ablations.py").write_text("import sys; print('| ratio |\\n| --- |\\n|', sys.argv[1], '|')")
    (tmp_path / "snapshot_cost.py").write_text("print('median 1.02; goal 1.03')")
    monkeypatch.setattr(record, "HERE", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "RESULTS.md")
    for words in (["snapshot_cost"], ["ablations", "11"], ["ablations", "12"]):
        record.main(words)
    text = record.RESULTS.read_text()
    assert text.startswith("# Benchmarks") and "| 12 |" in text and "| 11 |" not in text
    assert "| snapshots: seconds with over without | 1.02 | 1.03 | met |" in text and "missed" not in text
    assert "```text\nmedian 1.02; goal 1.03\n```" in text
    assert text.index("## ablations") < text.index("## snapshot_cost")
    (tmp_path / "ablations.py").write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit):
        record.main(["ablations"])
    assert record.RESULTS.read_text() == text and len(list(tmp_path.iterdir())) == 3
    with pytest.raises(SystemExit, match="usage"):
        record.main(["speed"])
