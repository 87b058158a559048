"""Many processes: results in order, errors passed on, and no noise about a worker that was replaced."""

import os
import time
import warnings

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from ictl_utils.config import IctlError
from ictl_utils.ladder import _workers
from ictl_utils.processes import in_processes

KEPT: list[np.ndarray] = []  # of a process
GROWN = 400_000_000  # bytes; joblib stops a worker that has grown by 300 MB


def grow(i: int, size: int = GROWN) -> tuple[int, int]:
    """Keep memory for ever, after longer than joblib waits between two looks at it."""
    KEPT.append(np.ones(size, dtype=np.uint8))
    time.sleep(1.2)
    return i, os.getpid()


def refuse(i: int) -> int:
    """Fail at 2."""
    if i == 2:
        raise IctlError("no twos")
    return i


@pytest.fixture(autouse=True)
def fresh_workers():
    """Each test with workers of its own, as small as new ones are."""
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)


def in_ladder(function, calls, *, jobs):
    """As the ladder asks for processes."""
    with _workers("loky", jobs):
        return Parallel(n_jobs=jobs, batch_size=1, pre_dispatch=jobs)(delayed(function)(*call) for call in calls)


@pytest.mark.parametrize("several", [in_processes, in_ladder])
def test_a_worker_that_is_replaced_loses_nothing_and_is_not_spoken_of(several) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = several(grow, [(i,) for i in range(8)], jobs=2)
    assert not said and [i for i, _ in found] == list(range(8))
    assert len({pid for _, pid in found}) > 2, "no worker was replaced: this test has seen nothing"


def test_joblib_alone_speaks_of_it() -> None:
    with pytest.warns(UserWarning, match="A worker stopped while some jobs were given to the executor"):
        Parallel(n_jobs=2, backend="loky")(delayed(grow)(i) for i in range(8))


def test_results_come_in_the_order_of_the_calls_and_errors_come_out() -> None:
    assert in_processes(grow, [(3, 10), (1, 10)], jobs=2)[0][0] == 3
    assert in_processes(refuse, []) == []
    with pytest.raises(IctlError, match="no twos"):
        in_processes(refuse, [(i,) for i in range(4)], jobs=2)
