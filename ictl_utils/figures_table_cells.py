"""Cells of the table of all models as SVG: small, exact to a unit of the cell, one pair of axes a row."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from itertools import groupby

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .figures_style import token_text
from .figures_table import Line, Panel, Row, Span

WIDE, HIGH = 480, 320  # units of a cell
LEVELS = 96  # colours of a map
COLOURS = {"loss-map": "viridis_r", "derivative": "RdBu_r"}
LATE = 0.04  # share of a run after which its loss counts for the axis: the first fall would hide all the rest
Tick = tuple[int, str]  # place in units of a cell, from the left or from the top, and its text


class Axes:
    """The axes of one row, shared by its cells.

    Args:
        row: what is drawn.
        panels: the cells.
        longest: training tokens at the right end.
    """

    def __init__(self, row: Row, panels: Sequence[Panel], longest: float) -> None:
        self.row, flat = row, row.kind == "path"
        lines = [line for panel in panels for line in panel.lines]
        maps = [panel for panel in panels if panel.grid is not None]
        self.colour = _colours(row, [panel.grid for panel in maps])
        self.x = _padded([line.x for line in lines]) if flat else (0.0, longest)
        self.y = _padded([line.y[line.x >= LATE * longest] if row.key == "loss" else line.y for line in lines])
        if row.key == "prefix":
            self.y = (0.0, 1.0)
        if maps:
            low, top = maps[0].up
            self.y = (float(np.log(low)), float(np.log(top)))
        self.across = _ticks(self.x, WIDE)
        self.up = [(HIGH - place, text) for place, text in _ticks(self.y, HIGH)] if not maps else self._positions()

    def _positions(self) -> list[Tick]:
        """Ticks at every second power of two of a log axis of positions."""
        powers = [2**i for i in range(0, 16, 2) if self.y[0] <= np.log(2**i) <= self.y[1]]
        return [(round(float(self._up(np.log(p)))), str(p)) for p in powers]

    @property
    def unit(self) -> str:
        """The unit in words; of a map with the range of its colours."""
        if self.row.kind != "map":
            return self.row.unit
        low, high = self.colour
        return _minus(f"colour: {self.row.unit}, {low:.2g} to {high:.2g}; up: position (tokens)")

    def spec(self) -> dict[str, object]:
        """Names, ends and ticks, for the script."""
        up = {"path": "component 2 (nats)", "map": "position in the context (tokens)"}.get(self.row.kind, self.row.unit)
        return {"key": self.row.key, "title": self.row.title, "kind": self.row.kind, "unit": self.row.unit, "up": up,
                "across": "component 1 (nats)" if self.row.kind == "path" else "training tokens",
                "x": _short(self.x), "y": _short(self.y), "colour": _short(self.colour),
                "xt": self.across, "yt": self.up}  # fmt: skip

    def cell(self, panel: Panel, name: str) -> str:
        """One cell as ``<svg>``, with ``name`` and the panel's words as its description."""
        lines = "".join(f"M0 {y}h{WIDE}" for y, _ in self.up)
        parts = [f'<path d="{lines}" class="g"/>' if panel.grid is None else self._image(panel)]
        for kind, span in zip("rq", panel.windows, strict=False):
            left, right = (round(self._across(at)) for at in span)
            parts.append(f'<rect class="{kind}" x="{left}" width="{right - left}" height="{HIGH}"/>')
        looks = groupby(panel.lines, lambda line: (line.look[0], line.colour, line.group))
        parts += [self._lines(look, list(lines)) for look, lines in looks]
        words = html.escape(f"{self.row.title}, {name}. {_minus(panel.words)}")
        return (f'<svg viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" role="img" aria-label="{words}">'
                f"{''.join(parts)}</svg>")  # fmt: skip

    def _across(self, x):
        return WIDE * (x - self.x[0]) / (self.x[1] - self.x[0])

    def _up(self, y):
        return HIGH * (self.y[1] - y) / (self.y[1] - self.y[0])

    def _lines(self, look: tuple[str, str, str], lines: list[Line]) -> str:
        """Lines that look the same, one path each."""
        paths = "".join(f'<path data-n="{line.name}" d="{self._path(line)}"/>' for line in lines)
        return f'<g class="{look[0]}" stroke="{look[1]}" data-g="{look[2]}">{paths}</g>'

    def _path(self, line: Line) -> str:
        up = np.clip(self._up(line.y), -HIGH, 2 * HIGH)
        return path_of(self._across(line.x), up, thin=self.row.kind == "curve")

    def _image(self, panel: Panel) -> str:
        """A map as PNG: the script reads its values off the colours."""
        low, high = self.colour
        share = (panel.grid[::-1] - low) / (high - low)
        image = Image.fromarray(np.clip(share * LEVELS, 0, LEVELS - 1).astype(np.uint8)).convert("P")
        image.putpalette(_palette(self.row.key))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
        return (f'<image href="data:image/png;base64,{data}" width="{self._across(panel.across):.0f}" height="{HIGH}" '
                'preserveAspectRatio="none"/>')  # fmt: skip


def path_of(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], thin: bool = False) -> str:
    """The ``d`` of an SVG path in whole units; ``thin`` keeps the first point and the last at every ``x``."""
    at = np.stack([np.round(x), np.round(y)], axis=1).astype(int)
    if thin:
        keep = np.append(np.diff(at[:, 0]) > 0, True)
        keep[0] = True
        at = at[keep]
    steps, now = [f"M{at[0, 0]} {at[0, 1]}"], ""
    for dx, dy in np.diff(at, axis=0):
        name, numbers = ("h", [dx]) if dy == 0 else ("v", [dy]) if dx == 0 else ("l", [dx, dy])
        parts = "".join(f" {n}" if n >= 0 else str(n) for n in numbers)
        steps.append(parts if name == now else name + parts.lstrip())
        now = name
    return "".join(steps)


def palette(row: str) -> str:
    """Colours of the maps of a row, low to high, as hexadecimal digits, six a colour."""
    return _palette(row).hex()


def _palette(row: str) -> bytes:
    return matplotlib.colormaps[COLOURS[row]](np.linspace(0, 1, LEVELS), bytes=True)[:, :3].tobytes()


def _colours(row: Row, grids: list[np.ndarray]) -> Span:
    """Values of the first and the last colour: without the far ends, symmetric where the sign matters."""
    if not grids:
        return (0.0, 1.0)
    values = np.concatenate([grid.ravel() for grid in grids])
    if row.key == "derivative":
        bound = max(float(np.percentile(np.abs(values), 98)), 1e-6)
        return (-bound, bound)
    low, high = np.percentile(values, [1, 98])
    return (float(low), float(max(high, low + 1e-6)))


def _padded(values: list[np.ndarray]) -> Span:
    """Smallest and largest value, and a twentieth more on both sides."""
    flat = np.concatenate([*values, np.empty(0)])
    if not flat.size:
        return (0.0, 1.0)
    more = max(0.05 * float(np.ptp(flat)), 1e-6)
    return (float(flat.min()) - more, float(flat.max()) + more)


def _ticks(ends: Span, length: int) -> list[Tick]:
    found = [v for v in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends) if ends[0] <= v <= ends[1]]
    return [(round(length * (v - ends[0]) / (ends[1] - ends[0])), _text(v)) for v in found]


def _text(value: float) -> str:
    return _minus(token_text(0.0 if abs(value) < 1e-12 else value))


def _minus(text: str) -> str:
    """Numbers with a real minus sign."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def _short(ends: Span) -> list[float]:
    return [float(f"{v:.6g}") for v in ends]
