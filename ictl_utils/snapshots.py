"""Runs on disk: one folder a run, weights as safetensors, one JSON manifest, every file hash-checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from .config import IctlError, ModelConfig, TrainConfig, require, run_id
from .model import Transformer

MANIFEST = "manifest.json"


class Run:
    """A training run on disk: a folder with ``manifest.json`` and one safetensors file a snapshot.

    The manifest holds both configurations, versions, interpreter, corpus hash, device, FLOPs, seconds,
    the training loss and the list of snapshots with their hashes.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the run in folder ``path``; nothing but the manifest is read.

        Raises:
            IctlError: there is no manifest, or it cannot be read.
        """
        self.path = Path(path)
        try:
            self.manifest = json.loads((self.path / MANIFEST).read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise IctlError(f"{self.path} holds no {MANIFEST}; expected the folder of a run of `ictl train`.") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise IctlError(f"{self.path / MANIFEST} is damaged; delete the folder and train the run again.") from None
        try:
            self.model_cfg = ModelConfig(**self.manifest["model"])
            self.train_cfg = TrainConfig(**self.manifest["train"])
            _ = [self.manifest[name] for name in ("run_id", "finished", "snapshots", "corpus")]
        except (KeyError, TypeError, IctlError) as error:
            raise IctlError(f"{self.path / MANIFEST} is damaged, or of another version ({type(error).__name__}: "
                            f"{str(error).rstrip('.')}); delete the folder and train the run again.") from None

    @property
    def run_id(self) -> str:
        """Name of the run: ends in the hash of both configurations."""
        return self.manifest["run_id"]

    @property
    def label(self) -> str:
        """Short name of the model for figures, ``2L`` or ``1L smeared keys``."""
        return self.model_cfg.label

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken."""
        return self.manifest["finished"]

    @property
    def tokens(self) -> Int[np.ndarray, "snap"]:
        """Training tokens seen at each snapshot; the first is 0."""
        return np.array([snap["tokens"] for snap in self.manifest["snapshots"]])

    def __len__(self) -> int:
        return len(self.manifest["snapshots"])

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Run({self.run_id}: {self.label}, {len(self)} snapshots, {state})"

    def model(self, i: int = -1) -> Transformer:
        """The model at snapshot ``i``, in evaluation mode on the CPU.

        Raises:
            IctlError: no such snapshot, or its file is missing, truncated or altered.
        """
        require(-len(self) <= i < len(self), f"snapshot {i} of {self.run_id} does not exist; it has {len(self)}.")
        snap = self.manifest["snapshots"][i]
        model = Transformer(self.model_cfg)
        model.load_state_dict(read_tensors(self.path / snap["file"], snap["sha256"]))
        return model.eval().requires_grad_(False)


def find_runs(folder: str | Path) -> list[Run]:
    """All runs below ``folder``, or the one it is, sorted by name.

    Raises:
        IctlError: there is none.
    """
    found = sorted(path.parent for path in Path(folder).rglob(MANIFEST))
    require(bool(found), f"{folder} holds no run; expected a folder that `ictl train --out {folder}` wrote to.")
    return [Run(path) for path in found]


def new_manifest(model_cfg: ModelConfig, train_cfg: TrainConfig, **facts: object) -> dict:
    """A manifest without snapshots; ``facts`` are versions, corpus, device and the like."""
    return {
        "run_id": run_id(model_cfg, train_cfg), "finished": False,
        "model": asdict(model_cfg), "train": asdict(train_cfg), **facts,
        "seconds": 0.0, "flops": 0.0, "losses": [], "state": None, "snapshots": [],
    }  # fmt: skip


def write_bytes(path: Path, content: bytes) -> str:
    """Write ``content`` to a temporary name, rename it to ``path``, return its SHA-256.

    Raises:
        IctlError: the disk is full; what was half written is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise IctlError(
                f"the disk is full: {path} needs {len(content) / 1e6:.1f} MB more; "
                "free some space and start the same command again, finished snapshots are kept."
            ) from error
        raise
    return hashlib.sha256(content).hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors as safetensors, atomically; returns the SHA-256 of the file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_bytes(path, save(plain, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """The strings that :func:`write_tensors` was given beside the tensors."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file whose hash must be ``sha256``.

    Raises:
        IctlError: the file is missing, truncated or altered.
    """
    remedy = "delete the run's folder and train it again, or restore the file."
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IctlError(f"{path} is missing although the manifest lists it; {remedy}") from None
    found = hashlib.sha256(content).hexdigest()
    require(
        found == sha256,
        f"{path} is truncated or altered: its SHA-256 is {found[:12]}..., the manifest says {sha256[:12]}...; {remedy}",
    )
    return load(content)


def write_manifest(path: Path, manifest: dict) -> None:
    """Write the manifest of the run in folder ``path``, atomically."""
    write_bytes(path / MANIFEST, json.dumps(manifest, indent=1).encode())
