"""What a process gives up before it runs a student's code: files, network, other processes, memory.

Only Python's own modules are used, so that a process can be locked before it imports anything else. Linux has
Landlock (files), seccomp (system calls) and namespaces, all three without any privilege; elsewhere the limits of
``setrlimit`` remain, and :func:`ictl_utils.sandbox.probe` says what is not in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LINUX = sys.platform.startswith("linux")
NO_NEW_PRIVS, PDEATHSIG, SECCOMP, DUMPABLE = 38, 1, 22, 4
NEWUSER, NEWNET, NEWIPC = 0x10000000, 0x40000000, 0x08000000
READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
OWN_FILES = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8
"""Read, write, make and remove plain files and folders; no links, pipes, sockets or devices."""

DENIED = {
    "socket": (41, 198), "connect": (42, 203), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "io_uring_setup": (425, 425), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "acct": (163, 89), "quotactl": (179, 60),
    "open_by_handle_at": (304, 265), "setpriority": (141, 140), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "syslog": (103, 116), "personality": (135, 92),
}  # fmt: skip
"""System calls that answers have no use for, with their numbers on x86-64 and on 64-bit Arm."""
ARCHES = {"x86_64": (0, 0xC000003E, 56, 302), "aarch64": (1, 0xC00000B7, 220, 261)}  # column, arch, clone, prlimit64
CLONE3, CLONE_THREAD, X32 = 435, 0x10000, 0x40000000


@dataclass(frozen=True)
class Walls:
    """What a locked process may still reach."""

    read: tuple[str, ...] = ()  # files and folders
    write: tuple[str, ...] = ()
    cpu_seconds: int = 60
    file_bytes: int = 64 << 20
    processes: int | None = None  # of this user; None where the system-call filter forbids new ones
    uid: int | None = None  # another user to become, when started as root


def lock(walls: Walls, devices: Iterable[str] = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")) -> None:
    """Give up everything but ``walls``, for ever; what the system does not know is left out silently."""
    limits(walls)
    if walls.uid is not None and os.getuid() == 0:
        with contextlib.suppress(OSError):  # a container may not know this user
            os.setgroups([])
            os.setgid(walls.uid)
            os.setuid(walls.uid)
    if LINUX:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PDEATHSIG, 9, 0, 0, 0)
        if libc.unshare(NEWUSER | NEWNET | NEWIPC):
            libc.unshare(NEWNET | NEWIPC)
        libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
        _drop_capabilities(libc)
        landlock(libc, (*walls.read, "/proc/self"), walls.write, tuple(devices))
        filter_calls(libc)


def limits(walls: Walls) -> None:
    """Limits of CPU time, file size, open files, processes and core dumps; for memory see :func:`limit_memory`."""
    _limit(resource.RLIMIT_CPU, walls.cpu_seconds, walls.cpu_seconds + 2)
    _limit(resource.RLIMIT_FSIZE, walls.file_bytes)
    _limit(resource.RLIMIT_NOFILE, 256)
    _limit(resource.RLIMIT_CORE, 0)
    if walls.processes is not None:
        _limit(resource.RLIMIT_NPROC, walls.processes)


def limit_memory(more: int) -> None:
    """Let the address space grow by ``more`` bytes beyond what is mapped now."""
    if LINUX:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + more)


def hide_memory() -> None:
    """Keep other processes of the same user from reading this one's memory (Linux)."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(DUMPABLE, 0, 0, 0, 0)


def landlock(libc: ctypes.CDLL, read: tuple[str, ...], write: tuple[str, ...], devices: tuple[str, ...]) -> bool:
    """Close the file system but for ``read``, ``write`` and ``devices``; False where the kernel has no Landlock."""
    abi = libc.syscall(444, None, 0, 1)
    if abi < 1:
        return False
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    scoped = 3 if abi >= 6 else 0  # abstract sockets and signals to processes outside
    attributes = struct.pack("QQQ", handled, 3 if abi >= 4 else 0, scoped)
    ruleset = libc.syscall(444, attributes, 8 if abi < 4 else 16 if abi < 6 else 24, 0)
    if ruleset < 0:
        return False
    for paths, rights in ((read, READ_FILE | READ_DIR), (write, OWN_FILES), (devices, READ_FILE | WRITE_FILE)):
        for path in paths:
            _allow(libc, ruleset, path, rights & handled)
    held = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return held


def has_landlock() -> bool:
    """Whether this kernel can close the file system for a process."""
    return LINUX and ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1) >= 1


def can_filter() -> bool:
    """Whether this system can forbid single system calls, new processes among them."""
    return LINUX and platform.machine() in ARCHES and ctypes.sizeof(ctypes.c_void_p) == 8


def filter_calls(libc: ctypes.CDLL) -> bool:
    """Deny the system calls of :data:`DENIED`, and new processes (threads stay); False where there is no filter."""
    if not can_filter():
        return False
    code = _program(*ARCHES[platform.machine()])
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    return libc.prctl(SECCOMP, 2, program, 0, 0) == 0


def _program(column: int, arch: int, clone: int, prlimit: int) -> bytes:
    """The filter as classic BPF: load the number of the call, compare, answer with an error or let it pass."""
    load, equal, at_least, bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    passes, error = 0x7FFF0000, 0x00050000
    numbers = [pair[column] for pair in DENIED.values() if pair[column] is not None]
    body = [(equal, 0, 1, CLONE3), (answer, 0, 0, error | errno.ENOSYS)]
    for number in numbers:
        body += [(equal, 0, 1, number), (answer, 0, 0, error | errno.EPERM)]
    body += [
        (equal, 0, 4, clone), (load, 0, 0, 16), (bits, 0, 1, CLONE_THREAD), (answer, 0, 0, passes),
        (answer, 0, 0, error | errno.EPERM),
        (equal, 0, 4, prlimit), (load, 0, 0, 16), (equal, 0, 1, 0), (answer, 0, 0, passes),
        (answer, 0, 0, error | errno.EPERM), (answer, 0, 0, passes),
    ]  # fmt: skip
    head = [(load, 0, 0, 4), (equal, 1, 0, arch), (answer, 0, 0, error | errno.EPERM), (load, 0, 0, 0),
            (at_least, 0, 1, X32), (answer, 0, 0, error | errno.EPERM)]  # fmt: skip
    return b"".join(struct.pack("HBBI", *line) for line in head + body)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """Add one path to a Landlock ruleset; one that is not there is left out."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        rights &= READ_FILE | WRITE_FILE | TRUNCATE
    libc.syscall(445, ruleset, 1, struct.pack("=Qi", rights, fd), 0)
    os.close(fd)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Nothing of root's power is left, also where the user id stays 0."""
    header = struct.pack("Ii", 0x20080522, 0)
    libc.capset(header, bytes(24))


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    """Lower one limit, never above what is allowed now; a system that refuses keeps its own."""
    ceiling = resource.getrlimit(what)[1]
    wanted = [soft, soft if hard is None else hard]
    if ceiling != resource.RLIM_INFINITY:
        wanted = [min(value, ceiling) for value in wanted]
    try:
        resource.setrlimit(what, tuple(wanted))
    except (ValueError, OSError):
        pass
