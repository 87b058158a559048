"""Find an installed Chromium or Chrome, or install Debian's package where that is possible."""

from __future__ import annotations

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
