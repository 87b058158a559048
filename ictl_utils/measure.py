"""Everything measured on a run, at every snapshot, on the same held-out text: computed once, then read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from . import metrics
from .config import IctlError, digest, require
from .metrics import Window
from .processes import in_processes, one_thread, show_progress
from .snapshots import Run, write_bytes
from .tokens import Tokens, eval_windows, load_tokens

MEASURES = 1  # raised when the code changes what is measured
ARRAYS = ("tokens", "loss", "icl", "icl_se", "loss_by_position", "prefix_matching", "prefix_random",
          "previous_token", "copying", "token_losses")  # fmt: skip


@dataclass(frozen=True)
class History:
    """Measurements of one run, a row a snapshot. Losses and scores in nats, windows in training tokens."""

    label: str  # "2L", "1L smeared keys"
    run_id: str
    tokens: Int[np.ndarray, "snap"]
    loss: Float[np.ndarray, "snap"]
    icl: Float[np.ndarray, "snap"]  # loss late minus loss early: negative is gain from context
    icl_se: Float[np.ndarray, "snap"]
    loss_by_position: Float[np.ndarray, "snap pos"]
    prefix_matching: Float[np.ndarray, "snap layer head"]  # the paper's probe
    prefix_random: Float[np.ndarray, "snap layer head"]  # random block lengths and gaps
    previous_token: Float[np.ndarray, "snap layer head"]
    copying: Float[np.ndarray, "snap layer head"]
    token_losses: Float[np.ndarray, "snap example"]

    @property
    def window(self) -> Window:
        """Phase change of the in-context learning score (:func:`ictl_utils.metrics.phase_change`)."""
        return metrics.phase_change(self.tokens, self.icl)

    @property
    def best(self) -> tuple[int, int]:
        """Layer and index of the head with the highest prefix-matching score at the end."""
        return metrics.best_head(self.prefix_matching[-1])

    def table(self) -> pd.DataFrame:
        """Tidy rows: run, label, snapshot, tokens, measure, layer, head, value; units in the measure's name."""
        rows = []
        for name in ("loss_nats", "icl_nats", "icl_se_nats"):
            values = getattr(self, name.removesuffix("_nats"))
            rows += [(s, name, -1, -1, value) for s, value in enumerate(values)]
        for name in ("prefix_matching", "prefix_random", "previous_token", "copying"):
            rows += [(s, name, layer, head, value) for (s, layer, head), value in np.ndenumerate(getattr(self, name))]
        frame = pd.DataFrame(rows, columns=["snapshot", "measure", "layer", "head", "value"])
        frame.insert(1, "tokens", self.tokens[frame["snapshot"]])
        return frame.assign(run_id=self.run_id, label=self.label)


def measure(run: Run, windows: int = 512, *, progress: bool | None = None) -> History:
    """Measure every snapshot of ``run``, or read the measurement made before.

    Args:
        windows: held-out windows of n_ctx tokens, the same for every model on a corpus.

    Raises:
        IctlError: a snapshot is damaged, or the corpus has fewer windows.
    """
    path = _place(run, windows)
    if not path.exists():
        tokens = load_tokens(run.train_cfg.corpus, run.model_cfg.d_vocab)
        found = run.manifest["corpus"]["sha256"]
        require(
            tokens.sha == found,
            f"{run.run_id} was trained on another state of corpus={run.train_cfg.corpus!r} (other Python or files); "
            "measure it where it was trained, or train it again here.",
        )
        with one_thread():
            _write(path, _measure(run, tokens, windows, show_progress() if progress is None else progress))
    try:
        with np.load(path) as saved:
            return History(run.label, run.run_id, **{name: saved[name] for name in ARRAYS})
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise IctlError(f"{path} is damaged ({error}); delete it and measure again.") from None


def measure_many(runs: list[Run], windows: int = 512, *, jobs: int | None = None) -> list[History]:
    """Measure several runs, one process a core."""
    return in_processes(partial(measure, progress=False), [(run, windows) for run in runs], jobs=jobs, bar="measuring")


def _place(run: Run, windows: int) -> Path:
    shas = [snap["sha256"] for snap in run.manifest["snapshots"]]
    return run.path / f"history_{digest(MEASURES, windows, shas)[:12]}.npz"


def _measure(run: Run, tokens: Tokens, windows: int, progress: bool) -> dict[str, np.ndarray]:
    text = eval_windows(tokens, windows, run.model_cfg.n_ctx)
    probes = metrics.repeated_probe(tokens, run.model_cfg.n_ctx), metrics.random_blocks(tokens, run.model_cfg.n_ctx)
    rows = [
        _one(run.model(i), tokens, text, *probes)
        for i in tqdm(range(len(run)), desc=f"measuring {run.run_id}", unit="snapshot", disable=not progress)
    ]
    return {"tokens": run.tokens, **{name: np.stack([row[name] for row in rows]) for name in rows[0]}}


def _one(model, tokens: Tokens, text: metrics.Windows, blocks: torch.Tensor, gaps: torch.Tensor) -> dict[str, object]:
    losses = metrics.token_losses(model, text)
    score = metrics.icl_score(losses)
    return {
        "loss": losses.mean(), "icl": score.value, "icl_se": score.se, "loss_by_position": losses.mean(axis=0),
        "prefix_matching": metrics.prefix_matching(model, blocks),
        "prefix_random": metrics.prefix_matching(model, gaps),
        "previous_token": metrics.previous_token(model, text[:32]),
        "copying": metrics.copying(model, tokens),
        "token_losses": metrics.one_token_each(losses),
    }  # fmt: skip


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
