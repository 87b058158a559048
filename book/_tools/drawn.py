"""When a page of the book is drawn: what the PDF waits for, and what the browser tests look at."""

from __future__ import annotations

import contextlib

from playwright.sync_api import TimeoutError as NotYet

EMPTY_CANVASES = """() => [...document.querySelectorAll('.ictl-live')].filter(box => {
  const blank = canvas => {
    if (!canvas.width || !canvas.height) return true;
    const copy = document.createElement('canvas');
    copy.width = canvas.width; copy.height = canvas.height;
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
    return pixels.every(p => p === pixels[0]);
  };
  return !box.children.length || [...box.querySelectorAll('canvas')].some(blank);
}).map(box => box.id)"""

UNDRAWN_WIDGETS = """() =>
  [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')].filter(script => {
    const view = script.parentElement.querySelector('.jupyter-widgets');
    return !view || !view.getBoundingClientRect().width;
  }).map(script => script.textContent.trim())"""


def wait_until_drawn(page) -> None:
    """Wait until mathematics, circuitsvis and widgets of a loaded page are drawn and fonts are there; 20 s each."""
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    for count in (EMPTY_CANVASES, UNDRAWN_WIDGETS):
        with contextlib.suppress(NotYet):  # who asks afterwards sees what is missing
            page.wait_for_function(f"() => ({count})().length === 0", timeout=20_000)
    page.evaluate("document.fonts.ready.then(() => true)")
    page.wait_for_timeout(200)
