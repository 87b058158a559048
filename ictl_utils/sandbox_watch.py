"""Small things around a locked process: what it uses, its descendants, its end, its folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import site
import stat
import subprocess
import sys
from pathlib import Path

import torch

from .config import IctlError, home
from .data import SYNTHETIC, TEXT
from .isolation import LINUX

PACKAGE = Path(__file__).resolve().parent
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
          "/etc/localtime", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
          "/sys/devices/system/node")  # fmt: skip

FILES = 5000


def usage(pid: int) -> tuple[int, int]:
    """Resident memory in bytes and number of threads of a process; zeros when it is gone."""
    try:
        if LINUX:
            facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            return int(facts.get("VmRSS", "0 kB").split()[0]) << 10, int(facts["Threads"])
        return int(_ps("-o", "rss=", "-p", str(pid)).split()[0]) << 10, 1
    except (OSError, ValueError, IndexError, KeyError):
        return 0, 0


def descendants(family: set[int], marker: str) -> set[int]:
    """Processes below those of ``family``, and those whose command line holds ``marker``: forks that have left."""
    lines = (line.split(None, 2) for line in _ps("-A", "-ww", "-o", "pid=,ppid=,command=").splitlines())
    every = [(int(pid), int(parent), "".join(command)) for pid, parent, *command in lines]
    found = {pid for pid, _, command in every if marker in command} - family
    grown = True
    while grown:
        new = {pid for pid, parent, _ in every if parent in family | found} - found - family
        found, grown = found | new, bool(new)
    return found


def processes_of_user() -> int:
    """Processes (on Linux: threads) that this user runs now."""
    lines = _ps("-U", str(os.getuid()), "-o", "nlwp=" if LINUX else "pid=").split()
    return sum(map(int, lines)) if LINUX else len(lines)


def _ps(*options: str) -> str:
    return subprocess.run(["ps", *options], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def end(process: subprocess.Popen, marker: str = "") -> None:
    """Kill the process and its group; with a marker also whoever of its family is left, until nobody is."""
    left = descendants({process.pid}, marker) if marker else set()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(20):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        left = descendants(left, marker) | {pid for pid in left if usage(pid) != (0, 0)}


def ending(code: int, seconds: int) -> str:
    """How a process ended, in words."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it used more than {seconds} s of CPU."
    if code < 0:
        return f"it crashed Python ({signal.Signals(-code).name})."
    return f"it ended the whole process (exit code {code})."


def size_of(folder: Path) -> int:
    """Bytes in a folder; of more than 5000 files, more than any limit."""
    total = count = 0
    for place, _, names in os.walk(folder, onerror=None):
        count += len(names) + 1
        if count > FILES:
            return 1 << 62
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total


def read_plain(name: str, folder: int, limit: int = 34 << 20) -> bytes | None:
    """A plain file of at most ``limit`` bytes in the folder with this descriptor; no link, pipe or device."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except (OSError, ValueError):
        return None
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size > limit:
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(limit)


def environment(own: Path) -> dict[str, str]:
    """The few variables that a submission sees: no tokens, no home of the user's."""
    one = (f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"))
    return {
        "PATH": "/usr/bin:/bin", "HOME": str(own), "TMPDIR": str(own), "ICTL_HOME": str(own / "ictl"),
        "MPLCONFIGDIR": str(own / "mpl"), "MPLBACKEND": "Agg", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CI": "1", **dict.fromkeys(one, "1"), "VECLIB_MAXIMUM_THREADS": "1",
    }  # fmt: skip


def furnish(own: Path, texts: list[Path]) -> None:
    """What takes long to make: links to tokenised corpora, and matplotlib's list of fonts, where there is one."""
    tokens = own / "ictl" / "tokens"
    tokens.mkdir(parents=True)
    for path in texts:
        (tokens / path.name).symlink_to(path)
    matplotlib = sys.modules.get("matplotlib")
    (own / "mpl").mkdir()
    if matplotlib is not None:
        for path in Path(matplotlib.get_cachedir()).glob("fontlist*.json"):
            shutil.copyfile(path, own / "mpl" / path.name)


def corpora() -> list[Path]:
    """Tokenised corpora of this user that everybody has: none made of the user's own files."""
    folder = home().resolve() / "tokens"
    known = {*TEXT, *SYNTHETIC}
    return [path for path in sorted(folder.glob("[!.]*")) if path.is_dir() and path.name.split("-")[0] in known]


def readable() -> tuple[str, ...]:
    """What every submission may read: Python, its packages, this package."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    own = sorted({os.path.realpath(p) for p in prefixes} - {"/"})
    return (*SYSTEM, *own, *extra_packages(), str(PACKAGE))


def extra_packages() -> list[str]:
    """Folders of installed packages outside of Python's own, such as the user's."""
    found = (site.getusersitepackages(), str(Path(torch.__file__).parents[1]))
    return [p for p in dict.fromkeys(found) if p in sys.path and not Path(p).is_relative_to(sys.prefix)]


def check_hidden(path: Path) -> None:
    """Refuse solutions where submissions may read.

    Raises:
        IctlError: they lie within Python's folders or the package.
    """
    inside = [folder for folder in readable() if path.resolve().is_relative_to(Path(folder).resolve())]
    if inside:
        raise IctlError(f"the solutions in {path} lie within {inside[0]}, which submissions can read; "
                        "move them to a folder of your own.")  # fmt: skip


def hand_over(base: Path, uid: int) -> None:
    """Give the writable folders of a workplace to another user, and let that user find them."""
    os.chmod(base, 0o711)
    os.chmod(base / "task.json", 0o644)
    for name in ("home", "out"):
        for place, _, names in os.walk(base / name):
            for path in (place, *(os.path.join(place, n) for n in names)):
                os.chown(path, uid, uid, follow_symlinks=False)


def open_to_all(paths: tuple[str, ...]) -> bool:
    """Whether any user of this machine may read these folders."""
    every = {one for path in paths for one in (Path(path), *Path(path).parents)}
    return all(stat.S_IMODE(one.stat().st_mode) & 0o001 for one in every if one.exists())


def force(function, path, _) -> None:
    """For :func:`shutil.rmtree`: make what a submission closed removable, then try once more."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), 0o700)
        os.chmod(path, 0o700, follow_symlinks=True) if not os.path.islink(path) else None
        function(path)
