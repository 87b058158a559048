"""The table of all models as one page: tabs, small figures that open large, and all of it without a script too.

Every curve is in the page once, as the path of a small figure; the script draws the large figure from the same
path and reads the numbers under the pointer off it.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import json
from collections.abc import Iterable

from .config import require
from .figures_style import View, asset
from .figures_table import FAMILIES, ROWS, Column, Panel, Row, columns
from .figures_table_cells import COLOURS, HIGH, WIDE, Axes, palette
from .figures_table_panels import panels
from .numbers_base import Zoo

HINT = "Point at a cell to read its numbers; choose it, with the mouse or with Enter, to see it large."
_count = itertools.count()


def analysis_table(zoo: Zoo, families: Iterable[str] = tuple(FAMILIES)) -> View:
    """Nine rows of figures a model, a tab a family (P1, Model Analysis Table).

    Args:
        zoo: measurements; models that are not in them yet are named and left empty.
        families: keys of :data:`ictl_utils.figures_table.FAMILIES`, the order of the tabs.

    Raises:
        IctlError: no family, or one that is not in the table.
    """
    groups = {name: columns(zoo, name) for name in families}
    require(bool(groups), f"families is empty; choose from {', '.join(FAMILIES)}.")
    made = [_family(name, group) for name, group in groups.items()]
    body = "".join(part for part, _ in made)
    key = f"ictl-table-{hashlib.sha256(body.encode()).hexdigest()[:8]}-{next(_count)}"
    spec = {"wide": WIDE, "high": HIGH, "families": [spec for _, spec in made],
            "colours": {row: palette(row) for row in COLOURS}}  # fmt: skip
    data = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    code = asset("table.js").replace("__ID__", key).replace("__SPEC__", data)
    page = (f'<style>{asset("ictl.css")}{asset("ictl_table.css")}</style><div class="ictl-card ictl-table" id="{key}">'
            f'<p class="ictl-hint ictl-live-only">{HINT}</p>{body}</div><script>{code}</script>')  # fmt: skip
    return View(page, _alt(groups))


def _alt(groups: dict[str, list[Column]]) -> str:
    """What is in the table, for a terminal."""
    parts = []
    for name, group in groups.items():
        done = [f"{column.name} ({_seeds(column)})" for column in group if column.runs]
        parts.append(f"{FAMILIES[name]}: {', '.join(done) or 'nothing measured yet'}")
    return f"Table of {len(ROWS)} figures a model. {'; '.join(parts)}."


def _family(name: str, group: list[Column]) -> tuple[str, dict[str, object]]:
    """The HTML of one family, and what the script needs to know of it."""
    title, found = html.escape(FAMILIES[name]), panels(group)
    longest = max((float(c.runs[0].tokens[-1]) for c in group if c.runs), default=1.0)
    axes = {row.key: Axes(row, found[row.key], longest) for row in ROWS}
    table = _table(title, group, axes, found) if any(c.runs for c in group) else _unmeasured(title, group)
    page = (f'<section class="ictl-family" data-name="{title}"><div class="ictl-scroll" tabindex="0" role="region" '
            f'aria-label="Table: {title}">{table}</div></section>')  # fmt: skip
    return page, {"key": name, "columns": [c.name for c in group], "labels": [c.label for c in group],
                  "rows": [axes[row.key].spec() for row in ROWS]}  # fmt: skip


def _unmeasured(title: str, group: list[Column]) -> str:
    names = ", ".join(f"<code>{column.name}</code>" for column in group)
    return f'<p class="ictl-title">{title}</p><p class="ictl-none">Not measured yet: {names}.</p>'


def _table(title: str, group: list[Column], axes: dict[str, Axes], found: dict[str, list[Panel]]) -> str:
    rows = "".join(_row(row, axes[row.key], found[row.key], group) for row in ROWS)
    ends = {axes["loss"].across[0], axes["loss"].across[-1]}
    ticks = "".join(f'<i style="left:{100 * x / WIDE:.0f}%">{text}</i>' for x, text in sorted(ends))
    foot = "".join(f'<td>{f"<div class=ictl-across>{ticks}</div>" if c.runs else ""}</td>' for c in group)
    return (f'<table class="ictl-grid" style="--models:{len(group)}"><caption>{title}</caption>'
            f'<thead><tr><td></td>{"".join(map(_heading, group))}</tr></thead><tbody>{rows}</tbody>'
            f'<tfoot><tr><th scope="row"><span>training tokens</span></th>{foot}</tr></tfoot></table>')  # fmt: skip


def _heading(column: Column) -> str:
    return (f'<th scope="col">{html.escape(column.label)}<br><code>{column.name}</code><br>'
            f"<small>{_seeds(column)}</small></th>")  # fmt: skip


def _seeds(column: Column) -> str:
    n = len(column.runs)
    return "not measured yet" if not n else f"{n} seed{'s' if n > 1 else ''}"


def _row(row: Row, axes: Axes, found: list[Panel], group: list[Column]) -> str:
    ticks = "".join(f'<i style="top:{100 * y / HIGH:.0f}%">{text}</i>' for y, text in axes.up)
    title = f"<span>{html.escape(row.title)}<small>{html.escape(axes.unit)}</small></span>"
    head = f'<th scope="row"><div class="ictl-row">{title}<div class="ictl-up">{ticks}</div></div></th>'
    return f"<tr>{head}{''.join(_cell(row, axes, *both) for both in zip(found, group, strict=True))}</tr>"


def _cell(row: Row, axes: Axes, panel: Panel, column: Column) -> str:
    if panel.drawn:
        return f'<td data-row="{row.key}" data-model="{column.name}">{axes.cell(panel, column.name)}</td>'
    if column.runs:
        return f'<td class="ictl-none">{html.escape(panel.words)}</td>'
    return f'<td class="ictl-none" rowspan="{len(ROWS)}">{panel.words}</td>' if row is ROWS[0] else ""
