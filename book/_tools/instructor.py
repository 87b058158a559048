"""The instructor edition, below `_build/instructor`, which git ignores: `make instructor`.

``solutions/``  every instructor notebook with its outputs, as notebook and as HTML page, rubric included
``nbgrader/``   a course folder for nbgrader: ``source/a1/...`` and ``nbgrader_config.py``
``students.zip``  the student notebooks, to hand out
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(ROOT / "book" / "_ext")]

from assignments import FOLDER, sources  # noqa: E402
from ictl_book import unpack  # noqa: E402
from student_edition import nbgrader, with_facts  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from ictl_utils.coursework import questions  # noqa: E402
from ictl_utils.snapshots import write_bytes  # noqa: E402

TARGET = Path("_build") / "instructor"
CONFIG = """c = get_config()
c.CourseDirectory.course_id = "ictl"
c.ExecutePreprocessor.timeout = 120
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
"""
CELL_SECONDS = 600
OUTSIDE = re.compile(r'<script src="https://[^"]*"> ?</script>')
MATHJAX = ROOT / "book" / "_assets" / "vendor" / "mathjax"
MATHEMATICS = """<script>MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}};</script>
<script src="mathjax/tex-mml-chtml.js"></script>
"""


def nbgrader_source(notebook: dict, assignment: str) -> dict:
    """An instructor notebook as nbgrader's source: solutions inside, mistakes and rubric taken out."""
    by_part = {q.name.partition(".")[2]: q for q in questions(assignment)}
    made = copy.deepcopy(notebook)
    made["cells"] = [c for c in made["cells"] if not {"mistakes", "rubric", "expected"} & set(_tags(c))]
    for cell in made["cells"]:
        part, _, role = cell["id"].partition("-")
        if part in by_part and role in ("answer", "check"):
            cell["metadata"]["nbgrader"] = nbgrader(by_part[part], role)
        if part in by_part and role == "text":
            text = with_facts("".join(cell["source"]), by_part[part])
            cell["source"] = text.splitlines(keepends=True)
    return made


def _tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def as_bytes(notebook: dict) -> bytes:
    """A notebook as file."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def execute(notebook: Path, target: Path) -> None:
    """Run an instructor notebook, at preset smoke where it has one; the notebook with its outputs, and a page of it."""
    import papermill

    chosen = {"preset": "smoke"} if "preset" in papermill.inspect_notebook(notebook) else {}
    target.mkdir(parents=True, exist_ok=True)
    done = target / notebook.name
    papermill.execute_notebook(
        notebook, done, parameters=chosen, cwd=notebook.parent, kernel_name="python3",
        progress_bar=False, execution_timeout=CELL_SECONDS,
        extra_arguments=["--IPKernelApp.log_level=40"],  # without the note on TCP
    )  # fmt: skip
    page(done)


def page(notebook: Path) -> Path | None:
    """A notebook as HTML page beside it, which asks no other host; None where nbconvert is not installed."""
    try:
        from nbconvert import HTMLExporter
    except ModuleNotFoundError:
        print("no HTML pages: nbconvert is not installed; the notebooks hold the same.")
        return None
    text, _ = HTMLExporter().from_filename(str(notebook))
    text = OUTSIDE.sub("", text).replace("</head>", f"{MATHEMATICS}</head>", 1)
    shutil.copytree(MATHJAX, notebook.parent / "mathjax", dirs_exist_ok=True)
    unpack(notebook.parent / "mathjax")
    write_bytes(notebook.with_suffix(".html"), text.encode("utf8"))
    return notebook.with_suffix(".html")


def students_zip(root: Path, target: Path) -> None:
    """The student notebooks in one archive; same notebooks, same bytes."""
    temporary = target.with_suffix(".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((root / FOLDER).glob("a*.ipynb")):
            archive.writestr(zipfile.ZipInfo(path.name, (2026, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
    os.replace(temporary, target)


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write everything; names of assignments choose some, ``--no-run`` leaves the solutions unexecuted."""
    only = [a for a in arguments if not a.startswith("-")]
    target = root / TARGET
    os.environ.setdefault("ICTL_RUNS", str(root / "_build" / "ictl_runs" / "instructor"))
    chosen = [path for path in sources(root) if not only or path.stem.partition("_")[0] in only]
    for notebook in tqdm(chosen, desc="instructor edition", unit="notebook", disable=None):
        assignment = notebook.stem.partition("_")[0]
        source = nbgrader_source(json.loads(notebook.read_text(encoding="utf8")), assignment)
        write_bytes(target / "nbgrader" / "source" / assignment / notebook.name, as_bytes(source))
        if "--no-run" not in arguments:
            execute(notebook, target / "solutions")
    write_bytes(target / "nbgrader" / "nbgrader_config.py", CONFIG.encode())
    students_zip(root, target / "students.zip")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
