"""The tools behind `make`: set-up, badges, the project's home, the keyed cache, the build's messages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from jupyter_cache import get_cache

sys.path[:0] = [str(ROOT / "book" / "_tools"), str(ROOT / "book" / "_ext")]

import badges  # noqa: E402
import build  # noqa: E402
import ictl_book  # noqa: E402
import release  # noqa: E402
import setup_env  # noqa: E402

CHAPTERS = re.findall(r"notebooks/(\d\w+)", (ROOT / "_toc.yml").read_text())
ASSIGNMENTS = re.findall(r"notebooks/(assignments/\w+)", (ROOT / "_toc.yml").read_text())


@pytest.fixture
def tree(tmp_path) -> Path:
    """The few files that the tools read."""
    for name in ("_config.yml", "_toc.yml", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("ictl_utils", "notebooks/assignments", "book"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ictl_utils" / "config.py").write_text("A = 1\n")
    for name in re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text()):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n")
    for name in (*CHAPTERS, *ASSIGNMENTS):
        install = '%pip install -q "ictl-utils[viz] @ git+https://github.com/OWNER/REPO@main"'
        cells = [nbformat.v4.new_markdown_cell(f"# Title of {name}"), nbformat.v4.new_code_cell(install)]
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (tmp_path / "README.md").write_text(f"# Book\n{badges.START}\n{badges.END}\nend\n")
    return tmp_path


def fake_python(folder: Path, name: str, version: str) -> str:
    """A command that reports ``version`` as its Python version."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_an_old_python_is_refused_with_the_remedy(tmp_path):
    old = fake_python(tmp_path, "python3.9", "3 9")
    with pytest.raises(setup_env.SetupError, match=r"Python 3\.11 or newer.*\(3\.9\).*PYTHON="):
        setup_env.find_python(old)


def test_the_first_python_that_is_new_enough_is_taken(tmp_path, monkeypatch):
    fake_python(tmp_path, "python3", "3 9")
    new = fake_python(tmp_path, "python3.12", "3 12")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(setup_env, "CANDIDATES", ("python3", "python3.12"))
    assert setup_env.find_python() == new


def test_missing_venv_module_names_the_package(tmp_path, monkeypatch):
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) echo 3 12;; esac\n')
    python.chmod(0o755)
    monkeypatch.setattr(setup_env, "as_root_with_apt", lambda: False)
    with pytest.raises(setup_env.SetupError, match=r"sudo apt-get install python3\.12-venv"):
        setup_env.ensure_venv_module(str(python))


def test_full_disk_is_seen_before_the_download(tmp_path):
    with pytest.raises(setup_env.SetupError, match=r"1\.0 GB free.*about 3 GB"):
        setup_env.check_disk(tmp_path, free_bytes=1e9)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('Name or service not known')", "could not be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "has no torch==2.13.0 for this Python"),
        ("error: something else", "something else"),
    ],
)
def test_pip_failures_become_sentences(output, sentence):
    assert sentence in setup_env.explain(output, "installing torch")


def test_unknown_torch_build_is_refused(tree, monkeypatch, capsys):
    monkeypatch.setenv("TORCH", "tpu")
    assert setup_env.main(tree) == 1
    assert "TORCH=tpu is not known" in capsys.readouterr().err


def test_a_second_set_up_does_nothing_until_the_lock_changes(tree):
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").touch()
    assert not setup_env.up_to_date(tree)
    (tree / ".venv" / ".ictl-stamp").write_text(setup_env.stamp(tree))
    assert setup_env.main(tree) == 0
    (tree / "requirements.lock").write_text("torch==2.12.0\n")
    assert not setup_env.up_to_date(tree)


def test_torch_comes_first_and_alone_from_the_cpu_index(tree, monkeypatch):
    calls = []
    monkeypatch.setattr(setup_env, "pip", lambda root, arguments, step, total=0: calls.append(arguments))
    setup_env.install(tree, "cpu")
    assert calls[0][:2] == ["--index-url", setup_env.CPU_INDEX] and calls[0][2].startswith("torch==")
    assert calls[1] == ["-r", "requirements.lock"]
    assert calls[2] == ["--no-deps", "-e", "."]


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = makefile.split(".PHONY:")[1].splitlines()[0].split()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in shown for target in targets if target != "help")
    assert "TORCH=cpu" in shown and "PYTHON=" in shown


def test_release_fills_in_the_home_everywhere(tree):
    release.set_home(tree, "https://github.com/ada/heads.git", "v1.0")
    assert badges.home(tree) == ("https://github.com/ada/heads", "v1.0")
    readme = (tree / "README.md").read_text()
    assert "/github/ada/heads/blob/v1.0/notebooks/02_key_concepts.ipynb" in readme
    assert "Title of 02_key_concepts" in readme and readme.endswith("end\n")
    notebook = nbformat.read(tree / "notebooks" / "02_key_concepts.ipynb", as_version=4)
    assert '"ictl-utils[viz] @ git+https://github.com/ada/heads@v1.0"' in notebook.cells[1].source
    where = json.loads((tree / "ictl_utils" / "zoo_data" / "home.json").read_text())
    assert where == {"url": "https://github.com/ada/heads", "ref": "v1.0"}
    assert badges.main(["--check"], tree) == 0


def test_check_names_what_is_out_of_date_and_changes_nothing(tree, capsys):
    assert badges.main([], tree) == 0 and badges.main(["--check"], tree) == 0
    home = tree / badges.HOME
    for stale in ('{"url": "https://github.com/old/home", "ref": "main"}', None):
        home.write_text(stale) if stale else home.unlink()
        assert badges.main(["--check"], tree) == 1
        assert "out of date: ictl_utils/zoo_data/home.json" in capsys.readouterr().out
        assert (home.read_text() if home.exists() else None) == stale
        assert badges.main([], tree) == 0 and json.loads(home.read_text())["url"] == badges.home(tree)[0]


def test_release_refuses_what_is_not_a_home(tree):
    with pytest.raises(SystemExit, match="expected https://github.com/OWNER/REPO"):
        release.set_home(tree, "github.com/ada")


def test_badges_and_install_lines_of_this_project_are_up_to_date():
    assert (ROOT / "README.md").exists(), "README.md is missing"
    assert not badges.outdated(ROOT), "run `make badges`"


def test_the_key_follows_package_lock_and_nothing_else(tree):
    key = ictl_book.execution_key(tree)
    (tree / "_config.yml").write_text("title: other\n")
    (tree / "ictl_utils" / "__pycache__").mkdir()
    (tree / "ictl_utils" / "__pycache__" / "config.pyc").write_bytes(b"x")
    assert ictl_book.execution_key(tree) == key
    (tree / "ictl_utils" / "table.csv").write_text("1\n")
    with_data = ictl_book.execution_key(tree)
    (tree / "requirements.lock").write_text("torch==2.12.0\n")
    assert len({key, with_data, ictl_book.execution_key(tree)}) == 3


def test_the_build_sees_every_change(tree):
    (tree / "_build" / "html").mkdir(parents=True)
    (tree / "_build" / "html" / "index.html").touch()
    (tree / "_build" / "book.stamp").write_text(build.book_digest(tree))
    assert build.up_to_date(tree)
    for name in ("book/intro.md", "notebooks/02_key_concepts.ipynb", "ictl_utils/config.py", "_toc.yml"):
        before = (tree / name).read_bytes()
        (tree / name).write_bytes(before + b"\n")
        assert not build.up_to_date(tree), name
        (tree / name).write_bytes(before)
    assert build.up_to_date(tree)


def test_chapters_come_in_the_order_of_the_contents(tree):
    names = [p.stem for p in build.chapters(tree)]
    assert names == CHAPTERS
    (tree / "book" / "glossary.md").unlink()
    with pytest.raises(build.BuildError, match="book/glossary"):
        build.chapters(tree)


def notebook(folder: Path, *sources: str) -> tuple[Path, nbformat.NotebookNode]:
    """A notebook of code cells, not written to disk."""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    return folder / "some.ipynb", nb


def test_a_failing_cell_is_shown_with_the_way_on(tmp_path):
    with pytest.raises(build.BuildError) as caught:
        build.execute(*notebook(tmp_path, "a = 1", "b = a / 0"))
    message = str(caught.value)
    assert "some.ipynb failed in code cell 2" in message
    assert "b = a / 0" in message and "ZeroDivisionError" in message and "make book" in message


def test_a_result_with_words_on_stderr_is_named_and_not_kept(tmp_path):
    path, nb = notebook(tmp_path, "1 + 1", "import warnings; warnings.warn('by chance')")
    tmp_path_with_lock(tmp_path)
    for sources, kept in ((nb.cells, False), (nb.cells[:1], True)):
        nbformat.write(nbformat.v4.new_notebook(cells=sources), path)
        with contextlib.nullcontext() if kept else pytest.raises(build.BuildError, match="code cell 2") as caught:
            build.run_if_stale(tmp_path, path)
        assert kept or ("by chance" in str(caught.value) and "stderr" in str(caught.value))
        cached = get_cache(str(ictl_book.cache_path(tmp_path))).list_cache_records()
        assert len(cached) == kept


def test_what_runs_beside_the_chapters_that_train_has_lower_priority(tmp_path, monkeypatch):
    def run_both(root: Path, path: Path, behind: bool) -> None:
        _, nb = notebook(tmp_path, "import os; print(os.nice(0))", "print(open('/proc/self/autogroup').read())")
        nb.cells = nb.cells[: 1 + Path("/proc/self/autogroup").exists()]
        build.execute(path, nb, behind)
        found[path.name] = [int(cell.outputs[0].text.split()[-1]) for cell in nb.cells]

    found: dict[str, list[int]] = {}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    monkeypatch.setattr(build, "run_if_stale", run_both)
    monkeypatch.setattr(build, "chapters", lambda root: [tmp_path / "01_a.ipynb", tmp_path / "05_b.ipynb"])
    build.run_stale_notebooks(tmp_path)
    assert found["01_a.ipynb"][0] == os.nice(0) and (os.nice(0) or set(found["01_a.ipynb"]) == {0})
    assert set(found["05_b.ipynb"]) == {max(os.nice(0), build.LOW_PRIORITY)}


def test_a_notebook_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "NOTEBOOK_LIMIT", 3.0)
    began = time.monotonic()
    with pytest.raises(build.BuildError, match="longer than its 3 s"):
        build.execute(*notebook(tmp_path, "import time", "time.sleep(600)"))
    assert time.monotonic() - began < 60


def test_notebooks_run_in_their_own_folder(tmp_path, monkeypatch):
    path, nb = notebook(tmp_path, "import os; print(os.getcwd(), os.environ['ICTL_BOOK'])")
    for name, value in ictl_book.kernel_environment(tmp_path_with_lock(tmp_path)).items():
        monkeypatch.setenv(name, value)
    build.execute(path, nb)
    assert nb.cells[0].outputs[0].text.split() == [os.path.realpath(tmp_path), "1"]


def tmp_path_with_lock(folder: Path) -> Path:
    """``folder`` with the files that the key is made of."""
    (folder / "ictl_utils").mkdir()
    (folder / "requirements.lock").write_text("torch==2.13.0\n")
    return folder
