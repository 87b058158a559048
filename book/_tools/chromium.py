"""Find an installed Chromium or Chrome, or install Debian's package where that is possible."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
MISSING = "no Chromium found: install chromium or google-chrome, or set CHROMIUM=/path/to/it"


def find() -> str | None:
    """Path of the browser; ``CHROMIUM`` in the environment comes first."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else NAMES
    return next((path for path in map(shutil.which, names) if path), None)


def install() -> None:
    """Debian's package, for root on Linux with apt."""
    if platform.system() == "Linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], env=environment, check=False)


# ---- pages with pictures that scripts draw -------------------------------------------------------

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
    from playwright.sync_api import TimeoutError as NotYet

    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    for count in (EMPTY_CANVASES, UNDRAWN_WIDGETS):
        with contextlib.suppress(NotYet):  # who asks afterwards sees what is missing
            page.wait_for_function(f"() => ({count})().length === 0", timeout=20_000)
    page.evaluate("document.fonts.ready.then(() => true)")
    page.wait_for_timeout(200)
