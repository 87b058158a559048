"""The command line, as a user meets it."""

import csv
import io
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ictl_utils import cli, data, tables, weights, zoo
from ictl_utils.claims import load_claims
from ictl_utils.config import preset, run_id
from ictl_utils.tokens import load_tokens


@pytest.fixture
def ictl(monkeypatch: pytest.MonkeyPatch, tmp_path_factory, capfd):
    """Run ``ictl ...`` in this process; returns exit code, stdout and stderr."""
    monkeypatch.setenv("ICTL_HOME", str(tmp_path_factory.getbasetemp() / "cli_home"))
    monkeypatch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256 * 4)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ictl", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
            raise SystemExit(0)
        out, err = capfd.readouterr()
        return done.value.code or 0, out, err

    return run


LINE = re.compile(r"^1L seed 3: 20480 tokens, [\d.]+ s, loss [\d.]+ nats, ICL score -?[\d.]+ \+- [\d.]+ nats, "
                  r"best prefix matching [\d.]+ \(L0H\d\)$")  # fmt: skip


def test_train_show_measure(ictl, tmp_path) -> None:
    train = ("train", "--preset", "laptop", "--layers", 1, "--seed", 3, "--tokens", "20e3", "--corpus", "repeat",
             "--out", tmp_path)  # fmt: skip
    code, out, err = ictl(*train)
    assert code == 0 and LINE.match(out.strip().splitlines()[-1]), out
    assert "device: cpu in float32" in err or "device: cuda" in err
    code, out, _ = ictl("show", "--out", tmp_path)
    assert code == 0 and "finished" in out and "1l-s3-" in out
    code, out, _ = ictl("measure", "--out", tmp_path, "--quick", "--jobs", 1)
    found = tables.read(tmp_path / "tables")
    assert code == 0 and out.strip().endswith(f"rows of 1 run: {tmp_path / 'tables'}")
    assert set(found["runs"]["run_id"]) == {Path(p).parent.name for p in tmp_path.glob("*/manifest.json")}
    assert len(found["snapshots"]) == int(found["runs"]["snapshots"].iloc[0]) > 4


def test_zero_layers_have_no_heads(ictl, tmp_path) -> None:
    code, out, _ = ictl("train", "--layers", 0, "--tokens", "5e3", "--corpus", "repeat", "--out", tmp_path)
    assert code == 0 and out.strip().endswith("no heads")


def test_corpora(ictl) -> None:
    code, out, _ = ictl("corpora", "bursty")
    assert code == 0 and re.search(r"bursty  \d+ documents .* copy_pay 0\.\d+", out)


@pytest.mark.parametrize("arguments, words", [
    (("train", "--preset", "huge"), "preset='huge' is not known; choose one of smoke, laptop, gpu"),
    (("train", "--corpus", "books"), "corpus='books' is not known"),
    (("train", "--layers", "12"), "n_layers=12 is out of range"),
    (("train", "--tokens", "-5"), "tokens=-5 must be at least 1"),
    (("show", "--out", "/nowhere/at/all"), "holds no run"),
    (("grade", "/nowhere/at/all", "--assignment", "A6"), "assignment='A6' is not known; expected one of a1, a2, a3"),
    (("grade", "/nowhere/at/all", "--assignment", "A5"), "/nowhere/at/all is no folder"),
])  # fmt: skip
def test_mistakes_are_one_sentence(ictl, arguments: tuple, words: str) -> None:
    code, _, err = ictl(*arguments)
    assert code == 2 and words in err and "Traceback" not in err


def test_no_gpu(ictl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = ictl("train", "--device", "cuda")
    assert code == 2 and "device='cuda'" in err


# ---- the zoo --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ladder with two runs, not climbed yet."""
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture
def ladder(ictl, climbed: Path) -> Path:
    """Tables of a ladder with two models."""
    if not (climbed / "tables").exists():
        code, out, _ = ictl("ladder", "--preset", "smoke", "--family", "docs-attn-[12]l", "--seeds", 1, "--jobs", 1,
                            "--out", climbed)  # fmt: skip
        assert code == 0 and out.splitlines() == [f"2 runs trained in {climbed}", f"tables: {climbed / 'tables'}"]
    return climbed / "tables"


def test_ladder_and_table(ictl, ladder: Path, tmp_path: Path) -> None:
    ids = [run_id(*zoo.find(f"docs-attn-{n}l", "smoke").runs(1)[0]) for n in (1, 2)]
    code, out, _ = ictl("table", "--from", ladder, "--json")
    assert code == 0 and sorted(row["run_id"] for row in json.loads(out)) == sorted(ids)
    code, out, _ = ictl("table", "heads", "--from", ladder, "--where", "name=docs-attn-2l", "--where", "layer=1",
                        "--columns", "run_id,head,copying", "--csv", tmp_path / "heads.csv")  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((tmp_path / "heads.csv").read_text())))
    assert code == 0 and out.startswith(f"{len(rows)} rows") and list(rows[0]) == ["run_id", "head", "copying"]
    assert {row["run_id"] for row in rows} == {ids[1]} and {row["head"] for row in rows} == {"0", "1"}
    code, out, _ = ictl("table", "--from", ladder, "--summary", "--json")
    assert code == 0 and json.loads(out)["runs"] == 2
    code, out, _ = ictl("table", "--schema")
    assert code == 0 and len(out.splitlines()) == sum(map(len, tables.SCHEMA.values())) + len(tables.FACTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_s_preset_needs_one(ictl, tmp_path: Path) -> None:
    code, _, err = ictl("ladder", "--preset", "gpu", "--out", tmp_path)
    assert code == 2 and "PyTorch sees no GPU here" in err and not list(tmp_path.iterdir())


def test_what_comes_measured_is_left_out(ictl, tmp_path: Path) -> None:
    code, out, _ = ictl("ladder", "--beyond-shipped", "--family", "attn-[12]l", "--seeds", 1, "--out", tmp_path)
    assert code == 0 and out.startswith("nothing to train") and not list(tmp_path.iterdir())


def test_claims_without_their_models_have_no_verdict(ictl, ladder: Path) -> None:
    code, out, err = ictl("claims", "--from", ladder, "--preset", "smoke")
    absent = [c.id for c in load_claims() if c.testable and not any(m.startswith("docs-") for m in c.models)]
    assert code == 1 and f"no verdict yet: {', '.join(absent)}; `ictl ladder --preset smoke`" in err
    assert f"{len(absent)} missing" in out
    code, out, _ = ictl("claims", "--from", ladder, "--preset", "smoke", "--id", absent[0], "--json")
    assert code == 1 and [row["verdict"] for row in json.loads(out)] == ["missing"]
    assert json.loads(out)[0]["how_to_test"] == "not measured: attn-2l, attn-3l, attn-4l, attn-5l, attn-6l"


def test_zoo_list(ictl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = weights.Shipped("attn-2l-s0-5.safetensors", "0" * 64, run_id(*zoo.find("attn-2l").runs()[0]), "attn-2l", 0, 5,
                          True, 0.01)  # fmt: skip
    monkeypatch.setattr(weights, "REGISTRY", tmp_path / "weights.json")
    weights.REGISTRY.write_text(json.dumps([vars(one)] * 3))
    code, out, _ = ictl("zoo", "list")
    *lines, total = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == [e.name for e in zoo.entries()]
    assert [line for line in lines if "weights" in line] == [lines[0]] and "3 snapshots" in lines[0]
    assert [line.split()[0] for line in lines if "same as attn-4l" in line] == ["ladder-3"]
    ids = {run_id(m, t) for e in zoo.entries() for m, t in e.runs()}
    measured = ids & set(tables.read()["runs"]["run_id"])
    assert total == f"{len(measured)} of {len(ids)} runs measured"


@pytest.mark.parametrize("arguments, words", [
    (("ladder", "--preset", "huge"), "preset='huge' is not known; choose one of smoke, laptop, gpu"),
    (("ladder", "--family", "rnn"), "family='rnn' matches no model of the zoo"),
    (("ladder", "--backend", "slurm"), "backend='slurm' is not known; choose one of loky, dask"),
    (("ladder", "--preset", "smoke", "--seeds", "0"), "seeds=0 must be at least 1"),
    (("measure", "--out", "/nowhere/at/all"), "holds no run"),
    (("table", "head", "--from", "TABLES"), "table='head' is not known; choose one of runs, snapshots"),
    (("table", "runs", "--from", "TABLES", "--where", "seed"), "--where 'seed' is no condition; expected column=value"),
    (("table", "runs", "--from", "TABLES", "--where", "seed=0"), "column='seed' is not known; choose one of"),
    (("table", "runs", "--from", "TABLES", "--columns", "name,seed"), "columns=['seed'] are not in table 'runs'"),
    (("table", "--from", "/nowhere/at/all"), "runs.parquet is missing"),
    (("claims", "--from", "TABLES", "--preset", "smoke", "--id", "Z99"), "'Z99' is no claim; ids run from A01 to"),
    (("claims", "--from", "/nowhere/at/all"), "runs.parquet is missing"),
    (("zoo", "list", "--preset", "huge"), "preset='huge' is not known"),
    (("zoo", "pack", "--out", "/nowhere/at/all"), "holds no run"),
])  # fmt: skip
def test_mistakes_with_the_zoo_are_one_sentence(ictl, ladder: Path, arguments: tuple, words: str) -> None:
    code, out, err = ictl(*(ladder if word == "TABLES" else word for word in arguments))
    assert code == 2 and err.startswith("ictl: ") and words in err and "Traceback" not in err
    assert err.count("\n") == 1 and not out


def test_verify_fails_where_numbers_and_weights_disagree(ictl, ladder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tables.read(ladder)["runs"].assign(agrees=[True, False])
    monkeypatch.setattr(weights, "verify", lambda *_: found)
    monkeypatch.setattr(tables, "read", lambda *_: {})
    code, out, err = ictl("zoo", "verify")
    assert code == 1 and "1 of 2 numbers do not agree with their weights" in err and "agrees" in out


# ---- one sentence instead of a traceback, and no wrong answer ---------------------------------------


@pytest.mark.parametrize("arguments, words", [
    (("train", "--tokens", "nan"), "tokens=nan is no number of training tokens"),
    (("train", "--tokens", "inf"), "tokens=inf is no number of training tokens"),
    (("train", "--threads", "0", "--out", "TMP/new"), "threads=0 is out of range"),
    (("train", "--threads", "-2", "--out", "TMP/new"), "threads=-2 is out of range"),
    (("train", "--threads", "1000000", "--out", "TMP/new"), "threads=1000000 is out of range"),
    (("train", "--tokens", "1e30", "--out", "TMP/new"), "is too large; use at most 1e12"),
    (("train", "--seed", "4294967296", "--out", "TMP/new"), "init_seed=4294967296 is too large"),
    (("train", "--out", "TMP/file"), "file is a file; expected a folder for runs"),
    (("table", "runs", "--where", "name=zzz"), "name=zzz is in no row; there are attn-0l, "),
    (("table", "runs", "--where", "lr=high"), "lr=high is in no row; there are 0.003"),
    (("table", "nope", "--summary"), "table='nope' is not known"),
    (("table", "--summary", "--csv", "TMP/x.csv"), "exclude each other"),
    (("table", "--json", "--csv", "TMP/x.csv"), "as do --csv and --json"),
    (("table", "--from", "TMP"), "runs.parquet is missing; expected the folder `tables` that `ictl measure`"),
    (("train", "--corpus", "hf:"), "corpus='hf:' names no dataset"),
    (("ladder", "--out", "TMP/file/x"), "file is a file; expected a folder for runs"),
    (("pretrained", "pythia-70m", "--out", "TMP/file"), "file is a file; expected a folder for runs"),
    (("measure", "--out", "TMP", "--jobs", "0"), "jobs=0 must be at least 1"),
    (("corpora", "repeat", "--d-vocab", "70000"), "d_vocab=70000 does not fit ids of 16 bits"),
    (("table", "heads", "--csv", "/nonexist/x.csv"), "--csv /nonexist/x.csv cannot be written"),
    (("table", "heads", "--csv", "TMP"), "cannot be written; expected a file in a folder that is there"),
    (("zoo", "verify", "--n", "0"), "n=0 must be at least 1"),
    (("zoo", "verify", "--n", "-1"), "n=-1 must be at least 1"),
    (("zoo", "verify", "--seed", "-1"), "seed=-1 must not be negative"),
])  # fmt: skip
def test_more_mistakes_are_one_sentence(ictl, tmp_path: Path, arguments: tuple, words: str) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = ictl(*(word.replace("TMP", str(tmp_path)) for word in arguments))
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("ictl: ") and words in last and "Traceback" not in err and not out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_path_that_cannot_be_written_is_one_sentence(ictl, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "/locked/runs")

    monkeypatch.setattr("ictl_utils.train.train", denied)
    code, _, err = ictl("train", "--corpus", "repeat")
    assert code == 2 and err.endswith("ictl: /locked/runs: Permission denied; check the path and its permissions.\n")


def english(folder: Path, files: int, words: int) -> str:
    """A corpus of letters and blanks only: most of the 256 bytes are never seen."""
    draw = random.Random(0)
    known = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(2000)]
    folder.mkdir()
    for i in range(files):
        (folder / f"{i}.txt").write_text(" ".join(draw.choices(known, k=words)))
    return f"path:{folder}/*.txt"


def test_train_on_a_small_corpus(ictl, tmp_path: Path) -> None:
    corpus = english(tmp_path / "texts", 60, 500)
    assert (load_tokens(corpus, 1024).counts > 0).sum() < 819  # the upper rank of a large corpus
    code, out, _ = ictl("train", "--preset", "smoke", "--layers", 1, "--tokens", "4e3", "--corpus", corpus,
                        "--out", tmp_path / "runs")  # fmt: skip
    assert code == 0 and "best prefix matching" in out


def test_a_held_out_part_too_short_is_refused_before_training(ictl, tmp_path: Path) -> None:
    corpus = english(tmp_path / "texts", 60, 500)
    short = [p for p in (tmp_path / "texts").iterdir() if data.is_held_out(p.read_text())]
    for i, path in enumerate(short):
        text = f"eta {i}"
        while not data.is_held_out(text):
            text += " tin"
        path.write_text(text)
    code, _, err = ictl("train", "--preset", "smoke", "--corpus", corpus, "--out", tmp_path / "runs")
    assert code == 2 and "tokens, fewer than two windows of 128; give more or longer documents" in err
    assert not (tmp_path / "runs").exists()


def test_one_bad_run_does_not_hide_or_block_the_others(ictl, tmp_path: Path) -> None:
    common = ("--preset", "smoke", "--tokens", "3e3", "--corpus", "repeat", "--out", tmp_path)
    for layers in (0, 1):
        assert ictl("train", "--layers", layers, *common)[0] == 0
    few, good = (next(tmp_path.glob(f"{n}l-*")) for n in (0, 1))
    manifest = json.loads((few / "manifest.json").read_text())
    (few / "manifest.json").write_text(json.dumps(manifest | {"snapshots": manifest["snapshots"][-2:]}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text("{}")
    code, out, err = ictl("show", "--out", tmp_path)
    assert code == 0 and len(out.splitlines()) == 2 and good.name in out
    assert f"warning: {tmp_path / 'empty' / 'manifest.json'} is damaged, or of another version" in err
    code, out, err = ictl("measure", "--out", tmp_path, "--quick", "--jobs", 1)
    assert code == 1 and f"rows of 1 run: {tmp_path / 'tables'}" in out
    assert f"{few.name}: 2 snapshots are too few" in err and "it is left out" in err
    assert tables.read(tmp_path / "tables")["runs"]["run_id"].tolist() == [good.name]


def test_a_run_in_two_folders_is_not_measured(ictl, tmp_path: Path) -> None:
    ictl("train", "--layers", 0, "--tokens", "3e3", "--corpus", "repeat", "--out", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    code, out, err = ictl("measure", "--out", tmp_path, "--quick", "--jobs", 1)
    assert code == 2 and not out and f"in {tmp_path}/a/" in err and f"in {tmp_path}/b/" in err


def test_a_column_given_twice_may_be_either(ictl, ladder: Path) -> None:
    where = [word for n in (1, 2, 3) for word in ("--where", f"name=docs-attn-{n}l")]
    code, out, _ = ictl("table", "runs", "--from", ladder, "--json", *where)
    assert code == 0 and {row["name"] for row in json.loads(out)} == {"docs-attn-1l", "docs-attn-2l"}


def test_conditions_are_read_as_the_column_is(ictl, ladder: Path) -> None:
    for where in ("lr=3e-3", "mlp=false", "init_seed=0.0"):
        code, out, _ = ictl("table", "--from", ladder, "--json", "--where", where, "--columns", "name, name,lr")
        assert code == 0 and len(rows := json.loads(out)) == 2 and rows[0] == {"name": rows[0]["name"], "lr": 0.003}
    code, out, _ = ictl("table", "--from", ladder, "--summary", "--json", "--where", "name=docs-attn-1l")
    assert code == 0 and json.loads(out)["runs"] == 1
    code, out, _ = ictl("table", "--from", ladder, "composition", "--where", "name=docs-attn-1l")
    assert (code, out) == (0, "no row\n")  # there is such a run, and it has no pair of layers


def test_vectors_and_columns_as_programs_read_them(ictl, ladder: Path, tmp_path: Path) -> None:
    code, out, _ = ictl("table", "--schema", "--json")
    assert code == 0 and json.loads(out) == tables.SCHEMA | {"measures of facts": tables.FACTS}
    ictl("table", "token_losses", "--from", ladder, "--csv", tmp_path / "x.csv")
    written = pd.read_csv(tmp_path / "x.csv")
    losses = tables.read(ladder)["token_losses"]["losses_nats"]
    assert np.allclose(json.loads(written["losses_nats"].iloc[0]), losses.iloc[0], atol=0.01)


def test_a_stop_by_hand_says_what_is_kept(ictl, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "read", stop)
    code, _, err = ictl("table")
    assert code == 130 and "stopped; what is finished is kept, the same command goes on from there" in err


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"model": {"n_layers": "two"}, "train": {}}', "{"])
def test_training_into_a_damaged_run_is_one_sentence(ictl, tmp_path: Path, content: str) -> None:
    configs = preset("laptop", n_layers=0, corpus="repeat", tokens=1000)
    (tmp_path / run_id(*configs)).mkdir()
    (tmp_path / run_id(*configs) / "manifest.json").write_text(content)
    code, _, err = ictl("train", "--layers", 0, "--corpus", "repeat", "--tokens", 1000, "--out", tmp_path)
    assert code == 2 and "manifest.json is damaged" in err and "train the run again" in err and "Traceback" not in err
    code, _, err = ictl("show", "--out", tmp_path)
    assert code == 0 and err.count("manifest.json") == 1 and err.strip().endswith("run again; it is left out.")


def test_claims_fail_for_the_one_asked_for_only(ictl, ladder: Path) -> None:
    judged = next(c.id for c in load_claims() if c.testable and any(m.startswith("docs-") for m in c.models))
    code, out, err = ictl("claims", "--from", ladder, "--preset", "smoke", "--id", judged)
    assert code == 0 and judged in out and "no verdict yet" not in err
