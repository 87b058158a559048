"""Build the book: `make book`.

Runs the notebooks whose cached result is stale, as many at a time as there are cores, then lets Jupyter
Book render the pages, for which it finds every result in the cache. When nothing that the book depends on
has changed since the last build, nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from ictl_book import cache_path, digest, execution_key, kernel_environment, package_files  # noqa: E402

NOTEBOOK_LIMIT = 2400.0  # seconds of wall clock for one notebook, beside others on a busy machine
KEYS_KEPT = 3  # caches of earlier states of the package
SHARING = ("01_", "02_")  # chapters that train the same models; they take longest, so they begin
LOW_PRIORITY = 10
CACHE_LOCK = threading.Lock()


class BuildError(Exception):
    """What went wrong, where, and how to go on."""


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def book_digest(root: Path) -> str:
    """Hash of everything that the pages depend on."""
    files = [root / name for name in ("_config.yml", "_toc.yml", "requirements.lock")]
    files += package_files(root) + list((root / "notebooks").glob("*.ipynb"))
    files += list((root / "notebooks" / "assignments").glob("*.ipynb"))
    for path in (root / "book").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and "_tools" not in path.parts:
            files.append(path)
    return digest(root, files, platform.python_version())


def up_to_date(root: Path) -> bool:
    """Whether the last successful build was made from the present files."""
    stamp = root / "_build" / "book.stamp"
    index = root / "_build" / "html" / "index.html"
    return stamp.exists() and index.exists() and stamp.read_text() == book_digest(root)


def chapters(root: Path) -> list[Path]:
    """The chapters, whose names begin with a number, in the order of `_toc.yml`; assignments are never executed."""
    names = re.findall(r"^\s*(?:- file|root): *(\S+)", (root / "_toc.yml").read_text(encoding="utf8"), re.M)
    paths = [root / f"{name}.ipynb" for name in names if re.match(r"notebooks/\d", name)]
    missing = [name for name in names if not list(root.glob(f"{name}.*"))]
    if missing:
        raise BuildError(
            f"_toc.yml names {', '.join(missing)}, and there is no such file; add it or drop the line."
        )
    return paths


class Progress:
    """Where the notebooks are: one line that moves on a terminal, one line a slow cell elsewhere."""

    active: ClassVar[dict[str, str]] = {}  # notebook -> "cell 3 of 20", of all that run at the moment

    def __init__(self, name: str, cells: int) -> None:
        self.name, self.cells, self.number, self.source = name, cells, 0, ""
        self.began = self.cell_began = time.monotonic()

    def start(self, cell, cell_index: int) -> None:
        """Note that a code cell begins."""
        self.number, self.source, self.cell_began = self.number + 1, cell.source, time.monotonic()
        self.active[self.name] = f"{self.name[:12]} {self.number}/{self.cells}"
        if sys.stdout.isatty():
            print("\r\x1b[K      " + "   ".join(self.active.values()), end="", flush=True)

    def finish(self, cell, cell_index: int) -> None:
        """Report a cell that took long, where no line moves."""
        took = time.monotonic() - self.cell_began
        if not sys.stdout.isatty() and took > 20:
            say(f"      {self.name}, cell {self.number} of {self.cells}: {took:.0f} s")

    def close(self) -> None:
        """Clear the line."""
        self.active.pop(self.name, None)
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)


def failure(notebook: Path, number: int, source: str, error: Exception) -> BuildError:
    """Which code cell of which notebook failed, its source, the end of the traceback and the way on."""
    if "Timeout" in type(error).__name__:
        return stopped(notebook, number, source, f"The notebook ran longer than its {NOTEBOOK_LIMIT:.0f} s.")
    return stopped(notebook, number, source, getattr(error, "traceback", str(error)))


def check_silence(notebook: Path, cells: list) -> None:
    """Refuse a result with words on stderr, which a page cannot show: kept, it would stop every later build as well."""
    for number, cell in enumerate(cells, start=1):
        words = "".join(out.text for out in cell.outputs if out.get("name") == "stderr")
        if words:
            raise stopped(notebook, number, cell.source, f"It wrote to stderr, which counts as an error:\n{words}")


def stopped(notebook: Path, number: int, source: str, words: str) -> BuildError:
    """The error about one code cell: its source, the end of ``words`` and the way on."""
    trace = re.sub(r"\x1b\[[0-9;]*m", "", words).strip().splitlines()
    return BuildError(
        f"{notebook.name} failed in code cell {number}:\n"
        + "\n".join("    " + line for line in source.splitlines()[:30])
        + "\n\n"
        + "\n".join("    " + line for line in trace[-15:])
        + f"\n\nTo look closer: .venv/bin/jupyter execute notebooks/{notebook.name} "
        "(or open it in an editor); `make book` goes on from this notebook."
    )


def execute(notebook: Path, nb, behind: bool = False) -> float:
    """Run ``nb`` in place, in the folder of its file, perhaps at lower priority; seconds taken."""
    from nbclient import NotebookClient

    cells = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    progress = Progress(notebook.stem, len(cells))

    def seconds_left(_cell):
        return max(1, int(NOTEBOOK_LIMIT - (time.monotonic() - progress.began)))

    client = NotebookClient(
        nb,
        resources={"metadata": {"path": str(notebook.parent)}},
        kernel_name="python3",
        startup_timeout=180,
        extra_arguments=["--IPKernelApp.log_level=40"],  # without the note on TCP
        timeout_func=seconds_left,
        record_timing=False,  # times in the metadata would change jupyter-cache's hash
        on_notebook_start=lambda notebook: step_back(client.km.provisioner.pid) if behind else None,
        on_cell_execute=progress.start,
        on_cell_complete=progress.finish,
    )
    try:
        client.execute()
    except Exception as error:
        raise failure(notebook, progress.number, progress.source, error) from error
    finally:
        progress.close()
    check_silence(notebook, cells)
    return time.monotonic() - progress.began


def run_stale_notebooks(root: Path) -> None:
    """Execute, and put into the cache, every notebook whose result is not there, as many at a time as there are cores.

    The chapters of the first part share the models that they train, so they run one after the other. They take longest
    by far: what runs beside them is given lower priority, so that it fills gaps and does not hold them up.
    """
    cores, paths = os.cpu_count() or 1, chapters(root)
    sharing = [p for p in paths if p.name.startswith(SHARING)]
    groups = [sharing] if sharing else []
    groups += [[p] for p in paths if p not in sharing]
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // 2))  # two notebooks at a time must not ask for four cores
    with ThreadPoolExecutor(max(1, min(cores, 4))) as pool:
        jobs = [pool.submit(run_group, root, group, behind=group is not sharing) for group in groups]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_group(root: Path, paths: list[Path], behind: bool = False) -> None:
    """Execute those of ``paths`` whose result is not in the cache, in their order, perhaps at lower priority."""
    for path in paths:
        run_if_stale(root, path, behind)


def step_back(pid: int) -> None:
    """Lower the priority of a kernel: as a process, and as a session where Linux shares cores among sessions."""
    nice = str(max(os.nice(0), LOW_PRIORITY))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, int(nice))
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(nice)


def run_if_stale(root: Path, path: Path, behind: bool = False) -> None:
    """Execute one notebook, or take its result from the cache."""
    import nbformat
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    nb = nbformat.read(path, as_version=4)
    with CACHE_LOCK:
        try:
            get_cache(str(cache_path(root))).match_cache_notebook(nb)
            return say(f"  {path.name}: unchanged, result taken from the cache")
        except KeyError:
            say(f"  {path.name}: running")
    seconds = execute(path, nb, behind)
    bundle = CacheBundleIn(nb, str(path), data={"execution_seconds": seconds})
    with CACHE_LOCK:
        get_cache(str(cache_path(root))).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return say(f"  {path.name}: done in {seconds:.0f} s")


def render(root: Path) -> None:
    """Run Jupyter Book over the cached results; a warning is an error."""
    html, log = root / "_build" / "html", root / "_build" / "jupyter-book.log"
    shutil.rmtree(html, ignore_errors=True)  # no page of a chapter that is gone may stay
    tool = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [str(tool), "build", str(root), "--all", "-W", "-n", "--keep-going"]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    log.write_text(plain, encoding="utf8")
    if done.returncode != 0:
        shutil.rmtree(html, ignore_errors=True)
        complaints = [line for line in plain.splitlines() if re.search(r"WARNING|ERROR|Error:", line)]
        shown = "\n".join("    " + line for line in (complaints or plain.splitlines())[-20:])
        raise BuildError(
            f"Jupyter Book stopped (a warning counts as an error):\n{shown}\nThe whole log: {log}"
        )


def forget_old_keys(root: Path) -> None:
    """Keep executed notebooks and trained models of the newest few keys only."""
    for folder in (root / "_build" / ".jupyter_cache", root / "_build" / "ictl_runs"):
        keys = sorted(folder.glob("*"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in [k for k in keys if k.name != execution_key(root)][KEYS_KEPT - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def build(root: Path) -> None:
    """Everything that has to be done, in order."""
    began, wanted = time.monotonic(), book_digest(root)
    os.environ.update(kernel_environment(root))
    say("Running the notebooks")
    run_stale_notebooks(root)
    ran = time.monotonic()
    say("Building the pages")
    render(root)
    (root / "_build" / "book.stamp").write_text(wanted)
    forget_old_keys(root)
    say(f"Notebooks {ran - began:.0f} s, pages {time.monotonic() - ran:.0f} s")


def main(root: Path = ROOT) -> int:
    """Bring the book up to date and print where it is."""
    try:
        if up_to_date(root):
            say("Book: nothing changed since the last build.")
        else:
            build(root)
    except BuildError as error:
        print(f"\nmake book: {error}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        if error.errno != 28:
            raise
        print("\nmake book: the disk is full; free about 1 GB and run it again.", file=sys.stderr, flush=True)
        return 1
    say(str(root / "_build" / "html" / "index.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
