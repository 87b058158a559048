"""The measurements of many runs as tidy tables: what is in them, how they are joined, checked, shipped and read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from .config import IctlError, one_of, require
from .snapshots import MANIFEST, Run, find_runs, write_bytes
from .survey import FULL, TABLES, Effort, is_surveyed, survey
from .tables_schema import FACTS as FACTS
from .tables_schema import OPTIONAL, SCHEMA, Tables, check

SHIPPED = Path(__file__).parent / "zoo_data"
# Digits after the point in shipped tables, 5 where not named: well below each number's standard error, few megabytes.
DECIMALS = {"positions": 3, "token_losses": 1, "heads": 4, "composition": 4, "ablations": 4}
IN_MANIFEST = ("run_id", "finished", "snapshots", "losses", "seconds", "flops", "parameters", "device", "corpus",
               "versions")  # fmt: skip


def open_runs(folder: str | Path) -> tuple[list[Run], list[str]]:
    """Runs below ``folder``, sorted by path, and a sentence on each whose manifest cannot be used.

    Raises:
        IctlError: there is no manifest at all.
    """
    found = sorted(path.parent for path in Path(folder).rglob(MANIFEST))
    require(bool(found), f"{folder} holds no run; expected a folder that `ictl train --out {folder}` wrote to.")
    runs, wrong = [], []
    for path in found:
        try:
            run = Run(path)
            lacks = [field for field in IN_MANIFEST if field not in run.manifest]
            require(not lacks, f"it lacks {', '.join(lacks)}")
            require(bool(run.manifest["snapshots"]), "it lists no snapshot")
            require(all(isinstance(x, list) and len(x) == 2 for x in run.manifest["losses"]), "its losses are damaged")
            runs.append(run)
        except (IctlError, KeyError, TypeError) as error:
            words = str(error).rstrip(".")
            why = f"it lacks {words}" if isinstance(error, KeyError) else words
            wrong.append(f"{words}; it is left out." if MANIFEST in words else
                         f"{path / MANIFEST} is left out: {why} (of another version, or damaged); train the "
                         "run again, or delete its folder.")  # fmt: skip
    return runs, wrong


def distinct(runs: list[Run]) -> None:
    """Raise :class:`IctlError` where one run is in two folders: each of its numbers would count twice."""
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.run_id, run)
        require(other is run, f"{run.run_id} is there twice, in {other.path} and in {run.path}, and would be counted "
                              "twice; delete one of the two, or move it elsewhere.")  # fmt: skip


def collect(folder: str | Path, names: dict[str, tuple[str, str]], effort: Effort = FULL) -> Tables:
    """Tables of all finished and measured runs below ``folder`` that ``names`` knows.

    Args:
        names: run id -> (name, family), from :func:`ictl_utils.zoo.names`.

    Raises:
        IctlError: none is finished and measured, or one is in two folders.
    """
    runs = [r for r in find_runs(folder) if r.run_id in names and r.finished and is_surveyed(r, effort)]
    require(bool(runs), f"{folder} holds no measured run of the zoo; `ictl ladder` trains and measures them.")
    return join(runs, names, effort)


def join(runs: list[Run], names: dict[str, tuple[str, str]], effort: Effort = FULL) -> Tables:
    """Tables of these runs, measured now where that was not done before; arguments and errors as :func:`collect`."""
    distinct(runs)
    parts = [survey(run, effort) for run in runs]
    found = {"runs": pd.DataFrame([_run_row(run, *names[run.run_id]) for run in runs])}
    return found | {name: _joined([part[name] for part in parts], name) for name in TABLES}


def merged(new: Tables, old: Tables, names: dict[str, tuple[str, str]]) -> Tables:
    """Tables of the runs of both that ``names`` knows, sorted by run; of a run in both, those of ``new``."""
    known = set(names) & set(old["runs"]["run_id"]) - set(new["runs"]["run_id"])
    found = {}
    for name in SCHEMA:
        parts = [new[name], old[name][old[name]["run_id"].isin(known)]]
        frame = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        found[name] = frame.sort_values("run_id", kind="stable", ignore_index=True)
    of_run = found["runs"]["run_id"].map(names)
    return found | {"runs": found["runs"].assign(name=of_run.str[0], family=of_run.str[1])}


def _joined(frames: list[pd.DataFrame], name: str) -> pd.DataFrame:
    frames = [frame for frame in frames if len(frame)] or [pd.DataFrame(columns=list(SCHEMA[name]))]
    joined = pd.concat(frames, ignore_index=True)
    return joined.reindex(columns=[c for c in SCHEMA[name] if c in joined or c in OPTIONAL])


def _run_row(run: Run, name: str, family: str) -> dict[str, object]:
    m, t, manifest = run.model_cfg, run.train_cfg, run.manifest
    return {
        "run_id": run.run_id, "name": name, "family": family, "label": run.label, "n_layers": m.n_layers,
        "d_model": m.d_model, "n_heads": m.n_heads, "mlp": m.mlp, "positions": m.positions, "smear": m.smear,
        "corpus": t.corpus, "corpus_sha": manifest["corpus"]["sha256"], "lr": t.lr, "warmup_steps": t.warmup,
        "optimizer": t.optimizer, "init_seed": t.init_seed, "data_seed": t.data_seed,
        "parameters": manifest["parameters"], "tokens": int(run.tokens[-1]), "batch_tokens": t.batch * m.n_ctx,
        "seconds": manifest["seconds"], "core_seconds": manifest.get("cpu_seconds", manifest["seconds"]),
        "flops": manifest["flops"], "device": f"{manifest['device']['name']} {manifest['device']['dtype']}",
        "versions": f"python {manifest['versions']['python']}, torch {manifest['versions']['torch']}",
        "snapshots": len(run),
    }  # fmt: skip


def write(tables: dict[str, pd.DataFrame], folder: str | Path) -> None:
    """Write checked tables as compressed parquet, numbers rounded to :data:`DECIMALS`."""
    check(tables)
    for name, frame in tables.items():
        small = frame if name in ("runs", "facts") else _rounded(frame, DECIMALS.get(name, 5))
        for column in small.select_dtypes("integer"):
            small = small.assign(**{column: pd.to_numeric(small[column], downcast="integer")})
        content = small.to_parquet(index=False, compression="zstd", compression_level=19)
        write_bytes(Path(folder) / f"{name}.parquet", content)


def _rounded(frame: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Numbers in single precision, and vectors in half, rounded; a digit less is a tenth to a third of the file."""
    numbers = {c: frame[c].round(decimals).astype(np.float32) for c in frame.select_dtypes("float")}
    vectors = {c: [np.asarray(x, np.float64).round(decimals).astype(np.float16) for x in frame[c]]
               for c in frame if c == "losses_nats"}  # fmt: skip
    return frame.assign(**numbers, **vectors)


def read(folder: str | Path = SHIPPED) -> dict[str, pd.DataFrame]:
    """The tables in ``folder``, by default those shipped with the package, checked.

    Raises:
        IctlError: a table is missing or damaged, lacks a column, or has missing values.
    """
    paths = {name: Path(folder) / f"{name}.parquet" for name in SCHEMA}
    for path in paths.values():
        require(path.exists(), f"{path} is missing; {_remedy(path)}.")
    found = _read(tuple((name, path, path.stat().st_mtime_ns) for name, path in paths.items()))
    return {name: frame.copy(deep=False) for name, frame in found}  # copied where it is written to


@cache
def _read(files: tuple[tuple[str, Path, int], ...]) -> tuple[tuple[str, pd.DataFrame], ...]:
    found = {}
    for name, path, _ in files:
        try:
            found[name] = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise IctlError(f"{path} cannot be read ({error}); {_remedy(path)}.") from None
    check(found)
    return tuple(found.items())


def _remedy(path: Path) -> str:
    """What to do about a table that is not there, or damaged."""
    if path.parent == SHIPPED:
        return "reinstall the package, or run `ictl ladder` and `ictl zoo pack`"
    return "expected the folder `tables` that `ictl measure` or `ictl ladder` writes beside the runs; measure again"


def select(tables: dict[str, pd.DataFrame], name: str, /, **where: object) -> pd.DataFrame:
    """Rows of a table, with the columns of ``runs`` they belong to, and the tokens seen at their snapshot.

    ``where`` fixes columns to a value, or to any of several in a list or tuple; numbers are compared as numbers.

    Raises:
        IctlError: unknown table or column.
    """
    one_of("table", name, tuple(SCHEMA))
    frame = tables[name]
    if name != "runs":
        if "tokens" not in frame:
            frame = frame.merge(tables["snapshots"][["run_id", "snapshot", "tokens"]], on=["run_id", "snapshot"])
        frame = frame.merge(tables["runs"], on="run_id", suffixes=("", "_of_run"))
    for column, value in where.items():
        one_of("column", column, tuple(frame.columns))
        frame = frame[having(frame[column], value)]
    return frame


def having(column: pd.Series, value: object) -> pd.Series:
    """Which rows have a value, or one of several in a list or tuple; strings are read as the column's kind."""
    found = pd.Series(False, index=column.index)
    for each in value if isinstance(value, list | tuple) else (value,):
        if pd.api.types.is_bool_dtype(column):
            found |= column.astype(str).str.lower() == str(each).lower()
        elif pd.api.types.is_numeric_dtype(column):
            found |= np.isclose(column, _number(each), rtol=1e-6, atol=0)
        else:
            found |= column.astype(str) == str(each)
    return found


def _number(value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def summary(tables: dict[str, pd.DataFrame]) -> dict[str, object]:
    """Counts of everything: configurations, runs, snapshots, ablations, core-hours, devices."""
    runs = tables["runs"]
    return {
        "configurations": int(runs["name"].nunique()), "runs": len(runs), "snapshots": len(tables["snapshots"]),
        "ablations": len(tables["ablations"]), "core_hours": round(float(runs["core_seconds"].sum()) / 3600, 2),
        "devices": sorted(runs["device"].unique()),
    }  # fmt: skip
