"""The locked process: what it may reach, how it ends, and what is read back from it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import marking_fixture as made
import pytest

from ictl_utils import isolation, sandbox, sandbox_watch
from ictl_utils.config import IctlError
from ictl_utils.marking import find_key, prepare
from ictl_utils.sandbox import Limits, Ran, in_force, run
from ictl_utils.submissions import Submission

linux = pytest.mark.skipif(not isolation.can_filter(), reason="needs Linux on x86-64 or Arm")
OPEN = ("import ictl_utils.isolation as i; i.landlock = i.filter_calls = lambda *_: False; "
        "i.NEWUSER = i.NEWNET = i.NEWIPC = 0; ")  # fmt: skip


def without_walls(monkeypatch) -> None:
    """As on a system that has none of Linux' walls."""
    monkeypatch.setattr(sandbox, "START", sandbox.START.replace("from ictl", OPEN + "from ictl"))
    monkeypatch.setattr(isolation, "can_filter", lambda: False)


def task(tmp_path: Path, changes: dict | None = None, first: str = "") -> dict:
    """The task of one small submission."""
    key = find_key("t1", made.write_key(tmp_path / "key"))
    return prepare(Submission("ada", "ada", "ada.ipynb", "file", made.submission(changes, first)), key).task


@linux
def test_walls_hold(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert in_force(secret) == {"files": True, "network": True, "processes": True, "memory": True}


def test_missing_walls_are_seen_by_trying(tmp_path: Path, monkeypatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    without_walls(monkeypatch)
    held = in_force(secret)
    assert (held["files"], held["network"], held["processes"]) == (False, False, False)


def test_without_a_filter_processes_that_leave_are_found(tmp_path: Path, monkeypatch) -> None:
    without_walls(monkeypatch)
    flee = """for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        os._exit(0)
return right"""
    before = _sleepers()
    ran = run(task(tmp_path, {"q1": made.answer("q1", flee)}), Limits(20))
    assert len(ran.answers) == 20
    assert _sleepers() <= before


def _sleepers() -> set[str]:
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,command="], capture_output=True, text=True).stdout
    return {line.split()[0] for line in listed.splitlines() if "ictl_grade_" in line and "task.json" in line}


@linux
def test_a_bare_place(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    paths = [str(tmp_path / "key" / "t1_small.ipynb"), "/etc/passwd", "/proc/1/environ", str(Path(__file__))]
    look = f"""# t1.q3
heads = {{"env": sorted(os.environ), "home": os.listdir("."), "fds": os.listdir("/proc/self/fd"), "read": []}}
for path in {paths!r}:
    try:
        heads["read"].append(open(path).read())
    except PermissionError:
        pass"""
    found = run(task(tmp_path, {"q3": look}), Limits(20)).answers["t1.q3", 0]["value"]
    assert "SECRET_TOKEN" not in found["env"] and "HOME" in found["env"]
    assert set(found["home"]) <= {"mpl", "ictl"}
    assert len(found["fds"]) <= 4  # 0, 1, 2, and the folder that is listed
    assert found["read"] == []


def test_only_plain_files_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"data")
    (tmp_path / "large").write_bytes(b"0" * 100)
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.link(tmp_path / "large", tmp_path / "second")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY)
    read = {name: sandbox_watch.read_plain(name, fd, 50) for name in sorted(os.listdir(tmp_path))}
    os.close(fd)
    assert read == {"plain": b"data", "large": None, "link": None, "second": None, "pipe": None, "folder": None}


def test_words_of_a_report_are_taken_with_care() -> None:
    ran = Ran()
    sandbox._take({"t1.q1": "x" * 9999, "t1.q2": 5, 3: "y"}, ran.problems, str)
    sandbox._take({"1": "error", "one": "error"}, ran.cells, int)
    sandbox._take([1, 2], ran.cells, int)
    assert (len(ran.problems["t1.q1"]), sorted(ran.problems), ran.cells) == (500, ["3", "t1.q1"], {1: "error"})


def test_limits_beyond_the_systems_own(tmp_path: Path, monkeypatch) -> None:
    with sandbox.workplace({"expected": {}}, Limits()) as place:
        assert place.too_much(os.getpid(), 1, 100) == ""
        assert "time was up" in place.too_much(os.getpid(), 101, 100)
        monkeypatch.setattr(sandbox, "usage", lambda pid: (4 << 30, 1))
        assert "2 GiB of memory" in place.too_much(1, 1, 100)
        monkeypatch.setattr(sandbox, "usage", lambda pid: (0, 201))
        assert "threads" in place.too_much(1, 1, 100)
        monkeypatch.setattr(sandbox, "usage", lambda pid: (0, 1))
        for i in range(sandbox_watch.FILES + 1):
            (place.base / "home" / str(i)).touch()
        assert "thousands of files" in place.too_much(1, 1, 100)
        closed = place.base / "home" / "closed"
        (closed / "inner").mkdir(parents=True)
        closed.chmod(0)
    assert not place.base.exists()


def test_usage_and_ends() -> None:
    resident, threads = sandbox_watch.usage(os.getpid())
    assert resident > 1 << 20 and threads >= 1
    assert sandbox_watch.usage(2**22 + 1) == (0, 0)
    assert "exit code 3" in sandbox_watch.ending(3, 60)
    assert "60 s of CPU" in sandbox_watch.ending(-24, 60) and "SIGSEGV" in sandbox_watch.ending(-11, 60)


def test_a_family_is_ended() -> None:
    code = "import os, time; os.fork(); time.sleep(300)  # marker-of-this-test"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    time.sleep(0.5)
    sandbox_watch.end(process, "marker-of-this-test")
    assert sandbox_watch.descendants(set(), "marker-of-this-test") == set()


def test_solutions_must_lie_apart() -> None:
    with pytest.raises(IctlError, match="which submissions can read"):
        sandbox.check_hidden(Path(sys.prefix) / "solutions" / "a1.ipynb")
    sandbox.check_hidden(Path(__file__))


def test_limits_are_checked() -> None:
    with pytest.raises(IctlError, match="seconds=1"):
        Limits(1)
    with pytest.raises(IctlError, match="memory=0.1"):
        Limits(60, 0.1)
