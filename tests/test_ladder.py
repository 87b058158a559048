"""The ladder: nothing twice, nothing lost whenever it is killed, one result whoever climbs."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from ictl_utils import ladder as climbing
from ictl_utils import survey as surveying
from ictl_utils import train as training
from ictl_utils.claims import load_claims
from ictl_utils.config import IctlError, run_id
from ictl_utils.ladder import climb, collect_zoo, effort_of, progress_of
from ictl_utils.model import Transformer
from ictl_utils.numbers import NUMBERS
from ictl_utils.numbers_base import Zoo
from ictl_utils.snapshots import Run
from ictl_utils.survey import PARTS, QUICK, is_surveyed
from ictl_utils.tables import Tables, read, summary
from ictl_utils.zoo import entries, find, schedule

FAMILY = "docs-[ak]*"  # on the synthetic corpus of the preset, which is there in seconds
KILLS = 20
CLOCKS = ["seconds", "core_seconds"]
Kept = dict[str, tuple[list[str], dict[str, int]]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder that was never killed, with its tables."""
    out = tmp_path_factory.mktemp("unbroken")
    climb("smoke", FAMILY, 1, out=out, jobs=2)
    collect_zoo(out, "smoke")
    return out


def command(out: Path, family: str = FAMILY) -> list[str]:
    return [sys.executable, "-m", "ictl_utils", "ladder", "--preset", "smoke", "--family", family, "--seeds", "1",
            "--jobs", "2", "--out", str(out)]  # fmt: skip


def start(out: Path, family: str = FAMILY) -> subprocess.Popen:
    """A ladder in a process group of its own, with its workers."""
    return subprocess.Popen(command(out, family), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)  # fmt: skip


def finish(words: list[str]) -> None:
    """Run a ladder to its end."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def kept(out: Path) -> Kept:
    """Of each run: hashes of its snapshots, and when every file of a finished one was written."""
    found = {}
    for path in out.glob("*/manifest.json"):
        run = Run(path.parent)
        files = (f for f in path.parent.rglob("*") if f.suffix in (".safetensors", ".parquet", ".json")
                 and PARTS not in f.parts and not (f.parent / PARTS).exists())  # of a survey under way: no results yet
        times = {str(f): f.stat().st_mtime_ns for f in files} if run.finished else {}
        found[run.run_id] = [snap["sha256"] for snap in run.manifest["snapshots"]], times
    return found


def assert_nothing_lost(before: Kept, after: Kept) -> None:
    for name, (shas, times) in before.items():
        assert after[name][0][: len(shas)] == shas, f"{name} lost snapshots"
        assert times.items() <= after[name][1].items(), f"{name} was trained or measured again"


def assert_same_results(one: Path, two: Path, ids: list[str]) -> None:
    first, second = kept(one), kept(two)
    assert sorted(second) == sorted(ids)
    assert all(first[name][0] == second[name][0] for name in ids)
    a, b = read(one / "tables"), read(two / "tables")
    for name in a:
        mine = a[name][a[name]["run_id"].isin(ids)].reset_index(drop=True)
        drop = CLOCKS if name == "runs" else []
        pd.testing.assert_frame_equal(mine.drop(columns=drop), b[name].drop(columns=drop))


def ids_of(family: str) -> list[str]:
    return [run_id(m, t) for _, m, t in schedule(entries("smoke", family), 1)]


def test_all_is_trained_and_measured(unbroken: Path) -> None:
    runs = [Run(unbroken / name) for name in ids_of(FAMILY)]
    assert len(runs) == 7 and all(run.finished and is_surveyed(run, QUICK) for run in runs)
    assert sorted(read(unbroken / "tables")["runs"]["run_id"]) == sorted(ids_of(FAMILY))


def test_nothing_is_trained_or_measured_twice(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training._Trainer, "_take_step", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(surveying, "_Surveyor", lambda *_: pytest.fail("measured again"))
    before = kept(unbroken)
    runs = climb("smoke", FAMILY, 1, out=unbroken, jobs=1)
    assert [run.run_id for run in runs] == ids_of(FAMILY) and kept(unbroken) == before


@pytest.mark.slow
def test_killed_twenty_times_and_gone_on(unbroken: Path, tmp_path: Path) -> None:
    """Each kill hits a ladder at work: up to a second or so after the first thing that it wrote itself."""
    rng, landed, out = random.SystemRandom(), 0, tmp_path / "0"
    while landed < KILLS:
        before, child = kept(out), start(out)
        if at_work(child, out):
            time.sleep(rng.uniform(0, 1.2))
        running = child.poll() is None
        kill(child)
        assert running or child.returncode == 0
        assert_nothing_lost(before, kept(out))
        landed += running
        if not running or landed == KILLS:
            before = kept(out)
            finish(command(out))
            assert_nothing_lost(before, kept(out))
            assert_same_results(unbroken, out, ids_of(FAMILY))
            out = tmp_path / f"{landed}"  # the rest of the kills in an empty folder


def at_work(child: subprocess.Popen, out: Path) -> bool:
    """Wait until a ladder changes a file other than its locks; False where it ends before that."""
    def state() -> set[tuple[str, int]]:
        found = set()
        for folder, _, files in os.walk(out):  # which passes over folders that go meanwhile
            for path in (os.path.join(folder, name) for name in files if not name.startswith(".")):
                with suppress(FileNotFoundError):  # renamed meanwhile
                    found.add((path, os.stat(path).st_mtime_ns))
        return found

    before = state()
    while child.poll() is None:
        if state() != before:
            return True
        time.sleep(0.02)
    return False


def kill(child: subprocess.Popen) -> None:
    """SIGKILL the ladder and all its workers, and wait until none is left."""
    while True:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        child.poll()
        time.sleep(0.01)


@pytest.mark.slow
def test_two_ladders_on_one_folder(unbroken: Path, tmp_path: Path) -> None:
    family = "docs-attn-[1-4]l"
    both = [start(tmp_path, family) for _ in range(2)]
    try:
        assert [child.wait(timeout=300) for child in both] == [0, 0]
    finally:
        for child in both:
            kill(child)
    assert_same_results(unbroken, tmp_path, ids_of(family))


def test_progress(unbroken: Path, tmp_path: Path) -> None:
    todo = schedule(entries("smoke", FAMILY), 1)
    flops = sum(Transformer(m).flops_per_token() * t.steps(m.n_ctx) * t.batch * m.n_ctx for _, m, t in todo)
    nothing = progress_of(todo, tmp_path, QUICK)
    assert (nothing.models, nothing.of, nothing.tokens, nothing.flops) == (0, 7, 0, 0.0)
    everything = progress_of(todo, unbroken, QUICK)
    assert (everything.models, everything.tokens) == (7, sum(t.tokens for _, _, t in todo))
    assert everything.flops == everything.of_flops == nothing.of_flops == pytest.approx(flops)
    unmeasured = surveying.FULL
    assert progress_of(todo, unbroken, unmeasured).models == 0 and progress_of(todo, unbroken, None).models == 7


def test_the_bar_counts_to_the_end(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capfd: pytest.CaptureFixture) -> None:
    """Models, tokens a second and the time left, as one who waits sees them."""
    monkeypatch.setattr(climbing, "show_progress", lambda: True)
    monkeypatch.setattr(climbing, "tqdm", partial(climbing.tqdm, disable=False))  # tests switch bars off
    todo = schedule(entries("smoke", FAMILY), 1)
    with climbing._watch(todo, tmp_path, QUICK, every=0.05):
        time.sleep(0.2)
        shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    shown = capfd.readouterr().err
    assert "0/7 models" in shown and "7/7 models" in shown and "tokens/s" in shown and "100%" in shown
    assert re.search(r"\[\d\d:\d\d<", shown)  # time taken, time left


def test_workers_of_dask_give_the_same_results(unbroken: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    climb("smoke", "docs-attn-[12]*", 1, out=tmp_path / "own", jobs=2, backend="dask")
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=None):
        climb("smoke", "docs-attn-2l", 1, out=tmp_path / "theirs", backend="dask")
        assert distributed.default_client()
    for name in ("own", "theirs"):
        collect_zoo(tmp_path / name, "smoke")
    assert_same_results(unbroken, tmp_path / "own", ids_of("docs-attn-[12]*"))
    assert_same_results(unbroken, tmp_path / "theirs", ids_of("docs-attn-2l"))


def test_a_ladder_without_measurements(tmp_path: Path) -> None:
    run = climb("smoke", "docs-attn-1l", 1, out=tmp_path, jobs=1, measure=False)[0]
    assert run.finished and not is_surveyed(run, QUICK)
    with pytest.raises(IctlError, match="holds no measured run"):
        collect_zoo(tmp_path, "smoke")


@pytest.fixture
def halves(unbroken: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The folders of two machines with one run each."""
    for name, family in (("one", "docs-attn-2l"), ("two", "docs-attn-1l")):
        for run in ids_of(family):
            shutil.copytree(unbroken / run, tmp_path / name / run)
        collect_zoo(tmp_path / name, "smoke")
    return tmp_path / "one", tmp_path / "two"


def test_runs_of_two_machines_are_put_together(unbroken: Path, halves: tuple[Path, Path]) -> None:
    one, two = halves
    for _ in range(2):  # the second time the runs of one are there already
        collect_zoo(one, "smoke", two / "tables", read(two / "tables"))
        shutil.copytree(one, two, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tables"))
        assert_same_results(unbroken, two, ids_of("docs-attn-[12]*"))


def test_runs_on_two_states_of_a_corpus_are_not_put_together(halves: tuple[Path, Path]) -> None:
    one, two = halves
    other = read(two / "tables")
    other["runs"] = other["runs"].assign(corpus_sha="0" * 64)
    with pytest.raises(IctlError, match="corpus='bursty' with .* ids were trained on 2 states of its text"):
        collect_zoo(one, "smoke", one / "tables", other)
    collect_zoo(one, "smoke", one / "tables", other | {"runs": other["runs"].assign(run_id="unknown")})
    assert read(one / "tables")["runs"]["run_id"].tolist() == ids_of("docs-attn-2l")


def test_runs_in_one_folder_must_be_of_one_text(halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = halves
    shutil.copytree(one, two, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tables"))
    whole = climbing.collect(two, climbing.names("smoke", 1), effort_of("smoke"))
    runs = whole["runs"].assign(corpus_sha=[str(i) for i in range(len(whole["runs"]))])
    monkeypatch.setattr(climbing, "collect", lambda *_: whole | {"runs": runs})
    with pytest.raises(IctlError, match="were trained on 2 states of its text"):
        collect_zoo(two, "smoke")


def test_what_is_measured_elsewhere_is_left_out(tmp_path: Path) -> None:
    runs = climb("smoke", "docs-attn-[12]*", 1, out=tmp_path, skip=ids_of("docs-attn-2l"), measure=False)
    assert [run.run_id for run in runs] == ids_of("docs-attn-1l")
    assert climb("smoke", "docs-attn-1l", 1, out=tmp_path, skip=ids_of("docs-attn-1l")) == []


@pytest.mark.parametrize("given, words", [
    ({"backend": "dask"}, "backend='dask' needs dask.distributed; run: pip install distributed"),
    ({"backend": "slurm"}, "backend='slurm' is not known; choose one of loky, dask"),
    ({"seeds": 0}, "seeds=0 must be at least 1"), ({"jobs": -1}, "jobs=-1 must be at least 1"),
    ({"family": "rnn"}, "family='rnn' matches no model"), ({"preset_name": "huge"}, "preset='huge' is not known"),
])  # fmt: skip
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict, words: str) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)  # as where it is not installed
    with pytest.raises(IctlError, match=words):
        climb(**{"preset_name": "smoke", "out": tmp_path, **given})
    assert not list(tmp_path.iterdir())


# ---- the whole zoo --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke_zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, float]:
    """Every configuration and seed at preset smoke, as `ictl ladder` makes it; and the CPU seconds it took."""
    out, before = tmp_path_factory.mktemp("zoo"), resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = [sys.executable, "-m", "ictl_utils", "ladder", "--preset", "smoke", "--jobs", "2", "--out", str(out)]
    finish(whole)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return read(out / "tables"), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_the_whole_zoo_in_ten_minutes_on_two_cores(smoke_zoo: tuple[Tables, float]) -> None:
    tables, seconds = smoke_zoo
    assert seconds < 2 * 600
    counts, ids = summary(tables), {run_id(*run) for e in entries("smoke") for run in e.runs()}
    assert set(tables["runs"]["run_id"]) == ids and counts["runs"] == len(ids)
    assert all(find(name, "smoke") for name in tables["runs"]["name"])
    losses = tables["snapshots"].sort_values("snapshot").groupby("run_id")["loss_nats"]
    assert (losses.last() < losses.first()).all()


@pytest.mark.slow
def test_the_whole_zoo_answers_every_claim(smoke_zoo: tuple[Tables, float]) -> None:
    zoo = Zoo(smoke_zoo[0], preset_name="smoke")
    unanswered = [c.id for c in load_claims() if c.testable and NUMBERS[c.id](zoo).empty]
    assert unanswered == []
    assert effort_of("smoke") == QUICK != effort_of("laptop")
