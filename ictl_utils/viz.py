"""Attention and losses on tokens, to be explored by hand: circuitsvis in a wrapper, sliders, and a lab.

circuitsvis draws with JavaScript. Where its bundle comes from is the ``mode`` of a view:

======== ==================================================================================================
book     the page loads one shared bundle; chosen when the environment variable ``ICTL_BOOK`` is 1
inline   the output carries the bundle (1.3 MB), so that it works offline and in Colab; the default elsewhere
cdn      the browser fetches the bundle from unpkg.com; only when asked for
======== ==================================================================================================

Every view holds a still picture with alt text, shown until the script has drawn, in print, and where no
script runs.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import importlib.util
import itertools
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import figures_tokens as still
from .config import IctlError, one_of
from .figures_style import Plot, View, asset, per_token, picture, png, square
from .viz_lab import lab, live_kernel
from .viz_slider import slider

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "MODES",
    "View",
    "attention_heads",
    "attention_pattern",
    "colored_tokens",
    "lab",
    "live_kernel",
    "slider",
    "token_loss_change",
]

MODES = ("book", "inline", "cdn")
ATTENTION = {"maskUpperTri": True, "minValue": 0, "maxValue": 1, "positiveColor": "#08306b"}
_count = itertools.count()


def attention_heads(
    patterns: Float[np.ndarray, "head pos pos"],
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    title: str = "Attention patterns",
    mode: str | None = None,
) -> View:
    """Thumbnails of several heads and the chosen one in full, with the share of attention under the pointer.

    Args:
        patterns: one attention pattern a head, rows sum to 1.
        labels: one string a token.
        names: one name a head; up to four characters fit, such as ``L1H2``.
        title: what is shown, printed above.
        mode: ``book``, ``inline`` or ``cdn``; default by surroundings.

    Raises:
        IctlError: shapes or counts that do not match, or an unknown mode.
    """
    shares = square("patterns", patterns, labels, 3)
    heads = still.head_names(shares, names)
    props = {"attention": rounded(shares), "attentionHeadNames": heads, "tokens": list(labels), **ATTENTION}
    twin = still.attention_heads(shares, labels, heads, title)
    return render(
        "AttentionHeads",
        props,
        twin,
        "Point at a head to see it, click to keep it; then point at a cell.",
        640,
        mode,
    )


def attention_pattern(
    pattern: Float[np.ndarray, "pos pos"],
    labels: Sequence[str],
    title: str = "Attention pattern",
    mode: str | None = None,
) -> View:
    """One attention pattern, with the share of attention under the pointer.

    Args:
        pattern: shares of attention, rows (attending tokens) sum to 1.
        labels: one string a token.
        title: what is shown, printed above.
        mode: ``book``, ``inline`` or ``cdn``; default by surroundings.

    Raises:
        IctlError: a shape that does not match ``labels``, or an unknown mode.
    """
    shares = square("pattern", pattern, labels)
    props = {"attention": rounded(shares), "tokens": list(labels), "showAxisLabels": True, **ATTENTION}
    twin = still.attention_pattern(shares, labels, title)
    return render(
        "AttentionPattern",
        props,
        twin,
        "Row: the token that attends; column: the token attended to. Point at a cell for its share.",
        560,
        mode,
    )


def colored_tokens(
    labels: Sequence[str],
    values: Float[np.ndarray, "pos"],
    title: str = "Loss of every token",
    unit: str = "loss (nats)",
    mode: str | None = None,
) -> View:
    """A text with one value a token as its background: red above 0, blue below; the number under the pointer.

    Args:
        labels: one string a token.
        values: one number a token, in ``unit``.
        title: what is shown, printed above.
        mode: ``book``, ``inline`` or ``cdn``; default by surroundings.

    Raises:
        IctlError: another number of values than labels, or an unknown mode.
    """
    numbers = per_token("values", values, labels)
    bound = max(float(np.abs(numbers).max()), 1e-3)
    # This component reads tokens as HTML: "<" and "&" before a word joiner are text, "\n" ends a line.
    tokens = [label.replace("<", "<\u2060").replace("&", "&\u2060").replace("↵", "↵\n") for label in labels]
    props = {
        "tokens": tokens,
        "values": rounded(numbers),
        "minValue": rounded(np.array(-bound)),
        "maxValue": rounded(np.array(bound)),
        "negativeColor": "#6baed6",  # light enough for dark text on it, as the style sheet sets it
        "positiveColor": "#fb8f6f",
    }
    twin = still.token_losses(labels, numbers, title, unit)
    hint = (
        f"Colour: {unit}, from {numbers.min():.2f} to {numbers.max():.2f}. Point at a token for its number."
    )
    return render("ColoredTokens", props, twin, hint, 760, mode)


def token_loss_change(
    labels: Sequence[str],
    before: Float[np.ndarray, "pos"],
    after: Float[np.ndarray, "pos"],
    title: str = "Change of the loss of every token",
    mode: str | None = None,
) -> View:
    """A text coloured by loss ``after`` minus loss ``before``: blue became easier (P1, Argument 1).

    Args:
        labels: one string a token.
        before: nats a token, for example at the start of the phase change.
        after: nats a token, for example at its end.

    Raises:
        IctlError: another number of losses than labels, or an unknown mode.
    """
    change = per_token("after", after, labels) - per_token("before", before, labels)
    return colored_tokens(labels, change, title, "change of loss (nats), blue: became easier", mode)


def rounded(values: Float[np.ndarray, "..."]):
    """``values`` as nested lists with three digits, whole numbers as integers: a third of the size."""
    if values.ndim:
        return [rounded(row) for row in values]
    value = round(float(values), 3)
    return int(value) if value == int(value) else value


def render(component: str, props: dict, twin: Plot, hint: str, width: int, mode: str | None) -> View:
    """HTML of a circuitsvis component, at most ``width`` CSS pixels wide, and ``twin``, its still picture."""
    mode = mode or ("book" if os.environ.get("ICTL_BOOK") == "1" else "inline")
    one_of("mode", mode, MODES)
    data = json.dumps(props, separators=(",", ":")).replace("<", "\\u003c")
    key = f"ictl-{hashlib.sha256((component + data).encode()).hexdigest()[:8]}-{next(_count)}"
    code = (
        asset("view.js").replace("__ID__", key).replace("__COMPONENT__", component).replace("__PROPS__", data)
    )
    title = html.escape(" ".join(twin.get_suptitle().split()))
    image = picture(png(twin, 110), twin.alt, 96 * twin.get_figwidth())
    # The picture carries the title itself; the page prints it once the script has drawn.
    page = (
        f"<style>{asset('ictl.css')}</style>"
        f'<figure class="ictl-card" id="{key}-card" role="group" aria-label="{html.escape(twin.alt)}">'
        f'<div class="ictl-title ictl-live-only">{title}</div>'
        f'<div id="{key}" class="ictl-live" style="max-width:{width}px"></div>'
        f'<div class="ictl-scroll ictl-static">{image}</div>'
        f'<figcaption class="ictl-live-only">{html.escape(hint)}</figcaption></figure>'
        f'<script type="module">{_bundle(mode)}{code}</script>'
    )
    return View(page, twin.alt)


def _bundle(mode: str) -> str:
    """JavaScript that puts ``CircuitsVis`` in scope; nothing in a book page, where it is."""
    if mode == "book":
        return ""
    spec = importlib.util.find_spec("circuitsvis")
    if spec is None:
        raise IctlError(
            f"mode={mode!r} needs circuitsvis, which is not installed; pip install circuitsvis, or use the "
            "still pictures of ictl_utils.figures."
        )
    if mode == "cdn":
        version = importlib.metadata.version("circuitsvis")
        return f'import * as CircuitsVis from "https://unpkg.com/circuitsvis@{version}/dist/cdn/esm.js";\n'
    return _inline(Path(spec.submodule_search_locations[0]) / "dist" / "cdn" / "iife.js")


@cache
def _inline(bundle: Path) -> str:
    """The bundle as a guarded expression: a page with several outputs runs it once."""
    lines = bundle.read_text(encoding="utf-8").replace("</script", "<\\/script").splitlines()
    source = "\n".join(text for text in lines if not text.startswith("//# sourceMappingURL"))
    run = f"(() => {{ {source}\nreturn CircuitsVis; }})()"
    return f"if (!globalThis.CircuitsVis) globalThis.CircuitsVis = {run};\n"
