"""Train one transformer, or many at once; every run can be killed at any moment and goes on exactly."""

from __future__ import annotations

import json
import math
import platform
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from .config import Device, IctlError, ModelConfig, TrainConfig, choose_device, require, run_id, runs_dir
from .loss import mean_loss
from .model import Transformer
from .muon import Muon
from .processes import in_processes, one_thread, show_progress
from .snapshots import MANIFEST, Run, new_manifest, read_metadata, read_tensors, write_manifest, write_tensors
from .tokens import Tokens, batches, load_tokens

BETAS = (0.9, 0.98)
LOG_EVERY = 50  # steps between two entries of the training-loss log


def train(
    model_cfg: ModelConfig,
    train_cfg: TrainConfig,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    threads: int = 1,
    progress: bool | None = None,
) -> Run:
    """Train a model, or resume it, or return it at once when it is finished.

    Args:
        out: folder in which the run's own folder is made; default :func:`ictl_utils.config.runs_dir`.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; the same number gives the same weights bit for bit.
        progress: show a bar; by default only where someone is watching.

    Raises:
        IctlError: bad corpus or vocabulary, no such device, disk full, or a damaged run folder.
    """
    tokens = load_tokens(train_cfg.corpus, model_cfg.d_vocab)
    path = Path(out or runs_dir()) / run_id(model_cfg, train_cfg)
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / ".lock"), one_thread(threads):
        trainer = _Trainer(path, model_cfg, train_cfg, tokens, choose_device(device))
        trainer.run(show_progress() if progress is None else progress)
    return Run(path)


def train_many(
    configs: list[tuple[ModelConfig, TrainConfig]], out: str | Path | None = None, *, jobs: int | None = None
) -> list[Run]:
    """Train several models, one process a core, the dearest first; returns them in the order given.

    Raises:
        IctlError: as :func:`train`, from the first model that fails.
    """
    for corpus, d_vocab in {(t.corpus, m.d_vocab) for m, t in configs}:
        load_tokens(corpus, d_vocab)  # once, before the processes start
    folder = Path(out or runs_dir())
    by_cost = sorted(configs, key=lambda c: -c[1].tokens * Transformer(c[0]).flops_per_token())
    with _watch(configs, folder):
        in_processes(partial(train, device="cpu", progress=False), [(m, t, folder) for m, t in by_cost], jobs=jobs)
    return [Run(folder / run_id(m, t)) for m, t in configs]


def snapshot_steps(steps: int, n: int) -> list[int]:
    """Steps at which weights are kept: a third log-spaced, the rest linear, first 0 and last ``steps``."""
    log = np.geomspace(1, steps, max(n // 3, 1))
    linear = np.linspace(0, steps, max(n - n // 3, 2))
    return sorted({round(step) for step in (*log, *linear)})


def learning_rate(cfg: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then constant or linear to a tenth of the peak at the last step."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if cfg.schedule == "constant":
        return cfg.lr
    done = (step - cfg.warmup) / max(1, steps - cfg.warmup)
    return cfg.lr * (1 - 0.9 * done)


def optimizer(model: Transformer, cfg: TrainConfig) -> torch.optim.Optimizer:
    """AdamW for every weight, or Muon for the layers' matrices and AdamW for the rest."""
    if cfg.optimizer == "muon":
        return Muon(model, cfg.lr, BETAS, cfg.weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=BETAS, weight_decay=cfg.weight_decay, fused=True)


class _Trainer:
    """One run in memory: model, optimiser, and the manifest that says how far the disk is."""

    def __init__(self, path: Path, model_cfg: ModelConfig, cfg: TrainConfig, tokens: Tokens, device: Device) -> None:
        self.path, self.cfg, self.tokens, self.device = path, cfg, tokens, device
        self.steps = cfg.steps(model_cfg.n_ctx)
        self.model = Transformer(model_cfg, seed=cfg.init_seed).to(device.name)
        self.opt = optimizer(self.model, cfg)
        self.scaler = torch.amp.GradScaler(device.name, enabled=device.dtype == "float16")
        self.step, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        if (path / MANIFEST).exists():
            self._resume()
        else:
            self.manifest = new_manifest(model_cfg, cfg, **_facts(tokens, device, self.model))

    def run(self, progress: bool) -> None:
        """Take the steps that are left, keeping snapshots on the way."""
        if self.manifest["finished"]:
            return
        keep = set(snapshot_steps(self.steps, self.cfg.snapshots))
        n_ctx, size = self.model.cfg.n_ctx, self.cfg.batch * self.model.cfg.n_ctx
        stream = batches(self.tokens.train, self.cfg.batch, n_ctx, self.cfg.data_seed, start=self.step)
        began, busy = time.perf_counter() - self.seconds, time.process_time() - self.cpu_seconds
        with tqdm(total=self.steps * size, initial=self.step * size, unit="tok", unit_scale=True,
                  desc=self.manifest["run_id"], disable=not progress, mininterval=0.5) as bar:  # fmt: skip
            while True:
                if self.step in keep and self.step not in (s["step"] for s in self.manifest["snapshots"]):
                    self.seconds, self.cpu_seconds = time.perf_counter() - began, time.process_time() - busy
                    self._keep()
                if self.step == self.steps:
                    return
                loss = self._take_step(torch.from_numpy(next(stream)).to(self.device.name))
                self.step += 1
                if self.step % LOG_EVERY == 0:
                    self.manifest["losses"].append([self.step, round(loss.item(), 5)])
                bar.update(size)

    def _take_step(self, batch: torch.Tensor) -> torch.Tensor:
        for group in self.opt.param_groups:
            group["lr"] = learning_rate(self.cfg, self.step, self.steps)
        half = self.device.dtype != "float32"
        context = torch.autocast(self.device.name, getattr(torch, self.device.dtype)) if half else nullcontext()
        with context:
            x = self.model.read_out(self.model.trunk(batch[:, :-1])).flatten(0, 1)
            targets = batch[:, 1:].flatten()
            loss = (torch.nn.functional.cross_entropy((x @ self.model.W_U).float(), targets) if half
                    else mean_loss(x, self.model.W_U, targets))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.opt)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.scaler.step(self.opt)
        self.scaler.update()
        self.opt.zero_grad(set_to_none=True)
        return loss.detach()

    def _keep(self) -> None:
        """Write a snapshot, then the optimiser's state, then the manifest that makes both count."""
        seen = self.step * self.cfg.batch * self.model.cfg.n_ctx
        name, state = f"step_{self.step:07d}.safetensors", f"state_{self.step:07d}.safetensors"
        sha = write_tensors(self.path / name, self.model.state_dict())
        finished = self.step == self.steps
        self.manifest["state"] = None if finished else {
            "step": self.step, "file": state, "sha256": write_tensors(self.path / state, *self._state())}
        self.manifest["snapshots"].append({"step": self.step, "tokens": seen, "file": name, "sha256": sha})
        self.manifest.update(finished=finished, seconds=round(self.seconds, 3), cpu_seconds=round(self.cpu_seconds, 3),
                             flops=self.model.flops_per_token() * seen)  # fmt: skip
        write_manifest(self.path, self.manifest)
        for path in self.path.glob("state_*.safetensors"):  # the one before, and what a killed run left
            if finished or path.name != state:
                path.unlink(missing_ok=True)

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        names = [name for name, _ in self.model.named_parameters()]
        slots = self.opt.state_dict()["state"]
        moments = {f"{slot}/{names[i]}": tensor for i, entry in slots.items() for slot, tensor in entry.items()}
        return moments, {"scaler": json.dumps(self.scaler.state_dict())}

    def _resume(self) -> None:
        """Load the last snapshot and the optimiser's state beside it; the data order follows from the step."""
        run = Run(self.path)
        self.manifest = run.manifest
        require(
            self.manifest["corpus"]["sha256"] == self.tokens.sha,
            f"{self.path} was trained on another state of corpus={self.cfg.corpus!r} (other Python or files); "
            "use another --out folder, or delete this run to train it again.",
        )
        if run.finished:
            return
        state, last = self.manifest["state"], self.manifest["snapshots"][-1]
        tensors = read_tensors(self.path / state["file"], state["sha256"])
        self.model.load_state_dict(run.model().state_dict())
        self.step, self.seconds = last["step"], self.manifest["seconds"]
        self.cpu_seconds = self.manifest.get("cpu_seconds", 0.0)
        self._load_moments(tensors)
        if scale := json.loads(read_metadata(self.path / state["file"]).get("scaler", "{}")):
            self.scaler.load_state_dict(scale)  # empty but for float16
        self.manifest["losses"] = [entry for entry in self.manifest["losses"] if entry[0] <= self.step]

    def _load_moments(self, tensors: dict[str, torch.Tensor]) -> None:
        saved = self.opt.state_dict()
        for i, (name, _) in enumerate(self.model.named_parameters()):
            entry = {key.split("/")[0]: tensor for key, tensor in tensors.items() if key.endswith("/" + name)}
            if entry:
                saved["state"][i] = entry
        self.opt.load_state_dict(saved)


def _facts(tokens: Tokens, device: Device, model: Transformer) -> dict[str, object]:
    packages = ("torch", "numpy", "tokenizers", "safetensors")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "interpreter": sys.version, "platform": platform.platform(),
        "device": {"name": device.name, "dtype": device.dtype, "reason": device.reason},
        "corpus": {"name": tokens.corpus, "sha256": tokens.sha, "documents": tokens.documents,
                   "characters": tokens.characters, "train_tokens": len(tokens.train)},
        "parameters": model.n_params,
    }  # fmt: skip


@contextmanager
def _watch(configs: list[tuple[ModelConfig, TrainConfig]], folder: Path):
    """A bar over the tokens of all runs, read from their manifests while the processes work."""
    done = threading.Event()

    def seen(m: ModelConfig, t: TrainConfig) -> int:
        try:
            return int(Run(folder / run_id(m, t)).tokens[-1])
        except (IctlError, IndexError):
            return 0

    def poll(bar: tqdm) -> None:
        while not done.wait(1.0):
            bar.update(sum(seen(m, t) for m, t in configs) - bar.n)

    total = sum(t.steps(m.n_ctx) * t.batch * m.n_ctx for m, t in configs)
    with tqdm(total=total, unit="tok", unit_scale=True, disable=not show_progress(),
              desc=f"training {len(configs)} models") as bar:  # fmt: skip
        watcher = threading.Thread(target=poll, args=(bar,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            bar.update(math.fsum(seen(m, t) for m, t in configs) - bar.n)
