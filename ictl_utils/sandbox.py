"""Runs a submission's code in a process that is locked first, and reads back the answers: data, never objects.

One process a submission, in a session of its own with limits of time, memory, files and output, an empty folder and
a bare environment. What the student's code does there changes nothing here: marks come from the values it leaves.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import isolation
from .answers import AnswerError, from_bytes
from .config import require
from .isolation import Walls
from .sandbox_watch import (
    PACKAGE,
    check_hidden,
    corpora,
    end,
    ending,
    environment,
    extra_packages,
    force,
    furnish,
    hand_over,
    open_to_all,
    processes_of_user,
    read_plain,
    readable,
    size_of,
    usage,
)

START = ("import json, sys; task = json.load(open(sys.argv[1])); sys.path[:0] = task['path']; "
         "from ictl_utils.sandbox_child import main; main(task)")  # fmt: skip
FOLDER_BYTES, THREADS, STARTS = 256 << 20, 200, 6
STOP = threading.Event()  # ends what runs, when marking is interrupted
__all__ = ["PACKAGE", "STOP", "Limits", "Ran", "check_hidden", "in_force", "run"]
SPARE_USERS = itertools.cycle(range(64_100, 64_900))


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    seconds: int = 60  # of CPU; twice as many by the clock
    memory: float = 2.0  # GiB beyond the libraries

    def __post_init__(self) -> None:
        require(self.seconds >= 5, f"seconds={self.seconds} is too short to start Python; use at least 5.")
        require(self.memory >= 0.25, f"memory={self.memory} GiB is too little; use at least 0.25.")


@dataclass
class Ran:
    """What came back of one submission. Everything in it is the student's word and no more."""

    answers: dict[tuple[str, int], Any] = field(default_factory=dict)  # (question, case) -> packed outcome
    problems: dict[str, str] = field(default_factory=dict)  # question -> why nothing came back
    cells: dict[int, str] = field(default_factory=dict)  # cell -> how it failed
    facts: dict = field(default_factory=dict)  # the last report
    broken: str = ""  # the machinery itself failed: worth another try


def run(task: dict, limits: Limits) -> Ran:
    """Run a task until every question is answered or given up.

    A question (or cell) that brings the process down is left out, and the rest is started again.
    """
    ran, left = Ran(), 2.0 * limits.seconds
    skip: dict[str, list] = {"cell": [], "question": []}
    for _ in range(STARTS):
        began = time.monotonic()
        with workplace(task | {"skip": skip}, limits) as place:
            how = place.watch(left)
            ran.facts = place.collect(ran)
        left -= time.monotonic() - began
        if STOP.is_set():
            ran.broken = "marking was stopped."
        if ran.facts.get("done") is True or ran.broken or not _leave_out(ran.facts.get("now"), how, skip, ran):
            break
        if left < 5:
            break
    return ran


def _leave_out(now: Any, how: str, skip: dict[str, list], ran: Ran) -> bool:
    """Note what was running when the process ended, so that it is not run again; False if that is not known."""
    kind, what = now if isinstance(now, list) and len(now) == 2 else ("", None)
    if kind == "question" and isinstance(what, str) and what not in skip[kind]:
        ran.problems[what] = how
        skip[kind].append(what)
        return True
    if kind == "cell" and isinstance(what, int) and what not in skip[kind]:
        ran.cells[what] = how
        skip[kind].append(what)
        return True
    return False


class Workplace:
    """The temporary folder and the process of one start."""

    def __init__(self, base: Path, task: dict, limits: Limits) -> None:
        self.base, self.limits, self.expected = base, limits, task["expected"]
        for name in ("home", "out", "site"):
            (base / name).mkdir()
        (base / "site" / PACKAGE.name).symlink_to(PACKAGE)
        self.out = os.open(base / "out", os.O_RDONLY | os.O_DIRECTORY)
        walls = self.walls()
        furnish(base / "home", [path for path in corpora() if str(path) in walls.read])
        path, out = [str(base / "site"), *extra_packages()], str(base / "out")
        task = task | {"walls": asdict(walls), "path": path, "out": out, "memory": int(limits.memory * 2**30),
                       "seconds": limits.seconds}  # fmt: skip
        (base / "task.json").write_text(json.dumps(task))
        if walls.uid is not None:
            hand_over(base, walls.uid)

    def walls(self) -> Walls:
        """What the process may reach."""
        texts = tuple(map(str, corpora()))
        uid, processes = None, None
        if os.getuid() == 0 and open_to_all((sys.prefix, sys.base_prefix, str(PACKAGE), tempfile.gettempdir())):
            if open_to_all(texts) or not isolation.has_landlock():
                uid, processes, texts = next(SPARE_USERS), THREADS, texts if open_to_all(texts) else ()
        elif not isolation.can_filter():
            processes = processes_of_user() + 40
        own = (str(self.base / "home"), str(self.base / "out"))
        reach = (*readable(), *texts, str(self.base))
        return Walls(reach, own, self.limits.seconds, processes=processes, uid=uid)

    def watch(self, seconds: float) -> str:
        """Start the process and wait for its end; returns how it ended, in words."""
        with open(self.base / "errors", "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-B", "-c", START, str(self.base / "task.json")],
                cwd=self.base / "home", env=environment(self.base / "home"), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True, close_fds=True)  # fmt: skip
        why, began = "", time.monotonic()
        try:
            while process.poll() is None and not why:
                time.sleep(0.05)
                why = self.too_much(process.pid, time.monotonic() - began, seconds)
        finally:
            end(process, "" if isolation.can_filter() else str(self.base))
        return why or ending(process.returncode, self.limits.seconds)

    def too_much(self, pid: int, elapsed: float, seconds: float) -> str:
        """Which limit is passed, in words, or nothing."""
        if STOP.is_set():
            return "marking was stopped."
        if elapsed > seconds:
            return f"it was stopped when the time was up ({2 * self.limits.seconds} s by the clock)."
        resident, threads = usage(pid)
        if resident > (self.limits.memory + 1) * 2**30:
            return f"it took more than {self.limits.memory:g} GiB of memory."
        if threads > THREADS:
            return f"it started more than {THREADS} threads."
        if size_of(self.base / "home") + size_of(self.base / "out") > FOLDER_BYTES:
            return f"it wrote more than {FOLDER_BYTES >> 20} MiB, or thousands of files."
        return ""

    def collect(self, ran: Ran) -> dict:
        """Read the answers and the report into ``ran``; nothing but plain files of allowed size."""
        left = FOLDER_BYTES  # a file with holes takes no room on the disk
        for name, count in self.expected.items():
            for case in range(count):
                content = read_plain(f"{name}.{case}", self.out, min(34 << 20, left))
                left -= len(content or b"")
                if content is not None and (name, case) not in ran.answers:
                    with contextlib.suppress(AnswerError):
                        ran.answers[name, case] = from_bytes(content)
        try:
            report = json.loads(read_plain("report.json", self.out, 1 << 20) or b"null")
        except (ValueError, RecursionError):
            report = {"now": None}
        if not isinstance(report, dict):
            lines = (self.base / "errors").read_bytes()[-2000:].decode("utf8", "replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no reason given")
            ran.broken = f"the marking process did not begin: {last[:300]}"
            return {}
        _take(report.get("problems"), ran.problems, str)
        _take(report.get("cells"), ran.cells, int)
        return report


def _take(words: Any, into: dict, kind: type) -> None:
    """Copy short sentences of a report, whatever else is in it."""
    for key, text in list(words.items())[:200] if isinstance(words, dict) else ():
        with contextlib.suppress(ValueError):
            if isinstance(text, str):
                into.setdefault(kind(key), text[:500])


@contextlib.contextmanager
def workplace(task: dict, limits: Limits) -> Iterator[Workplace]:
    """A workplace in a temporary folder that is removed afterwards, whatever is in it."""
    base = Path(tempfile.mkdtemp(prefix="ictl_grade_")).resolve()
    place = None
    try:
        place = Workplace(base, task, limits)
        yield place
    finally:
        if place is not None:
            os.close(place.out)
        shutil.rmtree(base, onerror=force)


def in_force(secret: Path) -> dict[str, bool]:
    """What is closed to submissions here, found by trying: ``files``, ``network``, ``processes``, ``memory``.

    Raises:
        IctlError: no submission can be run at all.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        probe = {"secret": str(secret.resolve()), "port": server.getsockname()[1]}
        ran = run({"probe": probe, "expected": {}}, Limits())
    require(not ran.broken and "walls" in ran.facts, f"submissions cannot be run on this system: {ran.broken}")
    return ran.facts["walls"]
