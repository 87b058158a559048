"""The table of all models (P1, Model Analysis Table): its rows and columns, and one figure that sums it up.

:mod:`ictl_utils.figures_table_panels` says what a cell draws, :mod:`ictl_utils.figures_table_cells` draws it,
:mod:`ictl_utils.viz_table` makes the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .config import require
from .curves import Window
from .figures_ablations import LOOKS
from .figures_cooccurrence import median_window, narrow
from .figures_style import INK, Plot, canvas, styled, token_axis, token_text
from .figures_training import window_of
from .numbers_base import RunTables, Zoo, crossing
from .survey_facts import THRESHOLD
from .zoo import entries

FAMILIES = {
    "attn": "small attention-only", "mlp": "small with MLP", "smeared": "smeared keys and controls",
    "docs-attn": "second corpus, attention-only", "docs-mlp": "second corpus, with MLP",
    "ladder": "scale ladder", "variants": "variants",
}  # fmt: skip
REFERENCES = {"smeared": ("attn-1l", "attn-2l"), "variants": ("attn-2l",)}  # shown beside their variations
HEAD_ROWS = ("prefix", "trace", "attribution", "ablation")
Span = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    key: str  # "icl"
    title: str
    unit: str  # of the vertical axis; of a map, of its colour
    kind: str = "curve"  # "curve" over training tokens, "map" over tokens and position, "path" in a plane


ROWS = (
    Row("pca", "PCA of token losses", "components 1 (across) and 2 (up), nats", "path"),
    Row("loss", "Loss", "held-out, nats per token; the first fall is cut off"),
    Row("loss-map", "Loss by position", "loss, nats", "map"),
    Row("derivative", "Slope along the context", "d loss / d ln(position), nats", "map"),
    Row("icl", "ICL score", "late − early loss, nats"),
    Row("prefix", "Prefix matching", "share of attention, every head"),
    Row("trace", "Trace of QK eigenvalues", "no unit, every head"),
    Row("attribution", "Ablation, before-and-after", "change along the vector, nats, every head"),
    Row("ablation", "Ablation, ICL score", "change of the score, nats, every head"),
)


@dataclass(frozen=True)
class Column:
    """One model of the table with its runs, one a seed; without runs it is not measured yet."""

    name: str  # in the zoo: "attn-2l"
    label: str
    runs: tuple[RunTables, ...]

    @property
    def layers(self) -> int:
        """Layers of the model; 0 where it is not measured."""
        return int(self.runs[0].run["n_layers"]) if self.runs else 0


@dataclass(frozen=True)
class Line:
    """One line of a cell."""

    name: str  # "seed 0", "L1H2"
    group: str  # its entry in the key: "one seed", "layer 1", "induction head"
    colour: str
    x: Float[np.ndarray, "point"]
    y: Float[np.ndarray, "point"]
    look: str = "normal"  # "bold", "thin", "band"


@dataclass(frozen=True)
class Panel:
    """One cell: lines or a map, and a sentence with its numbers. Without either, ``words`` say why."""

    words: str
    lines: tuple[Line, ...] = ()
    grid: Float[np.ndarray, "up across"] | None = None  # values of a map, position ascending
    up: Span = (0.0, 0.0)  # first and last position of a map
    across: float = 0.0  # tokens at the right end of a map
    windows: tuple[Span, ...] = ()  # registered phase change, then the narrow reading of it

    @property
    def drawn(self) -> bool:
        """Whether there is something to see."""
        return bool(self.lines) or self.grid is not None


# ---- columns ----------------------------------------------------------------------------------------


def columns(zoo: Zoo, family: str) -> list[Column]:
    """All models of a family of the table in order of depth, measured or not.

    Raises:
        IctlError: ``family`` is no key of :data:`FAMILIES`.
    """
    require(family in FAMILIES, f"family={family!r} is not in the table; it has {', '.join(FAMILIES)}.")
    found = [e for e in entries() if _family(e) == family or e.name in REFERENCES.get(family, ())]
    found = sorted(found, key=lambda e: (e.model.n_layers, e.model.smear != "none"))
    wide = {e.name: f"{e.model.label}, {e.model.n_heads} heads" for e in found if family == "ladder"}
    return [Column(e.name, wide.get(e.name, e.model.label), tuple(zoo.run(e.name, s) for s in zoo.seeds(e.name)))
            for e in found]  # fmt: skip


def _family(entry) -> str:
    return entry.family if entry.family != "docs" else "docs-mlp" if entry.model.mlp else "docs-attn"


def all_columns(zoo: Zoo) -> list[Column]:
    """Every measured model once, family by family; of two names for the same run the first."""
    found: dict[str, Column] = {}
    for column in (c for family in FAMILIES for c in columns(zoo, family) if c.runs):
        found.setdefault(str(column.runs[0].run["run_id"]), column)
    return list(found.values())


# ---- the phase change -------------------------------------------------------------------------------


def phase_windows(runs: Sequence[RunTables]) -> tuple[Span, ...]:
    """Registered window and narrow reading, medians over the runs in which heads formed; empty without such runs."""
    formed = [run for run in runs if window_of(run.history)]
    return (median_window(r.window for r in formed), median_window(map(narrow, formed))) if formed else ()


def span_text(span: Span) -> str:
    """Two token counts in words."""
    return " to ".join(map(token_text, span))


def first_formed(run: RunTables) -> float:
    """Training tokens at which the highest prefix matching of any head first passes the threshold; else infinite."""
    return crossing(run.tokens, run.best_prefix, THRESHOLD)


def inside(run: RunTables, window: Window) -> bool:
    """Whether the first head of a run passes the threshold inside a window."""
    return window.start <= first_formed(run) <= window.end


# ---- the figure that sums up ------------------------------------------------------------------------


@styled
def windows_and_heads(models: Sequence[Column]) -> Plot:
    """Phase change of the ICL score and first induction head of every run, a line a model.

    Args:
        models: measured models, as :func:`all_columns` gives them.

    Raises:
        IctlError: no model, or one without a run.
    """
    require(bool(models) and all(c.runs for c in models), "models is empty, or one has no run; use all_columns().")
    title = "When the ICL score falls, and when the first head matches prefixes"
    fig, axes = canvas(title, 7.6, 1.6 + 0.23 * len(models))
    ax, places = axes[0, 0], np.arange(len(models))[::-1]
    for y, column in zip(places, models, strict=True):
        _draw_model(ax, float(y), column)
    ax.set(yticks=places, yticklabels=[c.name for c in models], ylim=(-0.7, len(models) - 0.3))
    ax.set_xlim(0, max([*ax.dataLim.intervalx, 0.3 * max(float(r.tokens[-1]) for c in models for r in c.runs)]) * 1.06)
    ax.grid(False, axis="y")
    token_axis(ax)
    fig.legend(handles=_key(), loc="outside lower center", ncols=2)
    deep = [r for c in models if c.layers > 1 for r in c.runs]
    wide, small = sum(inside(r, r.window) for r in deep), sum(inside(r, narrow(r)) for r in deep)
    never = sum(not np.isfinite(first_formed(r)) for r in deep)
    fig.alt = (f"Windows of the phase change of {len(models)} models over training tokens, and the first induction "
               f"head of every run. Of {len(deep)} runs with two or more layers, {wide} form it inside the registered "
               f"window, {small} inside the narrow one, and {never} never.")  # fmt: skip
    return fig


def _draw_model(ax: Axes, y: float, column: Column) -> None:
    windows = phase_windows(column.runs)
    for (start, end), alpha in zip(windows, (0.14, 0.3), strict=False):
        ax.barh(y, end - start, left=start, height=0.7, color=INK, alpha=alpha, lw=0)
    found = [(r.midpoint, first_formed(r)) for r in column.runs if np.isfinite(first_formed(r))]
    for middle, formed in found:
        ax.plot([middle], [y], "|", color=INK, ms=9, mew=1.6)
        ax.plot([formed], [y], "o", color=LOOKS["induction"][0], ms=5, mec="white", mew=0.6)
    if not found:
        text, behind = f"no head passes {THRESHOLD}", max([end for _, end in windows], default=0)
        ax.annotate(text, (behind, y), (4, 0), textcoords="offset points", va="center", fontsize=8)


def _key() -> list[Patch | Line2D]:
    head = f"first head with prefix matching over {THRESHOLD}"
    return [Patch(color=INK, alpha=0.14, lw=0, label="window, registered rule"),
            Patch(color=INK, alpha=0.4, lw=0, label="window, narrow reading"),
            Line2D([], [], color=INK, marker="|", ls="", ms=9, mew=1.6, label="half of the fall of the ICL score"),
            Line2D([], [], color=LOOKS["induction"][0], marker="o", ls="", ms=5, label=head)]  # fmt: skip
