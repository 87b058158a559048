"""Create `.venv` and install the locked environment: `make setup`.

Needs nothing but a Python to start with; an old one is enough to say what is missing.
Variables: PYTHON (interpreter for `.venv`), TORCH=cpu (PyTorch's CPU build from its own index).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEAST = (3, 11)
CANDIDATES = ("python3", "python3.13", "python3.12", "python3.11")
NEEDED_GB = 3.0
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NETWORK_SIGNS = (
    "NewConnectionError", "ConnectTimeout", "ReadTimeoutError", "Temporary failure in name resolution",
    "Name or service not known", "nodename nor servname", "Max retries exceeded", "ProxyError",
    "SSLError", "Could not fetch URL", "(from versions: none)",
)  # fmt: skip


class SetupError(Exception):
    """What is wrong and what to do, in one sentence."""


def say(text):
    """Print at once, also into a pipe."""
    print(text, flush=True)


def python_version(command):
    """(major, minor) of an interpreter, or None where it cannot be run."""
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    try:
        done = subprocess.run([command, "-c", code], capture_output=True, text=True, timeout=60)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def find_python(wanted=""):
    """The first interpreter that is new enough: ``wanted`` alone if given, else the usual names."""
    seen = []
    for command in [wanted] if wanted else CANDIDATES:
        version = python_version(command)
        if version and version >= LEAST:
            return shutil.which(command) or command
        seen.append("{} ({})".format(command, "{}.{}".format(*version) if version else "not found"))
    raise SetupError(
        "Python {}.{} or newer is needed, but there is only: {}. Install one (Debian/Ubuntu: apt-get install "
        "python3 python3-venv; macOS: brew install python) or name one with PYTHON=/path/to/python3.".format(
            *LEAST, ", ".join(seen)
        )
    )


def venv_python(root):
    """Path of the interpreter inside `.venv`."""
    return root / ".venv" / "bin" / "python"


def as_root_with_apt():
    """Whether a Debian package may be installed here without asking."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def ensure_venv_module(python):
    """Make sure that `python -m venv` will work; Debian keeps ensurepip in a package of its own."""
    check = [python, "-c", "import ensurepip, venv"]
    if subprocess.run(check, capture_output=True).returncode == 0:
        return
    package = "python{}.{}-venv".format(*python_version(python))
    if as_root_with_apt():
        say("  installing the Debian package {}".format(package))
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for name in (package, "python3-venv"):
            subprocess.run(["apt-get", "install", "-y", "-qq", name], capture_output=True, env=environment)
            if subprocess.run(check, capture_output=True).returncode == 0:
                return
    raise SetupError(
        "{} has no working venv module (ensurepip is missing); install it with "
        "`sudo apt-get install {}` or name another interpreter with PYTHON=.".format(python, package)
    )


def check_disk(root, free_bytes=None):
    """Stop before a long download that cannot fit."""
    free = shutil.disk_usage(str(root)).free if free_bytes is None else free_bytes
    if free < NEEDED_GB * 1e9:
        raise SetupError(
            "The disk of {} has {:.1f} GB free and the environment needs about {:.0f} GB; "
            "free some space and run the same command again.".format(root, free / 1e9, NEEDED_GB)
        )


def stamp(root):
    """Hash of what decides the content of `.venv`."""
    total = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        total.update((root / name).read_bytes())
    return total.hexdigest()


def up_to_date(root):
    """Whether `.venv` was completely installed from the present lock and still runs."""
    mark = root / ".venv" / ".ictl-stamp"
    return venv_python(root).exists() and mark.exists() and mark.read_text() == stamp(root)


def create_venv(root, wanted):
    """Create `.venv`, or keep one whose interpreter is new enough."""
    python = venv_python(root)
    version = python_version(str(python)) if python.exists() else None
    if version and version >= LEAST and not wanted:
        return say("[1/4] .venv is there (Python {}.{})".format(*version))
    base = find_python(wanted)
    say("[1/4] creating .venv with {} (Python {}.{})".format(base, *python_version(base)))
    ensure_venv_module(base)
    done = subprocess.run(
        [base, "-m", "venv", "--clear", str(root / ".venv")], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SetupError(explain(done.stdout + done.stderr, "creating .venv"))


def explain(output, step):
    """One sentence for a failed step, from what pip or venv printed."""
    if "No space left on device" in output or "Errno 28" in output:
        return (
            "The disk is full ({}); free about {:.0f} GB (also in the folder for temporary files, TMPDIR) "
            "and run the same command again. On Linux without a GPU, TORCH=cpu needs gigabytes less.".format(
                step, NEEDED_GB
            )
        )
    if any(sign in output for sign in NETWORK_SIGNS):
        return (
            "The package index could not be reached ({}); check the network, the proxy and `pip config "
            "list`, then run the same command again: what is installed already is kept.".format(step)
        )
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        return (
            "The package index has no {} for this Python and system ({}); use Python 3.11 to 3.13 on "
            "64-bit Linux or macOS, named with PYTHON=, after `make distclean`.".format(
                missing.group(1), step
            )
        )
    tail = "\n".join(output.strip().splitlines()[-12:])
    return "pip failed ({}); its last lines were:\n{}\nAll of it is in .venv/install.log.".format(step, tail)


def pip(root, arguments, step, total=0):
    """Run pip, show how far it is, and turn a failure into a sentence."""
    command = [str(venv_python(root)), "-m", "pip", "--disable-pip-version-check", "install"]
    lines, count = [], 0
    process = subprocess.Popen(
        command + ["--progress-bar", "off"] + arguments,
        cwd=str(root), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    for line in process.stdout:
        lines.append(line)
        if line.startswith(("Collecting ", "Requirement already satisfied: ")) and "(from -r" in line:
            count += 1
            progress("      {} of {} packages looked up".format(count, total), count == total)
        elif line.startswith("Installing collected packages"):
            progress("      installing {} packages".format(line.count(",") + 1), True)
    with open(str(root / ".venv" / "install.log"), "a") as log:
        log.writelines(lines)
    if process.wait() != 0:
        raise SetupError(explain("".join(lines), step))


def progress(text, last):
    """Rewrite one line on a terminal; elsewhere print only the last."""
    if sys.stdout.isatty():
        sys.stdout.write("\r\x1b[K" + text + ("\n" if last else ""))
        sys.stdout.flush()
    elif last:
        say(text)


def locked(root):
    """Requirement lines of the lock."""
    lines = (root / "requirements.lock").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def install(root, torch_build):
    """Install torch at its locked version, then the rest of the lock, then the package itself."""
    pins = locked(root)
    torch = next(line for line in pins if line.startswith("torch=="))
    index = ["--index-url", CPU_INDEX] if torch_build == "cpu" else []
    say("[2/4] {}{}: the largest package, a minute or more".format(torch, " (CPU build)" if index else ""))
    if sys.platform == "linux" and not index and shutil.which("nvidia-smi") is None:
        say("      (no NVIDIA GPU seen: TORCH=cpu would choose the smaller CPU build)")
    pip(root, index + [torch], "installing " + torch)
    say("[3/4] {} locked packages".format(len(pins)))
    pip(root, ["-r", "requirements.lock"], "installing requirements.lock", len(pins))
    say("[4/4] ictl-utils itself, editable")
    pip(root, ["--no-deps", "-e", "."], "installing ictl-utils")


def main(root=ROOT):
    """Bring `.venv` up to date; 0 when it is, 1 with a sentence on standard error when it cannot be."""
    wanted, torch_build = os.environ.get("PYTHON", ""), os.environ.get("TORCH", "")
    try:
        if torch_build not in ("", "cpu"):
            raise SetupError("TORCH={} is not known; leave it out or set TORCH=cpu.".format(torch_build))
        if up_to_date(root):
            return 0
        began = time.time()
        say("Setting up .venv (about {:.0f} GB, a few minutes the first time)".format(NEEDED_GB))
        if not venv_python(root).exists():
            check_disk(root)
        create_venv(root, wanted)
        install(root, torch_build)
        (root / ".venv" / ".ictl-stamp").write_text(stamp(root))
        say("The environment is ready ({:.0f} s).".format(time.time() - began))
        return 0
    except SetupError as error:
        print("make setup: {}".format(error), file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
