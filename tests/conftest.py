"""Settings of all tests: quiet, one thread a process, and nothing of the user's own folders touched."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

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

    With several processes they come first: one process builds the book while the others run all the rest.
    """
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("browser") is not None) == alone)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT
