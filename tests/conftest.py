"""Settings of all tests: quiet, one thread a process, and nothing of the user's own folders touched."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import chromium as browsers  # noqa: E402

# What the book is built with; handed down to the processes of pytest-xdist, whose environment is ours.
USERS_ENVIRONMENT = json.loads(os.environ.get("ICTL_TESTS_OF") or json.dumps(dict(os.environ)))
os.environ["ICTL_TESTS_OF"] = json.dumps(USERS_ENVIRONMENT)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ["ICTL_HOME"] = str(ROOT / "_build" / "test_home")  # encoded corpora, kept between runs
os.environ.pop("ICTL_BOOK", None)


def pytest_configure(config) -> None:
    """Trained models of this test run only, so that every run really trains."""
    config.ictl_runs = tempfile.TemporaryDirectory(prefix="ictl_runs_")
    os.environ["ICTL_RUNS"] = config.ictl_runs.name


def pytest_unconfigure(config) -> None:
    config.ictl_runs.cleanup()


def pytest_collection_modifyitems(items) -> None:
    """The browser tests need the built book, minutes of work: last, so that a broken function shows at once.

    With several processes the longest files come first, one a process: the browser's, then that of the chapters.
    """
    alone = "PYTEST_XDIST_WORKER" not in os.environ

    def rank(item) -> int:
        browser = item.get_closest_marker("browser") is not None
        return int(browser) if alone else -2 * browser - (item.path.name == "test_notebooks.py")

    items.sort(key=rank)


@pytest.fixture(scope="session")
def chromium():
    """A running headless browser. Without one tests are skipped with a reason; in CI (CI=true) they fail."""
    if IN_CI and not browsers.find():
        browsers.install()
    path = browsers.find()
    if not path and IN_CI:
        pytest.fail(f"{browsers.MISSING} (in CI a skipped browser test is a failure)")
    if not path:
        pytest.skip(browsers.MISSING)
    playwright = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT
