"""Many processes, one a core, each with one thread; a bar where somebody watches."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from joblib import Parallel, cpu_count, delayed
from tqdm.auto import tqdm

from .config import require


@contextmanager
def one_thread(n: int = 1) -> Iterator[None]:
    """``n`` CPU threads inside, denormals flushed: one process a core is fastest, and exact."""
    before = torch.get_num_threads()
    require(n >= 1, f"threads={n} must be at least 1.")
    torch.set_num_threads(n)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def show_progress() -> bool:
    """Whether anyone watches: not in CI, not with ``TQDM_DISABLE``, and on a terminal or in a notebook."""
    if os.environ.get("CI") or os.environ.get("TQDM_DISABLE"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def workers_may_be_replaced() -> Iterator[None]:
    """Inside, joblib is silent about a worker that stops between two jobs, having grown by 300 MB: it starts another.

    Training grows that much by chance, nothing is lost by it, and the words would stand in a reader's notebook.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)
        yield


def in_processes(function: Callable, calls: Sequence[tuple], *, jobs: int | None = None, bar: str = "") -> list:
    """``function(*call)`` of every call, in up to ``jobs`` processes, default one a core; results in the same order.

    Args:
        bar: what a bar over the calls says, where somebody watches; default none.

    Raises:
        Exception: the first one that a call raised.
    """
    work = Parallel(n_jobs=min(jobs or cpu_count(), max(len(calls), 1)), backend="loky", return_as="generator")
    with workers_may_be_replaced():
        found = work(delayed(function)(*call) for call in calls)
        hidden = not (bar and show_progress())
        return list(tqdm(found, total=len(calls), desc=bar, unit="run", disable=hidden))
