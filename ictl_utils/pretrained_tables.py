"""Measurements of pretrained models as tables: the zoo's columns where they apply, kept in a folder a checkpoint."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from . import metrics, pretrained, tables
from . import pretrained_scores as scores
from .config import IctlError, digest, require, runs_dir
from .pretrained import MAIN, LanguageModel, device_name, fits, load, short_name, tokens_of
from .pretrained_texts import Alphabet, held_out, paper_probe, random_probe, text_sha, text_windows
from .snapshots import write_bytes
from .tables import SHIPPED, Tables

MEASURE = 1  # raised when the code changes what is measured
FOLDER, MARK = "pretrained", "runs"  # the table written last: a checkpoint that has it is complete
FILES = "files.sha256"  # beside the tables: fingerprint of a checkpoint that is a folder
HEADS_CTX = 128  # tokens of the text on which heads are measured, as in the zoo
UNKNOWN = {
    "runs": ("lr", "warmup_steps", "optimizer", "batch_tokens", "seconds", "core_seconds", "flops"),
    "heads": ("qk_trace", "qk_positivity", "sigma_alpha"),
}
MORE = {
    "runs": {"settings": "hash of the text, of how much of it was read, and of the precision; "
                         "only equal ones are compared",
             "n_ctx": "query positions of a window", "windows": "windows read"},
    "snapshots": {"revision": "name of the checkpoint", "device": "device and precision of the measurement"},
}  # fmt: skip
SCHEMA = {name: {column: text for column, text in tables.SCHEMA[name].items() if column not in UNKNOWN.get(name, ())}
          | MORE.get(name, {}) for name in ("snapshots", "positions", "token_losses", "heads", MARK)}  # fmt: skip
"""Every column of every table; those of ``tables.SCHEMA`` mean the same here."""
OPTIONAL = {"tokens", "copying", "ov_copying"}  # empty where the revision or the architecture does not tell
OF_ALL = ("run_id", "snapshot", "snapshots")  # columns that only all checkpoints together give


@dataclass(frozen=True)
class Reading:
    """What the model reads: held-out documents of a corpus, in windows that each begin with BOS."""

    corpus: str = "stdlib"  # or docstrings, or path:GLOB
    windows: int = 1000  # at most; all there are where there are fewer
    n_ctx: int = 512  # tokens a window: over 500 the in-context learning score is exactly the paper's
    heads: int = 32  # windows on which heads are measured


# ---- measuring --------------------------------------------------------------------------------------


def measure(name: str, revisions: Sequence[str] = (MAIN,), reading: Reading | None = None, *, device: str = "auto",
            dtype: str = "float32", folder: str | Path | None = None) -> Iterator[Tables]:
    """Tables of each checkpoint in turn, measured now or, where that was done before, read.

    What was measured in another precision, of another folder of the same name, or before files of a folder changed,
    is not taken for it.

    Args:
        name, device, dtype: as :func:`ictl_utils.pretrained.load` takes them.
        revisions: checkpoints; of Pythia ``step0`` to ``step143000``.
        folder: where ``pretrained/NAME`` is kept; default :func:`ictl_utils.config.runs_dir`.

    Raises:
        IctlError: as :func:`ictl_utils.pretrained.load`; or the corpus has too little text.
    """
    reading = reading or Reading()
    for revision in revisions:
        tokens_of(name, revision)  # an unknown one is an error before the first is measured
    texts = held_out(reading.corpus)
    settings = digest(MEASURE, asdict(reading), text_sha(texts), dtype)[:12]
    about = {"corpus": reading.corpus, "corpus_sha": text_sha(texts), "settings": settings}
    key = "-".join(filter(None, (settings, pretrained.place_key(name))))
    for revision in revisions:
        place = Path(folder or runs_dir()) / FOLDER / short_name(name) / key / revision.replace("/", "--")
        files = pretrained.fingerprint(name, revision)
        if not _is_measured(place, files):
            lm = load(name, revision, device, dtype)
            with fits(name, dtype):
                found = measure_checkpoint(lm, texts, reading)
            del lm
            found[MARK] = found[MARK].assign(**about)
            _check(found, OF_ALL)
            _write_checkpoint(found, place, files)
        yield _read_checkpoint(place)


def _is_measured(place: Path, files: str) -> bool:
    known_files = (place / FILES).read_text() if (place / FILES).exists() else ""
    return (place / f"{MARK}.parquet").exists() and known_files == files


def _write_checkpoint(found: Tables, place: Path, files: str) -> None:
    (place / f"{MARK}.parquet").unlink(missing_ok=True)  # of files that have changed since
    if files:
        write_bytes(place / FILES, files.encode())
    for table in SCHEMA:
        write_bytes(place / f"{table}.parquet", found[table].to_parquet(index=False, compression="zstd"))


def measure_checkpoint(lm: LanguageModel, texts: list[str], reading: Reading) -> Tables:
    """All tables of one checkpoint, without what only the whole run tells: run, snapshot and corpus."""
    windows, alphabet = text_windows(lm, texts, reading.windows, reading.n_ctx), Alphabet.of(lm)
    losses = scores.token_losses(lm, windows)
    by_position = pd.DataFrame({"position": np.arange(losses.shape[1]), "loss_nats": losses.mean(axis=0)})
    vector = pd.DataFrame({"losses_nats": [metrics.one_token_each(losses).astype(np.float16)]})
    return {"snapshots": _scores(lm, windows, losses, alphabet), "positions": by_position, "token_losses": vector,
            "heads": _heads(lm, windows[: reading.heads, : HEADS_CTX + 1], alphabet),
            MARK: _about(lm).assign(n_ctx=losses.shape[1], windows=len(losses))}  # fmt: skip


def _scores(lm: LanguageModel, windows: metrics.Windows, losses: metrics.Losses, alphabet: Alphabet) -> pd.DataFrame:
    icl = metrics.icl_score(losses)
    row = {"tokens": lm.tokens, "revision": lm.revision, "device": f"{device_name(lm.device)} {lm.dtype}",
           "loss_nats": losses.mean(), "icl_nats": icl.value, "icl_se_nats": icl.se,
           "icl_at_positions_nats": icl.at_positions}  # fmt: skip
    row |= {f"loss_{kind}_nats": loss for kind, loss in scores.losses_by_kind(lm, windows, losses).items()}
    return pd.DataFrame([row | {f"repeats_{k}": x for k, x in scores.repeats(lm, alphabet).items()}])


def _heads(lm: LanguageModel, windows: metrics.Windows, alphabet: Alphabet) -> pd.DataFrame:
    probe = paper_probe(lm, alphabet)
    previous = scores.previous_token(lm, windows)
    unknown = np.full(previous.shape, np.nan)
    copying, ov_copying = scores.copying(lm, alphabet), scores.ov_copying(lm)
    columns = {
        "prefix_matching": scores.prefix_matching(lm, alphabet, probe),
        "prefix_random": scores.prefix_matching(lm, alphabet, random_probe(lm, alphabet)),
        "previous_token": previous, "present_token": scores.present_token(lm, windows),
        "resting": scores.resting(lm, alphabet, probe),
        "copying": unknown if copying is None else copying, "ov_copying": unknown if ov_copying is None else ov_copying,
    }  # fmt: skip
    layers, heads = np.indices(previous.shape)
    return pd.DataFrame({"layer": layers.ravel(), "head": heads.ravel()} | {k: x.ravel() for k, x in columns.items()})


def _about(lm: LanguageModel) -> pd.DataFrame:
    """The row of ``runs``; a released model is one training, seed 0 of itself."""
    config = lm.model.config
    rotary = getattr(config, "rope_parameters", None) is not None
    row = {
        "name": lm.name, "family": FOLDER, "label": lm.name, "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size, "n_heads": config.num_attention_heads, "mlp": True,
        "positions": "rotary" if rotary else "learned", "smear": "none", "init_seed": 0, "data_seed": 0,
        "parameters": lm.n_params, "tokens": lm.tokens, "device": f"{device_name(lm.device)} {lm.dtype}",
        "versions": f"python {platform.python_version()}, torch {version('torch')}, "
                    f"transformers {version('transformers')}",
    }  # fmt: skip
    return pd.DataFrame([row])


# ---- reading ----------------------------------------------------------------------------------------


def read(folder: str | Path | None = None) -> Tables:
    """Everything measured in a folder of runs (default: :func:`runs_dir`), a run a model (of one folder) and setting.

    Snapshots are in the order of their training tokens; of two with the same number the first name counts.

    Raises:
        IctlError: a table is damaged or lacks a column or a value.
    """
    parts: dict[str, list[Tables]] = {}
    for mark in sorted(Path(folder or runs_dir()).glob(f"{FOLDER}/*/*/*/{MARK}.parquet")):
        found = _read_checkpoint(mark.parent)
        parts.setdefault(f"{found[MARK]['name'].iloc[0]}-{mark.parents[1].name}", []).append(found)
    runs = [_run(run_id, checkpoints) for run_id, checkpoints in parts.items()]
    return _joined(runs)


def shipped() -> Tables:
    """The measurements that come with the package; empty tables where there are none."""
    paths = {name: SHIPPED / f"{FOLDER}_{name}.parquet" for name in SCHEMA}
    return {name: _parquet(path) for name, path in paths.items()} if paths[MARK].exists() else _joined([])


def known(folder: str | Path | None = None) -> Tables:
    """What was measured on this machine, and what is shipped; of one model and settings the longer run, or ours."""
    own, others = read(folder), shipped()
    mine, theirs = _lengths(own), _lengths(others)
    return _joined([_only(own, {key for key in mine if mine[key] >= theirs.get(key, 0)}),
                    _only(others, {key for key in theirs if theirs[key] > mine.get(key, 0)})])  # fmt: skip


def _lengths(found: Tables) -> dict[tuple[str, str], int]:
    """Most checkpoints of a run, by model and settings."""
    lengths: dict[tuple[str, str], int] = {}
    for key, n in zip(_keys(found), found[MARK]["snapshots"], strict=True):
        lengths[key] = max(int(n), lengths.get(key, 0))
    return lengths


def _keys(found: Tables) -> list[tuple[str, str]]:
    return list(zip(found[MARK]["name"], found[MARK]["settings"], strict=True))


def _only(found: Tables, keys: set[tuple[str, str]]) -> Tables:
    ids = [i for i, key in zip(found[MARK]["run_id"], _keys(found), strict=True) if key in keys]
    return {name: frame[frame["run_id"].isin(ids)] for name, frame in found.items()}


def pack(folder: str | Path | None = None) -> int:
    """Write what was measured in a folder into the package; returns the number of runs, 0 where nothing was."""
    found = read(folder)
    for name, frame in found.items() if len(found[MARK]) else ():
        small = frame.astype({c: np.float32 for c in frame.select_dtypes("float") if c != "tokens"})
        content = small.to_parquet(index=False, compression="zstd", compression_level=19)
        write_bytes(SHIPPED / f"{FOLDER}_{name}.parquet", content)
    return len(found[MARK])


def _run(run_id: str, checkpoints: list[Tables]) -> Tables:
    """One run from its checkpoints: numbered, and with one row of ``runs``."""
    def order(found: Tables) -> tuple[bool, float, str]:
        tokens = found["snapshots"]["tokens"].iloc[0]
        return bool(np.isnan(tokens)), float(np.nan_to_num(tokens)), found["snapshots"]["revision"].iloc[0]

    ordered: list[Tables] = []
    for found in sorted(checkpoints, key=order):
        if not ordered or order(found)[:2] != order(ordered[-1])[:2] or order(found)[0]:
            ordered.append(found)
    joined = {name: pd.concat([found[name].assign(run_id=run_id, snapshot=i) for i, found in enumerate(ordered)])
              for name in SCHEMA if name != MARK}  # fmt: skip
    return joined | {MARK: ordered[-1][MARK].assign(run_id=run_id, snapshots=len(ordered))}


def _joined(runs: list[Tables]) -> Tables:
    runs = [run for run in runs if len(run[MARK])]
    if not runs:
        return {name: pd.DataFrame(columns=list(columns)) for name, columns in SCHEMA.items()}
    return {name: pd.concat([run[name] for run in runs], ignore_index=True)[list(SCHEMA[name])] for name in SCHEMA}


def _read_checkpoint(place: Path) -> Tables:
    found = {name: _parquet(place / f"{name}.parquet") for name in SCHEMA}
    _check(found, OF_ALL, f" in {place}; delete that folder and measure again")
    return found


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise IctlError(f"{path} cannot be read ({error}); delete {path.parent} and measure again.") from None


def _check(found: Tables, without: Sequence[str], where: str = "") -> None:
    """Raise :class:`IctlError` unless all columns are there and have values."""
    for name, columns in SCHEMA.items():
        for column in set(columns) - set(without):
            require(column in found[name], f"table {name!r} lacks the column {column!r}{where}.")
            missing = column not in OPTIONAL and found[name][column].isna().any()
            require(not missing, f"table {name!r}, column {column!r}: a value is missing (NaN){where}.")
