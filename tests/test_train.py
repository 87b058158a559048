"""Training: kill -9 and resume, damaged files, full disks, parallel runs, and what a manifest says."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ictl_utils import snapshots
from ictl_utils import train as training
from ictl_utils.config import Device, IctlError, ModelConfig, TrainConfig, run_id
from ictl_utils.model import Transformer
from ictl_utils.snapshots import Run, find_runs
from ictl_utils.tokens import batches, load_tokens
from ictl_utils.train import learning_rate, snapshot_steps, train, train_many

MODEL = ModelConfig(n_layers=1, d_model=32, n_heads=2, n_ctx=32, d_vocab=300)
FOLDER = Path(tempfile.mkdtemp(prefix="ictl_corpus_"))
CONFIG = TrainConfig(corpus=f"path:{FOLDER}/*.txt", tokens=300 * 4 * 32, batch=4, snapshots=30, warmup=10)
SHORT = replace(CONFIG, tokens=1280, snapshots=3)
APART = 1e-4  # weights of two ways to add up the same


@pytest.fixture(scope="module", autouse=True)
def small_corpus(tmp_path_factory: pytest.TempPathFactory):
    """A corpus that is encoded in a moment, also by child processes."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 7))) for _ in range(300)]
    for i in range(100):
        (FOLDER / f"{i}.txt").write_text(" ".join(rng.choice(words, 400)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICTL_HOME", str(tmp_path_factory.mktemp("home")))
        yield
    shutil.rmtree(FOLDER)


def same_weights(a: Run, b: Run, i: int = -1) -> bool:
    one, two = a.model(i).state_dict(), b.model(i).state_dict()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(MODEL, CONFIG, tmp_path_factory.mktemp("unbroken"), device="cpu")


def test_learns_and_says_what_it_did(unbroken: Run) -> None:
    m = unbroken.manifest
    assert unbroken.finished and unbroken.tokens[0] == 0 and unbroken.tokens[-1] == CONFIG.tokens
    assert m["losses"][-1][1] < m["losses"][0][1]
    assert m["corpus"]["sha256"] and m["interpreter"] and m["versions"]["torch"] and m["device"]["name"] == "cpu"
    assert m["flops"] == unbroken.model().flops_per_token() * CONFIG.tokens and m["seconds"] > 0
    assert not list(unbroken.path.glob("state_*")) and not list(unbroken.path.glob("*.part"))


def test_a_finished_run_is_not_trained_again(unbroken: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training._Trainer, "_take_step", lambda *_: pytest.fail("trained again"))
    assert len(train(MODEL, CONFIG, unbroken.path.parent)) == len(unbroken)


CHILD = """
from ictl_utils.config import ModelConfig, TrainConfig
from ictl_utils.train import train
train(ModelConfig(**{model}), TrainConfig(**{config}), {out!r}, device="cpu")
"""


@pytest.mark.parametrize("attempt", range(2))
def test_killed_and_resumed_gives_the_same_weights(unbroken: Run, tmp_path: Path, attempt: int) -> None:
    code = CHILD.format(model=asdict(MODEL), config=asdict(CONFIG), out=str(tmp_path))
    stop_at = random.SystemRandom().randrange(2, len(unbroken) - 2)
    child = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    path = tmp_path / run_id(MODEL, CONFIG)
    while child.poll() is None:
        try:
            if len(Run(path)) >= stop_at:
                break
        except IctlError:
            pass
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = Run(path)
    assert not kept.finished, "the child ended before it could be killed"
    for i in range(len(kept)):
        kept.model(i)  # every listed snapshot is whole
    resumed = train(MODEL, CONFIG, tmp_path, device="cpu")
    assert len(resumed) == len(unbroken)
    assert all(same_weights(resumed, unbroken, i) for i in (len(kept) - 1, -2, -1))
    assert resumed.manifest["losses"] == unbroken.manifest["losses"]


@pytest.mark.parametrize("damage, words", [
    ("truncate", "truncated or altered"), ("alter", "truncated or altered"), ("delete", "is missing although"),
])
def test_damaged_snapshot_is_refused(tmp_path: Path, damage: str, words: str) -> None:
    run = train(MODEL, SHORT, tmp_path, device="cpu")
    file = run.path / run.manifest["snapshots"][-1]["file"]
    content = file.read_bytes()
    file.unlink()
    if damage != "delete":
        file.write_bytes(content[:-4] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IctlError, match=words):
        run.model()
    assert run.model(0) is not None


def test_half_precision_goes_on_with_its_scale(tmp_path: Path) -> None:
    """float16 scales the loss by a number that follows from the steps so far."""
    device = Device("cpu", "float16", "for this test")
    tokens = load_tokens(CONFIG.corpus, MODEL.d_vocab)

    def trainer() -> training._Trainer:
        return training._Trainer(tmp_path, MODEL, SHORT, tokens, device)

    tmp_path.mkdir(exist_ok=True)
    first = trainer()
    first.scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=4)
    take, seen = first._take_step, []

    def killed(batch: torch.Tensor) -> torch.Tensor:
        seen.append(first.scaler.state_dict())
        if len(seen) == 8:
            raise KeyboardInterrupt
        return take(batch)

    first._take_step = killed
    with pytest.raises(KeyboardInterrupt):
        first.run(progress=False)
    second = trainer()
    assert 0 < second.step < 8 and second.scaler.state_dict() == seen[second.step]
    assert second.scaler.get_scale() != torch.amp.GradScaler("cpu").get_scale()


def test_unknown_snapshot_and_folders_that_hold_no_run(unbroken: Run, tmp_path: Path) -> None:
    with pytest.raises(IctlError, match=r"snapshot 999 .* does not exist; it has \d+"):
        unbroken.model(999)
    with pytest.raises(IctlError, match="holds no manifest.json"):
        Run(tmp_path)
    with pytest.raises(IctlError, match="holds no run"):
        find_runs(tmp_path)
    (tmp_path / "manifest.json").write_text("{half")
    with pytest.raises(IctlError, match="damaged; delete the folder"):
        Run(tmp_path)


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(snapshots.os, "fsync", full)
    with pytest.raises(IctlError, match="the disk is full: .* MB more; free some space"):
        train(MODEL, CONFIG, tmp_path, device="cpu")
    monkeypatch.setattr(snapshots.os, "fsync", real)
    run = Run(tmp_path / run_id(MODEL, CONFIG))
    assert not list(run.path.glob("*.part")) and all(run.model(i) for i in range(len(run)))
    assert train(MODEL, CONFIG, tmp_path, device="cpu").finished


def test_another_state_of_the_corpus_is_refused(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.txt").write_text((FOLDER / f"{i}.txt").read_text())
    short = replace(SHORT, corpus=f"path:{tmp_path}/*.txt")
    train(MODEL, short, tmp_path, device="cpu")
    (tmp_path / "7.txt").write_text("another text " * 200)
    with pytest.raises(IctlError, match="another state of corpus=.*; use another --out folder"):
        train(MODEL, short, tmp_path, device="cpu")


def test_many_at_once_equal_one_by_one(unbroken: Run, tmp_path: Path) -> None:
    configs = [(MODEL, CONFIG), (replace(MODEL, smear="key"), CONFIG)]
    runs = train_many(configs, unbroken.path.parent)
    assert [run.label for run in runs] == ["1L", "1L smeared keys"] and all(run.finished for run in runs)
    alone = train(*configs[1], tmp_path, device="cpu")
    assert same_weights(runs[1], alone)


def test_data_seed_and_init_seed_are_separate(unbroken: Run, tmp_path: Path) -> None:
    other = train(MODEL, replace(CONFIG, data_seed=1), tmp_path)
    assert same_weights(other, unbroken, 0) and not same_weights(other, unbroken)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_training_is_the_recipe_written_as_a_plain_loop(schedule: str, tmp_path: Path) -> None:
    """Seeds, order, rate, betas, decay of the weights and clipping: each of them, forgotten, gives other weights."""
    cfg = replace(CONFIG, tokens=40 * 128, snapshots=2, init_seed=3, data_seed=1, weight_decay=0.1, clip=0.05,
                  schedule=schedule)  # fmt: skip
    model, ids = Transformer(MODEL, seed=3), load_tokens(cfg.corpus, MODEL.d_vocab).train
    opt = torch.optim.AdamW(model.parameters(), cfg.lr, (0.9, 0.98), weight_decay=0.1)
    for step, batch in zip(range(40), batches(ids, 4, 32, data_seed=1), strict=False):
        warm, rest = (step + 1) / 10, 1.0 if schedule == "constant" else 1 - 0.9 * (step - 10) / 30
        opt.param_groups[0]["lr"] = cfg.lr * (warm if step < 10 else rest)
        rows = torch.from_numpy(batch)
        opt.zero_grad()
        torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
        for p in model.parameters():
            p.grad *= min(1.0, cfg.clip / norm)
        opt.step()
    found = train(MODEL, cfg, tmp_path, device="cpu").model().state_dict()
    apart = {name: float((tensor - found[name]).abs().max()) for name, tensor in model.state_dict().items()}
    assert max(apart.values()) < APART, apart


def test_snapshot_steps() -> None:
    steps = snapshot_steps(5000, 60)
    assert steps[0] == 0 and steps[-1] == 5000 and steps == sorted(set(steps)) and 45 <= len(steps) <= 61
    assert snapshot_steps(1, 5) == [0, 1]


def test_learning_rate() -> None:
    cfg = TrainConfig(lr=1.0, warmup=10, schedule="linear")
    assert [learning_rate(cfg, step, 110) for step in (0, 9, 10, 110)] == pytest.approx([0.1, 1.0, 1.0, 0.1])
    assert learning_rate(TrainConfig(lr=1.0), 10_000, 110) == 1.0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    snapshots.write_bytes(tmp_path / "manifest.json", b"old")
    monkeypatch.setattr(snapshots.os, "fsync", full)
    with pytest.raises(IctlError, match="the disk is full"):
        snapshots.write_bytes(tmp_path / "manifest.json", b"new")
    assert (tmp_path / "manifest.json").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    take, seen = training._Trainer._take_step, []

    def killed(self, batch):
        seen.append(1)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return take(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Trainer, "_take_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(MODEL, SHORT, tmp_path, device="cpu")
    (state,) = tmp_path.rglob("state_*.safetensors")
    content = state.read_bytes()
    state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IctlError, match="truncated or altered"):
        train(MODEL, SHORT, tmp_path, device="cpu")
