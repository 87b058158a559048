"""A slider over pictures that needs no kernel: it works in the static book, in Colab and offline."""

from __future__ import annotations

import hashlib
import html
import io
import itertools
import json
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from .config import IctlError, require
from .figures_style import View, asset, picture, png

BUDGET = 1_050_000
"""Bytes of all PNG frames together; a third more as base64 in the page."""
_count = itertools.count()


def slider(frames: Sequence[Figure | bytes], labels: Sequence[str], title: str) -> View:
    """Pictures on a slider; the last one shows at first and where no script runs.

    Args:
        frames: figures or PNG bytes, one a position of the slider.
        labels: what each frame is, for example ``2.5M tokens``.
        title: what is shown, printed above.

    Raises:
        IctlError: no frame, another number of labels than frames, or bytes that are no picture.
    """
    require(len(frames) > 0, "frames is empty; pass at least one figure.")
    require(
        len(frames) == len(labels), f"{len(frames)} frames but {len(labels)} labels; pass one label a frame."
    )
    images, width = _compress([_open(frame) for frame in frames]), _width(frames[-1])
    last = len(images) - 1
    stage = "".join(
        picture(image, _alt(title, label, frame), width, "" if i == last else "hidden")
        for i, (image, label, frame) in enumerate(zip(images, labels, frames, strict=True))
    )
    return View(
        _page(stage, [str(label) for label in labels], title),
        f"{title}: {len(images)} pictures on a slider, "
        f"from {labels[0]} to {labels[-1]}. {getattr(frames[-1], 'alt', '')}".strip(),
    )


def _page(stage: str, labels: list[str], title: str) -> str:
    key = f"ictl-slider-{hashlib.sha256(stage.encode()).hexdigest()[:8]}-{next(_count)}"
    names = json.dumps(labels).replace("<", "\\u003c")
    code = asset("slider.js").replace("__ID__", key).replace("__LABELS__", names)
    last, name = len(labels) - 1, html.escape(title)
    return (
        f'<style>{asset("ictl.css")}</style><figure class="ictl-card ictl-slider" id="{key}">'
        f'<div class="ictl-title">{name}</div>'
        f'<input type="range" min="0" max="{last}" value="{last}" step="1" autocomplete="off" hidden '
        f'aria-label="{name}"><output>{html.escape(labels[-1])}</output>'
        f'<div class="ictl-scroll ictl-slider-stage">{stage}</div></figure><script>{code}</script>'
    )


def _alt(title: str, label: str, frame: Figure | bytes) -> str:
    return f"{title}, {label}. {getattr(frame, 'alt', '')}".strip()


def _width(frame: Figure | bytes) -> float:
    """CSS pixels: 96 an inch of a figure, the pixels of a picture."""
    return 96 * frame.get_figwidth() if isinstance(frame, Figure) else _open(frame).width


def _open(frame: Figure | bytes) -> Image.Image:
    data = png(frame, 120) if isinstance(frame, Figure) else frame
    try:
        image = Image.open(io.BytesIO(data)).convert("RGBA")
    except (OSError, TypeError):
        raise IctlError(
            f"a frame of type {type(frame).__name__} is no picture; pass figures or PNG bytes."
        ) from None
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _compress(images: list[Image.Image]) -> list[bytes]:
    """PNG of at most 64 colours each, made smaller until all fit into ``BUDGET``."""
    scale, packed = 1.0, [_pack(image, 1.0) for image in images]
    while sum(map(len, packed)) > BUDGET and scale > 0.1:
        scale *= min(0.9, 0.95 * (BUDGET / sum(map(len, packed))) ** 0.5)
        packed = [_pack(image, scale) for image in images]
    return packed


def _pack(image: Image.Image, scale: float) -> bytes:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image
    buffer = io.BytesIO()
    small.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
