"""Train and measure the zoo: what is missing, in parallel, resumable at any moment, never twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm.auto import tqdm

from .config import PRESETS, IctlError, ModelConfig, TrainConfig, choose_device, one_of, require, run_id, runs_dir
from .model import Transformer
from .processes import show_progress, workers_may_be_replaced
from .snapshots import Run, find_runs
from .survey import FULL, QUICK, Effort, is_surveyed, survey
from .tables import Tables, collect, merged, write
from .tokens import load_tokens
from .train import train
from .zoo import entries, names, schedule

BACKENDS = ("loky", "dask")
Job = tuple[str, ModelConfig, TrainConfig]


def effort_of(preset_name: str) -> Effort:
    """How much text the measurements of a preset read."""
    return QUICK if preset_name == "smoke" else FULL


def climb(
    preset_name: str = "laptop", family: str | None = None, seeds: int | None = None, *, out: str | Path | None = None,
    jobs: int | None = None, backend: str = "loky", device: str = "cpu", measure: bool = True,
    skip: Collection[str] = (),
) -> list[Run]:
    """Train and measure every run of the zoo that is not finished in ``out``; returns all of them.

    Killed at any moment and started again it goes on where it was; two ladders on one folder share the work.

    Args:
        family: a family or a pattern of names (:func:`ictl_utils.zoo.entries`); default all.
        seeds: initialisations of each configuration instead of the zoo's own numbers.
        jobs: processes, default one a core; on ``cuda`` one.
        backend: ``loky`` (this machine) or ``dask`` (the default client of dask.distributed, else one on this machine).
        skip: run ids to leave out, such as those measured on another machine.

    Raises:
        IctlError: unknown preset, family or backend, no seed, process or GPU, or the first error of a run.
    """
    one_of("backend", backend, BACKENDS)
    choose_device(device)  # before anything is made
    for name, given in (("seeds", seeds), ("jobs", jobs)):
        require(given is None or given >= 1, f"{name}={given} must be at least 1.")
    folder, chosen = Path(out or runs_dir()), schedule(entries(preset_name, family), seeds)
    todo = [(name, m, t) for name, m, t in chosen if run_id(m, t) not in skip]
    if not todo:
        return []
    for corpus, d_vocab in {(t.corpus, m.d_vocab) for _, m, t in todo}:
        load_tokens(corpus, d_vocab)  # once, before the processes start
    effort = effort_of(preset_name) if measure else None
    jobs = 1 if device == "cuda" else min(jobs or cpu_count(), len(todo))
    with _workers(backend, jobs), _watch(todo, folder, effort):
        left = todo
        while left:  # what another ladder holds is looked at again after the rest
            busy = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch=jobs)(
                delayed(_one)(job, folder, effort, device) for job in left
            )
            left = [job for job, held in zip(left, busy, strict=True) if held]
            time.sleep(1.0 if left else 0)
    return [Run(folder / run_id(m, t)) for _, m, t in todo]


@contextmanager
def _workers(backend: str, jobs: int) -> Iterator[None]:
    """Inside, joblib has somebody to work for it: with ``dask`` the default client, or one made for the time."""
    if backend != "dask":
        with parallel_config(backend=backend), workers_may_be_replaced():
            yield
        return
    try:
        from distributed import Client, default_client
    except ImportError:
        raise IctlError("backend='dask' needs dask.distributed; run: pip install distributed") from None
    try:
        client = nullcontext(default_client())
    except ValueError:
        client = Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    with client, parallel_config(backend=backend):
        yield


def _one(job: Job, folder: Path, effort: Effort | None, device: str) -> bool:
    """Train and measure one run; True if another process is at it."""
    _, model_cfg, train_cfg = job
    path = folder / run_id(model_cfg, train_cfg)
    path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path / ".ladder", timeout=0):
            run = train(model_cfg, train_cfg, folder, device=device, progress=False)
            if effort is not None:
                survey(run, effort, progress=False)
    except Timeout:
        return True
    return False


# ---- progress -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far a ladder is."""

    models: int  # trained, and measured where that was asked for
    of: int
    tokens: int  # seen in training
    flops: float  # of training
    of_flops: float


def progress_of(todo: list[Job], folder: Path, effort: Effort | None) -> Progress:
    """Read from the manifests and the tables on disk."""
    models, tokens, flops, of_flops = 0, 0, 0.0, 0.0
    for _, m, t in todo:
        each = Transformer(m).flops_per_token()
        of_flops += each * t.steps(m.n_ctx) * t.batch * m.n_ctx
        try:
            run = Run(folder / run_id(m, t))
        except IctlError:
            continue
        seen = int(run.tokens[-1]) if len(run) else 0
        tokens, flops = tokens + seen, flops + each * seen
        models += run.finished and (effort is None or is_surveyed(run, effort))
    return Progress(models, len(todo), tokens, flops, of_flops)


@contextmanager
def _watch(todo: list[Job], folder: Path, effort: Effort | None, every: float = 5.0):
    """A bar over training FLOPs with models done and tokens a second; the bar's own estimate is the time left."""
    require(every > 0, f"every={every} must be positive.")
    if not show_progress():
        yield
        return
    stop, first, began = threading.Event(), progress_of(todo, folder, effort), time.perf_counter()

    def show(bar: tqdm) -> None:
        now = progress_of(todo, folder, effort)
        rate = (now.tokens - first.tokens) / max(time.perf_counter() - began, 1e-9)
        bar.set_postfix_str(f"{now.models}/{now.of} models, {rate:,.0f} tokens/s")
        bar.update(now.flops - bar.n)

    def poll(bar: tqdm) -> None:
        while not stop.wait(every):
            show(bar)

    with tqdm(total=first.of_flops, initial=first.flops, unit="FLOP", unit_scale=True, desc="ladder") as bar:
        watcher = threading.Thread(target=poll, args=(bar,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            show(bar)


# ---- tables ---------------------------------------------------------------------------------------


def collect_zoo(
    folder: str | Path, preset_name: str = "laptop", to: str | Path | None = None, beside: Tables | None = None
) -> Tables:
    """Join the tables of all measured runs of the zoo in ``folder``; written to ``to``, default its ``tables``.

    Args:
        beside: tables of runs measured elsewhere, to which these are added; of a run in both, this folder's count.

    Raises:
        IctlError: no run is measured, or runs of one corpus were trained on different states of its text.
    """
    others = [] if beside is None else beside["runs"]["init_seed"].tolist()
    seeds = 1 + max([*(run.train_cfg.init_seed for run in find_runs(folder)), *others], default=0)
    found = collect(folder, names(preset_name, seeds), effort_of(preset_name))
    if beside is not None:
        found = merged(found, beside, {run: of for p in PRESETS for run, of in names(p, seeds).items()})
    _same_texts(found["runs"], seeds)
    write(found, to or Path(folder) / "tables")
    return found


def _same_texts(runs: pd.DataFrame, seeds: int) -> None:
    sizes = {run_id(m, t): m.d_vocab for p in PRESETS for e in entries(p) for m, t in e.all_runs(seeds)}
    for (corpus, d_vocab), group in runs.groupby(["corpus", runs["run_id"].map(sizes)]):
        states = group.drop_duplicates("corpus_sha")
        require(len(states) == 1, f"runs on corpus={corpus!r} with {d_vocab} ids were trained on {len(states)} states "
                                  f"of its text, among them {' and '.join(states['run_id'][:2])}; train all on one.")
