"""``ictl table``: any slice of the measurements, printed or exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .config import one_of, require

if TYPE_CHECKING:
    import pandas as pd

    from .tables import Tables

From = Annotated[Path | None, typer.Option("--from", help="Folder of tables; default: those shipped.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
MAX_ROWS = 60  # printed; files and JSON have them all
NAMED = 12  # values of a column that a message names


def table(
    name: Annotated[str, typer.Argument(help="Which one; --schema lists them all.")] = "runs",
    where: Annotated[list[str] | None, typer.Option(help="column=value; given again for a column: or that.")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to print, with commas between.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file instead of printing.")] = None,
    summary: Annotated[bool, typer.Option(help="Counts of everything instead of a table.")] = False,
    schema: Annotated[bool, typer.Option(help="What the columns mean instead of a table.")] = False,
    as_json: AsJson = False,
    source: From = None,
) -> None:
    """Print or export any slice of the measurements; of a long table the first and last rows are printed."""
    from . import tables as tabled

    one_of("table", name, tuple(tabled.SCHEMA))
    require(sum((csv is not None, summary, schema)) < 2 and not (csv and as_json),
            "--csv, --summary and --schema exclude each other, as do --csv and --json; give one of them.")  # fmt: skip
    if schema:
        lines = [f"{t}.{c}: {text}" for t, cs in tabled.SCHEMA.items() for c, text in cs.items()]
        lines += [f"facts.measure={measure}: {text}" for measure, text in tabled.FACTS.items()]
        every = tabled.SCHEMA | {"measures of facts": tabled.FACTS}
        return typer.echo(json.dumps(every) if as_json else "\n".join(lines))
    found, conditions = tabled.read(source or tabled.SHIPPED), _conditions(where or [])
    if summary:
        counts = tabled.summary(_of_runs(found, conditions))
        return typer.echo(json.dumps(counts) if as_json else "\n".join(f"{k}: {v}" for k, v in counts.items()))
    chosen = tabled.select(found, name, **_known(found, name, conditions))
    chosen = chosen[_columns(columns, chosen, name)]
    if csv is not None:
        return _export(chosen, csv)
    if as_json:
        rows = [_plain(row) for row in chosen.assign(**_short(chosen)).to_dict("records")]
        return typer.echo(json.dumps(rows, allow_nan=False))
    return typer.echo(chosen.to_string(index=False, max_rows=MAX_ROWS) if len(chosen) else "no row")


def _conditions(where: list[str]) -> dict[str, list[str]]:
    """Column -> the values it may have, from strings ``column=value``."""
    found: dict[str, list[str]] = {}
    for pair in where:
        column, equals, value = pair.partition("=")
        require(bool(equals), f"--where {pair!r} is no condition; expected column=value.")
        found.setdefault(column.strip(), []).append(value.strip())
    return found


def _known(found: Tables, name: str, conditions: dict[str, list[str]]) -> dict[str, list[str]]:
    """The conditions, when each is met by some row or run: a misspelt one must not look like an empty table."""
    from .tables import having, select

    frame = select(found, name)
    for column, values in conditions.items():
        one_of("column", column, tuple(frame.columns))
        runs = [found["runs"][column]] if column in found["runs"] else []  # one without heads, say, has no rows
        there = [str(x) for x in frame[column].drop_duplicates().head(NAMED + 1)]
        names = ", ".join(there[:NAMED]) + (" and more" if len(there) > NAMED else "")
        require(any(having(rows, values).any() for rows in (frame[column], *runs)),
                f"{column}={' or '.join(values)} is in no row; there are {names}.")  # fmt: skip
    return conditions


def _of_runs(found: Tables, conditions: dict[str, list[str]]) -> Tables:
    """All tables, with only the runs that the conditions choose."""
    from .tables import select

    ids = select(found, "runs", **_known(found, "runs", conditions))["run_id"]
    return {name: frame[frame["run_id"].isin(ids)] for name, frame in found.items()}


def _columns(asked: str | None, frame: pd.DataFrame, name: str) -> list[str]:
    """The columns asked for, each once; all of them by default."""
    chosen = list(dict.fromkeys(c.strip() for c in asked.split(","))) if asked else list(frame.columns)
    unknown = [c for c in chosen if c not in frame]
    require(not unknown, f"columns={unknown} are not in table {name!r}; it has {', '.join(frame.columns)}.")
    return chosen


def _export(frame: pd.DataFrame, path: Path) -> None:
    require(path.parent.is_dir() and not path.is_dir(), f"--csv {path} cannot be written; expected a file in a folder "
                                                        "that is there.")  # fmt: skip
    vectors = {c: [json.dumps(_plain(x)) for x in frame[c]] for c in frame if c == "losses_nats"}
    frame.assign(**vectors).to_csv(path, index=False)
    typer.echo(f"{len(frame)} row{'s' * (len(frame) != 1)}: {path}")


def _short(frame: pd.DataFrame) -> dict[str, list[float]]:
    """Columns of single precision with no more digits than it has."""
    return {c: [float(str(x)) for x in frame[c].to_numpy()] for c in frame.select_dtypes("float32")}


def _plain(value: object) -> object:
    """Numbers as short as they were stored, missing ones as ``None``, vectors as lists."""
    import numpy as np

    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def register(app: typer.Typer) -> None:
    """Add the command to ``ictl``."""
    app.command()(table)
