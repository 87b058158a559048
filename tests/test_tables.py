"""The measurement tables: joined, checked, written, read, selected."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ictl_utils import data, tables
from ictl_utils.config import IctlError, ModelConfig, TrainConfig
from ictl_utils.snapshots import Run
from ictl_utils.survey import QUICK, survey, tables_folder
from ictl_utils.tables import DECIMALS, OPTIONAL, SCHEMA, collect, read, select, summary, write
from ictl_utils.train import train

SMALL = {"d_model": 32, "n_heads": 2, "n_ctx": 32, "d_vocab": 200}
LENGTH = {"corpus": "bursty", "tokens": 20 * 4 * 32, "batch": 4, "snapshots": 5, "warmup": 5, "init_seed": 2,
          "data_seed": 1}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three tiny measured runs: without layers, with two, with smeared keys."""
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICTL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256 * 2)
        made = [train(ModelConfig(n_layers=n, smear=smear, **SMALL), TrainConfig(**LENGTH), out, device="cpu")
                for n, smear in ((0, "none"), (2, "none"), (1, "key"))]  # fmt: skip
        for run in made:
            survey(run, QUICK)
    return made


@pytest.fixture(scope="module")
def joined(runs: list[Run]) -> tables.Tables:
    return collect(runs[0].path.parent, {run.run_id: (f"model-{i}", "attn") for i, run in enumerate(runs)}, QUICK)


@pytest.fixture
def folder(joined: tables.Tables, tmp_path: Path) -> Path:
    write(joined, tmp_path)
    return tmp_path


def test_rows_of_every_run_are_there(joined, runs: list[Run]) -> None:
    assert list(joined) == list(SCHEMA)
    order = sorted(range(3), key=lambda i: runs[i].run_id)
    assert joined["runs"]["name"].tolist() == [f"model-{i}" for i in order]
    for run in runs:
        m, row = run.manifest, joined["runs"].set_index("run_id").loc[run.run_id]
        assert row["parameters"] == m["parameters"] and row["flops"] == m["flops"] and row["tokens"] == run.tokens[-1]
        assert row["core_seconds"] == m["cpu_seconds"] and row["corpus_sha"] == m["corpus"]["sha256"]
        m_cfg, t_cfg = run.model_cfg, run.train_cfg
        assert row["batch_tokens"] == t_cfg.batch * m_cfg.n_ctx and row["snapshots"] == len(run)
        assert [row[c] for c in ("n_layers", "d_model", "n_heads", "mlp", "positions", "smear")] == [
            m_cfg.n_layers, m_cfg.d_model, m_cfg.n_heads, m_cfg.mlp, m_cfg.positions, m_cfg.smear]  # fmt: skip
        assert [row[c] for c in ("corpus", "lr", "warmup_steps", "optimizer", "init_seed", "data_seed")] == [
            t_cfg.corpus, t_cfg.lr, t_cfg.warmup, t_cfg.optimizer, t_cfg.init_seed, t_cfg.data_seed]  # fmt: skip
        for name, own in survey(run, QUICK).items():
            assert (joined[name]["run_id"] == run.run_id).sum() == len(own)
    heads = joined["heads"]
    assert heads["sigma_alpha"].notna().equals(heads["run_id"] == runs[2].run_id)


def test_what_was_written_is_read(joined, folder: Path) -> None:
    found = read(folder)
    for name, columns in SCHEMA.items():
        assert list(found[name]) == [c for c in columns if c in joined[name]] and len(found[name]) == len(joined[name])
        for column in set(found[name]) - {"losses_nats"}:
            was, now = joined[name][column], found[name][column]
            assert now.tolist() == was.tolist() if was.dtype.kind not in "f" else np.allclose(
                now, was.astype(float), atol=0.51 * 10.0 ** -DECIMALS.get(name, 5), equal_nan=True), (name, column)
    assert found["heads"]["prefix_matching"].dtype == found["snapshots"]["loss_nats"].dtype == np.float32
    assert found["runs"]["flops"].tolist() == joined["runs"]["flops"].tolist()
    assert found["facts"]["value"].tolist() == joined["facts"]["value"].tolist()
    losses = zip(found["token_losses"]["losses_nats"], joined["token_losses"]["losses_nats"], strict=True)
    assert all(np.allclose(a, np.asarray(b, float), rtol=1e-3, atol=0.051) for a, b in losses)


def test_what_is_written_anew_is_read_anew(joined, folder: Path) -> None:
    before = read(folder)["runs"]
    other = joined | {"runs": joined["runs"].assign(label="another")}
    write(other, folder)
    assert before["label"].tolist() != read(folder)["runs"]["label"].tolist() == ["another"] * 3


def test_only_known_finished_and_measured_runs_are_joined(runs: list[Run], tmp_path: Path) -> None:
    place, one = runs[0].path.parent, runs[1]
    assert collect(place, {one.run_id: ("it", "attn")}, QUICK)["runs"]["run_id"].tolist() == [one.run_id]
    with pytest.raises(IctlError, match="holds no measured run of the zoo; `ictl ladder`"):
        collect(place, {"2l-s0-unknown": ("it", "attn")}, QUICK)
    with pytest.raises(IctlError, match="holds no measured run of the zoo"):
        collect(place, {one.run_id: ("it", "attn")})  # measured with less effort only
    (tables_folder(one, QUICK) / "facts.parquet").rename(tmp_path / "facts.parquet")
    with pytest.raises(IctlError, match="holds no measured run of the zoo"):
        collect(place, {one.run_id: ("it", "attn")}, QUICK)
    (tmp_path / "facts.parquet").rename(tables_folder(one, QUICK) / "facts.parquet")


def test_a_missing_column_is_named(joined, tmp_path: Path) -> None:
    with pytest.raises(IctlError, match="table 'heads' lacks the column copying; measure again"):
        write(joined | {"heads": joined["heads"].drop(columns="copying")}, tmp_path)
    with pytest.raises(IctlError, match="the table 'facts' is missing"):
        write({name: frame for name, frame in joined.items() if name != "facts"}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_values_are_named_with_their_run(joined, runs: list[Run], tmp_path: Path) -> None:
    for name in ("snapshots", "ablations", "runs"):
        for column in set(SCHEMA[name]) - OPTIONAL - {"run_id"}:
            broken = joined[name].astype({column: object})
            broken.loc[broken.index[-1], column] = None
            words = f"table '{name}', column '{column}': 1 values .* of run {broken['run_id'].iloc[-1]}"
            with pytest.raises(IctlError, match=words):
                write(joined | {name: broken}, tmp_path)


def test_infinite_numbers_are_named(joined, tmp_path: Path) -> None:
    for name, column in (("snapshots", "icl_nats"), ("ablations", "attribution_nats")):
        broken = joined[name].copy()
        broken.loc[broken.index[0], column] = -np.inf
        with pytest.raises(IctlError, match=f"table '{name}', column '{column}': 1 values are .* or infinite"):
            write(joined | {name: broken}, tmp_path)
    broken = joined["token_losses"].copy()
    broken.at[0, "losses_nats"] = np.full_like(broken.at[0, "losses_nats"], np.nan)
    with pytest.raises(IctlError, match="table 'token_losses', column 'losses_nats': 1 values are missing"):
        write(joined | {"token_losses": broken}, tmp_path)


def test_what_may_be_empty_may_be_empty_only_where_it_has_no_meaning(joined, runs: list[Run], tmp_path: Path) -> None:
    heads = joined["heads"]
    assert heads[heads["layer"] == 0]["qk_trace"].isna().all()
    write(joined, tmp_path)
    for column, run in (("sigma_alpha", runs[2]), ("qk_trace", runs[1]), ("qk_positivity", runs[1])):
        with pytest.raises(IctlError, match=f"table 'heads', column '{column}': .* the first of run {run.run_id}"):
            write(joined | {"heads": heads.assign(**{column: np.nan})}, tmp_path)


@pytest.mark.parametrize("name", ["snapshots", "positions", "token_losses", "heads", "composition", "ablations"])
def test_missing_rows_are_named_with_their_run(joined, runs: list[Run], tmp_path: Path, name: str) -> None:
    frame, run = joined[name], runs[1].run_id
    gone = frame[(frame["run_id"] == run) & (frame["fill"] == "zero" if name == "ablations" else True)].index
    for left, there in ((frame.drop(index=gone[0]), len(gone) - 1), (frame.drop(index=gone), 0)):
        with pytest.raises(IctlError, match=rf"table '{name}' has {there} .* of run {run}, expected \d+; measure"):
            write(joined | {name: left}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_read_belongs_to_the_reader(folder: Path) -> None:
    one = tables.read(folder)["runs"]
    one.loc[0, "name"] = "mine"
    assert tables.read(folder)["runs"]["name"][0] != "mine"


def test_files_missing_damaged_or_altered(joined, folder: Path) -> None:
    path = folder / "positions.parquet"
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"no parquet at all"):
        path.write_bytes(damaged)
        with pytest.raises(IctlError, match="positions.parquet cannot be read"):
            read(folder)
    joined["positions"].drop(columns="loss_nats").to_parquet(path)
    with pytest.raises(IctlError, match="table 'positions' lacks the column loss_nats"):
        read(folder)
    joined["positions"].assign(loss_nats=np.nan).to_parquet(path)
    with pytest.raises(IctlError, match="table 'positions', column 'loss_nats': .* values are missing"):
        read(folder)
    path.unlink()
    with pytest.raises(IctlError, match="positions.parquet is missing; .*`ictl ladder`"):
        read(folder)


def test_select(joined, runs: list[Run]) -> None:
    rows = select(joined, "heads", name="model-1", layer=1)
    assert set(rows["run_id"]) == {runs[1].run_id} and set(rows["layer"]) == {1}
    assert len(rows) == 2 * len(runs[1]) and set(rows["corpus"]) == {"bursty"}
    assert len(select(joined, "runs", mlp="True")) == 0 and len(select(joined, "runs", mlp=False)) == 3
    assert select(joined, "snapshots", snapshot="0", n_layers=0)["tokens"].tolist() == [0]
    assert sorted(set(rows["tokens"])) == runs[1].tokens.tolist()  # of the snapshot, not of the whole run
    assert set(rows["tokens_of_run"]) == {runs[1].tokens[-1]}
    with pytest.raises(IctlError, match="table='head' is not known; choose one of runs, snapshots"):
        select(joined, "head")
    with pytest.raises(IctlError, match="column='seed' is not known; choose one of .*init_seed"):
        select(joined, "runs", seed=0)


def test_summary_counts(joined, runs: list[Run]) -> None:
    counts = summary(joined)
    assert (counts["configurations"], counts["runs"]) == (3, 3)
    assert counts["snapshots"] == sum(map(len, runs)) and counts["devices"] == ["cpu float32"]
    assert counts["ablations"] == sum(len(survey(run, QUICK)["ablations"]) for run in runs) > 0
    assert counts["core_hours"] == round(sum(r.manifest["cpu_seconds"] for r in runs) / 3600, 2)


def test_every_column_has_a_meaning() -> None:
    for name, columns in SCHEMA.items():
        assert "run_id" in columns and all(text.strip() for text in columns.values()), name
    assert OPTIONAL <= {column for columns in SCHEMA.values() for column in columns}


def test_numbers_that_are_words_are_refused(joined) -> None:
    broken = joined["runs"].assign(n_layers="two")
    with pytest.raises(IctlError, match="table 'runs', column 'n_layers' holds no numbers"):
        tables.check(joined | {"runs": broken})


def test_select_any_of_several_values(joined) -> None:
    both = select(joined, "heads", name=["model-1", "model-2"], layer=("0",))
    assert set(both["name"]) == {"model-1", "model-2"} and set(both["layer"]) == {0}
    assert len(select(joined, "runs", name=[])) == 0


def test_a_run_in_two_folders_is_refused(runs: list[Run], tmp_path: Path) -> None:
    one = runs[1]
    for name in ("a", "b"):
        shutil.copytree(one.path, tmp_path / name / one.run_id)
    with pytest.raises(IctlError, match=rf"{one.run_id} is there twice, in {tmp_path}/a/.* and in {tmp_path}/b/"):
        collect(tmp_path, {one.run_id: ("it", "attn")}, QUICK)
    shutil.rmtree(tmp_path / "b")
    assert len(collect(tmp_path, {one.run_id: ("it", "attn")}, QUICK)["runs"]) == 1


def test_manifests_that_cannot_be_used_are_named(runs: list[Run], tmp_path: Path) -> None:
    shutil.copytree(runs[0].path, tmp_path / "good")
    manifest = json.loads((tmp_path / "good" / "manifest.json").read_text())
    odd = {"empty": {}, "list": [], "newer": manifest | {"model": manifest["model"] | {"depth": 3}},
           "lacking": {k: v for k, v in manifest.items() if k != "seconds"}, "bare": manifest | {"snapshots": []}}
    for name, content in odd.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(content))
    (tmp_path / "empty" / "manifest.json").write_text("{")
    found, wrong = tables.open_runs(tmp_path)
    assert [run.path.name for run in found] == ["good"] and len(wrong) == 5
    for name, words in (("empty", "is damaged"), ("list", "left out"), ("newer", "'depth'"),
                        ("lacking", "lacks seconds"), ("bare", "no snapshot")):  # fmt: skip
        (line,) = (line for line in wrong if line.startswith(f"{tmp_path / name / 'manifest.json'} is "))
        assert words in line and "left out" in line
    with pytest.raises(IctlError, match="holds no run; expected a folder that"):
        tables.open_runs(tmp_path / "none")


def test_hours_are_those_of_cores(joined) -> None:
    runs = joined["runs"].assign(core_seconds=[3600.0, 7200.0, 1800.0], seconds=1.0)
    assert summary(joined | {"runs": runs})["core_hours"] == 3.5


def test_of_a_run_in_both_the_new_tables_count(joined) -> None:
    names = {run: (f"model-{i}", "attn") for i, run in enumerate(joined["runs"]["run_id"])}
    old = joined | {"snapshots": joined["snapshots"].assign(loss_nats=99.0)}
    assert (tables.merged(old, joined, names)["snapshots"]["loss_nats"] == 99).all()
    assert (tables.merged(joined, old, names)["snapshots"]["loss_nats"] < 99).all()
    assert len(tables.merged(joined, old, names)["runs"]) == 3
    other = {run: ("renamed", "mlp") for run in names}
    assert set(tables.merged(joined, old, other)["runs"]["name"]) == {"renamed"}
