"""What all figures share: one palette, one style, PNG with alt text, and `show` for notebooks."""

from __future__ import annotations

import base64
import colorsys
import functools
import html
import io
import re
import textwrap
import zlib
from importlib import resources

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter
from PIL import Image

from .config import require

INK, FAINT, PAPER = "#1f2328", "#d5d9de", "#ffffff"
DEPTHS = ("#6e6e6e", "#d55e00", "#0072b2", "#009e73", "#aa4499", "#332288", "#882255", "#117733", "#000000")
"""Colour of a plain model by its number of layers, after Okabe-Ito and Tol: safe for colour-blind readers."""
SMEARED = {1: "#e69f00", 2: "#56b4e9"}
LINES = {"": "-", "smeared keys": "--", "smeared queries": "-.", "smeared values": ":"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "legend.fontsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#6b7280",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlecolor": INK,
    "text.parse_math": False,
    "text.usetex": False,
}


class Plot(Figure):
    """A matplotlib figure that carries its own plain-text description and displays with it."""

    alt: str = ""

    def _repr_html_(self) -> str:
        return show(self).html


class View:
    """HTML for a notebook output: ``html`` is what is displayed, ``alt`` what a terminal prints."""

    def __init__(self, html: str, alt: str) -> None:
        self.html, self.alt = html, alt

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.alt


def styled(draw):
    """Run a drawing function under the package's style, whatever style the notebook has set."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Plot:
        plain = {
            k: v for k, v in matplotlib.rcParamsDefault.items() if k not in ("backend", "backend_fallback")
        }
        with matplotlib.rc_context({**plain, **STYLE}):
            return draw(*args, **kwargs)

    return drawn


def canvas(
    title: str, width: float, height: float, rows: int = 1, cols: int = 1, **kwargs
) -> tuple[Plot, np.ndarray]:
    """A titled figure of ``width`` x ``height`` inches and its axes, an array [rows, cols]."""
    fig = Plot(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.09, wspace=0.04)
    axes = fig.subplots(rows, cols, squeeze=False, **kwargs)
    lines = textwrap.wrap(title, max(24, int(width * 11.5)))
    fig.suptitle("\n".join(lines), x=0.01, ha="left")
    return fig, axes


def colour(label: str) -> str:
    """The colour of a model label: the same label has the same colour in every figure."""
    match = re.match(r"(\d)L\b\s*(.*)", label)
    if not match or int(match[1]) >= len(DEPTHS):
        return DEPTHS[1 + zlib.crc32(label.encode()) % (len(DEPTHS) - 1)]
    depth, rest = int(match[1]), match[2]
    if not rest:
        return DEPTHS[depth]
    if rest.startswith("smeared"):
        return SMEARED.get(depth, _shade(DEPTHS[depth], 0.45))
    return _shade(DEPTHS[depth], -0.35)


def line(label: str):
    """The line style of a model label: solid for plain models, so that no figure relies on colour alone."""
    match = re.match(r"\dL\b\s*(.*)", label)
    return LINES.get(match[1] if match else "", (0, (6, 1.5, 1, 1.5)))


def _shade(shade: str, by: float) -> str:
    """Lighten (``by`` > 0) or darken (``by`` < 0) a colour."""
    hue, light, full = colorsys.rgb_to_hls(*to_rgb(shade))
    light = light + (1 - light) * by if by > 0 else light * (1 + by)
    return to_hex(colorsys.hls_to_rgb(hue, light, full))


def depth_colours(n_layers: int) -> list[str]:
    """One colour a layer, dark (first) to light (last), from viridis without its pale end."""
    return [to_hex(c) for c in matplotlib.colormaps["viridis"](np.linspace(0.08, 0.78, n_layers))]


def token_text(count: float, _position: int | None = None) -> str:
    """A number of tokens for people: 0, 500k, 2.5M, 10B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def token_axis(ax: Axes) -> None:
    """Label the x axis of ``ax`` as training tokens."""
    ax.set_xlabel("training tokens")
    ax.xaxis.set_major_formatter(FuncFormatter(token_text))
    ax.xaxis.get_major_locator().set_params(nbins=5)


def printable(label: str) -> str:
    """``label`` without control characters and without glyphs that the figure font lacks."""
    known = get_font(findfont(STYLE["font.family"])).get_charmap()
    escaped = label.replace("\n", "↵").replace("\t", "⇥")
    return "".join(c if c.isprintable() and ord(c) in known else "□" for c in escaped)


def numbers(name: str, values, ndim: int) -> np.ndarray:
    """``values`` (numpy, torch or nested lists) as finite float64 of ``ndim`` axes.

    Raises:
        IctlError: another number of axes, an empty axis, or NaN or infinite entries.
    """
    values = values.detach().cpu().float().numpy() if hasattr(values, "detach") else values
    array = np.asarray(values, dtype=float)
    require(array.ndim == ndim, f"{name} has shape {array.shape}; expected {ndim} axes.")
    require(
        array.size > 0, f"{name} has shape {array.shape}: there is nothing to show; pass at least one value."
    )
    require(
        bool(np.isfinite(array).all()), f"{name} holds NaN or infinite values; remove them before drawing."
    )
    return array


def square(name: str, pattern, labels: list[str], ndim: int = 2) -> np.ndarray:
    """An attention pattern [.., pos, pos] checked against its ``labels``; raises IctlError."""
    array = numbers(name, pattern, ndim)
    want = (len(labels), len(labels))
    require(
        array.shape[-2:] == want,
        f"{name} has shape {array.shape} but {len(labels)} labels were given; its last axes must be {want}.",
    )
    return array


def per_token(name: str, values, labels: list[str]) -> np.ndarray:
    """One number a token, checked against ``labels``; raises IctlError."""
    array = numbers(name, values, 1)
    require(
        len(array) == len(labels),
        f"{name} has {len(array)} entries but there are {len(labels)} labels; pass one value a label.",
    )
    return array


def png(fig: Figure, dpi: int = 150) -> bytes:
    """``fig`` as PNG of at most 256 colours, a third of the size; the same figure gives the same bytes."""
    buffer, small = io.BytesIO(), io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, facecolor=fig.get_facecolor())
    plain = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    plain.save(small, "PNG", optimize=True)
    return small.getvalue()


def picture(image: bytes, alt: str, width: float, attributes: str = "") -> str:
    """An ``<img>`` with the PNG inside, ``width`` CSS pixels wide at most, narrower on small screens."""
    data = base64.b64encode(image).decode()
    # Below 70 % of its width the text of a figure is too small: its box then scrolls sideways.
    size = f"width:100%;max-width:{width:.0f}px;min-width:{min(0.7 * width, 560):.0f}px;height:auto"
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" style="{size}" {attributes}>'


@functools.cache
def asset(name: str) -> str:
    """Text of a file in ``ictl_utils/assets``."""
    return (resources.files("ictl_utils") / "assets" / name).read_text(encoding="utf-8")


def show(fig: Figure, caption: str | None = None) -> View:
    """Display ``fig`` in a book page, Jupyter or Colab: a PNG with alt text and an optional caption.

    Args:
        fig: any matplotlib figure; those of :mod:`ictl_utils.figures` describe themselves in ``fig.alt``.
        caption: plain text printed below the figure.
    """
    alt = getattr(fig, "alt", "") or caption or "figure"
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    image = picture(png(fig), alt, 96 * fig.get_figwidth())
    page = (
        f"<style>{asset('ictl.css')}</style>"
        f'<figure class="ictl-card"><div class="ictl-scroll">{image}</div>{words}</figure>'
    )
    return View(page, alt)
