"""Weights of a tiny zoo: packed, loaded, found damaged or absent, and checked against their numbers."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ictl_utils import cards, data, weights, zoo
from ictl_utils.config import IctlError, run_id
from ictl_utils.snapshots import Run, write_manifest
from ictl_utils.survey import Effort, survey
from ictl_utils.tables import Tables, collect
from ictl_utils.tokens import eval_windows, load_tokens
from ictl_utils.train import train

SMALL = {"d_model": 32, "n_heads": 2, "n_ctx": 64, "d_vocab": 300}
LENGTH = {"corpus": "bursty", "tokens": 40 * 4 * 64, "batch": 4, "snapshots": 12, "warmup": 5}
NAMES = ("attn-2l", "attn-1l", "key-1l")
EFFORT = Effort(ablations=4, heads=4, fills=12)
real_entries = zoo.entries


def tiny(preset_name: str = "laptop", family: str | None = None) -> list[zoo.Entry]:
    """Some of the zoo, very small: two initialisations each, nothing else changed."""
    return [zoo.Entry(e.name, e.family, type(e.model)(**asdict(e.model) | SMALL),
                      type(e.train)(**asdict(e.train) | LENGTH), seeds=2)
            for e in real_entries("laptop", family) if e.name in NAMES]  # fmt: skip


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory):
    """Runs folder and tables of the tiny zoo, its weights packed into a folder of the test's own."""
    base = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICTL_HOME", str(base / "home"))
        patch.setenv("ICTL_RUNS", str(base / "nothing"))
        patch.setattr(data, "SYNTHETIC_TOKENS", 512 * 256 * 2)
        patch.setattr(zoo, "entries", tiny)
        for name, path in (("FOLDER", "weights"), ("REGISTRY", "weights.json"), ("HOME", "home.json")):
            patch.setattr(weights, name, base / path)
        (base / "home.json").write_text(json.dumps({"url": "https://github.com/OWNER/REPO", "ref": "main"}))
        runs = [train(m, t, base / "runs", device="cpu") for e in tiny() for m, t in e.runs()]
        for run in runs:
            survey(run, EFFORT)
        tables = collect(base / "runs", zoo.names(), EFFORT)
        weights.pack(base / "runs", tables)
        yield base, tables


@pytest.fixture
def restored(packed):
    """The same, put back as it was after a test that damages it."""
    base, tables = packed
    before = {path: path.read_bytes() for path in [*(base / "weights").iterdir(), base / "weights.json"]}
    yield base, tables
    for path, content in before.items():
        path.write_bytes(content)


def trained(base: Path, name: str, seed: int = 0) -> Run:
    return Run(base / "runs" / run_id(*zoo.find(name).runs()[seed]))


def test_what_is_packed(packed) -> None:
    base, _ = packed
    files = weights.shipped()
    assert {f.file for f in files if f.sha256} == {path.name for path in (base / "weights").iterdir()}
    assert {f.tokens for f in files if not f.sha256} == {0} and all(f.tokens for f in files if f.sha256)
    assert {f.name for f in files} == set(NAMES) and {f.init_seed for f in files} == {0}
    for name in NAMES:
        mine = [f for f in files if f.name == name]
        assert [f.final for f in sorted(mine, key=lambda f: f.tokens)] == [False] * (len(mine) - 1) + [True]
        assert len(mine) == 1 if name == "attn-1l" else 3 <= len(mine) <= 8
        assert len(mine) == 1 or min(f.tokens for f in mine) == 0
    sizes = [(base / "weights" / f.file).stat().st_size for f in files if f.name == "attn-1l"]
    assert sizes[0] < 2.2 * trained(base, "attn-1l").model().n_params


@pytest.mark.parametrize("name", NAMES)
def test_loaded_weights_are_the_trained_ones_in_half_precision(packed, name: str) -> None:
    base, _ = packed
    model, whole = weights.load(name), trained(base, name).model()
    assert model.cfg == whole.cfg and not model.training and model.W_E.dtype == torch.float32
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b.half().float()) and not a.requires_grad
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (8, 64)))
    error = float((model(ids) - whole(ids)).abs().max())
    assert 0 < error <= weights.TOLERANCE
    assert all(0 < f.logits_error <= weights.TOLERANCE for f in weights.shipped() if f.sha256)


def test_the_nearest_snapshot_is_taken(packed) -> None:
    base, _ = packed
    run = trained(base, "attn-2l")
    there = sorted(f.tokens for f in weights.shipped() if f.name == "attn-2l")
    for wanted in (0, there[1] + 1, 1e12):
        nearest = min(there, key=lambda t: abs(t - wanted))
        i = run.tokens.tolist().index(nearest)
        whole = run.model(i).W_U
        assert torch.equal(weights.load("attn-2l", tokens=wanted).W_U, whole.half().float() if nearest else whole)


def test_a_run_on_this_machine_comes_first(packed, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = packed
    monkeypatch.setenv("ICTL_RUNS", str(base / "runs"))
    run = trained(base, "attn-2l", seed=1)
    assert torch.equal(weights.load("attn-2l", seed=1).W_U, run.model().W_U)
    assert torch.equal(weights.load("attn-2l", seed=1, tokens=0).W_U, run.model(0).W_U)


def test_a_damaged_file_is_named(restored) -> None:
    base, _ = restored
    one = next(f for f in weights.shipped() if f.name == "attn-1l")
    path = base / "weights" / one.file
    content = path.read_bytes()
    for damaged in (content[:-8], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(IctlError, match=f"{one.file} is damaged: its SHA-256 is .* says {one.sha256[:12]}"):
            weights.load("attn-1l")


def test_what_is_not_shipped_says_how_long_it_takes(packed, monkeypatch, capsys) -> None:
    monkeypatch.setattr(weights, "SPEED", 1e6)
    entry = zoo.find("attn-1l")
    flops = trained(packed[0], "attn-1l").model().flops_per_token() * entry.train.tokens
    words = rf"seed 1 are not shipped; load\(..., retrain=True\) trains them, about {flops / 60e6:.0f} minutes"
    with pytest.raises(IctlError, match=words):
        weights.load("attn-1l", seed=1)
    monkeypatch.setenv("ICTL_RUNS", str(packed[0] / "again"))
    again = weights.load("attn-1l", seed=1, retrain=True)
    assert torch.equal(again.W_U, trained(packed[0], "attn-1l", 1).model().W_U)
    assert f"about {flops / 60e6:.0f} minutes" in capsys.readouterr().out


@pytest.mark.parametrize("given, words", [
    ({"name": "attn-9l"}, "'attn-9l' is no model of the zoo; known: attn-2l"),
    ({"name": "attn-1l", "seed": -1}, "seed=-1 is no seed; expected 0, 1 and so on"),
    ({"name": "attn-1l", "seed": "0"}, "seed='0' is no seed"),
    ({"name": "attn-1l", "seed": 5_000_000_000}, "seed=5000000000 is too large"),
    ({"name": "attn-1l", "tokens": float("inf")}, "tokens=inf is no number of training tokens"),
    ({"name": "attn-1l", "tokens": float("nan")}, "tokens=nan is no number"),
    ({"name": "attn-1l", "tokens": "4e6"}, "tokens='4e6' is no number"),
])
def test_unknown_models_and_seeds(packed, given: dict, words: str) -> None:
    with pytest.raises(IctlError, match=words):
        weights.load(**given)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"file": "x"}]'])
def test_a_damaged_list_of_weights_is_named(monkeypatch, tmp_path: Path, content: str) -> None:
    monkeypatch.setattr(weights, "REGISTRY", tmp_path / "weights.json")
    weights.REGISTRY.write_text(content)
    with pytest.raises(IctlError, match="weights.json is damaged; restore the file"):
        weights.shipped()


def test_without_a_home_there_is_nothing_to_download_from(restored) -> None:
    base, _ = restored
    one = next(f for f in weights.shipped() if f.name == "attn-1l")
    content = (base / "weights" / one.file).read_bytes()
    (base / "weights" / one.file).unlink()
    with pytest.raises(IctlError, match="has no public home yet .*; work in a checkout"):
        weights.load("attn-1l")
    (base / "weights" / one.file).write_bytes(content)


def test_downloads_come_from_the_home_and_are_checked(restored, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = restored
    one = next(f for f in weights.shipped() if f.name == "attn-1l")
    content = (base / "weights" / one.file).read_bytes()
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append((url, known_hash))
        if len(asked) == 1:
            raise ValueError("the hash of the file differs")
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(content)
        return str(path / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    monkeypatch.setattr(weights, "HOME", base / "other.json")
    weights.HOME.write_text(json.dumps({"url": "https://github.com/ada/heads", "ref": "v1"}))
    (base / "weights" / one.file).unlink()
    with pytest.raises(IctlError, match="could not be downloaded .*differs.*; check the network"):
        weights.load("attn-1l")
    assert torch.equal(weights.load("attn-1l").W_U, trained(base, "attn-1l").model().W_U.half().float())
    url = f"https://raw.githubusercontent.com/ada/heads/v1/ictl_utils/zoo_weights/{one.file}"
    assert asked == [(url, f"sha256:{one.sha256}")] * 2


def test_the_zoo_gives_its_models(packed) -> None:
    one, same = zoo.load("attn-2l", seed=0, tokens=3e3), weights.load("attn-2l", 0, 3e3)
    assert torch.equal(one.W_U, same.W_U) and not torch.equal(one.W_U, zoo.load("attn-2l").W_U)
    with pytest.raises(IctlError, match="was not shipped|is not shipped|train"):
        zoo.load("attn-2l", seed=1)


def test_numbers_agree_with_their_weights(packed) -> None:
    files = weights.shipped()
    found = weights.verify(packed[1], n=len(files), seed=0, effort=EFFORT)
    assert found["agrees"].all() and set(found["file"]) == {f.file for f in files}
    heads = sum(zoo.find(f.name).model.n_layers * 2 for f in files)
    assert len(found) == (2 + 2) * len(files) + heads  # loss, score, two ablations
    assert (found["shipped"] - found["recomputed"]).abs().max() > 0  # half precision, really recomputed
    one, again = (weights.verify(packed[1], n=2, seed=3, effort=EFFORT) for _ in range(2))
    assert one.equals(again)


@pytest.mark.parametrize("table, column, by", [
    ("snapshots", "loss_nats", 0.003), ("snapshots", "icl_nats", 0.004), ("heads", "prefix_matching", 0.004),
    ("ablations", "icl_change_nats", 0.004)])  # fmt: skip
def test_altered_numbers_do_not_agree(packed, table: str, column: str, by: float) -> None:
    tables: Tables = packed[1] | {table: packed[1][table].assign(**{column: packed[1][table][column] + by})}
    found = weights.verify(tables, n=2, seed=0, effort=EFFORT)
    altered = found["measure"].str.startswith(column)
    assert altered.any() and not found[altered]["agrees"].any() and found[~altered]["agrees"].all()


def test_verify_needs_weights_and_the_same_corpus(packed, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: pd.DataFrame = packed[1]["runs"].assign(corpus_sha="0" * 64)
    with pytest.raises(IctlError, match="corpus='bursty' is not the one the zoo was trained on .*python 3"):
        weights.verify(packed[1] | {"runs": runs})
    monkeypatch.setattr(weights, "REGISTRY", packed[0] / "none.json")
    with pytest.raises(IctlError, match="no weights are shipped; `ictl zoo pack`"):
        weights.verify(packed[1])


def test_trained_again_the_loss_is_the_shipped_one(packed, tmp_path: Path) -> None:
    shipped, now = weights.retrain("attn-1l", 1, packed[1], tmp_path)
    snapshots = packed[1]["snapshots"].set_index("run_id").loc[trained(packed[0], "attn-1l", 1).run_id]
    assert shipped == snapshots["loss_nats"].iloc[-1] and now == pytest.approx(shipped, abs=1e-6)
    with pytest.raises(IctlError, match="attn-1l seed 7 was not measured; `ictl table runs`"):
        weights.retrain("attn-1l", 7, packed[1], tmp_path)


def test_weights_that_half_precision_spoils_are_not_packed(restored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "TOLERANCE", 1e-9)
    with pytest.raises(IctlError, match="half precision moves a logit by .*; ship it in full precision"):
        weights.pack(restored[0] / "runs", restored[1])


def test_packing_again_leaves_no_strays(restored) -> None:
    base, tables = restored
    before = weights.shipped()
    (base / "weights" / "old-s0-5.safetensors").write_bytes(b"old")
    assert weights.pack(base / "runs", tables) == before
    assert {path.name for path in (base / "weights").iterdir()} == {f.file for f in before if f.sha256}


def test_weights_of_runs_that_are_elsewhere_stay(restored, tmp_path: Path) -> None:
    """As where the zoo was trained on several machines, or one of its runs is being trained again."""
    base, tables = restored
    before, mine = weights.shipped(), trained(base, "key-1l")
    shutil.copytree(mine.path, tmp_path / mine.run_id)
    begun = trained(base, "attn-1l")
    write_manifest(tmp_path / begun.run_id, begun.manifest | {"finished": False})
    assert weights.pack(tmp_path, tables) == before == weights.shipped()
    assert {path.name for path in (base / "weights").iterdir()} == {f.file for f in before if f.sha256}


def test_cards_list_every_configuration_and_corpus(packed, tmp_path: Path) -> None:
    cards.write_cards(packed[1], tmp_path)
    model, text = ((tmp_path / path.name).read_text() for path in (cards.MODEL_CARD, cards.DATA_CARD))
    assert all(f"| {name} |" in model for name in NAMES) and "6 runs of 3 configurations" in model
    assert f"Weights of {sum(bool(f.sha256) for f in weights.shipped())} snapshots" in model
    known = json.loads((tmp_path / "corpora.json").read_text())
    assert known["bursty-300"]["training tokens"] == len(load_tokens("bursty", 300).train)
    assert f"| {known['bursty-300']['training tokens']:,} |" in text
    assert {k: one["sha"] for k, one in known.items()} == {"bursty-300": packed[1]["runs"]["corpus_sha"].iloc[0]}
    assert "| bursty |" in text and packed[1]["runs"]["corpus_sha"].iloc[0][:16] in text

def test_the_registered_error_is_the_largest_of_a_logit(packed) -> None:
    for one in (f for f in weights.shipped() if f.final):
        ids = torch.from_numpy(eval_windows(load_tokens("bursty", 300), 16, 64)[:, :-1])
        error = (trained(packed[0], one.name).model()(ids) - weights.load(one.name)(ids)).abs().max()
        assert one.logits_error == pytest.approx(float(error), abs=2e-5)


def test_files_and_heads_to_verify_are_drawn(packed) -> None:
    found = [weights.verify(packed[1], n=1, seed=seed, effort=EFFORT) for seed in range(12)]
    assert len({frozenset(each["file"]) for each in found}) > 3
    heads = {word for each in found for word in each["measure"] if word.startswith("icl_change")}
    assert len({word.split()[1] for word in heads}) > 1


def test_shipped_snapshots_lie_in_the_change() -> None:
    class Long:
        run_id, tokens = "x", np.linspace(0, 1e7, 101)

        def __len__(self) -> int:
            return 101

    icl = -np.clip((Long.tokens - 6e6) / 1e6, 0, 1)
    rows = pd.DataFrame({"run_id": "x", "tokens": Long.tokens, "icl_nats": icl})
    first, *inside, last = (Long.tokens[i] for i in weights._around({"snapshots": rows}, Long(), 8))
    assert (first, last) == (0, 1e7) and len(inside) == 6 and 5.8e6 <= inside[0] and inside[-1] <= 7.2e6
