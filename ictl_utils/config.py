"""What a run is: two frozen dataclasses, three presets, a run id, and where things are kept."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from pathlib import Path

RECIPE = 1
"""Raised by hand when code changes what the same configuration trains to; part of every run id."""

POSITIONS = ("shortformer", "learned", "rotary")
SMEARS = ("none", "key", "query", "value")
SCHEDULES = ("constant", "linear")
OPTIMIZERS = ("adamw", "muon")


class IctlError(ValueError):
    """Input that cannot be used: the message names the value, what was expected and what to do."""


def require(ok: bool, message: str) -> None:
    """Raise :class:`IctlError` with ``message`` unless ``ok``."""
    if not ok:
        raise IctlError(message)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise :class:`IctlError` unless ``value`` is among ``known``."""
    require(value in known, f"{name}={value!r} is not known; choose one of {', '.join(known)}.")


def _typed(config: object) -> None:
    """Fields of a configuration are of their kind; ``10e6`` is a whole number too.

    Raises:
        IctlError: one is not; names it.
    """
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        number = isinstance(value, Real) and not isinstance(value, bool)
        whole = number and (isinstance(value, int) or float(value).is_integer())
        fits = {"int": whole, "float": number, "bool": isinstance(value, bool), "str": isinstance(value, str)}[kind]
        words = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a string"}[kind]
        require(fits, f"{field.name}={value!r} is not {words}; give {field.name} as {words}.")
        if kind in ("int", "float"):  # 1 and 1.0 are the same run
            value = int(value) if kind == "int" else float(value)
            require(kind == "int" or math.isfinite(value), f"{field.name}={value} is not finite; give a number.")
            object.__setattr__(config, field.name, value)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of one transformer (P2, "Transformer overview"; P1, "Model details")."""

    n_layers: int = 2
    d_model: int = 128  # width of the residual stream
    n_heads: int = 4  # heads a layer; d_head = d_model / n_heads
    n_ctx: int = 128  # longest sequence, in tokens
    d_vocab: int = 1024
    mlp: bool = False  # attention-only unless True
    positions: str = "shortformer"  # sinusoids added to the inputs of W_Q and W_K only
    smear: str = "none"  # which of key, query, value is mixed with the position before
    norm: bool = True  # LayerNorm with gain, without bias, before every read
    init_qk: float = 0.06  # standard deviation of W_Q and W_K at the start

    def __post_init__(self) -> None:
        _typed(self)
        require(0 <= self.n_layers <= 8, f"n_layers={self.n_layers} is out of range; use 0 to 8.")
        for name in ("d_model", "n_heads", "n_ctx", "d_vocab"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1.")
        require(
            self.d_model % self.n_heads == 0,
            f"n_heads={self.n_heads} does not divide d_model={self.d_model}; "
            f"choose n_heads so that d_model / n_heads is a whole number.",
        )
        one_of("positions", self.positions, POSITIONS)
        one_of("smear", self.smear, SMEARS)
        require(
            self.positions == "learned" or self.d_head % 2 == 0,
            f"d_head={self.d_head} is odd; positions={self.positions!r} need an even d_model / n_heads.",
        )
        require(self.init_qk >= 0, f"init_qk={self.init_qk} must not be negative.")
        require(self.d_vocab <= 65536, f"d_vocab={self.d_vocab} does not fit 16 bits; use at most 65536.")

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def label(self) -> str:
        """Short name for figures: ``2L``, ``1L smeared keys``, ``4L MLP rotary``."""
        parts = [f"{self.n_layers}L"]
        parts += ["MLP"] if self.mlp else []
        parts += [] if self.smear == "none" else [{"key": "smeared keys", "query": "smeared queries",
                                                   "value": "smeared values"}[self.smear]]
        parts += [] if self.positions == "shortformer" else [self.positions]
        return " ".join(parts)


@dataclass(frozen=True)
class TrainConfig:
    """How one transformer is trained; with :class:`ModelConfig` it decides every weight."""

    corpus: str = "stdlib"  # a name ``data.documents`` knows
    tokens: int = 5_000_000  # training tokens, rounded to whole steps
    batch: int = 8  # sequences of n_ctx tokens a step
    lr: float = 3e-3  # peak learning rate, betas (0.9, 0.98)
    warmup: int = 100  # steps of linear warm-up
    schedule: str = "constant"  # after warm-up: constant, or linear to a tenth of lr at the last step
    optimizer: str = "adamw"  # or muon, for the layers' matrices
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm
    init_seed: int = 0  # draws the initial weights, nothing else
    data_seed: int = 0  # orders the training windows, nothing else
    snapshots: int = 60  # weights kept over the run, log-spaced then linear; at least the steps 0, 1 and the last

    def __post_init__(self) -> None:
        _typed(self)
        for name in ("tokens", "batch", "snapshots"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("warmup", "init_seed", "data_seed"):
            require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} must not be negative.")
            require(getattr(self, name) < 2**32, f"{name}={getattr(self, name)} is too large; use less than 2**32.")
        require(self.tokens <= 10**12, f"tokens={self.tokens} is too large; use at most 1e12.")
        require(self.lr > 0, f"lr={self.lr} must be positive.")
        require(self.weight_decay >= 0, f"weight_decay={self.weight_decay} must not be negative.")
        require(self.clip > 0, f"clip={self.clip} must be positive; use a large number for no clipping.")
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)

    def steps(self, n_ctx: int) -> int:
        """Optimiser steps of a run at context length ``n_ctx`` (at least one)."""
        return max(1, round(self.tokens / (self.batch * n_ctx)))


PRESETS: dict[str, tuple[ModelConfig, TrainConfig]] = {
    "smoke": (ModelConfig(), TrainConfig(tokens=1_000_000, snapshots=16)),
    "laptop": (ModelConfig(), TrainConfig()),
    "gpu": (ModelConfig(d_model=512, n_heads=8, n_ctx=512, d_vocab=4096, init_qk=0.03),
            TrainConfig(tokens=500_000_000, batch=64, lr=1.5e-3, warmup=200, snapshots=120)),
}
"""smoke: seconds on one core. laptop: minutes on one core. gpu: n_ctx 512, so that the paper's
score, loss at token 500 minus loss at token 50, is exact."""


def preset(name: str, **changes) -> tuple[ModelConfig, TrainConfig]:
    """The two configurations of preset ``name``, with any field of either replaced.

    Raises:
        IctlError: ``name`` is no preset, or a change names no field or has a bad value.
    """
    one_of("preset", name, tuple(PRESETS))
    model_cfg, train_cfg = PRESETS[name]
    fields = {**asdict(model_cfg), **asdict(train_cfg)}
    for key in changes:
        require(key in fields, f"{key!r} is no field of ModelConfig or TrainConfig; known: {', '.join(fields)}.")
    in_model = {k: v for k, v in changes.items() if hasattr(model_cfg, k)}
    in_train = {k: v for k, v in changes.items() if k not in in_model}
    return replace(model_cfg, **in_model), replace(train_cfg, **in_train)


def digest(*parts: object) -> str:
    """Hex SHA-256 of the JSON of ``parts``: the same for the same values on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def run_id(model_cfg: ModelConfig, train_cfg: TrainConfig) -> str:
    """Readable name of a run, ``2l-key-s0-1a2b3c4d5e``: the end is the hash of both configurations."""
    kind = f"{model_cfg.n_layers}l" + ("-mlp" if model_cfg.mlp else "")
    kind += "" if model_cfg.smear == "none" else f"-{model_cfg.smear}"
    return f"{kind}-s{train_cfg.init_seed}-{digest(RECIPE, asdict(model_cfg), asdict(train_cfg))[:10]}"


def home() -> Path:
    """Where corpora and runs are kept: ``$ICTL_HOME``, or ``~/.cache/ictl_utils``."""
    return Path(os.environ.get("ICTL_HOME") or Path.home() / ".cache" / "ictl_utils")


def runs_dir() -> Path:
    """Where runs are kept: ``$ICTL_RUNS``, or ``runs`` under :func:`home`."""
    return Path(os.environ.get("ICTL_RUNS") or home() / "runs")


def runs_folder(out: str | Path | None = None) -> Path:
    """The folder of runs to work in: ``out``, or :func:`runs_dir`; it need not be there yet.

    Raises:
        IctlError: a file is where the folder, or one above it, would be.
    """
    folder = Path(out or runs_dir())
    files = [path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()]
    require(not files, f"{files and files[0]} is a file; expected a folder for runs, choose another --out.")
    return folder


@dataclass(frozen=True)
class Device:
    """A device, the dtype of matrix products on it, and why they were chosen."""

    name: str  # "cpu", "cuda"
    dtype: str  # "float32", "bfloat16", "float16"
    reason: str

    def __str__(self) -> str:
        return f"{self.name} in {self.dtype}: {self.reason}"


def choose_device(device: str = "auto") -> Device:
    """Pick device and dtype once; ``str()`` of the result says why.

    bfloat16 needs compute capability 8.0: a T4 answers that it supports it but has no such hardware.

    Raises:
        IctlError: ``device`` is unknown, or is ``"cuda"`` on a machine without a usable GPU.
    """
    import torch

    one_of("device", device, ("auto", "cpu", "cuda"))
    found = torch.cuda.is_available()
    require(
        found or device != "cuda",
        "device='cuda' was asked for, but PyTorch sees no GPU here; "
        "use device='cpu', or install a CUDA build of PyTorch on a machine with a GPU.",
    )
    if device == "cpu" or not found:
        why = "asked for" if device == "cpu" else "no GPU found"
        return Device("cpu", "float32", f"{why}; fp32 is the fastest exact choice on a CPU")
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    dtype = "bfloat16" if capability >= (8, 0) else "float16"
    return Device("cuda", dtype, f"{name}, compute capability {capability[0]}.{capability[1]}")
