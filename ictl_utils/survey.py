"""Everything measured on every kept snapshot of a run, as tidy tables: what the zoo ships.

The rows of the paper's Model Analysis Table (P1, appendix), and what P2 reads off weights. Units are in the
column names; :mod:`ictl_utils.tables` documents every column.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from jaxtyping import Int
from tqdm.auto import tqdm

from . import metrics, probes
from .ablations import FILLS
from .ablations_sweep import effects, sweep
from .circuits import composition_scores, copying_statistic, qk_positivity, qk_trace
from .config import IctlError, digest, require
from .model import Transformer
from .processes import one_thread, show_progress
from .snapshots import Run, write_bytes
from .survey_facts import facts
from .tokens import Tokens, eval_windows, load_tokens

Frames = dict[str, pd.DataFrame]
PARTS = "parts"  # of a survey that is not finished, in the folder of its tables
SURVEY = 1  # raised when the code changes what is measured
TABLES = ("snapshots", "positions", "token_losses", "heads", "composition", "ablations", "facts")
BLOCKS = 4  # of the paper's probe: 25 random tokens, four times


@dataclass(frozen=True)
class Effort:
    """How much held-out text each measurement reads, in windows of n_ctx tokens."""

    icl: int = 2700  # in-context learning score: keeps its standard error under 0.03 nats
    losses: int = 512  # losses at all positions
    heads: int = 32  # previous-token scores
    ablations: int = 128  # losses without a head
    fills: int = 4  # mean and resample ablations at every so many-th snapshot; zero ablations at all
    trained: int | None = field(default=None, repr=False)  # training windows skip-trigrams are counted in


FULL = Effort()
QUICK = Effort(icl=64, losses=32, heads=8, ablations=8, fills=3, trained=2048)


def survey(run: Run, effort: Effort = FULL, *, progress: bool | None = None) -> Frames:
    """Measure every snapshot of a finished run, or read what was measured before.

    Raises:
        IctlError: the run is unfinished or damaged, or was trained on another state of its corpus.
    """
    require(run.finished, f"{run.run_id} is not finished; train it to its end first (`ictl ladder` goes on with it).")
    folder = tables_folder(run, effort)
    if not is_surveyed(run, effort):
        with FileLock(run.path / ".survey"):
            if not is_surveyed(run, effort):  # another process may have measured it meanwhile
                _measure(run, effort, show_progress() if progress is None else progress)
    return {name: _read(folder / f"{name}.parquet") for name in TABLES}


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise IctlError(f"{path} is damaged ({error}); delete {path.parent} and measure again.") from None


def _measure(run: Run, effort: Effort, progress: bool) -> None:
    tokens, folder = load_tokens(run.train_cfg.corpus, run.model_cfg.d_vocab), tables_folder(run, effort)
    require(
        tokens.sha == run.manifest["corpus"]["sha256"],
        f"{run.run_id} was trained on another state of corpus={run.train_cfg.corpus!r} (other Python or files); "
        "measure it where it was trained, or train it again here.",
    )
    with one_thread(), torch.no_grad():
        found = _Surveyor(run, tokens, effort).run_all(progress)
    for name, frame in found.items():
        frame.insert(0, "run_id", run.run_id)
        _write(frame, folder / f"{name}.parquet")
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _write(frame: pd.DataFrame, path: Path) -> None:
    write_bytes(path, frame.to_parquet(index=False, compression="zstd"))


def tables_folder(run: Run, effort: Effort = FULL) -> Path:
    """Where the tables of ``run`` are kept: its name changes with the snapshots and with what is measured."""
    shas = [snap["sha256"] for snap in run.manifest["snapshots"]]
    part = [] if effort.trained is None else [effort.trained]
    return run.path / f"tables_{digest(SURVEY, str(effort), shas, *part)[:12]}"


def is_surveyed(run: Run, effort: Effort = FULL) -> bool:
    """Whether all tables of a run are there."""
    return all((tables_folder(run, effort) / f"{name}.parquet").exists() for name in TABLES)


def chosen_positions(n_ctx: int, others: int = 8) -> Int[np.ndarray, "chosen"]:
    """Query positions of the in-context learning score, and ``others`` drawn once from the rest, in order."""
    late, early = metrics.icl_ranges(n_ctx)
    fixed = [*range(*early), *range(*late)]
    rest = np.setdiff1d(np.arange(n_ctx), fixed)
    drawn = np.random.default_rng(0).choice(rest, min(others, len(rest)), replace=False)
    return np.sort(np.concatenate([fixed, drawn])).astype(np.int64)


def texts(tokens: Tokens, n_ctx: int, effort: Effort = FULL) -> tuple[metrics.Windows, metrics.Windows]:
    """Held-out windows whose losses are measured everywhere, and further ones for the in-context learning score."""
    found = eval_windows(tokens, min(effort.icl, len(tokens.held_out) // n_ctx), n_ctx)
    found = found[np.random.default_rng(0).permutation(len(found))]
    return found[: effort.losses], found[effort.losses :]


class _Surveyor:
    """One run: the texts and probes are made once, then each snapshot is measured on them."""

    def __init__(self, run: Run, tokens: Tokens, effort: Effort) -> None:
        self.run, self.tokens, self.effort, self.n_ctx = run, tokens, effort, run.model_cfg.n_ctx
        self.some, self.rest = texts(tokens, self.n_ctx, effort)
        self.few = self.some[: effort.ablations]
        self.kinds = probes.kinds_of_token(self.some)
        self.blocks = metrics.repeated_probe(tokens, self.n_ctx, BLOCKS)
        self.gaps = metrics.random_blocks(tokens, self.n_ctx)
        self.at = chosen_positions(self.n_ctx)
        self.parts = tables_folder(run, effort) / PARTS

    def run_all(self, progress: bool) -> Frames:
        """All tables of the run: first what needs one snapshot, then what needs its phase change."""
        rows: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
        bar = tqdm(total=2 * len(self.run), desc=self.run.run_id, unit="snapshot", disable=not progress)
        for i in range(len(self.run)):
            for name, frame in self.kept("snapshot", i, self.snapshot).items():
                rows[name].append(frame.assign(snapshot=i))
            bar.update()
        snapshots = pd.concat(rows["snapshots"]).assign(tokens=self.run.tokens)
        rows["snapshots"] = [snapshots]
        window = metrics.phase_change(self.run.tokens, snapshots["icl_nats"].to_numpy())
        vector = self.change(window)
        for i in range(len(self.run)):
            found = self.kept("ablations", i, partial(self.ablations, i, vector))
            rows["ablations"].append(found["ablations"].assign(snapshot=i))
            bar.update()
        model, text = self.run.model(), self.some[: self.effort.heads]
        prefix, previous = metrics.prefix_matching(model, self.blocks), metrics.previous_token(model, text)
        last = facts(model, self.tokens, self.few, prefix, previous, self.effort.trained)
        rows["facts"].append(last.assign(snapshot=len(self.run) - 1))
        empty = [pd.DataFrame()]
        return {name: pd.concat(frames or empty, ignore_index=True) for name, frames in rows.items()}

    def kept(self, kind: str, i: int, measure: Callable[[Transformer], Frames]) -> Frames:
        """Measure a snapshot, or read what a survey that was stopped had measured. A folder there is whole."""
        there = self.parts / f"{kind}_{i}"
        if not there.exists():
            fresh = there.with_suffix(".tmp")
            shutil.rmtree(fresh, ignore_errors=True)
            for name, frame in measure(self.run.model(i)).items():
                _write(frame, fresh / f"{name}.parquet")
            fresh.rename(there)
        return {path.stem: _read(path) for path in there.iterdir()}

    def snapshot(self, model: Transformer) -> Frames:
        """Losses, head scores and composition of one snapshot."""
        losses = metrics.token_losses(model, self.some)
        frames = {"snapshots": self.scores(model, losses), "token_losses": self.one_each(losses),
                  "positions": pd.DataFrame({"position": np.arange(self.n_ctx), "loss_nats": losses.mean(axis=0)})}
        if model.cfg.n_layers:
            frames["heads"] = self.heads(model)
        return frames | ({"composition": composition_table(model)} if model.cfg.n_layers > 1 else {})

    def scores(self, model: Transformer, losses: metrics.Losses) -> pd.DataFrame:
        """One row: loss, in-context learning score, losses by kind of token, and on repeated random tokens."""
        late, early = metrics.icl_ranges(self.n_ctx)
        at = np.r_[slice(*early), slice(*late)]
        few = np.concatenate([losses[:, at], probes.losses_at(model, self.rest, at)])
        each = few[:, early[1] - early[0] :].mean(axis=1) - few[:, : early[1] - early[0]].mean(axis=1)
        repeats = probes.repeats(model, self.blocks, BLOCKS)
        row = {"loss_nats": losses.mean(), "icl_nats": each.mean(), "icl_se_nats": each.std(ddof=1) / len(each) ** 0.5,
               "icl_at_positions_nats": metrics.icl_score(losses).at_positions}  # fmt: skip
        row |= {f"loss_{kind}_nats": loss for kind, loss in probes.losses_by_kind(losses, self.kinds).items()}
        row |= {"repeats_first_nats": repeats["first_nats"], "repeats_second_nats": repeats["second_nats"],
                "repeats_later_nats": repeats["later_nats"], "repeats_accuracy": repeats["accuracy"]}  # fmt: skip
        return pd.DataFrame([row])

    def one_each(self, losses: metrics.Losses) -> pd.DataFrame:
        """The vector of one loss a window behind the PCA (P1, "Per-token loss vectors"), in half precision."""
        return pd.DataFrame({"losses_nats": [metrics.one_token_each(losses).astype(np.float16)]})

    def heads(self, model: Transformer) -> pd.DataFrame:
        """One row a head: what it attends to, what it copies, and the eigenvalues of its circuits."""
        text = self.some[: self.effort.heads]
        previous = metrics.previous_token(model, text)
        columns = {
            "prefix_matching": metrics.prefix_matching(model, self.blocks),
            "prefix_random": metrics.prefix_matching(model, self.gaps),
            "previous_token": previous, "present_token": probes.present_token(model, text),
            "resting": probes.resting(model, self.blocks, BLOCKS), "copying": metrics.copying(model, self.tokens),
            "ov_copying": copying_statistic(model), "qk_trace": qk_trace(model, previous),
            "qk_positivity": qk_positivity(model, previous),
        }  # fmt: skip
        if model.cfg.smear != "none":
            columns["sigma_alpha"] = torch.sigmoid(model.alpha).numpy()
        layers, heads = np.indices(previous.shape)
        return pd.DataFrame({"layer": layers.ravel(), "head": heads.ravel(),
                             **{name: np.asarray(x).ravel() for name, x in columns.items()}})  # fmt: skip

    def change(self, window: metrics.Window) -> np.ndarray:
        """The before-and-after vector on the texts of the ablations (P1, "Before-and-after vector"), unit length."""
        start, end = (int(np.abs(self.run.tokens - t).argmin()) for t in (window.start, window.end))
        if start == end:  # narrower than the distance of snapshots
            start, end = max(start - 1, 0), min(end + 1, len(self.run) - 1)
        before, after = (probes.losses_at(self.run.model(i), self.few, self.at) for i in (start, end))
        return (after - before) / max(float(np.linalg.norm(after - before)), 1e-12)

    def ablations(self, i: int, vector: np.ndarray, model: Transformer) -> Frames:
        """Every head without, one at a time: zero ablations of both kinds, and other fills at some snapshots."""
        if not model.cfg.n_layers:
            return {"ablations": pd.DataFrame()}
        all_fills = i == len(self.run) - 1 or i % self.effort.fills == 0
        found = sweep(model, self.few, self.at, fills=FILLS if all_fills else FILLS[:1])
        change = effects(found, *metrics.icl_ranges(self.n_ctx), vector)
        columns = {"icl_change_nats": change.icl, "icl_change_se_nats": change.icl_se,
                   "loss_change_nats": change.loss, "attribution_nats": change.along}  # fmt: skip
        kind, fill, layer, head = (x.ravel() for x in np.indices(change.icl.shape))
        names = {"layer": layer, "head": head, "kind": np.array(found.kinds)[kind], "fill": np.array(found.fills)[fill]}
        return {"ablations": pd.DataFrame(names | {name: x.ravel() for name, x in columns.items()})}


def composition_table(model: Transformer, buggy: bool = False) -> pd.DataFrame:
    """One row a pair of heads in different layers: Q-, K- and V-composition (P2, "Composition scores")."""
    found = composition_scores(model, buggy)
    pairs = np.argwhere(~np.isnan(found.k))
    columns = dict(zip(("from_layer", "from_head", "to_layer", "to_head"), pairs.T, strict=True))
    return pd.DataFrame(columns | {kind: getattr(found, kind)[tuple(pairs.T)] for kind in "qkv"})
